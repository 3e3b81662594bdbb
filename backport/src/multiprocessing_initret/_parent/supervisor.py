"""In the parent: what a pool with the keyword puts between itself and its workers.

The pool's own three threads do the work, and run what is plugged in here:

    caller                 pool._map_async, pool._cache      Supervisor, PendingResults
    thread of the workers  pool.Process                      ProcessSupervisor, Workforce
    thread of the tasks    pool._guarded_task_generation,    Supervisor,
                           pool._quick_put                   ProcessSupervisor, TaskPipe
    thread of the results  pool._quick_get                   Collector, ResultPipes
    any, the collector's   pool._terminate_pool              Supervisor.terminate

This module has what pools of threads need, and pools with queues of their own.  What
workers need that may be killed is in _process_supervisor.
"""

import types
import weakref

from .._shared.initargs import InitArgs
from .._shared.packages import module
from .._worker.tasks import run
from .._worker.thread import run_thread
from .pending_results import pending_results_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator, Optional, Tuple


class Supervisor:
    """That of a pool with queues of its own, and what those of the others have too."""

    def __init__(self, pool: "Any", package: str) -> None:
        self._package = package
        self._module = module(package, "pool")
        self._shared: "Optional[InitArgs]" = None
        # The threads of a pool hold this, and must not hold the pool: it ends when
        # nobody else does.
        self._weak_pool = weakref.ref(pool)
        process = pool.Process
        # Before Python 3.8 it is a method, and holds the pool.
        is_method = isinstance(process, types.MethodType)
        self._stock_process: "Any" = weakref.WeakMethod(process) if is_method else lambda: process
        self._stock_terminate = pool._terminate_pool
        # Its arguments are not the same in all versions of Python, but the names are.
        code = self._module.Pool._terminate_pool.__func__.__code__
        self._names = code.co_varnames[1 : code.co_argcount]
        pool.Process = self.process
        pool._terminate_pool = self.terminate
        pool._map_async = self._map_async
        pool._guarded_task_generation = self._generate

    def connect(self, pool: "Any") -> None:
        """Stand between the pool and its queues, once they are there."""

    # -- Workers, in the thread that handles them --------------------------------

    def process(self, *context: "Any", target: "Any", args: "Any", **kwds: "Any") -> "Any":
        """Make a worker, which is not started yet, as the pool's ``Process`` does."""
        inqueue, outqueue, initializer, initargs, *rest = args
        shared = self._share(initializer, initargs)
        target, args = self._bind(target, (inqueue, outqueue, shared, *rest))
        return self._stock_process()(*context, target=target, args=args, **kwds)

    def _bind(self, target: "Any", args: "Any") -> "Tuple[Any, Any]":
        return run, (self._package, target, *args)

    def _share(self, initializer: "Any", initargs: "Any") -> InitArgs:
        if self._shared is None:
            if initializer is None:
                raise ValueError("expect_initret requires an initializer")
            self._shared = InitArgs((initializer, *initargs), self._package)
            pool: "Any" = self._weak_pool()
            self._size = pool._processes
            self._watch(pool)
        return self._shared

    def _watch(self, pool: "Any") -> None:
        """Have the pool keep its results where they all end."""
        # These must not hold this supervisor, or all that it has would stay until the
        # garbage is collected.
        weak_pool, run = self._weak_pool, self._module.RUN

        def is_running() -> bool:
            pool: "Any" = weak_pool()
            return pool is not None and pool._state == run

        kwds = {}
        stock: "Any" = type(pool._cache)
        if stock is not dict:  # from Python 3.8
            notifier = pool._change_notifier

            def notify(_: None) -> None:
                # The thread that handles workers wants to know it when the pool closes, and
                # close() wakes it too. While the pool runs, it would be in the way of who
                # waits for a task and gives the next.
                if not is_running():
                    notifier.put(None)

            kwds["notifier"] = types.SimpleNamespace(put=notify)
            # Results are nothing to the thread that handles workers, which would wake up
            # again and again until a callback returns.
            results = getattr(pool._outqueue, "_reader", None)
            sentinels = [item for item in pool._get_sentinels() if item is not results]
            pool._get_sentinels = lambda: sentinels
        self._cache = pool._cache = pending_results_class(stock)(is_running, **kwds)

    # -- Calls -------------------------------------------------------------------

    def _map_async(
        self,
        func: "Any",
        iterable: "Any",
        mapper: "Any",
        chunksize: "Optional[int]" = None,
        *args: "Any",
        **kwds: "Any",
    ) -> "Any":
        pool: "Any" = self._weak_pool()
        # The stock function sees that the pool runs, and then reads what may take long:
        # who closes the pool meanwhile leaves tasks that nobody takes.
        if not hasattr(iterable, "__len__") and pool._state == self._module.RUN:
            iterable = list(iterable)
        # It divides by the number of workers that there are just now: where all have been
        # killed that is none.
        if chunksize is None and hasattr(iterable, "__len__"):
            chunksize = -(-len(iterable) // (4 * self._size))
        return type(pool)._map_async(pool, func, iterable, mapper, chunksize, *args, **kwds)

    # -- Tasks, in the thread that handles them ------------------------------------

    def _generate(
        self, job: int, func: "Any", iterable: "Iterable[Any]", throttle: "Any" = None
    ) -> "Iterator[Any]":
        """Yield the tasks of a job, and last what has ended them early, if anything has."""
        # What a map() waits for; the others are told how many tasks there were.
        chunks = getattr(self._cache.get(job), "_number_left", 0)
        if throttle is not None:  # from Python 3.16
            iterable = self._throttled(iterable, throttle)
        i, is_reading = -1, True
        try:
            for i, args in enumerate(iterable):
                is_reading = False
                yield job, i, func, (args,), {}
                is_reading = True
            if i + 1 < chunks:
                raise ValueError("the iterable yielded fewer items than its len() said")
        except BaseException as error:
            if not is_reading:
                raise  # a GeneratorExit: nobody takes more
            for left in range(i + 1, max(i + 2, chunks)):
                yield job, left, self._module._helper_reraises_exception, (error,), {}

    def _throttled(self, iterable: "Iterable[Any]", throttle: "Any") -> "Iterator[Any]":
        """Yield items no faster than results are taken, until the pool is closed."""
        iterator = iter(iterable)
        while True:
            throttle.acquire()
            pool: "Any" = self._weak_pool()
            if pool is None or pool._state != self._module.RUN:
                return
            del pool
            try:
                item = next(iterator)
            except StopIteration:
                return
            yield item

    # -- The end -------------------------------------------------------------------

    def terminate(self, *args: "Any") -> None:
        """End the pool as ``_terminate_pool`` does, and all results that are left."""
        pool = types.SimpleNamespace(**dict(zip(self._names, args)))
        try:
            self._before_the_end(pool)
            if not pool.result_handler.is_alive():
                # The stock function would complain of results that nobody will set.
                self._end_results(pool)
            self._stock_terminate(*args)
        finally:
            # Also where this was interrupted.
            self._end_results(pool)
        self._after_the_end(pool)

    def _end_results(self, pool: "Any") -> None:
        pool.cache.fail_all("the pool was terminated before this task had ended")

    def _before_the_end(self, pool: "Any") -> None:
        """Do what must be done for the stock function to come to an end.

        :param pool: what that function gets, by its names
        """

    def _after_the_end(self, pool: "Any") -> None:
        """Give up what belonged to the workers."""


class ThreadSupervisor(Supervisor):
    """That of a ThreadPool."""

    def _bind(self, target: "Any", args: "Any") -> "Tuple[Any, Any]":
        return run_thread, (self._package, target, *args)
