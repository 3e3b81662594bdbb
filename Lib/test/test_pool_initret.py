"""The tests that land in CPython's Lib/test/_test_multiprocessing.py.

tools/upstream.py inserts the lines between the comments "Inserted" and "Not inserted" there,
after the class _TestPool.  Here pytest runs them, against the patch and against the package.
"""

import multiprocessing
import multiprocessing.managers
import os
from multiprocessing import util

from conformance_base import (
    BaseTestCase,
    install_tests_in_module_dict,
    support,
    warnings_helper,
)

# fmt: off
# Inserted:
class _TestPoolInitret(BaseTestCase):
    """Tests for Pool(initializer=..., expect_initret=True)."""

    METHODS = ('apply', 'apply_async', 'map', 'map_async', 'imap',
               'imap_unordered', 'starmap', 'starmap_async')

    @classmethod
    def setUpClass(cls):
        # Keep the workers from logging the exceptions of their initializers.
        cls.log_level = util.get_logger().level
        util.get_logger().setLevel('CRITICAL')
        with warnings_helper.ignore_fork_in_thread_deprecation_warnings():
            super().setUpClass()
            cls.pool = cls.Pool(2, int, ('40',), expect_initret=True)
        # Calls methods that accept no timeout, so that a hang is a failure.
        cls.caller = multiprocessing.pool.ThreadPool(1)

    @classmethod
    def tearDownClass(cls):
        for pool in cls.pool, cls.caller:
            pool.terminate()
            pool.join()
        cls.pool = cls.caller = pool = None
        super().tearDownClass()
        util.get_logger().setLevel(cls.log_level)

    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def make_pool(self, *args, **kwds):
        pool = self.Pool(*args, expect_initret=True, **kwds)
        self.addCleanup(pool.join)
        self.addCleanup(pool.terminate)
        return pool

    def call(self, *args):
        result = self.caller.apply_async(self.call_unbounded, args)
        return result.get(support.LONG_TIMEOUT)

    @staticmethod
    def call_unbounded(pool, method, func, items, chunksize=1):
        """Return the results of func for the items."""
        call = getattr(pool, method)
        if method == 'apply':
            return [call(func, (item,)) for item in items]
        if method == 'apply_async':
            return [result.get() for result in
                    [call(func, (item,)) for item in items]]
        if method.startswith('starmap'):
            items = [(item,) for item in items]
        result = call(func, items, chunksize)
        if method.endswith('_async'):
            return result.get()
        return sorted(result)

    @staticmethod
    def describe(*args, initret, **kwds):
        return args, kwds, initret

    @staticmethod
    def get_pids(item, initret):
        return initret, os.getpid()

    @classmethod
    def fail(cls):
        raise ZeroDivisionError('failed')

    @classmethod
    def fail_three_times(cls, calls):
        calls.append(len(calls))
        if len(calls) <= 3:
            raise ZeroDivisionError(len(calls))

    @staticmethod
    def raising_iterable():
        yield 0
        raise KeyError('iterable')

    def test_results(self):
        expected = [((item,), {}, 40) for item in range(5)]
        for method in self.METHODS:
            for chunksize in 1, 2, 6:
                with self.subTest(method=method, chunksize=chunksize):
                    self.assertEqual(self.call(self.pool, method, self.describe,
                                               range(5), chunksize), expected)

    def test_arguments(self):
        result = self.pool.apply_async(self.describe, (1, 2), {'key': 3})
        self.assertEqual(result.get(support.LONG_TIMEOUT),
                         ((1, 2), {'key': 3}, 40))
        result = self.pool.apply_async(self.describe, (), {'initret': 1})
        with self.assertRaisesRegex(TypeError, "multiple values.*'initret'"):
            result.get(support.LONG_TIMEOUT)

    def test_function_without_initret(self):
        for method in self.METHODS:
            with self.subTest(method=method):
                with self.assertRaises(TypeError):
                    self.call(self.pool, method, abs, [1])

    def test_iterable_raises(self):
        if self.TYPE == 'manager':
            self.skipTest('a generator cannot be sent to a manager')
        for method in 'imap', 'imap_unordered':
            with self.subTest(method=method):
                with self.assertRaisesRegex(KeyError, 'iterable'):
                    self.call(self.pool, method, self.describe,
                              self.raising_iterable())

    def test_no_initializer(self):
        error = (multiprocessing.managers.RemoteError
                 if self.TYPE == 'manager' else ValueError)
        with self.assertRaisesRegex(error, 'requires an initializer'):
            self.Pool(1, expect_initret=True)

    def test_initializer_fails(self):
        pool = self.make_pool(1, self.fail)
        for method in self.METHODS:
            with self.subTest(method=method):
                with self.assertRaisesRegex(ZeroDivisionError, 'failed'):
                    self.call(pool, method, self.describe, range(2))

    def test_initializer_recovers(self):
        if self.TYPE != 'threads':
            self.skipTest('the calls are counted in this process')
        calls = []
        with self.assertLogs(util.get_logger(), 'WARNING') as logged:
            pool = self.make_pool(1, self.fail_three_times, (calls,))
            for number in 2, 3:     # the first call is made at the start
                with self.assertRaises(ZeroDivisionError) as caught:
                    self.call(pool, 'apply_async', self.describe, [0])
                self.assertEqual(caught.exception.args, (number,))
            for method in self.METHODS:     # initret is None
                self.assertEqual(self.call(pool, method, self.describe, [0]),
                                 [((0,), {}, None)])
        self.assertEqual(len(calls), 4)
        record, = logged.records
        self.assertIs(record.exc_info[0], ZeroDivisionError)

    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def test_maxtasksperchild(self):
        if self.TYPE != 'processes':
            self.skipTest('only processes are replaced')
        pool = self.make_pool(1, os.getpid, maxtasksperchild=2)
        results = self.call(pool, 'map_async', self.get_pids, range(4))
        self.assertEqual(len(set(results)), 2)
        for initret, pid in results:
            self.assertEqual(initret, pid)

# Not inserted:
# fmt: on
install_tests_in_module_dict(globals())
