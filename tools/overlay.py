"""Write a patched copy of this interpreter's multiprocessing package.

    python tools/overlay.py DEST
    PYTHONPATH=DEST python ...

The first line writes DEST/multiprocessing: the standard library's package of
the interpreter that runs it, changed by every patch in Lib/multiprocessing.
The second runs that interpreter with it.  DEST is complete or not there.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile

from git_environment import without_locators

OLDEST = (3, 8)
VERSION = sys.version.split()[0]
PATCHES = pathlib.Path(__file__).resolve().parent.parent / "Lib" / "multiprocessing"


def apply(patch, folder):
    """Apply one patch of CPython's Lib/ to the copy of Lib/ in folder."""
    # Without a repository around it `git apply` changes the files as they are,
    # but inside one it would silently skip what that repository does not hold.
    env = without_locators(GIT_CEILING_DIRECTORIES=os.path.dirname(folder))
    done = subprocess.run(
        ["git", "-c", "core.autocrlf=false", "apply", "-p2", str(patch)],
        cwd=folder,
        env=env,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    if done.returncode:
        raise SystemExit(
            f"{patch.relative_to(PATCHES.parent.parent)} does not apply to the "
            f"multiprocessing package of Python {VERSION}:\n{done.stderr.strip()}"
        )


def write_overlay(dest):
    """Write dest/multiprocessing.

    :param pathlib.Path dest: the folder to put on PYTHONPATH, made if needed
    :raises SystemExit: where this interpreter is too old, dest holds a
        multiprocessing already, git is missing, or a hunk does not apply;
        dest is then left as it was
    """
    if sys.version_info < OLDEST:
        raise SystemExit(
            f"the patch is for Python {OLDEST[0]}.{OLDEST[1]} and later, "
            f"and this is Python {VERSION}: use the backport"
        )
    target = dest / "multiprocessing"
    if target.exists():
        raise SystemExit(f"{target} exists already: remove it, or name another DEST")
    if not shutil.which("git"):
        raise SystemExit("git is needed to apply the patch, and it is not on PATH")
    # Not multiprocessing.__file__: that may be an overlay itself.
    stock = pathlib.Path(sysconfig.get_path("stdlib"), "multiprocessing")
    dest.parent.mkdir(parents=True, exist_ok=True)
    # On the file system of DEST, so that it can be moved there in one piece.
    with tempfile.TemporaryDirectory(dir=str(dest.parent)) as scratch:
        scratch = os.path.realpath(scratch)
        copy = pathlib.Path(scratch, "multiprocessing")
        shutil.copytree(str(stock), str(copy), ignore=shutil.ignore_patterns("__pycache__"))
        for patch in sorted(PATCHES.rglob("*.patch")):
            patched = copy / patch.relative_to(PATCHES).with_suffix("")
            # Some installations end their lines with CR LF, the patch never does.
            patched.write_bytes(patched.read_bytes().replace(b"\r\n", b"\n"))
            apply(patch, scratch)
        dest.mkdir(exist_ok=True)
        os.rename(str(copy), str(target))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dest", metavar="DEST", type=pathlib.Path, help="a folder for PYTHONPATH")
    write_overlay(parser.parse_args().dest)


if __name__ == "__main__":
    main()
