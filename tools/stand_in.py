"""Make a tree that stands in for a CPython checkout, where none can be had.

    python tools/stand_in.py DEST
    python tools/upstream.py DEST
    PYTHONPATH=DEST/Lib python -m test ...

DEST becomes a git repository with the Lib folder of the Python that runs this,
which should be a new one.  No installation has what stands in Doc and Misc: there
the files that a patch is for are made of the lines that it quotes.
"""

import argparse
import pathlib
import shutil
import sysconfig

from upstream import Checkout

HERE = pathlib.Path(__file__).resolve().parent.parent
# What the suite uses of CPython's main branch that Python 3.14 does not have.
YOUNGER = """

@contextlib.contextmanager
def ignore_fork_in_thread_deprecation_warnings():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        yield
"""


def quoted(patch):
    """Return the text of a file, as far as the patch of it quotes it."""
    lines = ["A page of documentation", "=======================", ""]
    for line in patch.read_text(encoding="utf-8").splitlines()[3:]:
        if line.startswith("@@"):
            lines += ["", "   Something else.", ""]
        elif not line.startswith("+"):
            lines.append(line[1:])
    return "\n".join([*lines, "   The end.", ""])


def make(dest, folder="."):
    """Make the tree, with the whole standard library or one folder of it."""
    stdlib = pathlib.Path(sysconfig.get_path("stdlib"))
    ignored = shutil.ignore_patterns("__pycache__", "site-packages", "dist-packages", "config-*")
    shutil.copytree(
        str(stdlib / folder),
        str(dest / "Lib" / folder),
        ignore=ignored,
        ignore_dangling_symlinks=True,  # Debian's sitecustomize.py, without /etc
    )
    for patch in [path for top in ("Doc", "Lib", "Misc") for path in (HERE / top).rglob("*.patch")]:
        file = dest / patch.relative_to(HERE).with_suffix("")
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(quoted(patch), encoding="utf-8")
    helper = dest / "Lib" / "test" / "support" / "warnings_helper.py"
    if helper.exists() and "def ignore_fork_in_thread" not in helper.read_text(encoding="utf-8"):
        with helper.open("a", encoding="utf-8") as file:
            file.write(YOUNGER)
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
    parser.add_argument("dest", metavar="DEST", type=pathlib.Path, help="a folder to be made")
    make(parser.parse_args().dest)


if __name__ == "__main__":
    main()
