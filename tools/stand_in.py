"""Make a directory that stands in for a CPython checkout.

    python tools/stand_in.py DEST
    python tools/upstream.py DEST
    PYTHONPATH=DEST/Lib python -m test ...

DEST becomes a git repository with the Lib directory of the Python that runs this program, which
should be a recent one.  An installation has no Doc and Misc, so a file there that a patch changes
consists of the lines that the patch quotes.
"""

import argparse
import os
import pathlib
import shutil
import stat
import sysconfig

from upstream import AFTER_TEST_CLASS, TESTS, Checkout

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
CPYTHON = os.environ.get("CPYTHON", "")
# A checkout of CPython's main branch, or a part of it, or None.
MAIN = pathlib.Path(CPYTHON).resolve() if os.path.isdir(CPYTHON) else None
# The tests use this context manager of CPython's main branch, which Python 3.14 lacks.
SINCE_315 = """

@contextlib.contextmanager
def ignore_fork_in_thread_deprecation_warnings():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        yield
"""


def quoted(patch):
    """Return the lines of an unpatched file that its patch quotes, with filler between hunks."""
    lines = ["A page of documentation", "=======================", ""]
    for line in patch.read_text(encoding="utf-8").splitlines()[3:]:
        if line.startswith("@@"):
            lines += ["", "   Something else.", ""]
        elif not line.startswith("+"):
            lines.append(line[1:])
    return "\n".join([*lines, "   The end.", ""])


def make(dest, directory="."):
    """Make the checkout, with the whole standard library or one directory of it."""
    stdlib = pathlib.Path(sysconfig.get_path("stdlib"))
    ignored = shutil.ignore_patterns("__pycache__", "site-packages", "dist-packages", "config-*")
    shutil.copytree(
        str(stdlib / directory),
        str(dest / "Lib" / directory),
        ignore=ignored,
        ignore_dangling_symlinks=True,  # Debian's sitecustomize.py, without /etc
    )
    for patch in [
        path for top in ("Doc", "Lib", "Misc") for path in (REPOSITORY / top).rglob("*.patch")
    ]:
        write_if_missing(dest / patch.relative_to(REPOSITORY).with_suffix(""), quoted(patch))
    write_if_missing(
        dest / TESTS, f"import multiprocessing\n\n{AFTER_TEST_CLASS}    raise KeyError\n"
    )
    helper = dest / "Lib" / "test" / "support" / "warnings_helper.py"
    if helper.exists() and "def ignore_fork_in_thread" not in helper.read_text(encoding="utf-8"):
        with helper.open("a", encoding="utf-8") as file:
            file.write(SINCE_315)
    commit(dest)


def make_main(dest):
    """Make the checkout of the main branch, as a copy of MAIN."""
    shutil.copytree(str(MAIN), str(dest), ignore=shutil.ignore_patterns("__pycache__", ".git"))
    for path in [dest, *dest.rglob("*")]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)  # The original may be read-only.
    commit(dest)


def write_if_missing(file, text):
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def commit(dest):
    """Make a directory a git repository with one commit."""
    (dest / ".gitignore").write_text("__pycache__/\n")
    checkout = Checkout(dest)
    for command in (
        ["init", "-q", "-b", "main"],
        ["config", "user.name", "A. Developer"],
        ["config", "user.email", "developer@example.org"],
        ["config", "core.autocrlf", "false"],
        ["config", "commit.gpgsign", "false"],
        ["add", "."],
        ["commit", "-q", "-m", "CPython"],
    ):
        checkout.git(*command)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dest", metavar="DEST", type=pathlib.Path, help="a directory to create")
    make(parser.parse_args().dest)


if __name__ == "__main__":
    main()
