"""The suite of multiprocessing.Pool(..., expect_initret=True), gh-79018.

The classes whose names begin with _Test hold the tests, each for the kinds of
pool that it names.  install_tests() makes test cases of them, for one start
method at a time; test_multiprocessing_initret.py calls it.
"""

import functools
import gc
import inspect
import itertools
import os
import queue
import socket
import sys
import threading
import traceback
import unittest
import weakref

try:
    import multiprocessing.synchronize
except ImportError:
    raise unittest.SkipTest('no working multiprocessing') from None

import multiprocessing.connection
import multiprocessing.dummy
import multiprocessing.managers
import multiprocessing.pool
import multiprocessing.util

try:
    import sqlite3
except ImportError:
    sqlite3 = None


# Seconds.  Nothing here takes that long: it is there to end what would hang.
TIMEOUT = 60

# Every way to have a pool call a function.
WAYS = ('apply', 'apply_async', 'map', 'map_async', 'imap', 'imap_unordered',
        'starmap', 'starmap_async')
MAPS = WAYS[2:]


def run(pool, way, func, items, **options):
    """Have the pool call func with each of the items, return the results."""
    items = list(items)
    if way == 'apply':
        return [pool.apply(func, (item,)) for item in items]
    if way == 'apply_async':
        results = [pool.apply_async(func, (item,), **options) for item in items]
        return [result.get(TIMEOUT) for result in results]
    if way.startswith('starmap'):
        items = [(item,) for item in items]
    result = getattr(pool, way)(func, items, **options)
    if way.endswith('_async'):
        return result.get(TIMEOUT)
    return sorted(result) if way == 'imap_unordered' else list(result)


#
# Initializers.  What a spawned worker calls is found in the module by its name.
#

def give(*values):
    """Return the one value given, or all of them."""
    return values[0] if len(values) == 1 else values


def give_falsy(name):
    return {'None': None, 'False': False, 'zero': 0, 'list': [], 'str': ''}[name]


def count_and_give_falsy(runs, name):
    runs.release()
    return give_falsy(name)


def give_lock():
    return threading.Lock()


def give_socketpair():
    return socket.socketpair()


def give_generator():
    return (number * number for number in itertools.count())


def give_lambda():
    return lambda item: -item


def give_connection():
    return sqlite3.connect(':memory:')


class Unpicklable:
    def __reduce__(self):
        raise TypeError('made to be unpicklable')


class Tally(Unpicklable):
    """A value that knows its worker and counts its calls; it can't be pickled."""

    def __init__(self, *shared):
        self.worker = where()
        self.token = os.urandom(8)
        self.calls = 0
        self.shared = shared


def where():
    """Identify the process and the thread that run this."""
    return os.getpid(), threading.get_ident()


class InitializerError(Exception):
    pass


class UnpicklableError(Unpicklable, Exception):
    pass


def exit_worker():
    raise SystemExit


def fail(*args):
    raise InitializerError('no luck', *args)


def fail_unpicklably():
    raise UnpicklableError('no luck')


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

def describe(*args, initret, **kwds):
    return args, kwds, initret


def add(item, initret):
    return item + initret


def keyword_only(item, *, initret):
    return item, initret


def with_default(item, initret='default'):
    return item, initret


def without(item):
    return item


def without_or_any(item, **kwds):
    return item, kwds


def fail_task(item, initret):
    raise ValueError(item, initret)


def is_value(name, initret):
    return type(initret) is type(give_falsy(name)) and initret == give_falsy(name)


def use_lock(item, initret):
    with initret:
        return item


def use_socketpair(item, initret):
    left, right = initret
    left.sendall(bytes([item]))
    return right.recv(1)[0]


def close(initret):
    """Close what has to be, in the worker that made it."""
    for value in initret if isinstance(initret, tuple) else (initret,):
        if hasattr(value, 'close'):
            value.close()


def use_next(item, initret):
    return next(initret)


def use_call(item, initret):
    return initret(item)


def use_connection(item, initret):
    return initret.execute('SELECT ? + 1', (item,)).fetchone()[0]


def count(item, initret):
    """Return what tells this value from others, and how often it was seen."""
    initret.calls += 1
    return initret.token, initret.worker, where(), id(initret), initret.calls


