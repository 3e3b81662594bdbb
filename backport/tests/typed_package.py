"""The same of what only the package has: executors, an error, and pools told apart."""

import functools
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, assert_type

from multiprocessing_initret import Pool, ThreadPool, WorkerLostError, futures
from typed import Scaler, give, plain, scale, scale_both

error: multiprocessing.ProcessError = WorkerLostError()


def scale_by_name(number: int, initret: str) -> float:
    return number * len(initret)


def either(number: int, initret: int = 1) -> float:
    return number * initret


def whatever(number: int, **kwds: Any) -> float:
    return number


def several(name: str, *numbers: int, factor: int = 1) -> str:
    return name * sum(numbers) * factor


# With the keyword there must be an initializer, and what it returns is the type of
# initret.
on = Pool(2, give, (1,), expect_initret=True)
assert_type(on.map(scale, [1]), list[float])
assert_type(on.map(functools.partial(scale_both, 1), [1]), list[float])
assert_type(on.map(Scaler().method, range(3)), list[float])
assert_type(on.map(either, [1]), list[float])
assert_type(on.map(whatever, [1]), list[float])
assert_type(on.apply(scale_both, (1, 2)), float)
on.map(plain, [1])  # type: ignore[arg-type]
on.map_async(plain, [1])  # type: ignore[arg-type]
on.imap(plain, [1])  # type: ignore[arg-type]
on.imap_unordered(plain, [1])  # type: ignore[arg-type]
on.map(scale_by_name, [1])  # type: ignore[arg-type]
on.map(scale, ["1"])  # type: ignore[misc]
Pool(initializer=str, expect_initret=True).map(scale_by_name, [1])
Pool(2, expect_initret=True)  # type: ignore[call-overload]
ThreadPool(2, expect_initret=True)  # type: ignore[call-overload]
Pool(4, give, (1,), expect_initret="yes")  # type: ignore[call-overload]
Pool(4, give, (1,), None, None, True)  # type: ignore[call-overload]
with ThreadPool(2, give, (1,), expect_initret=True) as threads:
    assert_type(threads.map(scale, [1]), list[float])
    threads.map(plain, [1])  # type: ignore[arg-type]

# Without it there is no initret.
off = Pool(2, give, (1,))
assert_type(off.map(plain, [1]), list[str])
assert_type(off.map(either, [1]), list[float])
off.map(scale, [1])  # type: ignore[arg-type]
off.map_async(scale, [1])  # type: ignore[arg-type]
off.imap(scale, [1])  # type: ignore[arg-type]
off.imap_unordered(scale, [1])  # type: ignore[arg-type]
ThreadPool(2).map(scale, [1])  # type: ignore[arg-type]


# Here it can't be told.
def use_either(pool: Pool, flag: bool) -> None:
    assert_type(pool.map(scale, [1]), list[float])
    assert_type(pool.map(plain, [1]), list[str])
    assert_type(Pool(2, give, (1,), expect_initret=flag), Pool)
    Pool(2, expect_initret=flag)  # type: ignore[call-overload]


use_either(on, True)
use_either(off, False)


class Derived(Pool):
    pass


assert_type(Derived(2, give, (1,), expect_initret=True).map(scale, [1]), list[float])
if sys.version_info >= (3, 16):
    on.imap(scale, [1], buffersize=2)
    off.imap_unordered(plain, [1], buffersize=2)


def submit(executor: "futures.ProcessPoolExecutor | futures.ThreadPoolExecutor") -> None:
    assert_type(executor.submit(scale, 1), Future[float])
    assert_type(executor.submit(scale_both, 1, other=2).result(1.0), float)
    assert_type(executor.submit(Scaler().method, 1), Future[float])
    assert_type(executor.submit(plain, 1), Future[str])
    assert_type(list(executor.map(scale, [1], chunksize=2)), list[float])
    assert_type(list(executor.map(scale_both, [1], [2], timeout=1.0)), list[float])
    executor.submit(1)  # type: ignore[call-overload]


with futures.ProcessPoolExecutor(
    4, multiprocessing.get_context("spawn"), give, (1,), expect_initret=True
) as processes:
    submit(processes)
    processes.map(plain, [1])  # type: ignore[arg-type]
    processes.map(scale_by_name, [1])  # type: ignore[arg-type]
with futures.ThreadPoolExecutor(initializer=give, initargs=(1,), expect_initret=True) as executor:
    submit(executor)
    executor.map(plain, [1])  # type: ignore[arg-type]
with futures.ThreadPoolExecutor(4) as without:
    assert_type(without.submit(several, "a", 2, 3, factor=1), Future[str])
    assert_type(without.map(plain, [1]), Iterator[str])
    without.submit(several, "a", "2")  # type: ignore[arg-type]
    without.submit(scale, 1)  # type: ignore[call-arg]
    without.map(scale, [1])  # type: ignore[arg-type]
if sys.version_info >= (3, 14):
    with futures.InterpreterPoolExecutor(
        initializer=give, initargs=(1,), expect_initret=True
    ) as interpreters:
        assert_type(interpreters.submit(scale, 1), Future[float])
        interpreters.map(plain, [1])  # type: ignore[arg-type]
futures.ThreadPoolExecutor(initializer=give, initargs=("1",))  # type: ignore[arg-type]
futures.ThreadPoolExecutor(expect_initret=True)  # type: ignore[call-overload]
futures.ThreadPoolExecutor(4, "", give, (1,), True)  # type: ignore[call-overload]
