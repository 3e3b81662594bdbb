"""Supervisor of a pool of processes: it connects the parts below to the pool's three threads.

The standard pool has one queue for the tasks of all workers and one for their results.  A
worker that is killed never finishes its task.  It may also hold the lock of a queue, or have
written half a message; then all other workers hang.  Here each worker has a record, which
holds its state, and a result pipe of its own:

    parent                                                        worker
    ---------------------------------------------------------     ------------------------
    apply_async() -> _taskqueue -> _send() -> TaskPipe ---------> RecordedTasks.get()
                                              | in flight:          | records each step in
                                              | number -> task      v its Record
    get() <- PendingResults <- Collector.get() <- pop(number)      runs the function
                                   ^   ^                            |
                                   |   +--- ResultPipes <--------- Results.put()
                                   |        one for each worker
                                   |
                                   +-- Workforce.reap() reads the Record of a worker
                                       that has exited

    thread           runs
    ---------------  -----------------------------------------------------------------
    constructor      process(), Starter.start_deferred()
    worker handler   process(), Starter.start(), Workforce.reap()
    task handler     _send(): TaskPipe.send(), Workforce.wait_for_exit(), release()
    result handler   Collector.get()
    any              Terminator.terminate(): Workforce.terminate()
"""

import functools
import os
import sys
import threading
import time
import weakref

from .._shared.errors import WorkerLostError, describe
from .._shared.packages import log_warning, module, pickler_class
from .._shared.record import Records
from .._worker.process import Channel, run_process
from .._worker.tasks import raise_error
from . import standard_forkserver
from .collector import Collector
from .launcher import Launcher
from .main_module import explain_unpicklable
from .reaper import Reaper
from .result_pipes import result_pipes
from .standard_pool import is_iterator
from .starter import Starter
from .supervisor import Supervisor
from .template import Template
from .worker_process import PlaceholderProcess, WorkerProcess
from .workforce import Workforce

if os.name == "posix":
    from .posix_task_pipe import PosixTaskPipe as NativeTaskPipe
else:
    from .windows_task_pipe import (  # type: ignore[assignment,unused-ignore]
        WindowsTaskPipe as NativeTaskPipe,
    )

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .thread_guard import ThreadGuard

#: Maximum number of workers of a pool; None if there is no limit.  On Windows before Python
#: 3.13, connection.wait() accepts at most 63 handles.  With more workers, the worker handler of
#: the standard pool ends with an exception, and close() hangs.
MAX_WORKERS = 61 if os.name != "posix" and sys.version_info < (3, 13) else None

# Number of additional records.  A program may increase the number of workers of a running pool.
_SPARE_RECORDS = 1000

# Time, in seconds, that the task handler of a closed pool waits for the end of the result handler.
_RESULT_HANDLER_TIMEOUT = 0.5


