"""The worker processes of a pool: their start, their reaping, and their termination."""

import os
import threading
import time

from .._shared.errors import WorkerLostError
from .._worker.process import Channel
from .worker_process import PlaceholderProcess, WorkerProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional

    from .collector import Collector
    from .critical_section import CriticalSection
    from .reaper import Reaper
    from .standard_pool import StandardPool
    from .starter import Starter
    from .task_pipe import TaskPipe

#: Time, in seconds, after which a worker that ignores SIGTERM is killed.
TERMINATION_TIMEOUT = 10.0

# Time, in seconds, between checks for killed workers while waiting for workers to exit.
_REAP_INTERVAL = 0.1

# Shortest and longest pause, in seconds, before another attempt to start a worker.
_FIRST_PAUSE = 0.01
_LAST_PAUSE = 1.0


class Workforce:
    """The worker processes of one pool.

    The worker handler starts and reaps workers.  When the pool is closed, the task handler
    waits for them; any thread may terminate them.  ``_lock`` guards ``workers`` and
    ``is_stopped``.

    :param standard: the private attributes of the pool
    :param section: a section in which the pool is not terminated by the garbage collector
    :param starter: starts the processes of the workers
    :param reaper: recovers what workers held when they exited
    :param tasks: the pipe that workers read tasks from
    :param collector: receives the results of the workers
    :param wait: ``multiprocessing.connection.wait``
    :param log: logs a warning
    """

    def __init__(
        self,
        standard: "StandardPool",
        section: "CriticalSection",
        starter: "Starter",
        reaper: "Reaper",
        tasks: "TaskPipe",
        collector: "Collector",
        wait: "Any",
        log: "Callable[[str], None]",
    ) -> None:
        self._standard = standard
        self._section = section
        self._starter = starter
        self._reaper = reaper
        #: the workers that have been started and have not been reaped
        self.workers = reaper.workers
        self._tasks = tasks
        self._collector = collector
        self._wait = wait
        self._log = log
        self._constructing: "Optional[threading.Thread]" = threading.current_thread()
        #: why the pool is broken; empty if it is not
        self.broken = ""
        self._cause: "Optional[BaseException]" = None
        #: whether the pool has been terminated
        self.is_stopped = False
        self._lock = threading.Lock()
        self._has_failed_to_start = False
        self._starting: "List[WorkerProcess]" = []

    def close_in_child(self) -> None:
        """Close the parent's ends of all result pipes in a worker that has just been forked.

        If the parent dies, a worker that sends a result must receive an error, which it does
        only if no process has the parent's end of its pipe open.
        """
        for worker in [*self.workers, *self._starting]:
            worker.reader.close()

    def constructed(self) -> None:
        """Called when the constructor of the pool is about to return."""
        self._constructing = None

    def is_constructing(self) -> bool:
        """Return whether this thread is constructing the pool."""
        return threading.current_thread() is self._constructing

    # -- Start, in the worker handler ------------------------------------------------------

    def create(self, make_process: "Callable[[Channel], Any]") -> "Any":
        """Return a worker that is not started yet.

        :param make_process: returns a process object for a channel, which is completed when
            the process is started
        """
        self.reap()
        if self.broken or self.is_stopped:
            return PlaceholderProcess()
        channel = Channel()
        return WorkerProcess(self.start, make_process(channel), channel)

    def start(self, worker: WorkerProcess) -> bool:
        """Start a worker, and return whether it has been started.

        A failed start is repeated while other workers are alive, because a lack of processes
        or descriptors may be transient.

        :raises Exception: in the constructor of the pool, any exception of ``Process.start()``
        """
        try:
            if not self._try_to_start(worker):
                return self._start_later(worker)
            return True
        except Exception as error:
            if self.is_constructing():
                # Before Python 3.8 the standard constructor leaves the other workers running.
                self.terminate()
                raise self._starter.failed_in_constructor(error) from error.__cause__
            # An exception would end the worker handler.
            self.break_pool(f"{error!r} while a worker was started", error)
            return False

    def _start_later(self, worker: WorkerProcess) -> bool:
        """Try to start a worker again and again, until the pool does not need it any more."""
        pause = _FIRST_PAUSE
        notifier = self._standard.change_notifier()
        try:
            while self._can_start() and self._standard.needs_workers():
                self._pause(pause, notifier)
                pause = min(2 * pause, _LAST_PAUSE)
                if self._try_to_start(worker):
                    return True
            return False
        finally:
            if notifier is not None:
                # _pause() has emptied the notifier.  Wake the worker handler, because the
                # state of the pool may have changed.
                notifier.put(None)

    def _can_start(self) -> bool:
        return not self.broken and not self.is_stopped

    def _try_to_start(self, worker: WorkerProcess) -> bool:
        if not self._can_start():
            return False
        try:
            with self._section:
                self._starting.append(worker)
                if not self._starter.start(worker):
                    return False
                self._add(worker)
        except Exception as error:
            if self.is_constructing():
                raise
            self._handle_failed_start(error)
            return False
        finally:
            self._starting.remove(worker)
        self._has_failed_to_start = False
        return True

    def _add(self, worker: WorkerProcess) -> None:
        with self._lock:
            self.workers.append(worker)
            if self.is_stopped:
                worker.terminate()
        self._collector.add_worker(worker, self.is_constructing())

    def _handle_failed_start(self, error: Exception) -> None:
        """Log that a worker could not be started; break the pool if no worker is alive."""
        reason = f"a worker could not be started: {error!r}"
        if not any(worker.exitcode is None for worker in self.workers):
            self.break_pool(reason, error)
        elif not self._has_failed_to_start:
            self._has_failed_to_start = True
            self._log(reason)

    def _pause(self, seconds: float, notifier: "Any") -> None:
        """Wait until a worker exits or the pool is closed, but not longer than *seconds*."""
        waited: "List[Any]" = [worker.sentinel for worker in self.workers]
        if notifier is not None:
            waited.append(notifier._reader)
        self._wait(waited, seconds)
        while notifier is not None and not notifier.empty():
            notifier.get()
        self.reap()

    # -- Reap, in the worker handler or the task handler -----------------------------------

    def reap(self, candidates: "Optional[List[WorkerProcess]]" = None) -> None:
        """Reap workers that have exited, and recover the locks and messages they held.

        :param candidates: the workers to look at, by default all
        """
        reason, cause = "", None
        try:
            with self._section, self._lock:
                if self.is_stopped:
                    return
                workers = self.workers if candidates is None else candidates
                exited = [worker for worker in workers if worker.exitcode is not None]
                reason = self._reaper.reap(exited, bool(self.broken))
        except Exception as error:
            # An exception would end the thread, and nothing would reap workers any more.
            reason, cause = f"{error!r} while an exited worker was reaped", error
            # The list must become empty, or wait_for_exit() would hang.
            with self._lock:
                self.workers[:] = [worker for worker in self.workers if worker.exitcode is None]
        if reason:
            self.break_pool(reason, cause)

    # -- Break and terminate, in any thread ------------------------------------------------

    def break_pool(self, reason: str, cause: "Optional[BaseException]" = None) -> None:
        """Break the pool: fail all tasks, pending and later ones, with :exc:`WorkerLostError`.

        :param reason: completes "the pool is broken: "
        :param cause: becomes the ``__cause__`` of the exceptions
        """
        if self.broken:
            return
        self._cause = cause
        self.broken = "the pool is broken: " + reason
        self._tasks.stop_workers(self._starter.records)
        self._collector.fail_all(self.broken_error())
        self._log(self.broken)
        for worker in list(self.workers):
            worker.terminate()
        self._tasks.close()
        if os.name != "posix":
            for worker in list(self.workers):
                worker.join()
        self._tasks.unblock_sender()

    def broken_error(self) -> WorkerLostError:
        """Return the exception that a task of the broken pool fails with."""
        error = WorkerLostError(self.broken)
        error.__cause__ = self._cause
        return error

    def _states_of_living(self) -> "List[int]":
        return [worker.record.state for worker in self.workers if worker.is_alive()]

    def wait_for_exit(self) -> None:
        """Wait until all workers have exited.  Called after sentinels have been sent to them.

        A worker may be killed meanwhile while it holds the lock that the others wait for.
        Therefore exited workers are reaped, too.
        """
        deadline = time.monotonic() + TERMINATION_TIMEOUT
        while self.workers and not self.is_stopped:
            worker = self.workers[0]
            worker.join(_REAP_INTERVAL)
            if worker.exitcode is not None:
                self.reap([worker])
            else:
                self.reap()
                if self.broken and time.monotonic() > deadline:
                    worker.kill()

    def terminate(self) -> None:
        """Terminate all workers, and start no others."""
        with self._lock:
            self.is_stopped = True
        self._tasks.stop_workers(self._starter.records)
        workers = list(self.workers)
        for worker in workers:
            if worker.exitcode is None:
                worker.terminate()
        deadline = time.monotonic() + TERMINATION_TIMEOUT
        for worker in workers:
            while worker.exitcode is None:
                worker.join(_REAP_INTERVAL)
                self._tasks.release_abandoned_lock(self._states_of_living)
                if time.monotonic() > deadline:
                    worker.kill()
            self._reaper.ensure_exit(worker)
        self._tasks.close()
        # The standard _help_stuff_finish() acquires this lock.
        self._tasks.release_abandoned_lock(self._states_of_living)
