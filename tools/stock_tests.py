"""Run CPython's own tests of Pool, to see that stock behaviour has not changed.

    python tools/stock_tests.py START_METHOD

They are the classes of test._test_multiprocessing whose name has Pool, of the
interpreter that runs this.  Where it comes without them, or knows no such start
method, this says so and is content.
"""

import faulthandler
import multiprocessing
import sys
import unittest

TIMEOUT = 300  # seconds for one test

start_method = sys.argv[1]
try:
    from test import _test_multiprocessing as stock
except ImportError as error:
    sys.exit(print("skipped: this Python comes without CPython's tests:", error))
if start_method == "fork" and sys.platform == "darwin":
    sys.exit(print("skipped: it may crash there, and CPython does not test it (bpo-33725)"))
if start_method not in multiprocessing.get_all_start_methods():
    sys.exit(print("skipped: no start method", start_method))

# Here and not in a function: a spawned worker finds the tests in this module.
installed = {"__name__": __name__}
stock.install_tests_in_module_dict(installed, start_method)
setUpModule = installed["setUpModule"]
tearDownModule = installed["tearDownModule"]
globals().update((name, value) for name, value in installed.items() if "Pool" in name)
if (3, 11) <= sys.version_info < (3, 13):
    # A thread that has begun its task by then is waited for, and it sleeps five
    # minutes. Later releases let it sleep for one second.
    installed["WithThreadsTestPool"].test_terminate = None


class BoundedResult(unittest.TextTestResult):
    """Ends the run where a test hangs, with the traceback that says which."""

    def startTest(self, test):
        faulthandler.dump_traceback_later(TIMEOUT, exit=True)
        super().startTest(test)

    def stopTest(self, test):
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    unittest.main(
        argv=sys.argv[:1],
        testRunner=unittest.TextTestRunner(resultclass=BoundedResult, verbosity=2),
    )
