"""Run the suite of expect_initret for every start method and kind of pool."""

import multiprocessing
import unittest

try:
    from test import _test_multiprocessing_initret as suite
except ImportError:  # outside CPython's tree
    import _test_multiprocessing_initret as suite


TestSignatures = suite.TestSignatures

for start_method in [None] + multiprocessing.get_all_start_methods():
    suite.install_tests(globals(), start_method)


if __name__ == '__main__':
    unittest.main()
