"""Configuration of pytest for the tests in Lib/test and backport/tests/conformance."""

import faulthandler
import inspect
import os
import pathlib
import sys

import pytest

# Directory of the tests' base classes.  A fork server can import them only from PYTHONPATH.
CONFORMANCE = pathlib.Path(__file__).parent / "backport" / "tests" / "conformance"
sys.path.insert(0, str(CONFORMANCE))
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(CONFORMANCE), os.environ.get("PYTHONPATH")])
)


def pytest_ignore_collect(collection_path, config):
    """Collect the conformance tests only if an argument names their directory.

    They need a multiprocessing whose pools accept expect_initret.  The package's other tests call
    install() and uninstall() themselves.
    """
    if collection_path == CONFORMANCE:
        return None if any("conformance" in str(arg) for arg in config.args) else True


def pytest_collection_modifyitems(items):
    """Skip the tests of imap(buffersize=), which Python 3.16 adds."""
    from multiprocessing.pool import Pool

    if "buffersize" not in inspect.signature(Pool.imap).parameters:
        for item in items:
            if item.name == "test_buffersize":
                item.add_marker(pytest.mark.skip("imap() has no buffersize"))


def pytest_unconfigure():
    """Limit the time of the interpreter's exit too, and print what it waits for."""
    faulthandler.dump_traceback_later(120, exit=True, file=sys.__stderr__)