def meet_and_count(item, initret):
    barrier, = initret.shared
    barrier.wait(TIMEOUT)
    return count(item, initret)


def token(initret):
    return initret.token


def wait_for_event(item, initret):
    return initret.wait(TIMEOUT)


def die(initret):
    os._exit(1)


class Adder:
    def __init__(self, number):
        self.number = number

    def method(self, item, initret):
        return self.number + item + initret

    __call__ = method

    @classmethod
    def class_method(cls, item, initret):
        return cls(10).method(item, initret)

    @staticmethod
    def static_method(item, initret):
        return 10 + item + initret


class Record:
    """A class is called like any other function."""

    def __init__(self, item, initret):
        self.content = item, initret

    def __eq__(self, other):
        return self.content == other.content


positional_only = positional_only_and_any = None
if sys.version_info >= (3, 8):
    # Older Pythons, which read this file too, do not know the syntax.
    exec('def positional_only(item, initret, /): return item, initret')
    exec('def positional_only_and_any(initret, /, **kwds): return initret, kwds')


class RaisingIterable:
    """Has two items, and fails to give the second."""

    def __len__(self):
        return 2

    def __iter__(self):
        yield 0,
        raise LookupError('no second item')


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


#
# The kinds of pool, each with the shared objects that its workers can have
#

class _KindOfPool:
    @classmethod
    def Pool(cls, *args, **kwds):
        return cls.shared.Pool(*args, **kwds)

    def pool(self, *args, **kwds):
        """Return a pool with the feature on, gone when the test is over."""
        pool = self.Pool(*args, expect_initret=True, **kwds)
        self.addCleanup(pool.join)
        self.addCleanup(pool.terminate)
        return pool


class _Processes(_KindOfPool):
    kind = 'processes'

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.shared = multiprocessing.get_context(cls.start_method)


class _Manager(_KindOfPool):
    kind = 'manager'

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.shared = multiprocessing.get_context(cls.start_method).Manager()

    @classmethod
    def tearDownClass(cls):
        cls.shared.shutdown()
        super().tearDownClass()


class _Threads(_KindOfPool):
    kind = 'threads'
    shared = multiprocessing.dummy


#
# The tests
#

