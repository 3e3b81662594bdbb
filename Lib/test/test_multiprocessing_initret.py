"""Run the suite of expect_initret for every start method and kind of pool."""

import sys
import unittest
import warnings

try:
    from test import _test_multiprocessing_initret as suite, support
except ImportError:  # outside CPython's tree
    import _test_multiprocessing_initret as suite
    support = None

import multiprocessing
import multiprocessing.util

if support and support.PGO:
    raise unittest.SkipTest('test is not helpful for PGO')


class TestSignatures(suite.TestSignatures):
    """A test of this module, for whose sake its fixtures run once."""


start_methods = multiprocessing.get_all_start_methods()
if 'fork' in start_methods:
    if sys.platform == 'darwin':
        start_methods.remove('fork')  # it may crash there (bpo-33725)
    elif support and support.check_sanitizer(thread=True):
        start_methods.remove('fork')  # TSAN does not support threads after fork

for start_method in [None] + start_methods:
    suite.install_tests(globals(), start_method)

warned = warnings.catch_warnings()


def setUpModule():
    warned.__enter__()
    # A process that has a pool has threads.
    warnings.filterwarnings('ignore', '.*multi-threaded.*fork', DeprecationWarning)


def tearDownModule():
    warned.__exit__(None, None, None)
    if support:
        # Pools are in reference cycles, and hold semaphores.
        support.gc_collect()
        # This stops the fork server and the resource tracker.
        multiprocessing.util._cleanup_tests()


if __name__ == '__main__':
    unittest.main()
