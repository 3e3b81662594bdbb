#
# Unit tests for the parameter expect_initret of multiprocessing's pools
#

import functools
import inspect
import multiprocessing
import multiprocessing.dummy
import multiprocessing.managers
import multiprocessing.pool
import os
import sys
import threading
import traceback
import weakref
from multiprocessing import util
from multiprocessing.connection import wait
from test import support
from test._test_multiprocessing import BaseTestCase
from test.support import threading_helper, warnings_helper

TIMEOUT = support.LONG_TIMEOUT

# Every way to have a pool call a function.
MAPS = ('map', 'map_async', 'imap', 'imap_unordered',
        'starmap', 'starmap_async')
WAYS = ('apply', 'apply_async') + MAPS


def call(pool, way, func, items, **options):
    """Have the pool call func with each of the items, return the results."""
    method = getattr(pool, way)
    if way == 'apply':
        return [method(func, (item,)) for item in items]
    if way == 'apply_async':
        results = [method(func, (item,), **options) for item in items]
        return [result.get(TIMEOUT) for result in results]
    if way.startswith('starmap'):
        items = [(item,) for item in items]
    result = method(func, items, **options)
    if way.endswith('_async'):
        return result.get(TIMEOUT)
    return sorted(result) if way == 'imap_unordered' else list(result)


#
# Initializers
#

def give(value):
    return value


def count_and_give(runs, value):
    runs.release()
    return value


class InitializerError(Exception):
    pass


class Unpicklable:
    def __reduce__(self):
        raise TypeError('made to be unpicklable')


class UnpicklableError(Unpicklable, Exception):
    pass


class Tally(Unpicklable):
    """A value that knows its worker and counts how often it is used."""

    def __init__(self, barrier=None):
        self.worker = where()
        self.token = os.urandom(8)
        self.uses = 0
        self.barrier = barrier


def give_and_note(values):
    value = Tally()
    values.append(weakref.ref(value))
    return value


def where():
    """Identify the process and the thread that run this."""
    return os.getpid(), threading.get_ident()


def fail(*args):
    raise InitializerError('no luck', *args)


def fail_here():
    raise InitializerError(os.getpid())


def fail_unpicklably():
    raise UnpicklableError('no luck')


def wait_and_exit(event):
    event.wait(TIMEOUT)
    sys.exit()


def fail_and_count(runs):
    runs.release()
    fail()


def fail_at_first(attempts, failures):
    """Fail as many times as asked for, by one worker, then return."""
    attempts.value += 1
    if attempts.value <= failures:
        fail(attempts.value)
    return attempts.value


#
# Functions for the pool to call
#

def add(item, initret):
    return item + initret


def describe(*args, initret, **kwds):
    return args, kwds, initret


def keyword_only(item, *, initret):
    return item, initret


def with_default(item, initret='default'):
    return item, initret


def without(item):
    return item


def without_or_any(item, **kwds):
    return item, kwds


def is_value(value, initret):
    return type(initret) is type(value) and initret == value


def stop(item, initret):
    raise StopIteration


def fail_task(item, initret):
    raise ValueError(item, initret)


def use(item, initret):
    """Return what tells this value from others, and how often it was used."""
    initret.uses += 1
    return initret.token, initret.worker, where(), id(initret), initret.uses


def meet_and_use(item, initret):
    initret.barrier.wait(TIMEOUT)
    return use(item, initret)


def token(initret):
    return initret.token


def die(initret):
    os._exit(1)


def wait_for_event(item, initret):
    return initret.wait(TIMEOUT)


class Adder:
    def __init__(self, number):
        self.number = number

    def method(self, item, initret):
        return self.number + item + initret

    __call__ = method


class Record:
    def __init__(self, item, initret):
        self.content = item, initret

    def __eq__(self, other):
        return self.content == other.content


class RaisingIterable:
    """Has two items, and fails to give the second."""

    def __len__(self):
        return 2

    def __iter__(self):
        yield 0,
        raise LookupError('no second item')


