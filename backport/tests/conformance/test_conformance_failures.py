"""Tests of initializers that fail, and of workers that are replaced."""

import multiprocessing.pool
import traceback
from multiprocessing.connection import wait

from conformance_base import BaseTestCase, install_tests_in_module_dict, warnings_helper
from conformance_functions import (
    METHODS,
    TIMEOUT,
    InitializerError,
    InitretMixin,
    RaisingIterable,
    SharedPoolMixin,
    UnpicklableError,
    UseCounter,
    add,
    call_with_items,
    describe,
    exit_abruptly,
    fail,
    fail_first_calls,
    fail_unpicklably,
    fail_with_pid,
    get_token,
    use,
    wait_and_exit,
)


class _TestInitretFailures(SharedPoolMixin, BaseTestCase):
    """If the initializer always fails, each task fails with its exception."""

    initializer = fail, ()

    def test_all_methods(self):
        for method in METHODS:
            with self.subTest(method=method):
                with self.assertRaises(InitializerError) as caught:
                    call_with_items(self.pool, method, describe, range(5))
                self.assertEqual(caught.exception.args, ("failed",))

    def test_each_task(self):
        results = [self.pool.apply_async(describe) for _ in range(5)]
        for result in results:
            self.assertRaises(InitializerError, result.get, TIMEOUT)
        for imap in self.pool.imap, self.pool.imap_unordered:
            results = imap(describe, range(5))
            for _ in range(5):
                self.assertRaises(InitializerError, next, results)
            self.assertRaises(StopIteration, next, results)

    def test_iterable_raises(self):
        results = self.pool.imap(describe, RaisingIterable())
        self.assertRaises(InitializerError, next, results)
        with self.assertRaisesRegex(LookupError, "no second item"):
            next(results)


class _TestInitretRecovery(InitretMixin, BaseTestCase):
    """A worker whose initializer failed calls it again for the next task."""

    ALLOWED_TYPES = "processes", "threads"

    def test_traceback(self):
        pool = self.new_pool(1, fail)
        try:
            pool.apply(describe)
        except InitializerError:
            self.assertIn("in fail\n", traceback.format_exc())
        else:
            self.fail("InitializerError not raised")

    def test_error_callback(self):
        pool = self.new_pool(1, fail)
        for method in "apply_async", "map_async", "starmap_async":
            with self.subTest(method=method):
                results, errors = [], []
                with self.assertRaises(InitializerError) as caught:
                    call_with_items(
                        pool,
                        method,
                        describe,
                        [1],
                        callback=results.append,
                        error_callback=errors.append,
                    )
                self.assertEqual(results, [])
                self.assertEqual(errors, [caught.exception])

    def test_transient_failure_fails_no_task(self):
        for method in "apply", "map":
            with self.subTest(method=method):
                calls = self.Value("i", 0)
                pool = self.new_pool(1, fail_first_calls, (calls, 1))
                self.assertEqual(call_with_items(pool, method, add, range(5)), [2, 3, 4, 5, 6])

    def test_third_task_succeeds(self):
        # The initializer fails at the start and for two tasks.
        calls = self.Value("i", 0)
        pool = self.new_pool(1, fail_first_calls, (calls, 3))
        results = [pool.apply_async(describe) for _ in range(5)]
        for number, result in enumerate(results[:2], 2):
            with self.assertRaises(InitializerError) as caught:
                result.get(TIMEOUT)
            self.assertEqual(caught.exception.args, ("failed", number))
        for result in results[2:]:
            self.assertEqual(result.get(TIMEOUT), ((), {}, 4))
        self.assertEqual(calls.value, 4, "the initializer was called again after it had succeeded")

    def test_map_raises_the_first_failure(self):
        pool = self.new_pool(1, fail_first_calls, (self.Value("i", 0), 2))
        result = pool.map_async(describe, range(4), chunksize=1)
        with self.assertRaises(InitializerError) as caught:
            result.get(TIMEOUT)
        self.assertEqual(caught.exception.args, ("failed", 2))

    def test_unpicklable_exception(self):
        pool = self.new_pool(1, fail_unpicklably)
        expected = (
            UnpicklableError if self.TYPE == "threads" else multiprocessing.pool.MaybeEncodingError
        )
        for method in "apply", "map":
            with self.subTest(method=method), self.assertRaises(expected):
                call_with_items(pool, method, describe, [1])

    def test_close(self):
        pool = self.new_pool(2, fail)
        result = pool.map_async(describe, range(5))
        pool.close()
        self.assertRaises(InitializerError, result.get, TIMEOUT)
        pool.join()


class _TestInitretReplacement(InitretMixin, BaseTestCase):
    """A replacement calls the initializer, and has its own initret."""

    ALLOWED_TYPES = ("processes",)

    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def test_maxtasksperchild(self):
        pool = self.new_pool(1, UseCounter, (), 2)
        result = pool.map_async(use, range(6), chunksize=1)
        tokens, makers, users, ids, uses = zip(*result.get(TIMEOUT))
        self.assertEqual(uses, (1, 2, 1, 2, 1, 2))
        self.assertEqual(len(set(tokens)), 3)
        self.assertEqual(tokens[::2], tokens[1::2])
        self.assertEqual(makers, users)

    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def test_worker_that_exits(self):
        pool = self.new_pool(1, UseCounter)
        before = pool.apply_async(get_token).get(TIMEOUT)
        pool.apply_async(exit_abruptly)
        results = [pool.apply_async(get_token) for _ in range(3)]
        after = {result.get(TIMEOUT) for result in results}
        self.assertEqual(len(after), 1)
        self.assertNotIn(before, after)

    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def test_maxtasksperchild_and_failing_initializer(self):
        pool = self.new_pool(1, fail_with_pid, (), 1)
        results = [pool.apply_async(describe) for _ in range(2)]
        workers = set()
        for result in results:
            with self.assertRaises(InitializerError) as caught:
                result.get(TIMEOUT)
            workers.add(caught.exception.args)
        self.assertEqual(len(workers), 2)

    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def test_initializer_that_exits(self):
        # SystemExit is not an Exception, so the worker exits.
        event = self.Event()
        pool = self.new_pool(1, wait_and_exit, (event,))
        worker = pool._pool[0]
        event.set()
        self.assertTrue(wait([worker.sentinel], TIMEOUT))


install_tests_in_module_dict(globals())
