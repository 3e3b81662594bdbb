"""Callbacks that raise exceptions, and iterables that raise exceptions or end early."""

import os
import sys
import threading

import pytest
from conftest import TIMEOUT, call_with_timeout, join_in_time, wait_until
from multiprocessing_initret._parent import terminator
from pool_support import (
    NotAnException,
    add,
    block,
    check_pool,
    is_lost,
    result_or_exception,
    results_and_exceptions,
    unblock,
)


class FailingIterable:
    """An iterable of length 10 that yields fewer items, and then raises an exception or ends.

    :param count: how many items it yields
    :param make_item: makes an item from its index
    :param error: the class of the exception, or None
    """

    def __init__(self, count, make_item=int, error=LookupError):
        self.count, self.make_item, self.error = count, make_item, error

    def __len__(self):
        return 10

    def __iter__(self):
        yield from map(self.make_item, range(self.count))
        if self.error is not None:
            raise self.error("no luck")


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("chunksize", [1, 3, 10])
def test_iterable_raises(make_pool, make_thread_pool, count, chunksize):
    for pool in make_pool(), make_thread_pool():
        done = []
        for method, make_item in ((pool.map_async, int), (pool.starmap_async, lambda i: (i,))):
            iterable = FailingIterable(count, make_item)
            result = method(add, iterable, chunksize, done.append, done.append)
            with pytest.raises(LookupError, match="no luck"):
                result.get(TIMEOUT)
        found = results_and_exceptions(pool.imap(add, FailingIterable(count)))
        assert found[:-1] == list(range(40, 40 + count))
        assert type(found[-1]) is LookupError
        check_pool(pool)
        assert list(map(type, done)) == [LookupError, LookupError]
        pool.close()
        join_in_time(pool)


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("chunksize", [1, 2, 3, 10])
def test_iterable_ends_early(make_pool, make_thread_pool, count, chunksize):
    for pool in make_pool(), make_thread_pool():
        result = pool.map_async(add, FailingIterable(count, error=None), chunksize)
        if count and chunksize == 10:
            assert result.get(TIMEOUT) == list(range(40, 40 + count))
        else:
            with pytest.raises(ValueError, match="fewer items"):
                result.get(TIMEOUT)
        assert results_and_exceptions(pool.imap(add, FailingIterable(count, error=None))) == list(
            range(40, 40 + count)
        )
        check_pool(pool)


class RaisesWhenPickled:
    def __reduce__(self):
        raise NotAnException


def test_base_exception_in_the_task_handler(make_pool, make_thread_pool):
    pool = make_pool()
    for error, result in (
        (NotAnException, pool.map_async(add, FailingIterable(5, error=NotAnException), 1)),
        (GeneratorExit, pool.map_async(add, FailingIterable(5, error=GeneratorExit), 1)),
        (NotAnException, pool.apply_async(add, (RaisesWhenPickled(),))),
    ):
        with pytest.raises(error):
            result.get(TIMEOUT)
    check_pool(pool)
    pool = make_thread_pool()
    error = result_or_exception(pool.map_async(add, FailingIterable(5, error=NotAnException), 1))
    assert is_lost(error) and type(error.__cause__) is NotAnException
    check_pool(pool)


@pytest.mark.parametrize("end", ["close", "terminate"])
@pytest.mark.parametrize("chunksize", [None, 1])
def test_pool_ends_while_an_iterable_is_read(make_pool, make_thread_pool, chunksize, end):
    for pool in make_pool(), make_thread_pool():

        def items():
            yield 1
            getattr(pool, end)()  # noqa: B023
            wait_until(lambda: not pool._worker_handler.is_alive())  # noqa: B023

        with pytest.raises(ValueError):
            pool.map_async(add, items(), chunksize)
        with pytest.raises(ValueError):
            pool.map_async(add, (1 / 0 for _ in range(1)), chunksize)
        pool.close()
        join_in_time(pool)


@pytest.mark.parametrize("error", [LookupError, KeyError, NotAnException, SystemExit])
def test_callback_raises(make_pool, make_thread_pool, monkeypatch, error):
    reported = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: reported.append(args[0]))

    def callback(value):
        raise error

    for pool in make_pool(), make_thread_pool():
        args = {"callback": callback, "error_callback": callback}
        assert pool.apply_async(add, (1,), **args).get(TIMEOUT) == 41
        assert pool.map_async(add, range(3), **args).get(TIMEOUT) == [40, 41, 42]
        for result in pool.apply_async(add, ("",), **args), pool.map_async(add, [""], **args):
            with pytest.raises(TypeError):
                result.get(TIMEOUT)
        check_pool(pool)
        assert reported == [error] * 4
        reported.clear()


@pytest.mark.parametrize("method", ["apply", "map"])
def test_callback_terminates_the_pool(make_pool, make_thread_pool, tmp_path, method):
    for pool in make_pool(), make_thread_pool():
        path = str(tmp_path / type(pool).__name__)
        inside = pool.apply_async(block, (path,))
        wait_until(lambda: os.path.exists(path))  # noqa: B023
        called = []

        def callback(value):
            unblock(path)  # noqa: B023  # a thread is not terminated, and so blocks until then
            pool.terminate()  # noqa: B023
            called.append(value)  # noqa: B023

        callbacks = {"callback": callback, "error_callback": callback}
        if method == "apply":
            result, expected = pool.apply_async(add, (1,), **callbacks), 41
        else:
            result, expected = pool.map_async(add, range(2), 1, **callbacks), [40, 41]
        assert result.get(TIMEOUT) == expected
        assert called == [expected]
        join_in_time(pool)
        assert result_or_exception(inside) is None or is_lost(
            result_or_exception(inside), "terminated"
        )


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_iterable_ends_after_the_pool(make_pool, make_thread_pool, monkeypatch, method):
    """Its iterator ends, although the task handler then reports another length."""
    monkeypatch.setattr(terminator, "_ITERABLE_TIMEOUT", 0.1)
    for pool in make_pool(), make_thread_pool():
        may_end = threading.Event()

        def items():
            yield from range(3)
            may_end.wait(TIMEOUT)  # noqa: B023

        iterator = getattr(pool, method)(add, items())
        assert iterator.next(TIMEOUT) in (40, 41, 42)
        pool.terminate()
        may_end.set()
        call_with_timeout(pool._task_handler.join)
        # A later result may have arrived before an earlier one.
        assert any(is_lost(item, "terminated") for item in results_and_exceptions(iterator))


def test_terminated_pool_calls_no_callbacks(make_pool, tmp_path):
    """As in the standard pool: nothing has failed, and they might wait for terminate()."""
    pool, path, called = make_pool(1), str(tmp_path / "inside"), []
    callbacks = {"callback": called.append, "error_callback": called.append}
    results = [
        pool.apply_async(block, (path,), **callbacks),
        pool.map_async(add, range(3), 1, **callbacks),
    ]
    wait_until(lambda: os.path.exists(path))
    pool.terminate()
    assert all(is_lost(result_or_exception(result), "terminated") for result in results)
    assert not called


@pytest.mark.parametrize("method", ["map", "map_async", "starmap"])
def test_chunksize_is_not_an_integer(make_pool, make_thread_pool, method):
    for pool in make_pool(1), make_thread_pool(1):
        with pytest.raises(TypeError, match="chunksize must be an integer, not float"):
            getattr(pool, method)(add, [1, 2], chunksize=1.5)
        check_pool(pool)
