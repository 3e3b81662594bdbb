"""In the parent: the supervisor of a pool of processes, which may be killed.

The stock pool keeps its workers, and has one queue for their tasks and one for
their results.  A worker that is killed takes its task with it, and may take the
lock of a queue, or half a message; then everybody waits.  Here each worker has a
record, which says what it was doing, and a pipe for its results alone:

    parent                                                          worker
    ---------------------------------------------------------       ----------------------
    apply_async() -> _taskqueue -> put() -> TaskPipe --------------> _RecordedTasks.get()
                                             | in flight:             |  notes each step
                                             | number -> job, index   v  in its Record
    get() <- _cache <- Collector.get() <- pop(number)                the function runs
                          ^   ^                                       |
                          |   +------------ ResultPipes <------------ _Results.put()
                          |                  one for each worker
                          |
                          +--- tell(): a worker has left - Workforce.settle() reads its Record
"""

import functools
import os
import sys
import threading
import time
import weakref

from .._shared.errors import WorkerLostError
from .._shared.packages import module, warn
from .._shared.record import Records
from .._worker.process import run_recorded
from .collector import Collector
from .critical_section import CriticalSection
from .result_pipes import result_pipes
from .supervisor import Supervisor
from .task_pipe import task_pipe
from .template import Template
from .worker_process import Vacancy
from .workforce import Workforce

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# How many workers a pool may have. Before Python 3.13 Windows waits for 63 handles at once:
# with more, the stock pool's thread that handles workers ends, and close() waits for ever.
MOST = 61 if os.name != "posix" and sys.version_info < (3, 13) else None

# Seconds after which the thread that handles tasks is taken to wait in an iterable.
_PATIENCE = 1.0


class ProcessSupervisor(Supervisor):
    """That of a Pool with the queues of multiprocessing."""

    def connect(self, pool: "Any") -> None:
        self._ctx = pool._ctx
        self._pickler = module(self._package, "reduction").ForkingPickler
        self._wait = module(self._package, "connection").wait
        # No method of this one, which would be held by what it holds.
        self._log = functools.partial(warn, self._package)
        self._tasks = task_pipe(pool._inqueue)
        pipes = result_pipes(pool._outqueue, self._wait)
        self._section = CriticalSection()
        self._collector = Collector(
            pipes,
            self._tasks,
            self._module,
            self._pickler,
            self._section,
            self._log,
            functools.partial(_break_pool, weakref.ref(self)),
        )
        self._workforce: "Any" = None  # until the first worker is made
        pool._quick_put, pool._quick_get = self.put, self._collector.get
        module(self._package, "util").register_after_fork(self, ProcessSupervisor._after_fork)

    def _after_fork(self) -> None:
        self._tasks.close_in_child()
        # A worker is to see that nobody reads its results when the parent is gone.
        for worker in self._workforce.workers if self._workforce else ():
            worker.reader.close()

    # -- In the thread that handles workers ------------------------------------------

    def process(self, *context: "Any", target: "Any", args: "Any", **kwds: "Any") -> "Any":
        inqueue, _, initializer, initargs, *rest = args
        shared = self._share(initializer, initargs)
        if self._workforce is None:
            self._workforce = self._make_workforce(shared)

        def make_process(writer: "Any", record: "Any", is_lazy: bool) -> "Any":
            bound = self._package, target, inqueue, writer, shared, is_lazy, record, *rest
            return self._stock_process()(*context, target=run_recorded, args=bound, **kwds)

        with self._section:
            return self._workforce.hire(make_process) if self._workforce.settle() else Vacancy()

    def _make_workforce(self, shared: "Any") -> Workforce:
        if MOST and self._size > MOST:
            raise ValueError(
                f"processes must be at most {MOST} on Windows with expect_initret, before "
                f"Python 3.13, not {self._size}"
            )
        self._template = Template(self._package, self._ctx, shared)
        return Workforce(
            self._ctx,
            self._size,
            Records(self._package, 2 * self._size),
            self._template,
            self._tasks,
            self._collector,
            self._wait,
            self._log,
            self._section,
        )

    # -- In the thread that handles tasks ----------------------------------------------

    def put(self, task: "Any") -> None:
        """Send a task, as the pool's ``_quick_put`` does, or let the workers leave."""
        if task is None:
            self._dismiss()
            return
        job, index, func, args, _ = task
        if func is self._module._helper_reraises_exception:
            self._collector.fail(job, index, args[0])
            return
        try:
            is_sent = self._tasks.send(job, index, self._pickler.dumps(task))
        except BaseException as error:
            self._collector.fail(job, index, error)
        else:
            if not is_sent and self._workforce.broken:
                self._collector.fail(job, index, WorkerLostError(self._workforce.broken))
                if hasattr(self._cache.get(job), "_set_length"):
                    time.sleep(0.001)  # its iterable may be endless

    def _dismiss(self) -> None:
        for _ in self._workforce.workers:
            self._tasks.send(None, 0, self._pickler.dumps(None))
        self._workforce.see_off()
        self._template.close()

    # -- The end, in any thread ----------------------------------------------------------

    def terminate(self, *args: "Any") -> None:
        if not self._section.postpones(self.terminate, *args):
            super().terminate(*args)

    def _before_the_end(self, pool: "Any") -> None:
        this, terminate = threading.current_thread(), self._module.TERMINATE
        pool.worker_handler._state = pool.task_handler._state = terminate
        if hasattr(pool, "change_notifier"):  # from Python 3.8
            pool.change_notifier.put(None)
        for throttle in getattr(pool, "taskqueue_buffersize_semaphores", ()):  # from Python 3.16
            throttle.release()
        if this is not pool.worker_handler:
            pool.worker_handler.join()  # or it would start others
        self._workforce.end()
        self._collector.is_stopped = True
        # The stock function reads whole messages from the pipe, where a part of one may be.
        pool.taskqueue.put(None)
        deadline = time.monotonic() + _PATIENCE
        while pool.task_handler.is_alive() and this is not pool.task_handler:
            self._tasks.drain()
            pool.task_handler.join(0.01)
            if time.monotonic() > deadline:
                # It waits in an iterable, may be for ever. Nobody else is to.
                pool.result_handler._state = terminate
                pool.outqueue.put(None)
                if this is not pool.result_handler:
                    pool.result_handler.join()
                self._end_results(pool)
                deadline = float("inf")

    def _after_the_end(self, pool: "Any") -> None:
        self._template.close()
        if threading.current_thread() is not pool.result_handler:
            # Or they would stay, with all that is open, until the garbage is collected.
            self._collector.close()
            self._workforce.workers.clear()


def _break_pool(supervisor: "Any", error: BaseException, is_final: bool) -> None:
    self = supervisor()
    if self is not None:
        self._workforce.break_(f"{error!r} in the result handler")
        if is_final:
            self._cache.fail_all(self._workforce.broken)