class ProcessSupervisor(Supervisor):
    """Supervisor of a ``Pool`` with the standard queues.

    It creates the parts, and connects them to the pool's threads.  The constructor of the pool sets
    ``_is_first``, and the task handler ``_is_shut_down``.
    """

    def __init__(self, pool: "Any", package: str, guard: "ThreadGuard") -> None:
        super().__init__(pool, package, guard)
        self._ctx = pool._ctx
        if self._ctx.get_start_method() == "forkserver":
            standard_forkserver.check(package)
        self._pickler = pickler_class(package)
        connection = module(package, "connection")
        self._wait, self._pipe = connection.wait, connection.Pipe
        # A bound method would refer to this object.  The parts would then be in a reference
        # cycle, and stay open until the garbage collector runs.
        self._log = functools.partial(log_warning, package)
        self._task_pipe = NativeTaskPipe(pool._inqueue, self._section)
        pipes = result_pipes(pool._outqueue, self._wait)
        self._collector = Collector(
            pipes,
            self._task_pipe,
            self._standard.module,
            self._pickler,
            self._section,
            self._log,
            functools.partial(_handle_failure, weakref.ref(self)),
            self._standard.wake_worker_handler,
        )
        # Whether the constructor is creating the first workers.
        self._is_first = False
        self._is_shut_down = False
        # None until the first worker is created.
        self._workforce: "Any" = None
        self._starter: "Any" = None
        self._records: "Any" = None
        self._template: "Any" = None
        self._standard.replace(
            pool,
            _quick_put=self._send,
            _quick_get=self._collector.get,
            _repopulate_pool=self._repopulate_pool,
        )
        if hasattr(os, "register_at_fork"):
            _supervisors.add(self)
        else:  # Python 3.6, or Windows
            module(package, "util").register_after_fork(self, ProcessSupervisor._after_fork)

    def _after_fork(self) -> None:
        self._section.leave_in_child()
        self._task_pipe.close_in_child()
        if self._workforce is not None:
            self._workforce.close_in_child()
            self._template.close_in_child()

    # -- Callers ---------------------------------------------------------------------------

    def _repopulate_pool(self) -> None:
        """Add workers.

        This is called by the constructor, by programs that have changed the number of workers, and
        before Python 3.8 by the worker handler.
        """
        self._is_first = self._starter is None
        try:
            self._standard.original("_repopulate_pool")()
        except BaseException:
            if self._starter is not None:
                self._starter.discard_deferred()
            raise
        if self._is_first:
            self._is_first = False
            self._starter.start_deferred()
        else:
            # The worker handler waits for the exit of those workers that it has seen in the list.
            self._standard.wake_worker_handler()

    # -- Worker handler --------------------------------------------------------------------

    def process(self, *context: "Any", target: "Any", args: "Any", **kwds: "Any") -> "Any":
        try:
            return self._create(*context, target=target, args=args, **kwds)
        except Exception as error:
            if not self._standard.is_worker_handler():
                raise
            # An exception would end the worker handler.
            self._workforce.break_pool(f"{describe(error)} while a worker was created", error)
            return PlaceholderProcess()

    def _create(self, *context: "Any", target: "Any", args: "Any", **kwds: "Any") -> "Any":
        channel = Channel()
        bound = self._bind(target, args, channel)
        if self._is_shut_down or not self._workforce.accepts_workers():
            return PlaceholderProcess()
        process = self._standard.original("Process")(
            *context, target=run_process, args=bound, **kwds
        )
        start = self._starter.start
        if self._is_first:
            # A method of a subclass may expect that each worker runs after its start().
            is_standard = self._standard.has_standard_repopulate()
            start = self._starter.defer if is_standard else self._starter.start_first
        return WorkerProcess(start, self._workforce.reap, process, channel)

    def _prepare(self, initargs: "Any") -> None:
        super()._prepare(initargs)
        self._template = Template(self._package, self._ctx, initargs)
        records = self._records = Records(self._package, 2 * self._standard.size() + _SPARE_RECORDS)
        reaper = Reaper(self._standard.size, records, self._task_pipe, self._collector)
        self._workforce = Workforce(
            self._section, records, reaper, self._task_pipe, self._collector, self._log
        )
        launcher = Launcher(
            self._ctx,
            self._pipe,
            self._standard,
            records,
            self._template,
            reaper,
            self._collector.unpickling_lock,
        )
        self._starter = Starter(
            self._standard, self._section, launcher, self._workforce, self._wait, self._log
        )

    # -- Task handler ----------------------------------------------------------------------

    def _send(self, task: "Any") -> None:
        """Send a task to the workers, in place of the pool's ``_quick_put``.

        :param task: the task; None when the pool has been closed and all tasks have been sent
        """
        try:
            if task is None:
                self._shut_down_workers()
            else:
                self._send_task(*task)
        except BaseException as error:
            # The task handler would set an Exception as the task's result, at the same time as the
            # result handler may.  Any other exception would end the task handler.
            self._workforce.break_pool(f"{describe(error)} in the task handler", error)
            if task is not None:
                self._collector.fail(task[0], task[1], self._workforce.broken_error())

    def _send_task(self, job: int, index: int, func: "Any", args: "Any", kwds: "Any") -> None:
        if func is raise_error:
            self._collector.fail(job, index, args[0])
            return
        try:
            message = self._pickler.dumps((job, index, func, args, kwds))
        except BaseException as error:
            self._collector.fail(job, index, explain_unpicklable(error))
            return
        try:
            is_sent = self._task_pipe.send(job, index, message)
        except BaseException as error:
            if self._task_pipe.is_incomplete():
                raise
            # The traceback would keep the message as long as the program keeps the exception.
            self._collector.fail(job, index, error.with_traceback(None))
        else:
            if not is_sent and self._workforce.broken:
                self._collector.fail(job, index, self._workforce.broken_error())
                if is_iterator(self.results.get(job)):
                    time.sleep(0.001)  # do not busy-loop: the iterable may be endless

    def _shut_down_workers(self) -> None:
        """Send each worker a sentinel, and wait until all workers have exited.

        The task handler calls this once for each worker in the pool's list.
        """
        if self._is_shut_down:
            return
        for _ in list(self._workforce.workers):
            self._task_pipe.send(None, 0, self._pickler.dumps(None))
        if self._standard.is_task_handler_terminated():
            # terminate() waits for the workers.  A fork server sends an exit code once: if two
            # threads wait for it, one of them stores UNKNOWN_EXITCODE.
            self._is_shut_down = True
            return
        self._workforce.wait_for_exit()
        self._is_shut_down = True
        result_handler = self._standard.result_handler()
        if result_handler is not None and not self._workforce.is_stopped:
            # The program may keep the closed pool.  The result handler has received the sentinel
            # and all results.  If it does not end, its pipes stay open until the pool is garbage.
            result_handler.join(_RESULT_HANDLER_TIMEOUT)
            self.release(result_handler)

    # -- Any of the three threads, when it has failed -----------------------------------------

    def _break_pool(self, reason: str, cause: BaseException) -> None:
        self._workforce.break_pool(reason, cause)

    def _fail_all(self, error: WorkerLostError) -> None:
        if threading.current_thread() is self._standard.result_handler():
            # No thread runs posted calls any more, and each task that fails may post another.
            self._collector.discard()
            self.results.fail_all(error)
        elif self.results:
            try:
                self._collector.call_soon(self.results.fail_all, error)
            except OSError:  # the program has closed the descriptor
                self.results.fail_all(error)

    # -- Termination, in any thread ----------------------------------------------------------

    def stop_workers(self) -> None:
        self._workforce.terminate()

    def discard_tasks(self) -> None:
        # The standard _help_stuff_finish() would hang on half a message in the pipe.
        self._task_pipe.drain()

    def release(self, result_handler: threading.Thread) -> None:
        self._template.close()
        self._records.close()
        super().release(result_handler)
        if not result_handler.is_alive():
            # Close the pipes now, not when the garbage collector runs.
            self._workforce.workers.clear()
            self._collector.close()


# The supervisors of this process, whose pipes are closed in each forked child.  Otherwise the
# workers would not see the end of the task pipe if the parent was killed.  register_after_fork() of
# multiprocessing.util does not cover the children of os.fork().
_supervisors: "Any" = weakref.WeakSet()


def _after_fork() -> None:
    for supervisor in list(_supervisors):
        supervisor._after_fork()


if hasattr(os, "register_at_fork"):  # since Python 3.7, on POSIX
    os.register_at_fork(after_in_child=_after_fork)


def _handle_failure(weak_supervisor: "Any", error: BaseException) -> None:
    """Break the pool.  Called by the result handler after an unexpected exception."""
    supervisor = weak_supervisor()
    if supervisor is None:
        return
    workforce = supervisor._workforce
    try:
        workforce.break_pool(f"{describe(error)} in the result handler", error)
    finally:
        # break_pool() fails the tasks in flight.  The task whose result was just received is
        # not in flight any more, and other tasks have not been sent yet.
        supervisor.results.fail_all(workforce.broken_error())
