"""The pools that take ``expect_initret`` and leave ``multiprocessing`` alone."""

import functools
import inspect
from importlib import import_module
from multiprocessing import pool as _pool
from typing import TYPE_CHECKING, Any, Callable, Optional

from ._worker import run

if TYPE_CHECKING:
    from ._typing import StockPool, StockThreadPool
else:
    StockPool = _pool.Pool
    StockThreadPool = _pool.ThreadPool


def is_native(package: str) -> bool:
    """Tell whether a package, multiprocessing or a fork of it, has the feature itself.

    :raises ValueError: for any other package
    """
    try:
        # worker() is never patched, so its parameter tells a package that has the
        # feature from one where this package, or a copy of it, is installed.
        worker = import_module(package + ".pool").worker
    except (AttributeError, ImportError, TypeError) as error:
        message = "package must be the name of multiprocessing or of a fork of it, not {!r}"
        raise ValueError(message.format(package)) from error
    return "expect_initret" in inspect.signature(worker).parameters


def _bind_workers(pool: Any, module: str) -> None:
    """Let every worker that this pool will start run its target bound to initret."""
    process = pool.Process

    def bound_process(*args: Any, target: Callable[..., object], **kwds: Any) -> Any:
        return process(*args, target=functools.partial(run, module, target), **kwds)

    pool.Process = bound_process


def with_keyword(signature: inspect.Signature) -> inspect.Signature:
    """Return the signature of a constructor that takes ``expect_initret`` too."""
    keyword = inspect.Parameter("expect_initret", inspect.Parameter.KEYWORD_ONLY, default=False)
    # It may be there already, where a copy of this package is installed.
    parameters = dict(signature.parameters, expect_initret=keyword).values()
    return signature.replace(parameters=sorted(parameters, key=lambda parameter: parameter.kind))


def expecting(stock: Any) -> Any:
    """Return a constructor for a stock class of pools that takes ``expect_initret``."""
    init = stock.__init__
    module = stock.__module__

    @functools.wraps(init)
    def __init__(
        self: Any,
        processes: Optional[int] = None,
        initializer: Optional[Callable[..., object]] = None,
        *args: Any,
        expect_initret: bool = False,
        **kwds: Any,
    ) -> None:
        if expect_initret:
            if initializer is None:
                self._state = "INIT"  # Pool.__del__ reads it
                raise ValueError("expect_initret requires an initializer")
            _bind_workers(self, module)
        init(self, processes, initializer, *args, **kwds)

    # That of the constructor which was there, whatever a tracer has made of it.
    __init__.__signature__ = with_keyword(inspect.signature(init))  # type: ignore[attr-defined]
    return __init__


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

    if not TYPE_CHECKING:
        __init__ = expecting(StockPool)


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

    if not TYPE_CHECKING:
        __init__ = expecting(StockThreadPool)


if not TYPE_CHECKING and is_native("multiprocessing"):
    Pool = _pool.Pool
    ThreadPool = _pool.ThreadPool
