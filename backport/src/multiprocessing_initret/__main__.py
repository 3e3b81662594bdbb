"""Run an unchanged program with the feature installed.

python -m multiprocessing_initret SCRIPT [ARG...]
python -m multiprocessing_initret -m MODULE [ARG...]
"""

import argparse
import os
import runpy
import sys
import types

from . import install


def run_script(path: str, source: bytes) -> None:
    """Run the source as ``python path`` would, in a ``__main__`` of its own.

    It stays ``__main__`` when the file's last line has run, since threads of
    it may still start workers (``runpy.run_path`` would take it away).
    """
    main = types.ModuleType("__main__")
    main.__file__ = path
    sys.path[0] = os.path.dirname(os.path.realpath(path))
    code = compile(source, path, "exec", dont_inherit=True)
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m multiprocessing_initret",
        usage="%(prog)s (SCRIPT | -m MODULE) [ARG...]",
        description="Run an unchanged program whose pools take expect_initret.",
    )
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("script", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    argv = options.module or options.script
    if not argv:
        parser.error("name a script, or a module after -m")
    install()
    sys.argv[:] = argv
    if options.module:
        # What `python -m` itself calls; run_module() would take its __main__
        # away again at the end, as run_path() does.
        runpy._run_module_as_main(argv[0])  # type: ignore[attr-defined]
        return
    try:
        with open(argv[0], "rb") as file:
            source = file.read()
    except OSError as error:
        parser.error(str(error))
    run_script(argv[0], source)


if __name__ == "__main__":
    main()
