"""Write a patched copy of the multiprocessing package.

    python tools/overlay.py DEST [--base CHECKOUT] [--unpatched]
    PYTHONPATH=DEST python ...

The first command writes DEST/multiprocessing: the package of the interpreter that runs it, with
every patch in Lib/multiprocessing applied.  The second runs that interpreter with it.  If the
first command fails, DEST is not changed.

With --base, the packages multiprocessing and concurrent are copied from a CPython checkout, so that
the newest release can run those of the main branch.  --unpatched leaves out the patches.
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


def apply(patch, directory):
    """Apply one patch of CPython's Lib/ to the copy of Lib/ in a directory."""
    # Outside of a repository, `git apply` changes the files; inside one, it silently skips
    # files that the repository does not track.
    env = without_locators(GIT_CEILING_DIRECTORIES=os.path.dirname(directory))
    done = subprocess.run(
        ["git", "-c", "core.autocrlf=false", "apply", "-p2", str(patch)],
        cwd=directory,
        env=env,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    if done.returncode:
        raise SystemExit(
            f"{patch.relative_to(PATCHES.parent.parent)} does not apply to the "
            f"multiprocessing package of Python {VERSION}:\n{done.stderr.strip()}"
        )


def write_overlay(dest, base=None, patched=True):
    """Write dest/multiprocessing, and dest/concurrent if there is a base.

    :param pathlib.Path dest: the directory for PYTHONPATH, created if necessary
    :param pathlib.Path base: a CPython checkout to copy from, instead of this interpreter
    :param bool patched: apply the patches
    :raises SystemExit: if this interpreter is too old, if dest has a multiprocessing already, if
        git is missing, or if a hunk does not apply; dest is not changed then
    """
    if sys.version_info < OLDEST:
        raise SystemExit(
            f"the patch is for Python {OLDEST[0]}.{OLDEST[1]} and later, "
            f"and this is Python {VERSION}: use the package multiprocessing_initret"
        )
    target = dest / "multiprocessing"
    if target.exists():
        raise SystemExit(f"{target} exists already: remove it, or name another DEST")
    if not shutil.which("git"):
        raise SystemExit("git must be on PATH to apply the patch")
    # Not multiprocessing.__file__, which may be in an overlay itself.
    lib = base / "Lib" if base else pathlib.Path(sysconfig.get_path("stdlib"))
    packages = ["concurrent", "multiprocessing"] if base else ["multiprocessing"]
    if not (lib / "multiprocessing").is_dir():
        raise SystemExit(f"{lib} has no multiprocessing: --base must name a CPython checkout")
    dest.parent.mkdir(parents=True, exist_ok=True)
    # The temporary directory is on the file system of DEST, so that os.rename() works.
    with tempfile.TemporaryDirectory(dir=str(dest.parent)) as scratch:
        scratch = os.path.realpath(scratch)
        for package in packages:
            shutil.copytree(
                str(lib / package),
                os.path.join(scratch, package),
                ignore=shutil.ignore_patterns("__pycache__"),
                copy_function=shutil.copyfile,  # The original may be read-only.
            )
        for path in [pathlib.Path(scratch), *pathlib.Path(scratch).rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
        for patch in sorted(PATCHES.rglob("*.patch")) if patched else ():
            file = pathlib.Path(scratch, "multiprocessing", patch.relative_to(PATCHES))
            file = file.with_suffix("")
            # Some installations have lines that end with CR LF; a patch never does.
            file.write_bytes(file.read_bytes().replace(b"\r\n", b"\n"))
            apply(patch, scratch)
        dest.mkdir(exist_ok=True)
        for package in packages:
            os.rename(os.path.join(scratch, package), str(dest / package))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "dest", metavar="DEST", type=pathlib.Path, help="a directory for PYTHONPATH"
    )
    parser.add_argument(
        "--base", metavar="CHECKOUT", type=pathlib.Path, help="copy the packages from there"
    )
    parser.add_argument("--unpatched", action="store_true", help="do not apply the patches")
    options = parser.parse_args()
    write_overlay(options.dest, options.base, not options.unpatched)


if __name__ == "__main__":
    main()