class _TestCalls:
    """What a function is called with, whichever way it is called."""

    kinds = ('processes', 'manager', 'threads')

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.two_workers = cls.Pool(2, give, (40,), expect_initret=True)

    @classmethod
    def tearDownClass(cls):
        cls.two_workers.close()
        cls.two_workers.join()
        del cls.two_workers
        super().tearDownClass()

    def test_each_way(self):
        for way in WAYS:
            with self.subTest(way=way):
                self.assertEqual(run(self.two_workers, way, add, range(10)),
                                 list(range(40, 50)))

    def test_each_chunksize(self):
        for way in MAPS:
            for chunksize in 1, 2, 3, 10, 11:
                with self.subTest(way=way, chunksize=chunksize):
                    self.assertEqual(
                        run(self.two_workers, way, add, range(10), chunksize=chunksize),
                        list(range(40, 50)))

    def test_empty_iterable(self):
        for way in MAPS:
            with self.subTest(way=way):
                self.assertEqual(run(self.two_workers, way, add, []), [])

    def test_arguments(self):
        pool = self.two_workers
        self.assertEqual(pool.apply(describe), ((), {}, 40))
        self.assertEqual(pool.apply(describe, (1, 2), {'key': 3}),
                         ((1, 2), {'key': 3}, 40))
        self.assertEqual(pool.apply_async(describe, (1, 2), {'key': 3}).get(TIMEOUT),
                         ((1, 2), {'key': 3}, 40))
        self.assertEqual(pool.map(describe, [(1, 2)]), [(((1, 2),), {}, 40)])
        self.assertEqual(pool.starmap(describe, [(1, 2), (3,), ()]),
                         [((1, 2), {}, 40), ((3,), {}, 40), ((), {}, 40)])

    def test_keywords_are_left_alone(self):
        kwds = {'key': 3}
        self.two_workers.apply(describe, (), kwds)
        self.assertEqual(kwds, {'key': 3})

    def test_each_sort_of_function(self):
        for func, expected in (
            (keyword_only, (1, 40)),
            (with_default, (1, 40)),
            (without_or_any, (1, {'initret': 40})),
            (functools.partial(describe, 0, key=3), ((0, 1), {'key': 3}, 40)),
            (Adder(10).method, 51),
            (Adder.class_method, 51),
            (Adder.static_method, 51),
            (Adder(10), 51),
            (Record, Record(1, 40)),
        ):
            with self.subTest(func=func):
                for way in WAYS:
                    self.assertEqual(run(self.two_workers, way, func, [1]), [expected])

    def test_builtin(self):
        self.assertEqual(self.two_workers.apply(dict, (), {'key': 3}),
                         {'key': 3, 'initret': 40})
        self.assertEqual(self.two_workers.map(dict, [[('key', 3)]]),
                         [{'key': 3, 'initret': 40}])

    @unittest.skipIf(sys.version_info < (3, 8), 'no positional-only parameters')
    def test_positional_only(self):
        for way in WAYS:
            with self.subTest(way=way):
                self.assertEqual(run(self.two_workers, way, positional_only_and_any, [1]),
                                 [(1, {'initret': 40})])
                with self.assertRaisesRegex(TypeError, 'positional'):
                    run(self.two_workers, way, positional_only, [1])

    def test_function_without_initret(self):
        for way in WAYS:
            with self.subTest(way=way):
                with self.assertRaisesRegex(TypeError, 'initret'):
                    run(self.two_workers, way, without, [1])
                with self.assertRaises(TypeError):
                    run(self.two_workers, way, abs, [1])
        # The pool has lost nothing.
        self.assertEqual(self.two_workers.map(add, range(3)), [40, 41, 42])

    def test_initret_in_keywords(self):
        with self.assertRaisesRegex(TypeError, 'multiple values.*initret'):
            self.two_workers.apply(add, (1,), {'initret': 2})
        result = self.two_workers.apply_async(add, (1,), {'initret': 2})
        with self.assertRaisesRegex(TypeError, 'multiple values.*initret'):
            result.get(TIMEOUT)

    def test_initret_among_arguments(self):
        with self.assertRaisesRegex(TypeError, 'multiple values.*initret'):
            self.two_workers.starmap(add, [(1, 2)])

    def test_task_raises(self):
        for way in WAYS:
            with self.subTest(way=way):
                with self.assertRaises(ValueError) as caught:
                    run(self.two_workers, way, fail_task, [1])
                self.assertEqual(caught.exception.args, (1, 40))

    def test_iterable_raises(self):
        pool = self.two_workers
        for way in 'map', 'starmap', 'map_async', 'starmap_async':
            for chunksize in 1, 2:
                with self.subTest(way=way, chunksize=chunksize):
                    with self.assertRaisesRegex(LookupError, 'no second item'):
                        result = getattr(pool, way)(describe, RaisingIterable(), chunksize)
                        result.get(TIMEOUT)
        results = pool.imap(describe, RaisingIterable())
        self.assertEqual(next(results), (((0,),), {}, 40))
        with self.assertRaisesRegex(LookupError, 'no second item'):
            next(results)
        with self.assertRaisesRegex(LookupError, 'no second item'):
            list(pool.imap_unordered(describe, RaisingIterable()))


