"""In the parent, in the thread that handles workers: their starts, and what those had who left.

The pool asks for a worker at first, and for another when it has seen that one has left.
That is the moment to read the record of the one, and to put in order what it had in its
hands.  When the pool closes, the thread that handles tasks does the same.
"""

import contextlib
import os
import select
import signal
import threading
import time

from .._shared.errors import WorkerLostError
from .._shared.record import HOLDING, INITIALIZING, READING, RUNNING, STARTING, WAITING
from .worker_process import UNKNOWN, Vacancy, WorkerProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, List

    from .._shared.record import Records
    from .collector import Collector
    from .critical_section import CriticalSection
    from .task_pipe import TaskPipe
    from .template import Template

# Seconds in which the pipe of a worker is known to be at its end.
_PATIENCE = 1.0

# Seconds after which a worker of a broken pool is taken to ignore SIGTERM.
_TIME_TO_LEAVE = 5.0

# How many workers in a row may be killed before they can do anything. Whoever kills
# workers at random meets those that start; who is out of memory meets no others.
_MANY = 100

# How many workers in a row may leave each in the place of the last before they can do
# anything. Who presses Ctrl-C, and again, meets all that start, and those in their places.
_GENERATIONS = 3

LIKELY_CAUSE = (
    'Is the pool made in a module that has no `if __name__ == "__main__":` before it, or '
    "does the main module raise an exception where a worker imports it? See stderr"
)


