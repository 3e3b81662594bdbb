"""Recover the lock, the messages and the task of a worker that has exited."""

import os
import select
import signal

from .._shared.record import (
    HOLDING,
    INITIALIZED,
    INITIALIZING,
    READING,
    RUNNING,
    STARTING,
    WAITING,
)
from .main_module import startup_failure_hint
from .worker_process import UNKNOWN_EXITCODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List

    from .._shared.record import Records
    from .collector import Collector
    from .task_pipe import TaskPipe
    from .worker_process import WorkerProcess

# Time, in seconds, to wait for the system to close the pipe of a process that was killed.
_HANGUP_TIMEOUT = 1.0

# The pool breaks when this many workers in a row have been killed or interrupted while they were
# starting or, in a large pool, _MAX_GENERATIONS times as many workers as the pool has.  Random
# kills and Ctrl-C rarely hit many starting workers in a row; an out-of-memory killer does.
_MAX_KILLED_AT_START = 100

# The pool breaks when so many workers in a row have failed to start that they would fill the pool,
# and when they belong to at least this many generations.  A generation is the replacements for the
# workers of the one before: if all workers of a pool of four fail, usually the ninth breaks the
# pool.  A failure may be an interrupt: an interpreter that Ctrl-C interrupts while it starts exits
# with code 1, or is killed by SIGINT.
_MAX_GENERATIONS = 3


class Reaper:
    """Recovers what workers held when they exited, and counts those that exited too early.

    It owns these counts, and the lists of the workers that are being started, and that have been
    started and have not been reaped.  The thread that calls :meth:`reap` holds the lock of the
    workforce: the worker handler or, in a closed pool, the task handler.  The thread that starts a
    worker reads the counts without the lock.  Any thread may call :meth:`ensure_exit`.

    :param size: returns how many workers the pool should have
    :param records: the records of the workers
    :param tasks: the pipe that workers read tasks from
    :param collector: receives the results of the workers
    """

    def __init__(
        self,
        size: "Callable[[], int]",
        records: "Records",
        tasks: "TaskPipe",
        collector: "Collector",
    ) -> None:
        self._size = size
        #: the workers that have been started and have not been reaped
        self.workers: "List[WorkerProcess]" = []
        #: the workers that are being started
        self.starting: "List[WorkerProcess]" = []
        self._records = records
        self._tasks = tasks
        self._collector = collector
        self._has_exited_in_initializer = False
        # How many workers in a row have been killed, or have failed, while they were starting.
        self._killed_at_start = self._failed_at_start = 0
        #: how many generations of workers in a row have exited while they were starting
        self.generation = 0

    def defers_initializer(self) -> bool:
        """Return whether new workers call the initializer only when they have a task.

        After a worker has exited in the initializer, its replacements might exit there, too,
        and an idle pool would start workers again and again.  Therefore new workers defer the
        initializer until it has succeeded in one of them.
        """
        return self._has_exited_in_initializer and not self._records.integers[INITIALIZED]

    def reap(self, exited: "List[WorkerProcess]", is_broken: bool) -> str:
        """Recover the locks and messages that workers held.

        :param exited: workers that have exited
        :param is_broken: whether the pool is broken, so that its tasks have failed already
        :returns: why the pool must break; empty if it need not
        """
        reason = ""
        for worker in exited:
            self.ensure_exit(worker)
            self.workers.remove(worker)
            state = self._recover(worker, is_broken)
            if state == STARTING:
                reason = reason or self._count_exit_at_start(worker)
            else:
                self._killed_at_start = self._failed_at_start = self.generation = 0
        return reason

    def _recover(self, worker: "WorkerProcess", is_broken: bool) -> int:
        """Recover what one worker held, and return the state in which it exited."""
        state, number = worker.record.read()
        if state in (WAITING, READING, HOLDING):
            has_task = self._tasks.recover(worker.record, self.states)
        else:
            has_task = state in (INITIALIZING, RUNNING)
        if state == INITIALIZING:
            self._has_exited_in_initializer = True
            self._records.integers[INITIALIZED] = 0
        self._records.release(worker.record)
        self._collector.remove_worker(worker, number if has_task and not is_broken else None)
        return state

    def _count_exit_at_start(self, worker: "WorkerProcess") -> str:
        """Count a worker that exited while it was starting.

        :returns: why the pool must break; empty if it need not
        """
        # A forked worker imports nothing, so it has usually been interrupted.
        code: "Any" = worker.exitcode
        if code < 0 or worker.start_method == "fork":
            self._killed_at_start += 1
            # Ctrl-C may also have interrupted the workers that seem to have failed.
            self._failed_at_start = self.generation = 0
        else:
            self._failed_at_start += 1
            self.generation = max(self.generation, worker.generation + 1)
        size = self._size()
        have_failed = self.generation >= _MAX_GENERATIONS and self._failed_at_start >= size
        max_killed = max(_MAX_KILLED_AT_START, _MAX_GENERATIONS * size)
        is_any_healthy = any(state != STARTING for state in self.states())
        if is_any_healthy or not (have_failed or self._killed_at_start >= max_killed):
            return ""
        return (
            f"{self._killed_at_start + self._failed_at_start} workers in a row exited while they "
            f"were starting; the last: {worker}. {startup_failure_hint()}"
        )

    def states(self) -> "List[int]":
        """Return the states of the workers that have not been reaped.

        A worker that is being started may run already, and hold the lock of the task pipe.
        """
        # In this order, because a worker is added to the other list before it is removed from this.
        workers = [*self.starting, *self.workers]
        return [worker.record.state for worker in workers if hasattr(worker.channel, "record")]

    def ensure_exit(self, worker: "WorkerProcess") -> None:
        """Kill a worker that only seems to have exited.

        If a fork server is killed, all its processes are reported to have exited with code
        255, although they are still running.
        """
        is_forkserver = worker.start_method == "forkserver"
        is_unreported = worker.exitcode == UNKNOWN_EXITCODE and is_forkserver
        if is_unreported and hasattr(select, "poll"):  # eventlet removes it
            poller = select.poll()
            poller.register(worker.reader, 0)  # reports a hangup only
            if not poller.poll(0):
                try:
                    os.kill(worker.pid, signal.SIGKILL)
                except ProcessLookupError:  # race: it has just exited
                    return
                poller.poll(1000 * _HANGUP_TIMEOUT)