#
# The tests
#

class InitretMixin:
    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def new_pool(self, *args, expect_initret=True, **kwds):
        """Return a pool that is gone when the test is over."""
        pool = self.Pool(*args, expect_initret=expect_initret, **kwds)
        self.addCleanup(pool.join)
        self.addCleanup(pool.terminate)
        return pool


class SharedPoolMixin(InitretMixin):
    """Tests that can share one pool of two workers."""

    @classmethod
    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def setUpClass(cls):
        super().setUpClass()
        cls.pool = cls.Pool(2, *cls.initializer, expect_initret=True)

    @classmethod
    def tearDownClass(cls):
        cls.pool.close()
        cls.pool.join()
        del cls.pool
        super().tearDownClass()


class _TestInitretCalls(SharedPoolMixin, BaseTestCase):
    """What a function is called with, whichever way it is called."""

    initializer = give, (40,)

    def test_ways(self):
        for way in WAYS:
            with self.subTest(way=way):
                self.assertEqual(call(self.pool, way, add, range(10)),
                                 list(range(40, 50)))

    def test_chunksize(self):
        for way in MAPS:
            for chunksize in 1, 3, 11:
                with self.subTest(way=way, chunksize=chunksize):
                    results = call(self.pool, way, add, range(10),
                                   chunksize=chunksize)
                    self.assertEqual(results, list(range(40, 50)))

    def test_empty_iterable(self):
        for way in MAPS:
            with self.subTest(way=way):
                self.assertEqual(call(self.pool, way, add, []), [])

    def test_buffersize(self):
        for way in 'imap', 'imap_unordered':
            for chunksize in 1, 3:
                with self.subTest(way=way, chunksize=chunksize):
                    options = {'chunksize': chunksize, 'buffersize': 1}
                    results = call(self.pool, way, add, range(10), **options)
                    self.assertEqual(results, list(range(40, 50)))
                    results = getattr(self.pool, way)(
                        describe, RaisingIterable(), **options)
                    if chunksize == 1:
                        self.assertEqual(next(results), (((0,),), {}, 40))
                    with self.assertRaisesRegex(LookupError, 'no second item'):
                        next(results)

    def test_arguments(self):
        pool = self.pool
        self.assertEqual(pool.apply(describe), ((), {}, 40))
        self.assertEqual(pool.apply(describe, (1, 2), {'key': 3}),
                         ((1, 2), {'key': 3}, 40))
        result = pool.apply_async(describe, (1, 2), {'key': 3})
        self.assertEqual(result.get(TIMEOUT), ((1, 2), {'key': 3}, 40))
        self.assertEqual(pool.map(describe, [(1, 2)]), [(((1, 2),), {}, 40)])
        self.assertEqual(
            pool.starmap(describe, [(1, 2), (3,), ()]),
            [((1, 2), {}, 40), ((3,), {}, 40), ((), {}, 40)])

    def test_keywords_are_left_alone(self):
        kwds = {'key': 3}
        self.pool.apply(describe, (), kwds)
        self.assertEqual(kwds, {'key': 3})

    def test_callables(self):
        for func, expected in (
            (keyword_only, (1, 40)),
            (with_default, (1, 40)),
            (without_or_any, (1, {'initret': 40})),
            (functools.partial(describe, 0, key=3), ((0, 1), {'key': 3}, 40)),
            (Adder(10).method, 51),
            (Adder(10), 51),
            (Record, Record(1, 40)),
        ):
            with self.subTest(func=func):
                for way in WAYS:
                    self.assertEqual(call(self.pool, way, func, [1]),
                                     [expected])

    def test_builtin(self):
        self.assertEqual(self.pool.apply(dict, (), {'key': 3}),
                         {'key': 3, 'initret': 40})
        self.assertEqual(self.pool.map(dict, [[('key', 3)]]),
                         [{'key': 3, 'initret': 40}])

    def test_function_without_initret(self):
        for way in WAYS:
            with self.subTest(way=way):
                with self.assertRaisesRegex(TypeError, 'initret'):
                    call(self.pool, way, without, [1])
                with self.assertRaises(TypeError):
                    call(self.pool, way, abs, [1])
        # The pool has lost nothing.
        self.assertEqual(self.pool.map(add, range(3)), [40, 41, 42])

    def test_initret_given_twice(self):
        with self.assertRaisesRegex(TypeError, 'multiple values.*initret'):
            self.pool.apply(add, (1,), {'initret': 2})
        with self.assertRaisesRegex(TypeError, 'multiple values.*initret'):
            self.pool.starmap(add, [(1, 2)])

    def test_task_raises(self):
        for way in WAYS:
            with self.subTest(way=way):
                with self.assertRaises(ValueError) as caught:
                    call(self.pool, way, fail_task, [1])
                self.assertEqual(caught.exception.args, (1, 40))

    def test_task_raises_stop_iteration(self):
        # It does not end the chunk.
        for way in 'map', 'starmap', 'map_async', 'starmap_async':
            for chunksize in 1, 2:
                with self.subTest(way=way, chunksize=chunksize):
                    self.assertRaises(StopIteration, call, self.pool, way,
                                      stop, [1, 2], chunksize=chunksize)

    def test_iterable_raises(self):
        for way in 'map', 'starmap', 'map_async', 'starmap_async':
            for chunksize in 1, 2:
                with self.subTest(way=way, chunksize=chunksize):
                    method = getattr(self.pool, way)
                    with self.assertRaisesRegex(LookupError, 'no second item'):
                        result = method(describe, RaisingIterable(), chunksize)
                        result.get(TIMEOUT)
        results = self.pool.imap(describe, RaisingIterable())
        self.assertEqual(next(results), (((0,),), {}, 40))
        with self.assertRaisesRegex(LookupError, 'no second item'):
            next(results)
        with self.assertRaisesRegex(LookupError, 'no second item'):
            list(self.pool.imap_unordered(describe, RaisingIterable()))


