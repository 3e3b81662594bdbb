"""Run the suite against a fork of multiprocessing, with the backport installed there.

    python tools/suite_for.py PACKAGE FOLDER [PYTEST_ARG...]

The suite, and what runs it here, are copied to the folder, and there the name of
the package stands where multiprocessing's stood.
"""

import pathlib
import re
import sys

import multiprocessing_initret
import pytest

PROJECT = pathlib.Path(__file__).resolve().parent.parent
SUITE = "conftest.py", "Lib/test/**/*.py", "backport/tests/cpython/**/*.py"

if __name__ == "__main__":  # and not in the workers
    package, folder = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    for path in [path for pattern in SUITE for path in PROJECT.glob(pattern)]:
        copy = folder / path.relative_to(PROJECT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(re.sub(r"\bmultiprocessing\b", package, path.read_text()))
    multiprocessing_initret.install(package)
    sys.exit(pytest.main(["-c", str(PROJECT / "tox.ini"), str(folder), *sys.argv[3:]]))
