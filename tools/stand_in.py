"""Make a tree that stands in for a CPython checkout, where none can be had.

    python tools/stand_in.py DEST
    python tools/upstream.py DEST
    PYTHONPATH=DEST/Lib python -m test ...

DEST becomes a git repository with the Lib folder of the Python that runs this
and, since no installation has the source of the documentation, with a page made
of the lines that the patch of it quotes.
"""

import argparse
import pathlib
import shutil
import sysconfig

from upstream import Checkout

PATCH = pathlib.Path("Doc", "library", "multiprocessing.rst.patch")
HERE = pathlib.Path(__file__).resolve().parent.parent


def quoted_page():
    """Return the page of documentation, as far as the patch quotes it."""
    lines = ["A page of documentation", "=======================", ""]
    for line in (HERE / PATCH).read_text(encoding="utf-8").splitlines()[3:]:
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
    page = dest / PATCH.with_suffix("")
    page.parent.mkdir(parents=True)
    page.write_text(quoted_page(), encoding="utf-8")
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
