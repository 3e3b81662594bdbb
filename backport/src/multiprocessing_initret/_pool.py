"""The pools that take ``expect_initret`` and leave ``multiprocessing`` alone."""

import functools
import inspect
from multiprocessing import pool as _pool
from typing import TYPE_CHECKING, Any, Callable, Iterable, Optional

from ._worker import run

# worker() is never patched, so its parameter tells an interpreter that has the
# feature from one where this package, or a copy of it, is installed.
_worker_takes = inspect.signature(_pool.worker).parameters  # type: ignore[attr-defined]
NATIVE = "expect_initret" in _worker_takes

if TYPE_CHECKING:
    from ._typing import StockPool, StockThreadPool
else:
    StockPool = _pool.Pool
    StockThreadPool = _pool.ThreadPool

_init_pool = _pool.Pool.__init__
_init_thread_pool = _pool.ThreadPool.__init__


def _bind_workers(pool: Any, initializer: Optional[Callable[..., object]]) -> None:
    """Let every worker that this pool will start run its target bound to initret."""
    if initializer is None:
        pool._state = "INIT"  # Pool.__del__ reads it
        raise ValueError("expect_initret requires an initializer")
    process = pool.Process

    def bound_process(*args: Any, target: Callable[..., object], **kwds: Any) -> Any:
        return process(*args, target=functools.partial(run, target), **kwds)

    pool.Process = bound_process


class Pool(StockPool):
    """A :class:`multiprocessing.pool.Pool` that takes ``expect_initret``.

    :param processes: number of worker processes, by default that of the CPUs
    :param initializer: called as ``initializer(*initargs)`` in each worker when
        it starts
    :param initargs: the initializer's arguments
    :param maxtasksperchild: number of tasks after which a worker is replaced,
        by default never
    :param context: what ``multiprocessing.get_context()`` returned, which
        decides the start method
    :param expect_initret: whether each function the pool runs is called with
        what the initializer returned in that worker, as the keyword argument
        ``initret``.  An initializer that raises is run again for each task
        until it succeeds, and its exception is that task's outcome.
    :raises ValueError: with ``expect_initret`` and no initializer

    Source: gh-79018 and
    https://docs.python.org/3/library/multiprocessing.html#multiprocessing.pool.Pool
    """

    def __init__(
        self,
        processes: Optional[int] = None,
        initializer: Optional[Callable[..., object]] = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: Optional[int] = None,
        context: Any = None,
        *,
        expect_initret: bool = False,
    ) -> None:
        if expect_initret:
            _bind_workers(self, initializer)
        _init_pool(self, processes, initializer, initargs, maxtasksperchild, context)


class ThreadPool(StockThreadPool):
    """A :class:`multiprocessing.pool.ThreadPool` that takes ``expect_initret``.

    :param processes: number of worker threads, by default that of the CPUs
    :param initializer: called as ``initializer(*initargs)`` in each worker when
        it starts
    :param initargs: the initializer's arguments
    :param expect_initret: as for :class:`Pool`
    :raises ValueError: with ``expect_initret`` and no initializer

    Source: gh-79018 and
    https://docs.python.org/3/library/multiprocessing.html#multiprocessing.pool.ThreadPool
    """

    def __init__(
        self,
        processes: Optional[int] = None,
        initializer: Optional[Callable[..., object]] = None,
        initargs: Iterable[Any] = (),
        *,
        expect_initret: bool = False,
    ) -> None:
        if expect_initret:
            _bind_workers(self, initializer)
        _init_thread_pool(self, processes, initializer, initargs)


if NATIVE and not TYPE_CHECKING:
    Pool = _pool.Pool
    ThreadPool = _pool.ThreadPool
