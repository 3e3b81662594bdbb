"""Run the suite against a fork of multiprocessing, with the backport installed there.

    python tools/suite_for.py PACKAGE FOLDER [PYTEST_ARG...]

The suite is copied from Lib/test to the folder, and there the name of the package
stands where multiprocessing's stood.
"""

import pathlib
import re
import sys

import multiprocessing_initret
import pytest

PROJECT = pathlib.Path(__file__).resolve().parent.parent

if __name__ == "__main__":  # and not in the workers
    package, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for path in (PROJECT / "Lib" / "test").glob("*.py"):
        text = re.sub(r"\bmultiprocessing\b", package, path.read_text())
        (folder / path.name).write_text(text)
    multiprocessing_initret.install(package)
    sys.exit(pytest.main(["-c", str(PROJECT / "tox.ini")] + sys.argv[2:]))
