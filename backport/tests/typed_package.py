"""Program that type checkers check: what the package has and the stubs for typeshed lack.

These are executors, an error, and pools whose type states whether they pass initret.
"""

import functools
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, assert_type

from multiprocessing_initret import Pool, ThreadPool, WorkerLostError, futures
from typed import Scaler, return_factor, scale, scale_both, to_text

error: multiprocessing.ProcessError = WorkerLostError()


def scale_by_name(number: int, initret: str) -> float:
    return number * len(initret)


def optional_initret(number: int, initret: int = 1) -> float:
    return number * initret


def any_keywords(number: int, **kwds: Any) -> float:
    return number


def several(name: str, *numbers: int, factor: int = 1) -> str:
    return name * sum(numbers) * factor


# expect_initret=True requires an initializer. The type that it returns is that of initret.
with_initret = Pool(2, return_factor, (1,), expect_initret=True)
assert_type(with_initret.map(scale, [1]), list[float])
assert_type(with_initret.map(functools.partial(scale_both, 1), [1]), list[float])
assert_type(with_initret.map(Scaler().method, range(3)), list[float])
assert_type(with_initret.map(optional_initret, [1]), list[float])
assert_type(with_initret.map(any_keywords, [1]), list[float])
assert_type(with_initret.apply(scale_both, (1, 2)), float)
with_initret.map(to_text, [1])  # type: ignore[arg-type]
with_initret.map_async(to_text, [1])  # type: ignore[arg-type]
with_initret.imap(to_text, [1])  # type: ignore[arg-type]
with_initret.imap_unordered(to_text, [1])  # type: ignore[arg-type]
with_initret.map(scale_by_name, [1])  # type: ignore[arg-type]
with_initret.map(scale, ["1"])  # type: ignore[misc]
Pool(initializer=str, expect_initret=True).map(scale_by_name, [1])
Pool(2, expect_initret=True)  # type: ignore[call-overload]
ThreadPool(2, expect_initret=True)  # type: ignore[call-overload]
Pool(4, return_factor, (1,), expect_initret="yes")  # type: ignore[call-overload]
Pool(4, return_factor, (1,), None, None, True)  # type: ignore[call-overload]
with ThreadPool(2, return_factor, (1,), expect_initret=True) as threads:
    assert_type(threads.map(scale, [1]), list[float])
    threads.map(to_text, [1])  # type: ignore[arg-type]

# Without expect_initret a function must not require initret.
without_initret = Pool(2, return_factor, (1,))
assert_type(without_initret.map(to_text, [1]), list[str])
assert_type(without_initret.map(optional_initret, [1]), list[float])
without_initret.map(scale, [1])  # type: ignore[arg-type]
without_initret.map_async(scale, [1])  # type: ignore[arg-type]
without_initret.imap(scale, [1])  # type: ignore[arg-type]
without_initret.imap_unordered(scale, [1])  # type: ignore[arg-type]
ThreadPool(2).map(scale, [1])  # type: ignore[arg-type]


# A pool of either kind accepts any function.
def use_either(pool: Pool, flag: bool) -> None:
    assert_type(pool.map(scale, [1]), list[float])
    assert_type(pool.map(to_text, [1]), list[str])
    assert_type(Pool(2, return_factor, (1,), expect_initret=flag), Pool)
    Pool(2, expect_initret=flag)  # type: ignore[call-overload]


use_either(with_initret, True)
use_either(without_initret, False)


class Derived(Pool):
    pass


assert_type(Derived(2, return_factor, (1,), expect_initret=True).map(scale, [1]), list[float])
if sys.version_info >= (3, 16):
    with_initret.imap(scale, [1], buffersize=2)
    without_initret.imap_unordered(to_text, [1], buffersize=2)


def submit(executor: "futures.ProcessPoolExecutor | futures.ThreadPoolExecutor") -> None:
    assert_type(executor.submit(scale, 1), Future[float])
    assert_type(executor.submit(scale_both, 1, other=2).result(1.0), float)
    assert_type(executor.submit(Scaler().method, 1), Future[float])
    assert_type(executor.submit(to_text, 1), Future[str])
    assert_type(list(executor.map(scale, [1], chunksize=2)), list[float])
    assert_type(list(executor.map(scale_both, [1], [2], timeout=1.0)), list[float])
    executor.submit(1)  # type: ignore[call-overload]


with futures.ProcessPoolExecutor(
    4, multiprocessing.get_context("spawn"), return_factor, (1,), expect_initret=True
) as processes:
    submit(processes)
    processes.map(to_text, [1])  # type: ignore[arg-type]
    processes.map(scale_by_name, [1])  # type: ignore[arg-type]
with futures.ThreadPoolExecutor(
    initializer=return_factor, initargs=(1,), expect_initret=True
) as executor:
    submit(executor)
    executor.map(to_text, [1])  # type: ignore[arg-type]
with futures.ThreadPoolExecutor(4) as no_initret:
    assert_type(no_initret.submit(several, "a", 2, 3, factor=1), Future[str])
    assert_type(no_initret.map(to_text, [1]), Iterator[str])
    no_initret.submit(several, "a", "2")  # type: ignore[arg-type]
    no_initret.submit(scale, 1)  # type: ignore[call-arg]
    no_initret.map(scale, [1])  # type: ignore[arg-type]
if sys.version_info >= (3, 14):
    with futures.InterpreterPoolExecutor(
        initializer=return_factor, initargs=(1,), expect_initret=True
    ) as interpreters:
        assert_type(interpreters.submit(scale, 1), Future[float])
        interpreters.map(to_text, [1])  # type: ignore[arg-type]
futures.ThreadPoolExecutor(initializer=return_factor, initargs=("1",))  # type: ignore[arg-type]
futures.ThreadPoolExecutor(expect_initret=True)  # type: ignore[call-overload]
futures.ThreadPoolExecutor(4, "", return_factor, (1,), True)  # type: ignore[call-overload]
