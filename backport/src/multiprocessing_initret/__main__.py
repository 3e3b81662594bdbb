"""Run a program with the feature installed, which need not say so itself.

python -m multiprocessing_initret SCRIPT [ARG...]
python -m multiprocessing_initret -m MODULE [ARG...]
"""

import argparse
import builtins
import importlib.machinery
import os
import runpy
import sys
import types

from . import install


def run_script(path: str, source: bytes) -> None:
    """Run the source of a file as ``python path`` would."""
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    if sys.version_info >= (3, 9):
        path = os.path.abspath(path)
    main = sys.modules["__main__"]
    main.__file__ = path
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    exec(compile(source, path, "exec"), main.__dict__)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m multiprocessing_initret",
        usage="%(prog)s (SCRIPT | -m MODULE) [ARG...]",
        description="Run a program after multiprocessing_initret.install().",
    )
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("script", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    argv = options.module or options.script
    if not argv:
        parser.error("name a script, or a module after -m")
    source = b""
    if not options.module:
        try:
            with open(argv[0], "rb") as file:
                source = file.read()
        except OSError as error:
            parser.error(str(error))

    install()
    sys.argv[:] = argv
    # A __main__ of the program's own, and for good: the public functions of
    # runpy take it away when the last line has run, but threads of the program
    # may go on and start workers, which look for it.
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.modules["__main__"].__dict__["__builtins__"] = builtins
    if options.module:
        runpy._run_module_as_main(argv[0])  # type: ignore[attr-defined]  # as `python -m` does
    else:
        run_script(argv[0], source)


if __name__ == "__main__":
    main()