class Workforce:
    """The workers of a pool of processes.

    :param size: how many the pool wants
    :param tasks: which they take their tasks from
    :param collector: which their results go to
    :param wait: that of multiprocessing.connection
    :param log: what takes a line for the log
    """

    def __init__(
        self,
        ctx: "Any",
        size: int,
        records: "Records",
        template: "Template",
        tasks: "TaskPipe",
        collector: "Collector",
        wait: "Any",
        log: "Callable[[str], None]",
        section: "CriticalSection",
    ) -> None:
        self._ctx = ctx
        self._size = size
        self._records = records
        self._template = template
        self._tasks = tasks
        self._collector = collector
        self._wait = wait
        self._log = log
        self.undisturbed = section
        self._constructing = threading.current_thread()
        self.has_descriptors = _may_open(4 * size)
        self.workers: "List[WorkerProcess]" = []
        self.broken = ""  # why it is
        self._is_stopped = False
        # For the list of workers, and whether it may still change.
        self._settling = threading.Lock()
        self._is_lazy = False  # whether workers start without the initializer
        self._in_vain = 0  # how many workers in a row have left before it
        self._generation = 0

    # -- Starts --------------------------------------------------------------------

    def hire(self, make_process: "Callable[..., Any]") -> "Any":
        """Make a worker, which is not started yet, or find that none can be.

        :param make_process: makes the process, of the end of a pipe for its results, its
            record, and whether it is to start without the initializer
        """
        try:
            pipe = self._ctx.Pipe(duplex=False)
        except OSError as error:
            return self._vacancy(error)
        record = self._records.acquire()
        process = make_process(pipe[1], record, self._is_lazy)
        self._template.adopt(process)
        return WorkerProcess(self, process, record, pipe, self._generation)

    @contextlib.contextmanager
    def starts(self, worker: WorkerProcess) -> "Iterator[bool]":
        """Take notice of a worker while it starts, and tell whether it may."""
        with self.undisturbed, self._collector.unpickling:
            if not self._is_stopped:
                self.workers.append(worker)
            yield not self._is_stopped

    def has_started(self, worker: WorkerProcess) -> None:
        self._collector.add_worker(worker, threading.current_thread() is self._constructing)

    def could_not_start(self, worker: WorkerProcess, error: Exception) -> Vacancy:
        self.workers.remove(worker)
        self._records.release(worker.record)
        worker.reader.close()
        return self._vacancy(error)

    def _vacancy(self, error: Exception) -> Vacancy:
        if threading.current_thread() is self._constructing:
            self._template.close()
            if isinstance(error, (ConnectionError, EOFError)):  # from Python 3.13.1
                # A fork server that imports the main module leaves as a worker would.
                raise WorkerLostError(f"no worker could be started. {LIKELY_CAUSE}") from error
            raise error
        why = f"a worker could not be started: {error!r}"
        if any(worker.exitcode is None for worker in self.workers):
            # Those that there are go on, and when one leaves, this is tried again.
            self._log(why)
            return Vacancy(UNKNOWN)
        self.break_(why)
        return Vacancy()

    # -- Those who have left ---------------------------------------------------------

    def settle(self) -> bool:
        """See which workers have left, and put in order what they had in their hands.

        :returns: whether others are to come
        """
        try:
            with self.undisturbed, self._settling:
                left = [worker for worker in self.workers if worker.exitcode is not None]
                # Who was reading has the lock of the pipe, for sure.
                for worker in sorted(left, key=lambda worker: worker.record.state != READING):
                    if not self._is_stopped:
                        self._make_sure_it_left(worker)
                        self.workers.remove(worker)
                        self._settle(worker)
        except Exception as error:  # or nobody would look after the workers any more
            self.break_(f"{error!r} where a worker had left")
        return not (self.broken or self._is_stopped)

    def _settle(self, worker: WorkerProcess) -> None:
        state, number = worker.record.read()
        if state in (WAITING, READING, HOLDING):
            has_task = self._tasks.recover(worker.record, self._states)
        else:
            has_task = state in (INITIALIZING, RUNNING)
        lost = has_task and not self.broken
        if state == INITIALIZING and not number:
            self._is_lazy = True
        self._records.release(worker.record)
        self._collector.remove_worker(
            worker, number if lost else None, WorkerLostError(str(worker)) if lost else None
        )
        if state != STARTING:
            self._in_vain = self._generation = 0
        else:
            self._count(worker)

    def _count(self, worker: WorkerProcess) -> None:
        """Take notice of a worker that has left before it could do anything."""
        self._in_vain += 1
        self._generation = max(self._generation, worker.generation + 1)
        enough = self._size if worker.exitcode >= 0 else _MANY
        if self._in_vain >= enough and self._generation >= _GENERATIONS and not any(self._states()):
            self.break_(
                f"{self._in_vain} workers in a row left before they could do anything, "
                f"at last {worker}. {LIKELY_CAUSE}"
            )

    def _states(self) -> "List[int]":
        return [worker.record.state for worker in self.workers]

    def _states_of_the_living(self) -> "List[int]":
        return [worker.record.state for worker in self.workers if worker.is_alive()]

    def _make_sure_it_left(self, worker: WorkerProcess) -> None:
        """Kill a worker that only seems to have left.

        Where a fork server is killed, all its processes are said to have left with
        exit code 255, and go on.
        """
        if worker.exitcode == UNKNOWN and getattr(worker._popen, "method", "") == "forkserver":
            poller = select.poll()
            poller.register(worker.reader, 0)  # it tells of a hangup
            if not poller.poll(0):
                try:
                    os.kill(worker.pid, signal.SIGKILL)
                except ProcessLookupError:  # at this moment
                    return
                poller.poll(1000 * _PATIENCE)

    # -- The end ---------------------------------------------------------------------

    def break_(self, why: str) -> None:
        """End all tasks, now and later, with an error that says why."""
        self.broken = "the pool is broken: " + why
        self._tasks.stop_workers(self._records)
        self._collector.fail_all(WorkerLostError(self.broken))
        self._log(self.broken)
        for worker in self.workers:
            worker.terminate()
        self._tasks.close()
        if os.name != "posix":
            for worker in self.workers:
                worker.join()
        self._tasks.unblock_sender()

    def see_off(self) -> None:
        """Wait until all workers, which have been dismissed, have left; some may be killed."""
        while self.workers and not self._is_stopped:
            sentinels = [worker.sentinel for worker in self.workers]
            left = set(self._wait(sentinels, _TIME_TO_LEAVE if self.broken else None))
            for worker in list(self.workers):
                if worker.sentinel in left:
                    worker.join()  # its sentinel may tell of it a moment before
                elif not left:
                    worker.kill()  # it ignores SIGTERM
            self.settle()

    def end(self) -> None:
        """End all workers, and start no others."""
        with self._settling:
            self._is_stopped = True
        self._tasks.stop_workers(self._records)
        for worker in self.workers:
            if worker.exitcode is None:
                worker.terminate()
        deadline = time.monotonic() + _TIME_TO_LEAVE
        for worker in self.workers:
            while worker.exitcode is None:
                worker.join(0.1)
                self._tasks.release_abandoned_lock(self._states_of_the_living)
                if self.broken and time.monotonic() > deadline:
                    worker.kill()
            self._make_sure_it_left(worker)
        self._tasks.close()
        # The stock function takes this lock.
        self._tasks.release_abandoned_lock(self._states_of_the_living)


def _may_open(count: int) -> bool:
    """Tell whether this process may open so many descriptors, besides others."""
    if os.name != "posix":
        return True
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most == resource.RLIM_INFINITY or count + 64 < most
