"""The same of what only the package has: its executors, and broadcast()."""

import multiprocessing
import sys
from concurrent.futures import Future
from typing import assert_type

from multiprocessing_initret import Broadcast, broadcast, futures
from typed import Scaler, give, plain, scale, scale_both

assert_type(broadcast([1]), Broadcast[list[int]])
assert_type(broadcast([1]).value, list[int])
number: Broadcast[object] = broadcast(1)
broadcast(1).value = 2  # type: ignore[misc]


def submit(executor: "futures.ProcessPoolExecutor | futures.ThreadPoolExecutor") -> None:
    assert_type(executor.submit(scale, 1), Future[float])
    assert_type(executor.submit(scale_both, 1, other=2).result(1.0), float)
    assert_type(executor.submit(Scaler().method, 1), Future[float])
    assert_type(executor.submit(plain, 1), Future[str])
    assert_type(list(executor.map(scale, [1], chunksize=2)), list[float])
    assert_type(list(executor.map(scale_both, [1], [2], timeout=1.0)), list[float])
    executor.submit(1)  # type: ignore[arg-type]


with futures.ProcessPoolExecutor(
    4, multiprocessing.get_context("spawn"), give, (1,), expect_initret=True
) as processes:
    assert_type(processes, futures.ProcessPoolExecutor)
    submit(processes)
with futures.ThreadPoolExecutor(initializer=give, initargs=(1,), expect_initret=True) as threads:
    assert_type(threads, futures.ThreadPoolExecutor)
    submit(threads)
if sys.version_info >= (3, 14):
    with futures.InterpreterPoolExecutor(
        initializer=give, initargs=(1,), expect_initret=True
    ) as interpreters:
        assert_type(interpreters.submit(scale, 1), Future[float])
futures.ThreadPoolExecutor(initializer=give, initargs=("1",))  # type: ignore[arg-type]
futures.ThreadPoolExecutor(4, "", give, (1,), True)  # type: ignore[call-overload]
