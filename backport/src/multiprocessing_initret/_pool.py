"""The pools that accept ``expect_initret`` and leave ``multiprocessing`` unchanged."""

import os
from multiprocessing import pool as _pool

from ._shared.packages import module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Optional

    from ._typing import Pool as Pool
    from ._typing import ThreadPool as ThreadPool


def _check_initializer(initializer: object, initargs: object) -> None:
    if initializer is None:
        raise ValueError("expect_initret requires an initializer")
    try:
        iter(initargs)  # type: ignore[call-overload]
    except TypeError:
        message = f"initargs must be an iterable of arguments, not {type(initargs).__name__}"
        raise TypeError(message) from None


def _limit_processes(processes: "Optional[int]", limit: "Optional[int]") -> "Optional[int]":
    """Return the number of worker processes, by default not more than the limit."""
    if limit is None:
        return processes
    if processes is None:
        return min(os.cpu_count() or 1, limit)
    if processes > limit:
        raise ValueError(
            f"processes must be at most {limit} with expect_initret on Windows before Python "
            f"3.13, not {processes}"
        )
    return processes


def _construct(
    package: str,
    pool: "Any",
    processes: "Optional[int]",
    initializer: "Any",
    initargs: "Any",
    **kwargs: "Any",
) -> None:
    """Construct a pool with expect_initret.

    :param package: the package of the pool's class
    """
    # Imported here because workers import this module, and each import delays their start.
    from ._parent import standard_pool
    from ._parent.process_supervisor import MAX_WORKERS, ProcessSupervisor
    from ._parent.supervisor import Supervisor, ThreadSupervisor
    from ._parent.thread_guard import ThreadGuard

    standard_pool.set_initial_state(pool)
    standard_pool.check(package)
    _check_initializer(initializer, initargs)
    pool_module = module(package, "pool")
    is_thread_pool = isinstance(pool, pool_module.ThreadPool)
    if not is_thread_pool:
        processes = _limit_processes(processes, MAX_WORKERS)

    guard = ThreadGuard()

    def setup_queues() -> None:
        del pool._setup_queues
        pool._setup_queues()
        supervisor_class = Supervisor
        if is_thread_pool:
            supervisor_class = ThreadSupervisor
        elif standard_pool.has_standard_queues(pool, package):
            supervisor_class = ProcessSupervisor
        supervisor_class(pool, package, guard)

    pool._setup_queues = setup_queues
    try:
        # The constructor of ThreadPool calls only this one.
        guard.constructor(pool_module)(
            pool, processes=processes, initializer=initializer, initargs=initargs, **kwargs
        )
    finally:
        # Break the reference cycle: setup_queues() refers to the pool.
        vars(pool).pop("_setup_queues", None)


def constructor(cls: "Any") -> "Any":
    """Return a constructor that accepts ``expect_initret`` for a standard class of pools."""
    standard = cls.__init__
    package = cls.__module__.rpartition(".")[0]

    # A function for each class, so that inspect.signature() shows the parameters of the class.
    if cls.__name__ == "ThreadPool":

        def __init__(
            self: "Any",
            processes: "Optional[int]" = None,
            initializer: "Optional[Callable[..., object]]" = None,
            initargs: "Iterable[Any]" = (),
            *,
            expect_initret: bool = False,
        ) -> None:
            if expect_initret:
                _construct(package, self, processes, initializer, initargs)
            else:
                standard(self, processes, initializer, initargs)
    else:

        def __init__(  # type: ignore[misc]
            self: "Any",
            processes: "Optional[int]" = None,
            initializer: "Optional[Callable[..., object]]" = None,
            initargs: "Iterable[Any]" = (),
            maxtasksperchild: "Optional[int]" = None,
            context: "Any" = None,
            *,
            expect_initret: bool = False,
        ) -> None:
            if expect_initret:
                _construct(
                    package,
                    self,
                    processes,
                    initializer,
                    initargs,
                    maxtasksperchild=maxtasksperchild,
                    context=context,
                )
            else:
                standard(self, processes, initializer, initargs, maxtasksperchild, context)

    # Error messages show this name.
    __init__.__qualname__ = cls.__qualname__ + ".__init__"
    __init__.standard = standard  # type: ignore[attr-defined]
    return __init__


if not TYPE_CHECKING:

    class Pool(_pool.Pool):
        """A :class:`multiprocessing.pool.Pool` that accepts ``expect_initret``.

        :param processes: number of worker processes, by default the number of CPUs
        :param initializer: called as ``initializer(*initargs)`` in each worker when it starts
        :param initargs: the arguments of the initializer.  With ``expect_initret``, they are
            pickled once for all non-forked workers (since Python 3.8), and all workers share the
            buffers in them, such as those of NumPy arrays, until a worker writes to a buffer.
        :param maxtasksperchild: number of tasks after which a worker is replaced, by default
            never
        :param context: a context of :func:`multiprocessing.get_context`, which determines
            the start method
        :param expect_initret: whether each function that the pool runs is called with
            *initret*, the object that the initializer returned in that worker, as a keyword
            argument.  If the initializer raises an exception, the worker calls it again for
            its next task.  If that call fails too, its exception is the task's exception.  A
            task whose worker exits fails with :exc:`WorkerLostError`.
        :raises ValueError: with ``expect_initret`` and no initializer, or with more than 61
            processes on Windows before Python 3.13
        :raises TypeError: if *initializer* is not callable or, with ``expect_initret``,
            *initargs* is not iterable
        :raises RuntimeError: with ``expect_initret``, if the interpreter lacks a private name
            that this class relies on

        Source: gh-79018 and
        https://docs.python.org/3/library/multiprocessing.html#multiprocessing.pool.Pool
        """

        __init__ = constructor(_pool.Pool)

    class ThreadPool(_pool.ThreadPool):
        """A :class:`multiprocessing.pool.ThreadPool` that accepts ``expect_initret``.

        :param processes: number of worker threads, by default the number of CPUs
        :param initializer: called as ``initializer(*initargs)`` in each worker when it starts
        :param initargs: the arguments of the initializer
        :param expect_initret: as for :class:`Pool`
        :raises ValueError: with ``expect_initret`` and no initializer
        :raises TypeError: if *initializer* is not callable or, with ``expect_initret``,
            *initargs* is not iterable
        :raises RuntimeError: as for :class:`Pool`

        Source: gh-79018 and
        https://docs.python.org/3/library/multiprocessing.html#multiprocessing.pool.ThreadPool
        """

        __init__ = constructor(_pool.ThreadPool)
