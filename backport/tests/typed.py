"""Program that type checkers check, with the package and with the stubs for typeshed.

No test runs it.
"""

import multiprocessing
from typing import assert_type

import multiprocessing_initret
from multiprocessing_initret import Pool, ThreadPool

multiprocessing_initret.install()
multiprocessing_initret.uninstall()
assert_type(multiprocessing_initret.is_installed(), bool)
assert_type(multiprocessing_initret.__version__, str)


def return_factor(factor: int) -> int:
    return factor


def scale(number: int, initret: int) -> float:
    return number * initret


def scale_both(number: int, other: int, initret: int) -> float:
    return number * other * initret


def to_text(number: int) -> str:
    return str(number)


class Scaler:
    def method(self, number: int, *, initret: int) -> float:
        return number * initret


def check_methods(pool: "Pool | ThreadPool") -> None:
    assert_type(pool.map(scale, [1, 2]), list[float])
    assert_type(pool.map(Scaler().method, range(3), chunksize=2), list[float])
    assert_type(pool.map(to_text, [1]), list[str])
    assert_type(pool.map(abs, [1]), list[int])
    assert_type(pool.map_async(scale, [1]).get(), list[float])
    assert_type(list(pool.imap(scale, [1])), list[float])
    assert_type(list(pool.imap_unordered(scale, [1])), list[float])
    assert_type(pool.starmap(scale_both, [(1, 2)]), list[float])
    assert_type(pool.starmap_async(scale_both, [(1, 2)]).get(), list[float])
    assert_type(pool.apply(scale, (1,)), float)
    assert_type(pool.apply_async(scale, (1,)).get(1.0), float)
    pool.map(scale, ["1"])  # type: ignore[arg-type]
    pool.imap_unordered(Scaler().method, ["1"])  # type: ignore[arg-type]


with Pool(4, return_factor, (1,), expect_initret=True) as pool:
    check_methods(pool)
with Pool(
    4, return_factor, (1,), 1, multiprocessing.get_context("spawn"), expect_initret=True
) as pool:
    check_methods(pool)
with ThreadPool(4, return_factor, (1,), expect_initret=True) as thread_pool:
    check_methods(thread_pool)