class _TestValue:
    """Which object a function is called with."""

    kinds = ('processes', 'manager', 'threads')

    def test_falsy(self):
        for name in 'None', 'False', 'zero', 'list', 'str':
            with self.subTest(name):
                pool = self.pool(1, give_falsy, (name,))
                for way in WAYS:
                    self.assertEqual(run(pool, way, is_value, [name]), [True])

    def test_falsy_is_made_once(self):
        for name in 'None', 'False', 'zero', 'list', 'str':
            with self.subTest(name):
                runs = self.shared.Semaphore(0)
                pool = self.pool(1, count_and_give_falsy, (runs, name))
                self.assertEqual(run(pool, 'apply_async', is_value, [name] * 3), [True] * 3)
                self.assertTrue(runs.acquire(False))
                self.assertFalse(runs.acquire(False), 'the initializer ran again')

    def check_use(self, initializer, func, items, expected):
        pool = self.pool(1, initializer)
        for way in WAYS:
            with self.subTest(way=way):
                self.assertEqual(run(pool, way, func, items), expected)
        pool.apply(close)

    def test_lock(self):
        self.check_use(give_lock, use_lock, [1, 2, 3], [1, 2, 3])

    def test_socket(self):
        self.check_use(give_socketpair, use_socketpair, [1, 2, 3], [1, 2, 3])

    def test_lambda(self):
        self.check_use(give_lambda, use_call, [3, 2, 1], [-3, -2, -1])

    @unittest.skipUnless(sqlite3, 'no sqlite3')
    def test_database_connection(self):
        # A connection of sqlite3 refuses every thread but the one that made it.
        self.check_use(give_connection, use_connection, [1, 2, 3], [2, 3, 4])

    def test_generator(self):
        pool = self.pool(1, give_generator)
        self.assertEqual(pool.map(use_next, range(3)), [0, 1, 4])
        self.assertEqual(pool.apply(use_next, (None,)), 9)
        self.assertEqual(list(pool.imap(use_next, range(2))), [16, 25])

    def test_same_from_task_to_task(self):
        pool = self.pool(1, Tally)
        seen = [run(pool, way, count, range(3)) for way in WAYS]
        values = [value for values in seen for value in values]
        tokens, makers, users, ids, calls = zip(*values)
        self.assertEqual(len(set(tokens)), 1)
        self.assertEqual(len(set(ids)), 1)
        self.assertEqual(sorted(calls), list(range(1, len(WAYS) * 3 + 1)))
        self.assertEqual(set(makers), set(users), 'made by another worker')

    def test_distinct_from_worker_to_worker(self):
        barrier = self.shared.Barrier(3)
        pool = self.pool(3, Tally, (barrier,))
        values = pool.map_async(meet_and_count, range(6), chunksize=1).get(TIMEOUT)
        tokens, makers, users, ids, calls = zip(*values)
        self.assertEqual(len(set(tokens)), 3)
        self.assertEqual(len(set(makers)), 3)
        self.assertEqual(makers, users)
        self.assertEqual(sorted(calls), [1, 1, 1, 2, 2, 2])


class _TestStartMethod:
    """Each run of the suite is one of the start method that it names."""

    kinds = ('processes',)

    def test_start_method(self):
        pool = self.pool(1, give, (1,))
        self.assertEqual(pool._ctx.get_start_method(), self.start_method)


class _TestReplacement:
    """A replacement of a worker has a value of its own."""

    kinds = ('processes', 'manager')

    def test_maxtasksperchild(self):
        pool = self.pool(1, Tally, (), 2)
        values = pool.map_async(count, range(6), chunksize=1).get(TIMEOUT)
        tokens, makers, users, ids, calls = zip(*values)
        self.assertEqual(calls, (1, 2, 1, 2, 1, 2))
        self.assertEqual(len(set(tokens)), 3)
        self.assertEqual(tokens[::2], tokens[1::2])
        self.assertEqual(makers, users)

    def test_dead_worker(self):
        pool = self.pool(1, Tally)
        before = pool.apply_async(token).get(TIMEOUT)
        lost = pool.apply_async(die)
        after = [pool.apply_async(token) for _ in range(3)]
        after = {result.get(TIMEOUT) for result in after}
        self.assertEqual(len(after), 1)
        self.assertNotIn(before, after)
        self.assertFalse(lost.ready())

    def test_maxtasksperchild_and_failing_initializer(self):
        pool = self.pool(1, fail, (), 1)
        results = [pool.apply_async(describe) for _ in range(3)]
        for result in results:
            self.assertRaises(InitializerError, result.get, TIMEOUT)


