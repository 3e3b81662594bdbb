"""The classes of ``futures``: the stock ones, with the keyword."""

import sys
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from multiprocessing.context import BaseContext
from typing import Any, TypeVar, overload

from typing_extensions import TypeVarTuple, Unpack

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

class _Executor(futures.Executor):
    # With initret to come, what else the function takes cannot be said here.
    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]: ...

class ProcessPoolExecutor(_Executor, futures.ProcessPoolExecutor):
    # max_tasks_per_child is there from 3.11.
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[[], object] | None = None,
        initargs: tuple[()] = (),
        *,
        max_tasks_per_child: int | None = None,
        expect_initret: bool = False,
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        *,
        initializer: Callable[[Unpack[_Ts]], object],
        initargs: tuple[Unpack[_Ts]],
        max_tasks_per_child: int | None = None,
        expect_initret: bool = False,
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None,
        mp_context: BaseContext | None,
        initializer: Callable[[Unpack[_Ts]], object],
        initargs: tuple[Unpack[_Ts]],
        *,
        max_tasks_per_child: int | None = None,
        expect_initret: bool = False,
    ) -> None: ...

class _ThreadInit:
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[[], object] | None = None,
        initargs: tuple[()] = (),
        *,
        expect_initret: bool = False,
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        *,
        initializer: Callable[[Unpack[_Ts]], object],
        initargs: tuple[Unpack[_Ts]],
        expect_initret: bool = False,
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None,
        thread_name_prefix: str,
        initializer: Callable[[Unpack[_Ts]], object],
        initargs: tuple[Unpack[_Ts]],
        *,
        expect_initret: bool = False,
    ) -> None: ...

class ThreadPoolExecutor(_ThreadInit, _Executor, futures.ThreadPoolExecutor): ...

if sys.version_info >= (3, 14):
    class InterpreterPoolExecutor(_ThreadInit, _Executor, futures.InterpreterPoolExecutor): ...
