"""Initializers, tasks and results that cannot be unpickled."""

import multiprocessing.pool
import os
import struct
import sys

import pytest
from conftest import TIMEOUT, join_in_time, posix
from multiprocessing_initret._worker import process
from pool_support import (
    add,
    check_pool,
    create_pool,
    echo,
    is_lost,
    raise_lookup_error,
    result_or_exception,
    results_and_exceptions,
    with_multiprocess,
)


class CallWhenUnpickled:
    """An object that can be pickled; unpickling it calls a function, which raises by default."""

    def __init__(self, func=raise_lookup_error, *args):
        self.reduced = func, args

    def __reduce__(self):
        return self.reduced


def return_forty(value):
    return 40


@with_multiprocess
def test_initializer_cannot_be_unpickled(make_pool, start_method):
    pool = make_pool(2, return_forty, (CallWhenUnpickled(),))
    if start_method == "fork":  # nothing is pickled
        check_pool(pool)
        return
    for _ in range(3):
        with pytest.raises(LookupError, match="no luck") as caught:
            pool.apply_async(add, (1,)).get(TIMEOUT)
        assert "in raise_lookup_error" in str(caught.value.__cause__)  # the traceback in the worker
    assert len(pool._pool) == 2
    pool.close()
    join_in_time(pool)


def test_worker_exits_while_unpickling_initargs(make_pool, start_method):
    if start_method == "fork":
        pytest.skip("nothing is pickled")
    pool = make_pool(2, return_forty, (CallWhenUnpickled(os._exit, 3),))
    for _ in range(3):
        assert is_lost(result_or_exception(pool.apply_async(add, (1,))), "exited with code 3")


@with_multiprocess
def test_task_cannot_be_unpickled(make_pool):
    pool = make_pool()
    results = [pool.apply_async(echo, (item,)) for item in [1, CallWhenUnpickled(), 3]]
    assert result_or_exception(results[0]) == 1 and result_or_exception(results[2]) == 3
    with pytest.raises(LookupError, match="no luck") as caught:
        results[1].get(TIMEOUT)
    assert "in raise_lookup_error" in str(caught.value.__cause__)
    found = results_and_exceptions(pool.imap_unordered(echo, [CallWhenUnpickled()] * 4))
    assert [type(error) for error in found] == [LookupError] * 4
    result = pool.map_async(echo, [1, 2, CallWhenUnpickled()], chunksize=2)
    assert isinstance(result_or_exception(result), LookupError)
    check_pool(pool)


def test_worker_exits_while_unpickling_a_task(make_pool):
    pool = make_pool()
    found = results_and_exceptions(
        pool.imap(echo, [1, CallWhenUnpickled(os._exit, 3), CallWhenUnpickled(sys.exit, 4), 2])
    )
    assert found[0] == 1 and found[3] == 2
    assert is_lost(found[1], "exited with code 3") and is_lost(found[2], "exited with code 4")
    check_pool(pool)


class WithoutText(Exception):
    def __str__(self):
        raise ValueError("no text")

    __repr__ = __str__


def raise_without_text():
    raise WithoutText()


class CallWhenPickled:
    def __init__(self, func):
        self.func = func

    def __reduce__(self):
        self.func()


@with_multiprocess
def test_pickling_error_without_text(make_pool):
    pool = make_pool()
    for item in CallWhenPickled(raise_without_text), CallWhenUnpickled(raise_without_text):
        with pytest.raises(WithoutText):
            pool.apply_async(echo, (item,)).get(TIMEOUT)
    check_pool(pool)


def return_unpicklable(item, initret):
    return CallWhenUnpickled()


class TwoArguments(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def raise_two_arguments(item, initret):
    raise TwoArguments(1, 2)


def refuse(size):
    raise struct.error("too large")


class Large(bytes):
    def __repr__(self):
        return "Large"


def get_pid(item, initret):
    return os.getpid()


@posix
def test_result_is_too_large(start_method, monkeypatch):
    """Before Python 3.8, a connection refuses to send 2 GiB; the worker continues."""
    if start_method != "fork":
        pytest.skip("the worker does not inherit the changed function")
    monkeypatch.setattr(process, "header", refuse)
    with create_pool(start_method, 1) as pool:
        pid = pool.apply_async(get_pid, (1,)).get(TIMEOUT)
        with pytest.raises(multiprocessing.pool.MaybeEncodingError, match="too large"):
            pool.apply_async(echo, (Large(10**5),)).get(TIMEOUT)
        assert pool.apply_async(get_pid, (1,)).get(TIMEOUT) == pid


def return_two_arguments(item, initret):
    return TwoArguments(1, 2)


class Unprintable(TwoArguments):
    def __repr__(self):
        raise LookupError("no luck")


def raise_unprintable(item, initret):
    raise Unprintable(1, 2)


@with_multiprocess
def test_result_cannot_be_unpickled(make_pool, package):
    MaybeEncodingError = sys.modules[package + ".pool"].MaybeEncodingError
    pool = make_pool()
    with pytest.raises(LookupError, match="no luck"):
        pool.apply_async(return_unpicklable, (1,)).get(TIMEOUT)
    with pytest.raises(TypeError, match="two"):
        pool.apply_async(return_two_arguments, (1,)).get(TIMEOUT)
    for func in raise_two_arguments, raise_unprintable:
        for result in pool.apply_async(func, (1,)), pool.map_async(func, range(4)):
            with pytest.raises(MaybeEncodingError) as caught:
                result.get(TIMEOUT)
            name = "TwoArguments(" if func is raise_two_arguments else "Unprintable object"
            assert name in str(caught.value)
            assert func.__name__ in str(caught.value.__cause__)
    found = results_and_exceptions(pool.imap(raise_two_arguments, range(3)))
    assert [type(error) for error in found] == [MaybeEncodingError] * 3
    check_pool(pool)


class Recorded(Exception):
    """An exception whose repr writes a file."""

    def __repr__(self):
        open(self.args[0], "w").close()
        return "Recorded"


def raise_recorded(path, size, initret):
    raise Recorded(path, bytes(size))


def raise_large(initret):
    raise TwoArguments("x" * 2**20, 2)


def test_repr_of_a_large_exception(make_pool, tmp_path):
    """It might need a multiple of the memory that the exception itself takes."""
    pool, path = make_pool(), tmp_path / "called"
    for size in 2**20, 1:
        with pytest.raises(Recorded):
            pool.apply_async(raise_recorded, (str(path), size)).get(TIMEOUT)
        assert path.exists() == (size == 1)
    with pytest.raises(multiprocessing.pool.MaybeEncodingError, match="TwoArguments object"):
        pool.apply_async(raise_large).get(TIMEOUT)
    check_pool(pool)