class _TestFailingInitializer:
    """An initializer that raises is an error at the caller, and never a hang."""

    kinds = ('processes', 'manager', 'threads')

    def test_each_way(self):
        pool = self.pool(2, fail)
        for way in WAYS:
            with self.subTest(way=way):
                with self.assertRaises(InitializerError) as caught:
                    run(pool, way, describe, range(5))
                self.assertEqual(caught.exception.args, ('no luck',))

    def test_each_task(self):
        pool = self.pool(2, fail)
        results = [pool.apply_async(describe) for _ in range(5)]
        for result in results:
            self.assertRaises(InitializerError, result.get, TIMEOUT)
        for imap in pool.imap, pool.imap_unordered:
            results = imap(describe, range(5))
            for _ in range(5):
                self.assertRaises(InitializerError, next, results)
            self.assertRaises(StopIteration, next, results)

    def test_passing_trouble_loses_no_task(self):
        for way in WAYS:
            with self.subTest(way=way):
                pool = self.pool(1, fail_at_first, (self.shared.Value('i', 0), 1))
                self.assertEqual(run(pool, way, add, range(5)), [2, 3, 4, 5, 6])

    def test_third_task_succeeds(self):
        # It fails in the starting worker and for two tasks.
        attempts = self.shared.Value('i', 0)
        pool = self.pool(1, fail_at_first, (attempts, 3))
        results = [pool.apply_async(describe) for _ in range(5)]
        for number, result in enumerate(results[:2], 2):
            with self.assertRaises(InitializerError) as caught:
                result.get(TIMEOUT)
            self.assertEqual(caught.exception.args, ('no luck', number))
        for result in results[2:]:
            self.assertEqual(result.get(TIMEOUT), ((), {}, 4))
        self.assertEqual(attempts.value, 4, 'the initializer ran again after it succeeded')

    def test_map_reports_the_first_failure(self):
        pool = self.pool(1, fail_at_first, (self.shared.Value('i', 0), 2))
        result = pool.map_async(describe, range(4), chunksize=1)
        with self.assertRaises(InitializerError) as caught:
            result.get(TIMEOUT)
        self.assertEqual(caught.exception.args, ('no luck', 2))

    def test_iterable_raises_too(self):
        pool = self.pool(1, fail)
        results = pool.imap(describe, RaisingIterable())
        self.assertRaises(InitializerError, next, results)
        with self.assertRaisesRegex(LookupError, 'no second item'):
            next(results)

    def test_unpicklable_exception(self):
        pool = self.pool(1, fail_unpicklably)
        expected = (UnpicklableError if self.kind == 'threads'
                    else multiprocessing.pool.MaybeEncodingError)
        for way in WAYS:
            with self.subTest(way=way):
                with self.assertRaises(expected):
                    run(pool, way, describe, [1])

    def test_closes(self):
        pool = self.pool(2, fail)
        result = pool.map_async(describe, range(5))
        pool.close()
        self.assertRaises(InitializerError, result.get, TIMEOUT)
        pool.join()


class _TestFailingInitializerInThisProcess:
    """What shows of failing initializers in the process that has the pool."""

    kinds = ('processes', 'threads')

    def test_traceback(self):
        pool = self.pool(1, fail)
        try:
            pool.apply(describe)
        except InitializerError:
            self.assertIn('in fail\n', traceback.format_exc())
        else:
            self.fail('no exception')

    def test_error_callback(self):
        pool = self.pool(1, fail)
        for way in 'apply_async', 'map_async', 'starmap_async':
            with self.subTest(way=way):
                results, errors = [], []
                with self.assertRaises(InitializerError) as caught:
                    run(pool, way, describe, [1],
                        callback=results.append, error_callback=errors.append)
                self.assertEqual(results, [])
                self.assertEqual(errors, [caught.exception])

    def test_callback_after_passing_trouble(self):
        for way in 'apply_async', 'map_async', 'starmap_async':
            with self.subTest(way=way):
                pool = self.pool(1, fail_at_first, (self.shared.Value('i', 0), 1))
                results, errors = [], []
                run(pool, way, add, [1],
                    callback=results.append, error_callback=errors.append)
                self.assertEqual(results, [3] if way == 'apply_async' else [[3]])
                self.assertEqual(errors, [])

    def test_idle_pool(self):
        runs = self.shared.Semaphore(0)
        pool = self.pool(2, fail_and_count, (runs,))
        workers = list(pool._pool)
        for _ in workers:
            self.assertTrue(runs.acquire(timeout=TIMEOUT), 'a worker ran no initializer')
        if self.kind == 'processes':
            # Any worker that leaves ends this wait.
            sentinels = [worker.sentinel for worker in workers]
            self.assertEqual(multiprocessing.connection.wait(sentinels, timeout=0.5), [])
        pool.close()
        pool.join()
        self.assertEqual(pool._pool, workers)
        self.assertEqual([worker.exitcode for worker in workers], [0, 0])
        self.assertFalse(runs.acquire(False), 'the initializer ran again')


