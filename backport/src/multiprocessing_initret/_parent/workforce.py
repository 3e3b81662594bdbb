"""The worker processes of a pool: add and reap them, and terminate them when the pool ends."""

import contextlib
import functools
import threading
import time
import weakref

from .._shared.errors import WorkerLostError, describe, drop_frames
from .._shared.record import INITIALIZING, STARTING
from .critical_section import start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Optional

    from .._shared.record import Records
    from .collector import Collector
    from .critical_section import CriticalSection
    from .reaper import Reaper
    from .task_pipe import TaskPipe
    from .worker_process import WorkerProcess

#: Time, in seconds, after which a worker that ignores SIGTERM is killed.
TERMINATION_TIMEOUT = 10.0

# Time, in seconds, that idle workers have to exit by themselves when the pool is terminated.  Their
# exit handlers and finalizers run then, as in the standard pool, which is slower to send SIGTERM.
_IDLE_TIMEOUT = 0.1

# Time, in seconds, between checks for killed workers while waiting for workers to exit.
_REAP_INTERVAL = 0.1


class Workforce:
    """The worker processes of one pool.

    The threads that start workers add them (see ``Starter``), and the worker handler reaps
    them.  When the pool is closed, the task handler waits for the workers and reaps them.  Any
    thread may terminate them.

    ``_lock`` is held while a worker is added or reaped, and while ``is_stopped`` is set: either a
    worker is added before the pool is terminated, or it is terminated at once.  Threads that
    block while they iterate over the list copy it.  The lock is not reentrant, so the threads that
    acquire it are in the section, except in :meth:`terminate`, which runs outside.

    :param section: the pool's critical section
    :param records: the records of the workers
    :param reaper: recovers what workers held when they exited
    :param tasks: the pipe that workers read tasks from
    :param collector: receives the results of the workers
    :param log: logs a warning
    """

    def __init__(
        self,
        section: "CriticalSection",
        records: "Records",
        reaper: "Reaper",
        tasks: "TaskPipe",
        collector: "Collector",
        log: "Callable[[str], None]",
    ) -> None:
        self._section = section
        self._records = records
        self._reaper = reaper
        #: the workers that have been started and have not been reaped
        self.workers = reaper.workers
        #: the workers that are being started
        self.starting = reaper.starting
        self._tasks = tasks
        self._collector = collector
        self._log = log
        #: why the pool is broken; empty if it is not
        self.broken = ""
        self._cause: "Optional[BaseException]" = None
        #: whether the pool has been terminated
        self.is_stopped = False
        self._lock = threading.Lock()

    def close_in_child(self) -> None:
        """Close the parent's ends of all result pipes in a forked child, such as a worker.

        If the parent dies, a worker that sends a result must receive an error, which it does
        only if no process has the parent's end of its pipe open.
        """
        for worker in [*self.workers, *self.starting]:
            if worker.reader is not None:  # race: another thread may be about to create the pipe
                with contextlib.suppress(OSError):  # the program has closed the descriptor
                    worker.reader.close()

    # -- Add, in the threads that start workers --------------------------------------------

    def accepts_workers(self) -> bool:
        """Return whether workers may be added: the pool is neither broken nor terminated."""
        return not self.broken and not self.is_stopped

    def add(self, workers: "List[WorkerProcess]", is_constructing: bool) -> None:
        """Add workers that have been started.

        :param is_constructing: whether the constructor of the pool starts the workers, before it
            starts the threads
        """
        with self._lock:
            self.workers += workers
            if not self.accepts_workers():
                for worker in workers:
                    worker.terminate()
        for worker in workers:
            self._collector.add_worker(worker, is_constructing)

    # -- Reap, in the worker handler or the task handler -----------------------------------

    def reap(self) -> None:
        """Reap workers that have exited, and recover the locks and messages they held."""
        reason, cause = "", None
        try:
            with self._section, self._lock:
                if self.is_stopped:
                    return
                exited = [worker for worker in self.workers if worker.exitcode is not None]
                reason = self._reaper.reap(exited, bool(self.broken))
        except Exception as error:
            # An exception would end the thread, and nothing would reap workers any more.
            reason, cause = f"{describe(error)} while an exited worker was reaped", error
            # The list must become empty, or wait_for_exit() would hang.
            with self._section, self._lock:
                self.workers[:] = [worker for worker in self.workers if worker.exitcode is None]
        if reason:
            self.break_pool(reason, cause)

    # -- Break and terminate, in any thread ------------------------------------------------

    def break_pool(self, reason: str, cause: "Optional[BaseException]" = None) -> None:
        """Break the pool: fail all tasks, pending and later ones, with :exc:`WorkerLostError`.

        :param reason: completes "the pool is broken: "
        :param cause: becomes the ``__cause__`` of the exceptions
        """
        if cause is not None:
            drop_frames(cause)
        if self.broken:
            return
        self._cause = cause
        self.broken = "the pool is broken: " + reason
        with contextlib.suppress(OSError):  # the program has closed the descriptor
            self._tasks.stop_workers(self._records)
        self._collector.fail_all(self.broken_error())
        self._log(self.broken)
        for worker in list(self.workers):
            with contextlib.suppress(PermissionError):  # it belongs to another user now
                worker.terminate()
        self._tasks.close()
        self._tasks.unblock_sender(self.workers)
        start_thread(functools.partial(_kill_remaining, weakref.ref(self)))

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
        Therefore exited workers are reaped every :data:`_REAP_INTERVAL` seconds.  They are not
        reaped one by one, because the result handler wakes up each time.
        """
        while self.workers and not self.is_stopped:
            next_reap = time.monotonic() + _REAP_INTERVAL
            # Workers usually exit in the order of this list.  When the last one has exited, the
            # others need not be waited for, which takes 30 microseconds for each.
            for worker in self.workers[::-1]:
                remaining = next_reap - time.monotonic()
                if remaining <= 0:
                    break
                if worker.exitcode is None:
                    worker.process.join(remaining)
            self.reap()

    def _is_idle(self, worker: "WorkerProcess") -> bool:
        """Return whether a worker has no task, and is not starting."""
        state, number = worker.record.read()
        return state not in (STARTING, INITIALIZING) and not self._tasks.has_task(number)

    def terminate(self) -> None:
        """Terminate all workers, and start no others."""
        with self._lock:
            self.is_stopped = True
        self._tasks.stop_workers(self._records)
        workers = list(self.workers)
        idle: "List[WorkerProcess]" = []
        others: "List[WorkerProcess]" = []
        for worker in workers:
            (idle if self._is_idle(worker) else others).append(worker)
        for worker in others:
            if worker.exitcode is None:
                worker.terminate()
        deadline = time.monotonic() + _IDLE_TIMEOUT
        for worker in idle:
            worker.process.join(max(0, deadline - time.monotonic()))
            if worker.exitcode is None:
                worker.terminate()
        deadline = time.monotonic() + TERMINATION_TIMEOUT
        for worker in workers:
            while worker.exitcode is None:
                worker.process.join(_REAP_INTERVAL)
                self._tasks.release_lock_of_dead_worker(self._states_of_living)
                if time.monotonic() > deadline:
                    worker.kill()
            self._reaper.ensure_exit(worker)
        self._tasks.close()
        # The standard _help_stuff_finish() acquires this lock.
        self._tasks.release_lock_of_dead_worker(self._states_of_living)


def _kill_remaining(weak_workforce: "weakref.ref[Workforce]") -> None:
    """Kill the workers that still run some time after the pool has been broken.

    :meth:`Workforce.break_pool` calls this in another thread.  The time is
    :data:`TERMINATION_TIMEOUT`.

    :param weak_workforce: weak, so that this thread does not keep what the workforce refers to
    """
    deadline = time.monotonic() + TERMINATION_TIMEOUT
    while True:
        workforce = weak_workforce()
        if workforce is None or workforce.is_stopped:
            return
        if not workforce.workers and not workforce.starting:
            return
        if time.monotonic() > deadline:
            for worker in list(workforce.workers):
                worker.kill()
            return
        del workforce
        time.sleep(_REAP_INTERVAL)
