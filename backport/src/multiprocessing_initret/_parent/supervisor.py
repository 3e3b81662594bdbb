"""Supervise pools with expect_initret: the base class, and the subclass for ``ThreadPool``.

A supervisor plugs its own functions into a standard pool.  The pool's three threads, and the
callers of the pool, call these functions:

    thread           uses                              which is replaced by
    ---------------  --------------------------------  -----------------------------
    any caller       Pool.Process                      Supervisor.process
                     Pool._map_async                   Supervisor._map_async
                     Pool._guarded_task_generation     Supervisor._generate_tasks
                     Pool._cache                       PendingResults
                     Pool._repopulate_pool             ProcessSupervisor._repopulate_pool
    worker handler   Pool.Process                      Supervisor.process
    task handler     Pool._quick_put                   ProcessSupervisor._send
    result handler   Pool._quick_get                   Collector.get
    any thread       Pool._terminate_pool              Terminator.terminate

``ThreadGuard`` runs the standard functions of the three threads.

The pool's threads refer to the supervisor.  Therefore it must not refer to the pool, which is
terminated as soon as nothing refers to it.
"""

import operator
import threading

from .._shared.errors import WorkerLostError, drop_frames
from .._shared.inherited_locks import drop_inherited_locks
from .._shared.initargs import InitArgs
from .._shared.packages import module
from .._worker.tasks import raise_error, run_worker
from .._worker.thread import run_thread
from . import standard_pool
from .critical_section import CriticalSection
from .main_module import missing_name_hint
from .pending_results import pending_results_class
from .terminator import Terminator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator, Optional, Tuple

    from .thread_guard import ThreadGuard