class _TestPool:
    """The pool itself, with the feature on and off."""

    kinds = ('processes', 'manager', 'threads')

    def test_off(self):
        for options in {}, {'expect_initret': False}:
            with self.subTest(options):
                pool = self.Pool(2, give, (40,), **options)
                self.addCleanup(pool.join)
                self.addCleanup(pool.terminate)
                for way in WAYS:
                    self.assertEqual(run(pool, way, without, range(5)), [0, 1, 2, 3, 4])
                    self.assertEqual(run(pool, way, with_default, [1]), [(1, 'default')])
                self.assertEqual(pool.apply(add, (1,), {'initret': 2}), 3)
                self.assertEqual(pool.starmap(add, [(1, 2)]), [3])

    def test_timeout(self):
        event = self.shared.Event()
        pool = self.pool(1, give, (event,))
        for way in 'map_async', 'starmap_async', 'apply_async':
            with self.subTest(way=way):
                event.clear()
                result = getattr(pool, way)(wait_for_event, [(1,)])
                self.assertRaises(multiprocessing.TimeoutError, result.get, 0.01)
                self.assertFalse(result.ready())
                event.set()
                self.assertTrue(result.get(TIMEOUT))
                self.assertTrue(result.successful())

    def test_close(self):
        pool = self.pool(2, give, (40,))
        result = pool.map_async(add, range(10))
        pool.close()
        pool.join()
        self.assertEqual(result.get(TIMEOUT), list(range(40, 50)))
        self.assertRaises(ValueError, pool.map, add, [1])

    def test_terminate(self):
        event = self.shared.Event()
        pool = self.pool(2, give, (event,))
        pool.map_async(wait_for_event, range(100), chunksize=1)
        event.set()
        pool.terminate()
        pool.join()
        self.assertRaises(ValueError, pool.map, add, [1])

    def test_with(self):
        with self.Pool(2, give, (40,), expect_initret=True) as pool:
            self.assertEqual(pool.map(add, range(3)), [40, 41, 42])
        self.assertRaises(ValueError, pool.map, add, [1])
        pool.join()


class _TestPoolInThisProcess:
    """What shows in the process that has the pool."""

    kinds = ('processes', 'threads')

    def test_no_initializer(self):
        before = threading.active_count(), multiprocessing.active_children()
        with self.assertRaisesRegex(ValueError, 'initializer'):
            self.Pool(1, expect_initret=True)
        with self.assertRaisesRegex(ValueError, 'initializer'):
            self.Pool(1, None, (1,), expect_initret=True)
        self.assertEqual(
            (threading.active_count(), multiprocessing.active_children()), before)

    def test_bad_arguments(self):
        with self.assertRaises(TypeError):
            self.Pool(1, 'no function', expect_initret=True)
        with self.assertRaises(ValueError):
            self.Pool(0, give, (1,), expect_initret=True)

    def test_keyword_only(self):
        with self.assertRaises(TypeError):
            self.Pool(1, give, (1,), None, None, True)

    def test_callbacks(self):
        pool = self.pool(1, give, (40,))
        for way in 'apply_async', 'map_async', 'starmap_async':
            with self.subTest(way=way):
                results, errors = [], []
                callbacks = {'callback': results.append, 'error_callback': errors.append}
                run(pool, way, add, [1], **callbacks)
                self.assertEqual(results, [41] if way == 'apply_async' else [[41]])
                self.assertEqual(errors, [])
                with self.assertRaises(ValueError) as caught:
                    run(pool, way, fail_task, [1], **callbacks)
                self.assertEqual(len(results), 1)
                self.assertEqual(errors, [caught.exception])

    def test_next_timeout(self):
        event = self.shared.Event()
        pool = self.pool(1, give, (event,))
        results = pool.imap(wait_for_event, [1])
        self.assertRaises(multiprocessing.TimeoutError, results.next, 0.01)
        event.set()
        self.assertTrue(results.next(TIMEOUT))

    @unittest.skipUnless(hasattr(sys, 'unraisablehook'), 'no sys.unraisablehook')
    def test_no_initializer_leaves_nothing(self):
        self.addCleanup(setattr, sys, 'unraisablehook', sys.unraisablehook)
        unraisable = []
        sys.unraisablehook = lambda args: unraisable.append(args.exc_value)
        self.assertRaises(ValueError, self.Pool, 1, expect_initret=True)
        gc.collect()
        self.assertEqual(unraisable, [])


