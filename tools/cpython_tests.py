"""Run CPython's own tests of Pool, to check that the standard pool's behaviour is unchanged.

    python tools/cpython_tests.py START_METHOD [--tests CHECKOUT/Lib/test] [--expect-initret]

The tests are the classes of test._test_multiprocessing with "Pool" in their names, of the
interpreter that runs this program, or of the directory that --tests names.  If the interpreter has
no tests, or does not support the start method, this program prints that and succeeds.

With --expect-initret, the package is installed, each pool that the tests make has
expect_initret=True, and each function that they pass to it is wrapped in one that accepts initret
and drops it, so every test should still pass.
"""

import argparse
import faulthandler
import functools
import multiprocessing
import sys
import time
import unittest
from multiprocessing.pool import Pool, ThreadPool

TIMEOUT = 300  # seconds for one test


def skip(reason):
    print("skipped:", reason)
    sys.exit()


parser = argparse.ArgumentParser()
parser.add_argument("start_method")
parser.add_argument("--tests", metavar="DIRECTORY")
parser.add_argument("--expect-initret", action="store_true")
options = parser.parse_args()
try:
    import test

    if options.tests:
        test.__path__.insert(0, options.tests)
    from test import _test_multiprocessing as cpython_tests
except ImportError as error:
    skip(f"this Python has no CPython tests: {error}")
# Time, in seconds, that a test waits until the threads of a pool refer to no task.  On a busy
# machine, 0.1 may be too little.
cpython_tests.DELTA = 1
if options.start_method == "fork" and sys.platform == "darwin":
    skip("fork may crash on macOS, and CPython does not test it (bpo-33725)")
if options.start_method not in multiprocessing.get_all_start_methods():
    skip(f"no start method {options.start_method}")

# In the module, not in a function: a spawned worker imports the tests from this module.
installed = {"__name__": __name__}
cpython_tests.install_tests_in_module_dict(installed, options.start_method)
setUpModule = installed["setUpModule"]
tearDownModule = installed["tearDownModule"]
globals().update((name, value) for name, value in installed.items() if "Pool" in name)
if (3, 11) <= sys.version_info < (3, 13):
    # terminate() waits for the threads that have begun a task, and each task of this test sleeps
    # five minutes.  In later releases it sleeps one second.
    installed["WithThreadsTestPool"].test_terminate = None


def is_starting_workers(pool):
    """Return whether the worker handler of a pool starts workers now, or is about to."""
    frame = sys._current_frames().get(pool._worker_handler.ident)
    while frame is not None:
        if frame.f_code.co_name == "_maintain_pool":
            return True
        frame = frame.f_back
    notifier = getattr(pool, "_change_notifier", None)  # wakes the worker handler since Python 3.8
    return notifier is not None and pool._worker_handler.is_alive() and not notifier.empty()


def terminate_when_asleep(self):
    """Call the standard method while the worker handler is asleep.

    If the worker handler of the standard pool is awake when terminate() is called, it may replace
    workers that have received their sentinels.  The replacements receive none, and terminate()
    waits for the lock that one of them holds.
    """
    deadline = time.monotonic() + 10
    while is_starting_workers(self) and time.monotonic() < deadline:
        time.sleep(0.001)
    terminate(self)


# In every process, because a manager's process makes pools too.
terminate = Pool.terminate
Pool.terminate = functools.wraps(terminate)(terminate_when_asleep)


class DropInitret:
    """Wrapper of a function that does not accept initret."""

    def __init__(self, func):
        self.func = func

    def __call__(self, *args, initret, **kwds):
        return self.func(*args, **kwds)


def return_none():
    """Initializer for the pools that the tests make without one."""


def expect_initret(cls):
    """Make the constructor of a pool class pass expect_initret=True."""
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self, processes=None, initializer=None, *args, **kwds):
        # The constructor of ThreadPool, which is wrapped too, calls that of Pool.
        if cls is ThreadPool or not isinstance(self, ThreadPool):
            kwds["expect_initret"] = True
        if initializer is None:
            initializer = return_none
        init(self, processes, initializer, *args, **kwds)

    cls.__init__ = __init__


def drop_initret(name):
    """Make a method of Pool wrap the functions that it receives."""
    method = getattr(Pool, name)

    @functools.wraps(method)
    def wrapper(self, func, *args, **kwds):
        # The method may have been called by another wrapped method.
        if not isinstance(func, DropInitret):
            func = DropInitret(func)
        return method(self, func, *args, **kwds)

    setattr(Pool, name, wrapper)


# In every process, because a manager's process makes pools too.
if options.expect_initret:
    import multiprocessing_initret

    # Install the package before the constructors are wrapped: otherwise a spawned process would
    # install it afterwards.
    multiprocessing_initret.install()
    expect_initret(Pool)
    expect_initret(ThreadPool)
    for name in ("apply", "map", "starmap"):
        drop_initret(name)
        drop_initret(name + "_async")
    for name in ("imap", "imap_unordered"):
        drop_initret(name)


class BoundedResult(unittest.TextTestResult):
    """Test result that prints the tracebacks and exits if a test or the final exit hangs."""

    def startTest(self, test):
        faulthandler.dump_traceback_later(TIMEOUT, exit=True)
        super().startTest(test)


if __name__ == "__main__":
    unittest.main(
        argv=sys.argv[:1],
        testRunner=unittest.TextTestRunner(resultclass=BoundedResult, verbosity=2),
    )
