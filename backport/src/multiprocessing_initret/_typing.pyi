"""The stock pools, with the keyword, and functions to map that take ``initret``."""

from collections.abc import Callable, Iterable
from multiprocessing import pool
from typing import Any, Protocol, TypeVar, overload

_S = TypeVar("_S")
_S_contra = TypeVar("_S_contra", contravariant=True)
_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

class _TakesInitret(Protocol[_S_contra, _T_co]):
    def __call__(self, item: _S_contra, /, *, initret: Any) -> _T_co: ...

class StockPool(pool.Pool):
    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        expect_initret: bool = False,
    ) -> None: ...
    @overload
    def map(
        self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = None
    ) -> list[_T]: ...
    @overload
    def map(
        self, func: _TakesInitret[_S, _T], iterable: Iterable[_S], chunksize: int | None = None
    ) -> list[_T]: ...
    @overload
    def map_async(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> pool.MapResult[_T]: ...
    @overload
    def map_async(
        self,
        func: _TakesInitret[_S, _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> pool.MapResult[_T]: ...
    @overload
    def imap(
        self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = 1
    ) -> pool.IMapIterator[_T]: ...
    @overload
    def imap(
        self, func: _TakesInitret[_S, _T], iterable: Iterable[_S], chunksize: int | None = 1
    ) -> pool.IMapIterator[_T]: ...
    @overload
    def imap_unordered(
        self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = 1
    ) -> pool.IMapIterator[_T]: ...
    @overload
    def imap_unordered(
        self, func: _TakesInitret[_S, _T], iterable: Iterable[_S], chunksize: int | None = 1
    ) -> pool.IMapIterator[_T]: ...

class StockThreadPool(StockPool, pool.ThreadPool):
    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        expect_initret: bool = False,
    ) -> None: ...
