"""Tests of the object that is passed as initret, and of the pool itself."""

import inspect
import multiprocessing
import multiprocessing.dummy
import multiprocessing.managers
import multiprocessing.pool
from multiprocessing import util

from conformance_base import (
    BaseTestCase,
    install_tests_in_module_dict,
    support,
    threading_helper,
    warnings_helper,
)
from conformance_functions import (
    METHODS,
    TIMEOUT,
    InitializerError,
    InitretMixin,
    UseCounter,
    add,
    call_with_items,
    count_and_fail,
    count_and_return,
    describe,
    fail,
    get_token,
    is_initret,
    make_and_record,
    raise_value_error,
    return_value,
    use,
    use_together,
    wait_for_event,
    with_default,
    without_initret,
)


class _TestInitretValue(InitretMixin, BaseTestCase):
    """Each worker calls the initializer once and passes what it returned to every function."""

    ALLOWED_TYPES = "processes", "threads"

    def test_falsy(self):
        for value in None, 0, []:
            with self.subTest(value):
                calls = self.Semaphore(0)
                pool = self.new_pool(1, count_and_return, (calls, value))
                for method in METHODS:
                    self.assertEqual(call_with_items(pool, method, is_initret, [value]), [True])
                self.assertTrue(calls.acquire(False))
                self.assertFalse(calls.acquire(False), "the initializer was called twice")

    def test_same_for_each_task(self):
        pool = self.new_pool(1, UseCounter)
        results = [call_with_items(pool, method, use, range(3)) for method in METHODS]
        tokens, makers, users, ids, uses = zip(*sum(results, []))
        self.assertEqual(len(set(tokens)), 1)
        self.assertEqual(len(set(ids)), 1)
        self.assertEqual(sorted(uses), list(range(1, len(METHODS) * 3 + 1)))
        self.assertEqual(set(makers), set(users), "initret of another worker")

    def test_different_in_each_worker(self):
        pool = self.new_pool(3, UseCounter, (self.Barrier(3),))
        result = pool.map_async(use_together, range(6), chunksize=1)
        tokens, makers, users, ids, uses = zip(*result.get(TIMEOUT))
        self.assertEqual(len(set(tokens)), 3)
        self.assertEqual(len(set(makers)), 3)
        self.assertEqual(makers, users)
        self.assertEqual(sorted(uses), [1, 1, 1, 2, 2, 2])


class _TestInitretPool(InitretMixin, BaseTestCase):
    """Arguments, timeouts, callbacks and shutdown of a pool."""

    ALLOWED_TYPES = "processes", "threads"

    def test_start_method(self):
        pool = self.new_pool(1, return_value, (1,))
        self.assertEqual(pool._ctx.get_start_method(), self.start_method)

    def test_no_initializer(self):
        with support.catch_unraisable_exception() as caught:
            for args in (1,), (1, None, (1,)):
                with self.assertRaisesRegex(ValueError, "initializer"):
                    self.Pool(*args, expect_initret=True)
            support.gc_collect()
            self.assertIsNone(caught.unraisable)

    def test_bad_arguments(self):
        with self.assertRaises(TypeError):
            self.Pool(1, "not callable", expect_initret=True)
        with self.assertRaises(ValueError):
            self.Pool(0, return_value, (1,), expect_initret=True)
        with self.assertRaises(TypeError):
            self.Pool(1, return_value, (1,), None, None, True)

    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def test_without_expect_initret(self):
        with self.Pool(2, return_value, (40,)) as pool:
            for method in METHODS:
                with self.subTest(method=method):
                    self.assertEqual(
                        call_with_items(pool, method, without_initret, range(5)), [0, 1, 2, 3, 4]
                    )
                    self.assertEqual(
                        call_with_items(pool, method, with_default, [1]), [(1, "default")]
                    )
            self.assertEqual(pool.apply(add, (1,), {"initret": 2}), 3)
            self.assertEqual(pool.starmap(add, [(1, 2)]), [3])
        pool.join()

    def test_callbacks(self):
        pool = self.new_pool(1, return_value, (40,))
        for method in "apply_async", "map_async", "starmap_async":
            with self.subTest(method=method):
                results, errors = [], []
                callbacks = {"callback": results.append, "error_callback": errors.append}
                expected = call_with_items(pool, method, add, [1], **callbacks)
                self.assertEqual(expected, [41])
                self.assertEqual(results, [41] if method == "apply_async" else [expected])
                self.assertEqual(errors, [])
                with self.assertRaises(ValueError) as caught:
                    call_with_items(pool, method, raise_value_error, [1], **callbacks)
                self.assertEqual(len(results), 1)
                self.assertEqual(errors, [caught.exception])

    def test_timeout(self):
        event = self.Event()
        pool = self.new_pool(1, return_value, (event,))
        for method in "map_async", "starmap_async", "apply_async":
            with self.subTest(method=method):
                event.clear()
                result = getattr(pool, method)(wait_for_event, [(1,)])
                self.assertRaises(multiprocessing.TimeoutError, result.get, 0.01)
                self.assertFalse(result.ready())
                event.set()
                self.assertTrue(result.get(TIMEOUT))
                self.assertTrue(result.successful())
        event.clear()
        results = pool.imap(wait_for_event, [1])
        self.assertRaises(multiprocessing.TimeoutError, results.next, 0.01)
        event.set()
        self.assertTrue(results.next(TIMEOUT))

    def test_close(self):
        pool = self.new_pool(2, return_value, (40,))
        result = pool.map_async(add, range(10))
        pool.close()
        pool.join()
        self.assertEqual(result.get(TIMEOUT), list(range(40, 50)))
        self.assertRaises(ValueError, pool.map, add, [1])

    def test_terminate(self):
        event = self.Event()
        with self.new_pool(2, return_value, (event,)) as pool:
            pool.map_async(wait_for_event, range(100), chunksize=1)
            event.set()
        pool.join()
        self.assertRaises(ValueError, pool.map, add, [1])

    def test_idle_pool_does_not_call_a_failed_initializer(self):
        calls = self.Semaphore(0)
        pool = self.new_pool(2, count_and_fail, (calls,))
        workers = list(pool._pool)
        for _ in workers:
            self.assertTrue(calls.acquire(timeout=TIMEOUT))
        pool.close()
        pool.join()
        self.assertEqual(pool._pool, workers)
        self.assertEqual([worker.exitcode for worker in workers], [0, 0])
        self.assertFalse(calls.acquire(False), "the initializer was called without a task")


