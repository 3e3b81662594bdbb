"""Tests of the arguments with which a pool calls functions if expect_initret is true."""

import functools

from conformance_base import BaseTestCase, install_tests_in_module_dict
from conformance_functions import (
    MAP_METHODS,
    METHODS,
    TIMEOUT,
    Adder,
    Arguments,
    RaisingIterable,
    SharedPoolMixin,
    add,
    any_keyword,
    call_with_items,
    describe,
    keyword_only,
    raise_stop_iteration,
    raise_value_error,
    return_value,
    with_default,
    without_initret,
)


class _TestInitretCalls(SharedPoolMixin, BaseTestCase):
    """Each method of the pool passes initret to the function, and the other arguments unchanged."""

    initializer = return_value, (40,)

    def test_all_methods(self):
        for method in METHODS:
            with self.subTest(method=method):
                self.assertEqual(
                    call_with_items(self.pool, method, add, range(10)), list(range(40, 50))
                )

    def test_chunksize(self):
        for method in MAP_METHODS:
            for chunksize in 1, 3, 11:
                with self.subTest(method=method, chunksize=chunksize):
                    results = call_with_items(
                        self.pool, method, add, range(10), chunksize=chunksize
                    )
                    self.assertEqual(results, list(range(40, 50)))

    def test_empty_iterable(self):
        for method in MAP_METHODS:
            with self.subTest(method=method):
                self.assertEqual(call_with_items(self.pool, method, add, []), [])

    def test_buffersize(self):
        for method in "imap", "imap_unordered":
            for chunksize in 1, 3:
                with self.subTest(method=method, chunksize=chunksize):
                    options = {"chunksize": chunksize, "buffersize": 1}
                    results = call_with_items(self.pool, method, add, range(10), **options)
                    self.assertEqual(results, list(range(40, 50)))
                    results = getattr(self.pool, method)(describe, RaisingIterable(), **options)
                    if chunksize == 1:
                        self.assertEqual(next(results), (((0,),), {}, 40))
                    with self.assertRaisesRegex(LookupError, "no second item"):
                        next(results)

    def test_arguments(self):
        pool = self.pool
        self.assertEqual(pool.apply(describe), ((), {}, 40))
        self.assertEqual(pool.apply(describe, (1, 2), {"key": 3}), ((1, 2), {"key": 3}, 40))
        result = pool.apply_async(describe, (1, 2), {"key": 3})
        self.assertEqual(result.get(TIMEOUT), ((1, 2), {"key": 3}, 40))
        self.assertEqual(pool.map(describe, [(1, 2)]), [(((1, 2),), {}, 40)])
        self.assertEqual(
            pool.starmap(describe, [(1, 2), (3,), ()]),
            [((1, 2), {}, 40), ((3,), {}, 40), ((), {}, 40)],
        )

    def test_kwds_is_not_modified(self):
        kwds = {"key": 3}
        self.pool.apply(describe, (), kwds)
        self.assertEqual(kwds, {"key": 3})

    def test_callables(self):
        for func, expected in (
            (keyword_only, (1, 40)),
            (with_default, (1, 40)),
            (any_keyword, (1, {"initret": 40})),
            (functools.partial(describe, 0, key=3), ((0, 1), {"key": 3}, 40)),
            (Adder(10).method, 51),
            (Adder(10), 51),
            (Arguments, Arguments(1, 40)),
        ):
            with self.subTest(func=func):
                for method in METHODS:
                    self.assertEqual(call_with_items(self.pool, method, func, [1]), [expected])

    def test_builtin_that_accepts_initret(self):
        self.assertEqual(self.pool.apply(dict, (), {"key": 3}), {"key": 3, "initret": 40})
        self.assertEqual(self.pool.map(dict, [[("key", 3)]]), [{"key": 3, "initret": 40}])

    def test_function_without_initret(self):
        for method in METHODS:
            with self.subTest(method=method):
                with self.assertRaisesRegex(TypeError, "initret"):
                    call_with_items(self.pool, method, without_initret, [1])
                with self.assertRaises(TypeError):
                    call_with_items(self.pool, method, abs, [1])
        # The pool keeps running.
        self.assertEqual(self.pool.map(add, range(3)), [40, 41, 42])

    def test_initret_passed_twice(self):
        with self.assertRaisesRegex(TypeError, "multiple values.*initret"):
            self.pool.apply(add, (1,), {"initret": 2})
        with self.assertRaisesRegex(TypeError, "multiple values.*initret"):
            self.pool.starmap(add, [(1, 2)])

    def test_task_raises(self):
        for method in METHODS:
            with self.subTest(method=method):
                with self.assertRaises(ValueError) as caught:
                    call_with_items(self.pool, method, raise_value_error, [1])
                self.assertEqual(caught.exception.args, (1, 40))

    def test_task_raises_stop_iteration(self):
        # StopIteration fails the chunk, rather than truncating its results.
        for method in "map", "starmap", "map_async", "starmap_async":
            for chunksize in 1, 2:
                with self.subTest(method=method, chunksize=chunksize):
                    self.assertRaises(
                        StopIteration,
                        call_with_items,
                        self.pool,
                        method,
                        raise_stop_iteration,
                        [1, 2],
                        chunksize=chunksize,
                    )

    def test_iterable_raises(self):
        for method in "map", "starmap", "map_async", "starmap_async":
            for chunksize in 1, 2:
                with self.subTest(method=method, chunksize=chunksize):
                    call = getattr(self.pool, method)
                    with self.assertRaisesRegex(LookupError, "no second item"):
                        result = call(describe, RaisingIterable(), chunksize)
                        result.get(TIMEOUT)
        results = self.pool.imap(describe, RaisingIterable())
        self.assertEqual(next(results), (((0,),), {}, 40))
        with self.assertRaisesRegex(LookupError, "no second item"):
            next(results)
        with self.assertRaisesRegex(LookupError, "no second item"):
            list(self.pool.imap_unordered(describe, RaisingIterable()))


install_tests_in_module_dict(globals())