class _TestInitretFailures(SharedPoolMixin, BaseTestCase):
    """An initializer that raises is an error at the caller, not a hang."""

    initializer = fail, ()

    def test_ways(self):
        for way in WAYS:
            with self.subTest(way=way):
                with self.assertRaises(InitializerError) as caught:
                    call(self.pool, way, describe, range(5))
                self.assertEqual(caught.exception.args, ('no luck',))

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
        with self.assertRaisesRegex(LookupError, 'no second item'):
            next(results)


class _TestInitretRecovery(InitretMixin, BaseTestCase):
    """What else there is to an initializer that raises."""

    ALLOWED_TYPES = 'processes', 'threads'

    def test_traceback(self):
        pool = self.new_pool(1, fail)
        try:
            pool.apply(describe)
        except InitializerError:
            self.assertIn('in fail\n', traceback.format_exc())
        else:
            self.fail('no exception')

    def test_error_callback(self):
        pool = self.new_pool(1, fail)
        for way in 'apply_async', 'map_async', 'starmap_async':
            with self.subTest(way=way):
                results, errors = [], []
                with self.assertRaises(InitializerError) as caught:
                    call(pool, way, describe, [1],
                         callback=results.append, error_callback=errors.append)
                self.assertEqual(results, [])
                self.assertEqual(errors, [caught.exception])

    def test_passing_trouble_loses_no_task(self):
        for way in 'apply', 'map':
            with self.subTest(way=way):
                attempts = self.Value('i', 0)
                pool = self.new_pool(1, fail_at_first, (attempts, 1))
                self.assertEqual(call(pool, way, add, range(5)),
                                 [2, 3, 4, 5, 6])

    def test_third_task_succeeds(self):
        # The initializer fails at the start and for two tasks.
        attempts = self.Value('i', 0)
        pool = self.new_pool(1, fail_at_first, (attempts, 3))
        results = [pool.apply_async(describe) for _ in range(5)]
        for number, result in enumerate(results[:2], 2):
            with self.assertRaises(InitializerError) as caught:
                result.get(TIMEOUT)
            self.assertEqual(caught.exception.args, ('no luck', number))
        for result in results[2:]:
            self.assertEqual(result.get(TIMEOUT), ((), {}, 4))
        self.assertEqual(attempts.value, 4, 'it ran again after it succeeded')

    def test_map_reports_the_first_failure(self):
        pool = self.new_pool(1, fail_at_first, (self.Value('i', 0), 2))
        result = pool.map_async(describe, range(4), chunksize=1)
        with self.assertRaises(InitializerError) as caught:
            result.get(TIMEOUT)
        self.assertEqual(caught.exception.args, ('no luck', 2))

    def test_unpicklable_exception(self):
        pool = self.new_pool(1, fail_unpicklably)
        expected = (UnpicklableError if self.TYPE == 'threads'
                    else multiprocessing.pool.MaybeEncodingError)
        for way in 'apply', 'map':
            with self.subTest(way=way):
                with self.assertRaises(expected):
                    call(pool, way, describe, [1])

    def test_close(self):
        pool = self.new_pool(2, fail)
        result = pool.map_async(describe, range(5))
        pool.close()
        self.assertRaises(InitializerError, result.get, TIMEOUT)
        pool.join()


