"""Run CPython's own tests of Pool, to see that stock behaviour has not changed.

    python tools/stock_tests.py START_METHOD
    python tools/stock_tests.py START_METHOD --expect-initret

They are the classes of test._test_multiprocessing whose name has Pool, of the
interpreter that runs this.  Where it comes without them, or knows no such start
method, this says so and is content.

With --expect-initret the package is installed, each pool that these tests make has
the keyword on, and each function that they give it takes initret and drops it: they
see no difference.
"""

import argparse
import faulthandler
import functools
import multiprocessing
import sys
import unittest
from multiprocessing.pool import Pool, ThreadPool

TIMEOUT = 300  # seconds for one test


def skip(reason):
    print("skipped:", reason)
    sys.exit()


parser = argparse.ArgumentParser()
parser.add_argument("start_method")
parser.add_argument("--expect-initret", action="store_true")
options = parser.parse_args()
try:
    from test import _test_multiprocessing as stock
except ImportError as error:
    skip(f"this Python comes without CPython's tests: {error}")
if options.start_method == "fork" and sys.platform == "darwin":
    skip("it may crash there, and CPython does not test it (bpo-33725)")
if options.start_method not in multiprocessing.get_all_start_methods():
    skip(f"no start method {options.start_method}")

# Here and not in a function: a spawned worker finds the tests in this module.
installed = {"__name__": __name__}
stock.install_tests_in_module_dict(installed, options.start_method)
setUpModule = installed["setUpModule"]
tearDownModule = installed["tearDownModule"]
globals().update((name, value) for name, value in installed.items() if "Pool" in name)
if (3, 11) <= sys.version_info < (3, 13):
    # A thread that has begun its task by then is waited for, and it sleeps five
    # minutes. Later releases let it sleep for one second.
    installed["WithThreadsTestPool"].test_terminate = None


class Dropping:
    """A function that takes initret, made of one that does not."""

    def __init__(self, func):
        self.func = func

    def __call__(self, *args, initret, **kwds):
        return self.func(*args, **kwds)


def make_nothing():
    """Stand in for the initializer where a test has none."""


def switch_on(cls):
    """Let a class of pools expect initret, whoever makes one."""
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self, processes=None, initializer=None, *args, **kwds):
        # The constructor of a ThreadPool calls that of Pool: once is enough.
        if cls is ThreadPool or not isinstance(self, ThreadPool):
            kwds["expect_initret"] = True
        if initializer is None:
            initializer = make_nothing
        init(self, processes, initializer, *args, **kwds)

    cls.__init__ = __init__


def let_drop(name):
    """Let a method of Pool take functions without initret."""
    method = getattr(Pool, name)

    @functools.wraps(method)
    def dropping_method(self, func, *args, **kwds):
        # One method may have been called by another.
        if not isinstance(func, Dropping):
            func = Dropping(func)
        return method(self, func, *args, **kwds)

    setattr(Pool, name, dropping_method)


# In each process, for that of a manager has pools too.
if options.expect_initret:
    import multiprocessing_initret

    # Before the constructors are wrapped: a spawned process would do it after that.
    multiprocessing_initret.install()
    switch_on(Pool)
    switch_on(ThreadPool)
    for name in ("apply", "map", "starmap"):
        let_drop(name)
        let_drop(name + "_async")
    for name in ("imap", "imap_unordered"):
        let_drop(name)


class BoundedResult(unittest.TextTestResult):
    """Ends the run where a test hangs, or the exit after the last, and says where."""

    def startTest(self, test):
        faulthandler.dump_traceback_later(TIMEOUT, exit=True)
        super().startTest(test)


if __name__ == "__main__":
    unittest.main(
        argv=sys.argv[:1],
        testRunner=unittest.TextTestRunner(resultclass=BoundedResult, verbosity=2),
    )