class _TestPoolInServer:
    """What shows where a manager's server has the pool."""

    kinds = ('manager',)

    def test_no_initializer(self):
        with self.assertRaisesRegex(multiprocessing.managers.RemoteError,
                                    'ValueError: expect_initret'):
            self.Pool(1, expect_initret=True)


class _TestWorkersInThisProcess:
    """What shows where the workers are threads of this process."""

    kinds = ('threads',)

    def test_log(self):
        with self.assertLogs(multiprocessing.util.get_logger(), 'INFO') as logged:
            pool = self.pool(1, fail)
            self.assertRaises(InitializerError, pool.apply, describe)
        message, = [line for line in logged.output if 'initializer' in line]
        self.assertRegex(message, '^INFO:.*initializer.*InitializerError.*no luck')

    def thread_exceptions(self):
        """Return the queue of the exceptions that end a thread."""
        if not hasattr(threading, 'excepthook'):
            self.skipTest('no threading.excepthook')
        self.addCleanup(setattr, threading, 'excepthook', threading.excepthook)
        exceptions = queue.Queue()
        threading.excepthook = lambda args: exceptions.put(args.exc_type)
        return exceptions

    def test_initializer_exits(self):
        # As without the feature: this one ends the worker.
        exceptions = self.thread_exceptions()
        self.pool(1, exit_worker)
        self.assertIs(exceptions.get(timeout=TIMEOUT), SystemExit)

    def test_off_keeps_nothing(self):
        values = []

        def initializer():
            value = Tally()
            values.append(weakref.ref(value))
            return value

        with self.Pool(1, initializer) as pool:
            pool.apply(without, (1,))
            gc.collect()
            self.assertIsNone(values[0]())
        pool.join()

    def test_off_and_failing_initializer(self):
        exceptions = self.thread_exceptions()
        with self.Pool(1, fail) as pool:
            self.assertIs(exceptions.get(timeout=TIMEOUT), InitializerError)
        pool.join()

    def test_subclass(self):
        with RecordingThreadPool(1, give, (40,), expect_initret=True) as pool:
            self.assertEqual(pool.map(add, range(3)), [40, 41, 42])
        pool.join()

    def test_same_tasks(self):
        tasks = []
        for expect_initret in False, True:
            with RecordingThreadPool(1, give, (40,), expect_initret=expect_initret) as pool:
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


class TestSignatures(unittest.TestCase):
    def test_signatures(self):
        takers = [multiprocessing.Pool, multiprocessing.pool.Pool,
                  multiprocessing.pool.ThreadPool, multiprocessing.dummy.Pool]
        takers += [multiprocessing.get_context(method).Pool
                   for method in multiprocessing.get_all_start_methods()]
        for taker in takers:
            with self.subTest(taker):
                parameter = inspect.signature(taker).parameters['expect_initret']
                self.assertIs(parameter.kind, parameter.KEYWORD_ONLY)
                self.assertIs(parameter.default, False)


def install_tests(namespace, start_method):
    """Make the test cases of one start method, of all kinds of pool it has.

    Threads have no start method: they have theirs where it is None.
    """
    kinds = [_Threads] if start_method is None else [_Processes, _Manager]
    for tests in list(globals().values()):
        for kind in kinds:
            if kind.kind not in getattr(tests, 'kinds', ()):
                continue
            name = '{}{}{}'.format(
                (start_method or '').capitalize(), kind.__name__[1:], tests.__name__[1:])
            namespace[name] = type(name, (tests, kind, unittest.TestCase), {
                '__module__': namespace['__name__'],
                'start_method': start_method,
            })