class _TestInitretValue(InitretMixin, BaseTestCase):
    """Which object a function is called with."""

    ALLOWED_TYPES = 'processes', 'threads'

    def test_falsy(self):
        for value in None, 0, []:
            with self.subTest(value):
                runs = self.Semaphore(0)
                pool = self.new_pool(1, count_and_give, (runs, value))
                for way in WAYS:
                    self.assertEqual(call(pool, way, is_value, [value]),
                                     [True])
                self.assertTrue(runs.acquire(False))
                self.assertFalse(runs.acquire(False), 'made once more')

    def test_same_for_each_task(self):
        pool = self.new_pool(1, Tally)
        seen = [call(pool, way, use, range(3)) for way in WAYS]
        tokens, makers, users, ids, uses = zip(*sum(seen, []))
        self.assertEqual(len(set(tokens)), 1)
        self.assertEqual(len(set(ids)), 1)
        self.assertEqual(sorted(uses), list(range(1, len(WAYS) * 3 + 1)))
        self.assertEqual(set(makers), set(users), 'made by another worker')

    def test_another_in_each_worker(self):
        pool = self.new_pool(3, Tally, (self.Barrier(3),))
        result = pool.map_async(meet_and_use, range(6), chunksize=1)
        tokens, makers, users, ids, uses = zip(*result.get(TIMEOUT))
        self.assertEqual(len(set(tokens)), 3)
        self.assertEqual(len(set(makers)), 3)
        self.assertEqual(makers, users)
        self.assertEqual(sorted(uses), [1, 1, 1, 2, 2, 2])


class _TestInitretReplacement(InitretMixin, BaseTestCase):
    """A replacement of a worker has a value of its own."""

    ALLOWED_TYPES = 'processes',

    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def test_maxtasksperchild(self):
        pool = self.new_pool(1, Tally, (), 2)
        result = pool.map_async(use, range(6), chunksize=1)
        tokens, makers, users, ids, uses = zip(*result.get(TIMEOUT))
        self.assertEqual(uses, (1, 2, 1, 2, 1, 2))
        self.assertEqual(len(set(tokens)), 3)
        self.assertEqual(tokens[::2], tokens[1::2])
        self.assertEqual(makers, users)

    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def test_dead_worker(self):
        pool = self.new_pool(1, Tally)
        before = pool.apply_async(token).get(TIMEOUT)
        pool.apply_async(die)
        results = [pool.apply_async(token) for _ in range(3)]
        after = {result.get(TIMEOUT) for result in results}
        self.assertEqual(len(after), 1)
        self.assertNotIn(before, after)

    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def test_maxtasksperchild_and_failing_initializer(self):
        pool = self.new_pool(1, fail_here, (), 1)
        results = [pool.apply_async(describe) for _ in range(2)]
        workers = set()
        for result in results:
            with self.assertRaises(InitializerError) as caught:
                result.get(TIMEOUT)
            workers.add(caught.exception.args)
        self.assertEqual(len(workers), 2)

    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def test_initializer_that_exits(self):
        # What is no Exception ends the worker.
        event = self.Event()
        pool = self.new_pool(1, wait_and_exit, (event,))
        worker = pool._pool[0]
        event.set()
        self.assertTrue(wait([worker.sentinel], TIMEOUT))