class _TestInitretManager(BaseTestCase):
    """The manager reports an invalid argument of its pools."""

    ALLOWED_TYPES = ("manager",)

    def test_no_initializer(self):
        with self.assertRaisesRegex(
            multiprocessing.managers.RemoteError, "ValueError: expect_initret"
        ):
            self.Pool(1, expect_initret=True)


class IdleThreadPool(multiprocessing.pool.ThreadPool):
    """Raises an exception if a worker is started."""

    @staticmethod
    def Process(*args, **kwds):
        raise AssertionError("the pool started a worker")


class _TestInitretInThisProcess(InitretMixin, BaseTestCase):
    """Tests that do not depend on processes, or can observe threads only."""

    ALLOWED_TYPES = ("threads",)
    START_METHODS = {"spawn"}  # Available on every platform; threads do not depend on it.

    def test_signatures(self):
        makers = [
            multiprocessing.Pool,
            multiprocessing.pool.Pool,
            multiprocessing.pool.ThreadPool,
            multiprocessing.dummy.Pool,
        ]
        makers += [
            multiprocessing.get_context(method).Pool
            for method in multiprocessing.get_all_start_methods()
        ]
        for maker in makers:
            with self.subTest(maker):
                parameter = inspect.signature(maker).parameters["expect_initret"]
                self.assertIs(parameter.kind, parameter.KEYWORD_ONLY)
                self.assertIs(parameter.default, False)

    def test_no_initializer_starts_no_worker(self):
        with self.assertRaisesRegex(ValueError, "initializer"):
            IdleThreadPool(1, expect_initret=True)

    def test_failure_is_logged_once(self):
        with self.assertLogs(util.get_logger(), "WARNING") as logged:
            pool = self.new_pool(1, fail)
            for _ in range(3):
                self.assertRaises(InitializerError, pool.apply, describe)
        (record,) = logged.records
        self.assertIn("initializer", record.getMessage())
        self.assertIs(record.exc_info[0], InitializerError)

    def test_functions_that_map_chunks(self):
        # Other projects call these functions, without initret.
        self.assertEqual(multiprocessing.pool.mapstar((abs, [-1, -2])), [1, 2])
        self.assertEqual(multiprocessing.pool.starmapstar((divmod, [(7, 2)])), [(3, 1)])

    def test_without_expect_initret_initret_is_released(self):
        counters = []
        pool = self.new_pool(1, make_and_record, (counters,), expect_initret=False)
        pool.apply(without_initret, (1,))
        support.gc_collect()
        self.assertIsNone(counters[0]())

    def test_initret_is_released_with_its_worker(self):
        counters = []
        pool = self.new_pool(1, make_and_record, (counters,))
        pool.apply(get_token)
        self.assertIsNotNone(counters[0]())
        pool.close()
        pool.join()
        support.gc_collect()
        self.assertIsNone(counters[0]())

    def test_without_expect_initret_failing_initializer_ends_the_worker(self):
        calls = self.Semaphore(0)
        with threading_helper.catch_threading_exception() as caught:
            pool = self.new_pool(1, count_and_fail, (calls,), expect_initret=False)
            self.assertTrue(calls.acquire(timeout=TIMEOUT))
            pool.terminate()
            pool.join()
            self.assertIs(caught.exc_type, InitializerError)


install_tests_in_module_dict(globals())
