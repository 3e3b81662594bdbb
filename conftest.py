"""Has pytest run the suite in Lib/test as it lands in CPython, on any Python."""

import faulthandler
import inspect
import os
import pathlib
import sys

import pytest

PROJECT = pathlib.Path(__file__).parent
SUITE = PROJECT / "Lib" / "test"
# The package `test` has its parts in both.
PATH = [str(PROJECT / "backport" / "tests" / "cpython"), str(PROJECT / "Lib")]

if sys.platform == "darwin":
    # It may crash there, and CPython does not test it (bpo-33725).
    collect_ignore = [str(SUITE / "test_multiprocessing_fork")]


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    """Import the suite's files, which have one name in three folders.

    The __init__.py that tells them apart is CPython's own.
    """
    option = collector.config.option
    mode = option.importmode
    if isinstance(collector, pytest.Module) and SUITE in collector.path.parents:
        option.importmode = "importlib"
        if sys.path[:2] != PATH:
            sys.path[:0] = PATH
            # A fork server has only this.
            before = filter(None, [os.environ.get("PYTHONPATH")])
            os.environ["PYTHONPATH"] = os.pathsep.join([*PATH, *before])
    yield
    option.importmode = mode


def pytest_collection_modifyitems(items):
    """Skip what is for the imap() of Python 3.16 alone."""
    from multiprocessing.pool import Pool

    if "buffersize" not in inspect.signature(Pool.imap).parameters:
        for item in items:
            if item.name == "test_buffersize":
                item.add_marker(pytest.mark.skip("imap() has no buffersize"))


def pytest_unconfigure():
    """Give the end of the interpreter a limit too, and say what it waits for."""
    faulthandler.dump_traceback_later(120, exit=True, file=sys.__stderr__)
