"""The pools that take ``expect_initret`` and leave ``multiprocessing`` alone."""

from multiprocessing import pool as _pool

from ._shared.packages import is_native, module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Optional

    from ._typing import Pool as Pool
    from ._typing import ThreadPool as ThreadPool


def _has_stock_queues(pool: "Any", package: str) -> bool:
    kind = module(package, "queues").SimpleQueue
    return (
        type(pool._inqueue) is type(pool._outqueue) is kind
        and pool._quick_put == pool._inqueue._writer.send
        and pool._quick_get == pool._outqueue._reader.recv
    )


def _supervise(pool: "Any", package: str) -> None:
    """Let a pool that is about to be constructed bind its tasks to initret."""
    # Not by spawned workers, which import this module and start the later for it.
    from ._parent.process_supervisor import ProcessSupervisor
    from ._parent.supervisor import Supervisor, ThreadSupervisor

    def setup_queues() -> None:
        del pool._setup_queues
        pool._setup_queues()
        supervisor: Supervisor
        if isinstance(pool, module(package, "pool").ThreadPool):
            supervisor = ThreadSupervisor(pool, package)
        elif _has_stock_queues(pool, package):
            supervisor = ProcessSupervisor(pool, package)
        else:
            supervisor = Supervisor(pool, package)
        supervisor.connect(pool)

    pool._setup_queues = setup_queues


def constructor(stock: "Any") -> "Any":
    """Return a constructor for a stock class of pools that takes ``expect_initret``."""
    init = stock.__init__
    package = stock.__module__.rpartition(".")[0]

    def construct(pool: "Any", expect_initret: bool, *args: "Any") -> None:
        if expect_initret:
            _supervise(pool, package)
        init(pool, *args)

    # Their signatures are for people to see; what they call may be a tracer's.
    if stock.__name__ == "ThreadPool":

        def __init__(
            self: "Any",
            processes: "Optional[int]" = None,
            initializer: "Optional[Callable[..., object]]" = None,
            initargs: "Iterable[Any]" = (),
            *,
            expect_initret: bool = False,
        ) -> None:
            construct(self, expect_initret, processes, initializer, initargs)
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
            args = processes, initializer, initargs, maxtasksperchild, context
            construct(self, expect_initret, *args)

    return __init__


if TYPE_CHECKING or is_native("multiprocessing"):
    if not TYPE_CHECKING:
        Pool = _pool.Pool
        ThreadPool = _pool.ThreadPool
else:

    class Pool(_pool.Pool):
        """A :class:`multiprocessing.pool.Pool` that takes ``expect_initret``.

        :param processes: number of worker processes, by default that of the CPUs
        :param initializer: called as ``initializer(*initargs)`` in each worker when
            it starts
        :param initargs: the initializer's arguments.  With ``expect_initret`` they are
            pickled once for all workers, and their buffers (NumPy arrays) are one
            memory for all until a worker writes to its own.
        :param maxtasksperchild: number of tasks after which a worker is replaced,
            by default never
        :param context: what ``multiprocessing.get_context()`` returned, which
            decides the start method
        :param expect_initret: whether each function the pool runs is called with
            what the initializer returned in that worker, as the keyword argument
            ``initret``.  An initializer that raises is run again for each task
            until it succeeds, and its exception is that task's outcome.  A task
            whose worker leaves raises :exc:`WorkerLostError`.
        :raises ValueError: with ``expect_initret`` and no initializer, or with more
            than 61 processes on Windows before Python 3.13

        Source: gh-79018 and
        https://docs.python.org/3/library/multiprocessing.html#multiprocessing.pool.Pool
        """

        __init__ = constructor(_pool.Pool)

    class ThreadPool(_pool.ThreadPool):
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

        __init__ = constructor(_pool.ThreadPool)
