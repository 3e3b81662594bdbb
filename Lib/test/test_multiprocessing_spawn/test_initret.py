import unittest
from test import _test_multiprocessing_initret
from test._test_multiprocessing import install_tests_in_module_dict

install_tests_in_module_dict(globals(), 'spawn',
                             tests=_test_multiprocessing_initret)

if __name__ == '__main__':
    unittest.main()