class Supervisor:
    """Supervisor of a pool whose queues are not the standard ones; base class of the other
    supervisors.

    It owns the pending results, the critical section, and the initializer and its arguments as
    the workers receive them.  The module's docstring lists which thread calls which method.

    :param pool: a pool whose constructor has just created its queues
    :param package: the package of the pool
    :param guard: runs the functions of the pool's three threads
    """

    _run = staticmethod(run_worker)

    def __init__(self, pool: "Any", package: str, guard: "ThreadGuard") -> None:
        self._package = package
        self._section = CriticalSection()
        self._initargs: "Optional[InitArgs]" = None
        #: the pending results; None before the first worker is created
        self.results: "Any" = None
        self._standard = standard_pool.StandardPool(pool, package, self._section)
        terminator = Terminator(self, self._standard, self._section)
        self._standard.replace(
            pool,
            Process=self.process,
            _terminate_pool=terminator.terminate,
            _map_async=self._map_async,
            _guarded_task_generation=self._generate_tasks,
        )
        module(package, "util").register_after_fork(self, drop_inherited_locks)
        guard.attach(self._standard, self._break_pool, self._fail_all)

    # -- Worker handler, and callers ------------------------------------------------------

    def process(self, *context: "Any", target: "Any", args: "Any", **kwds: "Any") -> "Any":
        """Return a worker that is not started yet, as the pool's ``Process`` does."""
        bound = self._bind(target, args)
        return self._standard.original("Process")(*context, target=self._run, args=bound, **kwds)

    def _bind(self, target: "Any", args: "Any", channel: "Any" = None) -> "Tuple[Any, ...]":
        """Return the arguments of the function that runs in a worker.

        :param target: the target of the standard pool's process, usually ``worker()``
        :param args: its arguments
        :param channel: replaces the argument *outqueue*; None if it is not replaced
        """
        standard = self._standard
        (inqueue, outqueue, initializer, initargs), others = standard.split_worker_args(args)
        if self._initargs is None:
            self._prepare(InitArgs((initializer, *initargs), self._package))
        elif isinstance(initargs, tuple) and not self._initargs.are((initializer, *initargs)):
            # A subclass of Pool has changed the arguments of the process.
            raise RuntimeError(
                "with expect_initret, all workers of a pool must have the same initializer and "
                "initargs: pass them to the constructor of the pool"
            )
        return (
            *(self._package, target, others, standard.replaced_positions),
            *(inqueue, channel or outqueue, self._initargs, missing_name_hint()),
        )

    def _prepare(self, initargs: InitArgs) -> None:
        """Create what depends on attributes that the constructor of the pool sets later.

        This is called when the first worker is created.

        :param initargs: the initializer and its arguments, as the workers receive them
        """
        self._initargs = initargs
        self.results = self._standard.replace_cache(pending_results_class)

    # -- Callers -------------------------------------------------------------------------

    def _map_async(self, *args: "Any", **kwds: "Any") -> "Any":
        bound = self._standard.bind("_map_async", args, kwds)
        iterable, chunksize = bound["iterable"], bound.get("chunksize")
        if chunksize is not None:
            # The standard pool would raise an exception in the task handler.
            try:
                chunksize = operator.index(chunksize)
            except TypeError:
                message = f"chunksize must be an integer, not {type(chunksize).__name__}"
                raise TypeError(message) from None
        # Race: another thread may close the pool while an iterable without a length is read.
        # The standard method checks that the pool is running before it reads the iterable, and
        # would add tasks to a closed pool.
        if not hasattr(iterable, "__len__") and self._standard.is_running():
            iterable = list(iterable)
        # The standard method divides by the number of workers, which is 0 if all of them
        # have just been killed.
        if chunksize is None and hasattr(iterable, "__len__"):
            chunksize = -(-len(iterable) // (4 * max(1, self._standard.size())))
        # A subclass may have parameters of its own, and other names.
        positional, keywords = self._standard.replace_args(
            "_map_async", args, kwds, iterable=iterable, chunksize=chunksize
        )
        return self._standard.original("_map_async")(*positional, **keywords)

    def _generate_tasks(self, *args: "Any", **kwds: "Any") -> "Iterator[Any]":
        """Return the tasks of a call, in the calling thread; the task handler consumes them."""
        bound = self._standard.bind("_guarded_task_generation", args, kwds)
        job, iterable = bound["result_job"], bound["iterable"]
        result = self.results.get(job)
        func = self._standard.function_to_send(bound["func"])
        tasks = self._iterate(job, func, iterable, standard_pool.chunks_pending(result))
        if bound.get("sema") is None:
            return tasks
        return self._standard.throttle(result, tasks).send_some()

    # -- Task handler --------------------------------------------------------------------

    @staticmethod
    def _iterate(job: int, func: "Any", iterable: "Iterable[Any]", chunks: int) -> "Iterator[Any]":
        """Yield tasks; if the iterable fails, yield tasks that raise its exception.

        The traceback of that exception refers to this frame, which must not refer to the pool.

        :param chunks: how many tasks a ``map()`` waits for; 0 for other calls
        """
        i, is_reading = -1, True
        try:
            for i, args in enumerate(iterable):
                is_reading = False
                yield job, i, func, (args,), {}
                is_reading = True
            if i + 1 < chunks:
                raise ValueError("the iterable yielded fewer items than its __len__() returned")
        except BaseException as error:
            if not is_reading:
                raise  # GeneratorExit: the task handler sends no more tasks
            for left in range(i + 1, max(i + 2, chunks)):
                yield job, left, raise_error, (error,), {}

    # -- Any of the three threads, when it has failed ---------------------------------------

    def _break_pool(self, reason: str, cause: BaseException) -> None:
        """Break the pool.  ``ProcessSupervisor`` overrides this and the next method."""
        drop_frames(cause)

    def _fail_all(self, error: WorkerLostError) -> None:
        """Fail all pending results, unless the worker handler has failed.

        The threads of a ``ThreadPool`` do not need a worker handler to run tasks.
        """
        if not self._standard.is_worker_handler():
            self.results.fail_all(error)

    # -- Termination, in any thread: called by Terminator -----------------------------------

    def stop_workers(self) -> None:
        """Stop the workers.  Subclasses override this and the next two methods."""

    def discard_tasks(self) -> None:
        """Remove tasks from the queue, which may be full and block the task handler."""

    def release(self, result_handler: threading.Thread) -> None:
        """Release the resources of the workers when the pool has ended."""
        if self._initargs is not None:
            self._initargs.close()


class ThreadSupervisor(Supervisor):
    """Supervisor of a ``ThreadPool``."""

    _run = staticmethod(run_thread)