class _TestInitretPool(InitretMixin, BaseTestCase):
    """The pool itself, with the feature on and off."""

    ALLOWED_TYPES = 'processes', 'threads'

    def test_start_method(self):
        pool = self.new_pool(1, give, (1,))
        self.assertEqual(pool._ctx.get_start_method(), self.start_method)

    def test_no_initializer(self):
        with support.catch_unraisable_exception() as caught:
            for args in (1,), (1, None, (1,)):
                with self.assertRaisesRegex(ValueError, 'initializer'):
                    self.Pool(*args, expect_initret=True)
            support.gc_collect()
            self.assertIsNone(caught.unraisable)

    def test_bad_arguments(self):
        with self.assertRaises(TypeError):
            self.Pool(1, 'no function', expect_initret=True)
        with self.assertRaises(ValueError):
            self.Pool(0, give, (1,), expect_initret=True)
        with self.assertRaises(TypeError):
            self.Pool(1, give, (1,), None, None, True)

    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def test_off(self):
        with self.Pool(2, give, (40,)) as pool:
            for way in WAYS:
                with self.subTest(way=way):
                    self.assertEqual(call(pool, way, without, range(5)),
                                     [0, 1, 2, 3, 4])
                    self.assertEqual(call(pool, way, with_default, [1]),
                                     [(1, 'default')])
            self.assertEqual(pool.apply(add, (1,), {'initret': 2}), 3)
            self.assertEqual(pool.starmap(add, [(1, 2)]), [3])
        pool.join()

    def test_callbacks(self):
        pool = self.new_pool(1, give, (40,))
        for way in 'apply_async', 'map_async', 'starmap_async':
            with self.subTest(way=way):
                results, errors = [], []
                callbacks = {'callback': results.append,
                             'error_callback': errors.append}
                expected = call(pool, way, add, [1], **callbacks)
                self.assertEqual(expected, [41])
                self.assertEqual(results, [41] if way == 'apply_async'
                                 else [expected])
                self.assertEqual(errors, [])
                with self.assertRaises(ValueError) as caught:
                    call(pool, way, fail_task, [1], **callbacks)
                self.assertEqual(len(results), 1)
                self.assertEqual(errors, [caught.exception])

    def test_timeout(self):
        event = self.Event()
        pool = self.new_pool(1, give, (event,))
        for way in 'map_async', 'starmap_async', 'apply_async':
            with self.subTest(way=way):
                event.clear()
                result = getattr(pool, way)(wait_for_event, [(1,)])
                self.assertRaises(multiprocessing.TimeoutError,
                                  result.get, 0.01)
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
        pool = self.new_pool(2, give, (40,))
        result = pool.map_async(add, range(10))
        pool.close()
        pool.join()
        self.assertEqual(result.get(TIMEOUT), list(range(40, 50)))
        self.assertRaises(ValueError, pool.map, add, [1])

    def test_terminate(self):
        event = self.Event()
        with self.new_pool(2, give, (event,)) as pool:
            pool.map_async(wait_for_event, range(100), chunksize=1)
            event.set()
        pool.join()
        self.assertRaises(ValueError, pool.map, add, [1])

    def test_idle_after_failure(self):
        runs = self.Semaphore(0)
        pool = self.new_pool(2, fail_and_count, (runs,))
        workers = list(pool._pool)
        for _ in workers:
            self.assertTrue(runs.acquire(timeout=TIMEOUT))
        pool.close()
        pool.join()
        self.assertEqual(pool._pool, workers)
        self.assertEqual([worker.exitcode for worker in workers], [0, 0])
        self.assertFalse(runs.acquire(False), 'the initializer ran again')


