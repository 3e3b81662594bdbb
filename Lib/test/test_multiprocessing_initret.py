"""Run the suite of expect_initret for every start method and kind of pool."""

import gc
import multiprocessing
import multiprocessing.util
import sys
import unittest

try:
    from test import _test_multiprocessing_initret as suite
except ImportError:  # outside CPython's tree
    import _test_multiprocessing_initret as suite
else:
    def tearDownModule():
        # A pool is a reference cycle, which may hold a semaphore yet.
        gc.collect()
        # This stops the fork server and the resource tracker.
        multiprocessing.util._cleanup_tests()


TestSignatures = suite.TestSignatures

for start_method in [None] + multiprocessing.get_all_start_methods():
    if start_method == 'fork' and sys.platform == 'darwin':
        continue  # it may crash there (bpo-33725)
    suite.install_tests(globals(), start_method)


if __name__ == '__main__':
    unittest.main()
