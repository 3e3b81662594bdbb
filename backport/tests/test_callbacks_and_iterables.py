"""Callbacks and iterables that raise, or end early."""

import os
import sys

import pytest
from conftest import TIMEOUT, ends, wait_until
from pool_support import Leaves, add, block, check, is_lost, outcome, outcomes


class Short:
    def __init__(self, count, make=int, error=LookupError):
        self.count, self.make, self.error = count, make, error

    def __len__(self):
        return 10

    def __iter__(self):
        yield from map(self.make, range(self.count))
        if self.error is not None:
            raise self.error("no luck")


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("chunksize", [1, 3, 10])
def test_iterator_raises_early(make, thread_pool, count, chunksize):
    for pool in make(), thread_pool():
        done = []
        for method, make_item in ((pool.map_async, int), (pool.starmap_async, lambda i: (i,))):
            iterable = Short(count, make_item)
            result = method(add, iterable, chunksize, done.append, done.append)
            with pytest.raises(LookupError, match="no luck"):
                result.get(TIMEOUT)
        found = outcomes(pool.imap(add, Short(count)))
        assert found[:-1] == list(range(40, 40 + count))
        assert type(found[-1]) is LookupError
        check(pool)
        assert list(map(type, done)) == [LookupError, LookupError]
        pool.close()
        ends(pool)


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("chunksize", [1, 2, 3, 10])
def test_iterator_ends_early(make, thread_pool, count, chunksize):
    for pool in make(), thread_pool():
        result = pool.map_async(add, Short(count, error=None), chunksize)
        if count and chunksize == 10:
            assert result.get(TIMEOUT) == list(range(40, 40 + count))
        else:
            with pytest.raises(ValueError, match="fewer items"):
                result.get(TIMEOUT)
        assert outcomes(pool.imap(add, Short(count, error=None))) == list(range(40, 40 + count))
        check(pool)


class LeavesWhenPickled:
    def __reduce__(self):
        raise Leaves


def test_what_is_no_exception_is_raised_where_tasks_are_made(make, thread_pool):
    pool = make()
    for error, result in (
        (Leaves, pool.map_async(add, Short(5, error=Leaves), 1)),
        (GeneratorExit, pool.map_async(add, Short(5, error=GeneratorExit), 1)),
        (Leaves, pool.apply_async(add, (LeavesWhenPickled(),))),
    ):
        with pytest.raises(error):
            result.get(TIMEOUT)
    check(pool)
    pool = thread_pool()
    assert type(outcome(pool.map_async(add, Short(5, error=Leaves), 1)).__cause__) is Leaves
    check(pool)


@pytest.mark.parametrize("end", ["close", "terminate"])
@pytest.mark.parametrize("chunksize", [None, 1])
def test_pool_ends_while_an_iterable_is_read(make, thread_pool, chunksize, end):
    for pool in make(), thread_pool():

        def items():
            yield 1
            getattr(pool, end)()  # noqa: B023
            wait_until(lambda: not pool._worker_handler.is_alive())  # noqa: B023

        with pytest.raises(ValueError):
            pool.map_async(add, items(), chunksize)
        with pytest.raises(ValueError):
            pool.map_async(add, (1 / 0 for _ in range(1)), chunksize)
        pool.close()
        ends(pool)


@pytest.mark.parametrize("error", [LookupError, KeyError, Leaves, SystemExit])
def test_callback_that_raises(make, thread_pool, monkeypatch, error):
    said = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: said.append(args[0]))

    def callback(value):
        raise error

    for pool in make(), thread_pool():
        args = {"callback": callback, "error_callback": callback}
        assert pool.apply_async(add, (1,), **args).get(TIMEOUT) == 41
        assert pool.map_async(add, range(3), **args).get(TIMEOUT) == [40, 41, 42]
        for result in pool.apply_async(add, ("",), **args), pool.map_async(add, [""], **args):
            with pytest.raises(TypeError):
                result.get(TIMEOUT)
        check(pool)
        assert said == [error] * 4
        said.clear()


@pytest.mark.parametrize("method", ["apply", "map"])
def test_callback_that_terminates(make, thread_pool, tmp_path, method):
    for pool in make(), thread_pool():
        path = str(tmp_path / type(pool).__name__)
        inside = pool.apply_async(block, (path,))
        wait_until(lambda: os.path.exists(path))  # noqa: B023
        called = []

        def callback(value):
            os.unlink(path)  # noqa: B023  # a thread cannot be terminated
            pool.terminate()  # noqa: B023
            called.append(value)  # noqa: B023

        callbacks = {"callback": callback, "error_callback": callback}
        if method == "apply":
            result, expected = pool.apply_async(add, (1,), **callbacks), 41
        else:
            result, expected = pool.map_async(add, range(2), 1, **callbacks), [40, 41]
        assert result.get(TIMEOUT) == expected
        assert called == [expected]
        ends(pool)
        assert outcome(inside) is None or is_lost(outcome(inside), "terminated")