class _TestInitretServer(BaseTestCase):
    """What a manager tells of its pools."""

    ALLOWED_TYPES = 'manager',

    def test_no_initializer(self):
        with self.assertRaisesRegex(multiprocessing.managers.RemoteError,
                                    'ValueError: expect_initret'):
            self.Pool(1, expect_initret=True)


class IdleThreadPool(multiprocessing.pool.ThreadPool):
    """Lets no worker start."""

    @staticmethod
    def Process(*args, **kwds):
        raise AssertionError('a worker would have started')


class RecordingThreadPool(multiprocessing.pool.ThreadPool):
    """Keeps the tasks that it puts on its queue."""

    def _setup_queues(self):
        super()._setup_queues()
        self.tasks = []
        put = self._quick_put

        def record(task):
            self.tasks.append(task)
            put(task)

        self._quick_put = record


class _TestInitretInThisProcess(InitretMixin, BaseTestCase):
    """What does not depend on processes or is seen only without them."""

    ALLOWED_TYPES = 'threads',
    START_METHODS = {'spawn'}  # which every platform has; once is enough

    def test_signatures(self):
        makers = [multiprocessing.Pool, multiprocessing.pool.Pool,
                  multiprocessing.pool.ThreadPool, multiprocessing.dummy.Pool]
        makers += [multiprocessing.get_context(method).Pool
                   for method in multiprocessing.get_all_start_methods()]
        for maker in makers:
            with self.subTest(maker):
                parameter = (
                    inspect.signature(maker).parameters['expect_initret'])
                self.assertIs(parameter.kind, parameter.KEYWORD_ONLY)
                self.assertIs(parameter.default, False)

    def test_no_initializer_starts_nothing(self):
        with self.assertRaisesRegex(ValueError, 'initializer'):
            IdleThreadPool(1, expect_initret=True)

    def test_log(self):
        with self.assertLogs(util.get_logger(), 'INFO') as logged:
            pool = self.new_pool(1, fail)
            self.assertRaises(InitializerError, pool.apply, describe)
        message, = [line for line in logged.output if 'initializer' in line]
        self.assertRegex(message,
                         '^INFO:.*initializer.*InitializerError.*no luck')

    def test_off_keeps_nothing(self):
        values = []
        pool = self.new_pool(1, give_and_note, (values,),
                             expect_initret=False)
        pool.apply(without, (1,))
        support.gc_collect()
        self.assertIsNone(values[0]())

    def test_value_goes_with_its_worker(self):
        values = []
        pool = self.new_pool(1, give_and_note, (values,))
        pool.apply(token)
        self.assertIsNotNone(values[0]())
        pool.close()
        pool.join()
        support.gc_collect()
        self.assertIsNone(values[0]())

    def test_off_and_failing_initializer(self):
        # It ends the worker.
        runs = self.Semaphore(0)
        with threading_helper.catch_threading_exception() as caught:
            pool = self.new_pool(1, fail_and_count, (runs,),
                                 expect_initret=False)
            self.assertTrue(runs.acquire(timeout=TIMEOUT))
            pool.terminate()
            pool.join()
            self.assertIs(caught.exc_type, InitializerError)

    def test_same_tasks(self):
        tasks = []
        for expect_initret in False, True:
            pool = RecordingThreadPool(1, give, (40,),
                                       expect_initret=expect_initret)
            with pool:
                pool.apply(with_default, (1,))
                pool.apply(without_or_any, (1,), {'key': 3})
                pool.map(with_default, range(3))
                pool.starmap(with_default, [(1,), (2,)])
                list(pool.imap(with_default, range(3), chunksize=2))
            pool.join()
            tasks.append([task[1:] for task in pool.tasks if task is not None])
        off, on = tasks
        self.assertGreaterEqual(len(off), 5)
        self.assertEqual(on, off)
