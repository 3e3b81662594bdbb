"""Run the tests against a derivative of multiprocessing, with the package installed there.

    python tools/suite_for.py PACKAGE DIRECTORY [PYTEST_ARG...]

The tests of Lib/test and backport/tests/conformance are copied to the directory, with the name
of the derivative in place of "multiprocessing".
"""

import pathlib
import re
import sys

import multiprocessing_initret
import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
TESTS = "Lib/test", "backport/tests/conformance"

if __name__ == "__main__":  # A spawned worker imports this module too.
    package, directory = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    copied = [REPOSITORY / "conftest.py"]
    for name in TESTS:
        copied += (REPOSITORY / name).glob("*.py")
    for path in copied:
        copy = directory / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(re.sub(r"\bmultiprocessing\b", package, path.read_text()))
    multiprocessing_initret.install(package)
    tests = [str(directory / name) for name in TESTS]
    sys.exit(pytest.main(["-c", str(REPOSITORY / "tox.ini"), *tests, *sys.argv[3:]]))
