"""Initializers, tasks and results that cannot be unpickled."""

import os
import sys

import pytest
from conftest import TIMEOUT, ends
from pool_support import add, check, echo, is_lost, main_rows, no_luck, outcome, outcomes


class Unloadable:
    """Can be pickled, and then not be unpickled."""

    def __init__(self, func=no_luck, *args):
        self.reduced = func, args

    def __reduce__(self):
        return self.reduced


class Forty:
    def __init__(self, value):
        pass

    def __radd__(self, other):
        return other + 40


@main_rows
def test_initializer_that_cannot_be_unpickled(make, start_method):
    pool = make(2, Forty, (Unloadable(),))
    if start_method == "fork":  # nothing is pickled
        check(pool)
        return
    for _ in range(3):
        with pytest.raises(LookupError, match="no luck") as caught:
            pool.apply_async(add, (1,)).get(TIMEOUT)
        assert "in no_luck" in str(caught.value.__cause__)  # its traceback
    assert len(pool._pool) == 2
    pool.close()
    ends(pool)


def test_initializer_that_leaves_when_unpickled(make, start_method):
    if start_method == "fork":
        pytest.skip("nothing is pickled")
    pool = make(2, Forty, (Unloadable(os._exit, 3),))
    for _ in range(3):
        assert is_lost(outcome(pool.apply_async(add, (1,))), "exited with code 3")


@main_rows
def test_task_that_cannot_be_unpickled(make):
    pool = make()
    results = [pool.apply_async(echo, (item,)) for item in [1, Unloadable(), 3]]
    assert outcome(results[0]) == 1 and outcome(results[2]) == 3
    with pytest.raises(LookupError, match="no luck") as caught:
        results[1].get(TIMEOUT)
    assert "in no_luck" in str(caught.value.__cause__)
    found = outcomes(pool.imap_unordered(echo, [Unloadable()] * 4))
    assert [type(error) for error in found] == [LookupError] * 4
    result = pool.map_async(echo, [1, 2, Unloadable()], chunksize=2)
    assert isinstance(outcome(result), LookupError)
    check(pool)


def test_task_that_leaves_when_unpickled(make):
    pool = make()
    found = outcomes(pool.imap(echo, [1, Unloadable(os._exit, 3), Unloadable(sys.exit, 4), 2]))
    assert found[0] == 1 and found[3] == 2
    assert is_lost(found[1], "exited with code 3") and is_lost(found[2], "exited with code 4")
    check(pool)


def unloadable(item, initret):
    return Unloadable()


class TwoArguments(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def raise_two_arguments(item, initret):
    raise TwoArguments(1, 2)


def give_two_arguments(item, initret):
    return TwoArguments(1, 2)


class Unprintable(TwoArguments):
    def __repr__(self):
        raise LookupError("no luck")


def raise_unprintable(item, initret):
    raise Unprintable(1, 2)


@main_rows
def test_result_that_cannot_be_unpickled(make, package):
    MaybeEncodingError = sys.modules[package + ".pool"].MaybeEncodingError
    pool = make()
    with pytest.raises(LookupError, match="no luck"):
        pool.apply_async(unloadable, (1,)).get(TIMEOUT)
    with pytest.raises(TypeError, match="two"):
        pool.apply_async(give_two_arguments, (1,)).get(TIMEOUT)
    for func in raise_two_arguments, raise_unprintable:
        for result in pool.apply_async(func, (1,)), pool.map_async(func, range(4)):
            with pytest.raises(MaybeEncodingError) as caught:
                result.get(TIMEOUT)
            name = "TwoArguments(" if func is raise_two_arguments else "Unprintable object"
            assert name in str(caught.value)
            assert func.__name__ in str(caught.value.__cause__)
    found = outcomes(pool.imap(raise_two_arguments, range(3)))
    assert [type(error) for error in found] == [MaybeEncodingError] * 3
    check(pool)
