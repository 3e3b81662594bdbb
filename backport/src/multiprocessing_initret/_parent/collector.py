"""In the parent, in the thread that handles results: what tasks have come to.

It is a result that a worker has sent, or an error: the worker has left, the pool has
broken, the task could not be sent.  Other threads do not set errors themselves but tell
this one, so that of a task's outcomes the first counts, and only that.
"""

import collections
import threading

from .._worker.process import RESULT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Optional, Tuple

    from .result_pipes import ResultPipes
    from .task_pipe import TaskPipe
    from .worker_process import WorkerProcess

    Outcome = Tuple[int, int, Tuple[bool, Any]]


class Collector:
    """Yields the outcomes of tasks to the pool, one for each task.

    :param module: the package's ``pool``
    :param pickler: the package's ``ForkingPickler``
    :param log: what takes a line for the log
    """

    def __init__(
        self,
        pipes: "ResultPipes",
        tasks: "TaskPipe",
        module: "Any",
        pickler: "Any",
        log: "Callable[[str], None]",
    ) -> None:
        self._pipes = pipes
        self._tasks = tasks
        self._module = module
        self._pickler = pickler
        self._log = log
        self.unpickling = threading.Lock()
        # What this thread is to do, from others. In one queue, for a worker may start and
        # leave while it is busy, and starts before it leaves.
        self._notes: "Deque[Tuple[Callable[..., None], Tuple[Any, ...]]]" = collections.deque()
        # This thread's own.
        self._ready: "Deque[Outcome]" = collections.deque()
        self._is_ending = False
        self.is_stopped = False  # by another thread, once it has read all it will

    def get(self) -> "Optional[Outcome]":
        """Return the next outcome, as the pool's ``_quick_get`` does; None at the end."""
        ready = self._ready
        while not ready:
            for worker in self._pipes.wait():
                if worker is not None:
                    self._receive(worker)
                elif self._pipes.was_woken_to_end():
                    self._is_ending = True
                    return None  # the sentinel, for the pool
                else:
                    self._hear()
                    if not ready and (self._is_ending or self.is_stopped):
                        # The thread empties this pipe before it ends, and looks
                        # whether there is more each time.
                        return None
                    # The others are old: one may be that of a new pipe by now, in the place
                    # of one that was closed, with nothing to read.
                    break
        return ready.popleft()

    # -- What a worker has sent ----------------------------------------------------

    def _receive(self, worker: "WorkerProcess") -> bool:
        """Read what a worker has sent, at least in part; tell whether more may come."""
        messages = self._pipes.receive(worker)
        if messages is None:
            self._pipes.remove(worker)
            return False
        for message in messages:
            self._deliver(message)
        return True

    def _deliver(self, message: memoryview) -> None:
        number, size = RESULT.unpack_from(message)
        task = self._tasks.pop(number)
        if task is None:  # at this moment the pool has broken
            return
        try:
            outcome = self._pickler.loads(message[RESULT.size + size :])
        except BaseException as error:
            if size or not isinstance(error, Exception):
                description = bytes(message[RESULT.size : RESULT.size + size])
                error = self._undelivered(error, description.decode("utf-8"))
            outcome = False, error
        self._ready.append((*task, outcome))

    def _undelivered(self, reason: BaseException, description: str) -> Exception:
        text, _, traceback = description.partition("\0")
        error: Exception = self._module.MaybeEncodingError(reason, None)
        error.value = text  # type: ignore[attr-defined]
        if traceback:
            error.__cause__ = self._module.RemoteTraceback(traceback)
        return error

    # -- What others have to say, in any thread -------------------------------------

    def tell(self, function: "Callable[..., None]", *args: "Any") -> None:
        """Have a function called in this thread, soon."""
        self._notes.append((function, args))
        self._pipes.wake()

    def has_started(self, worker: "WorkerProcess", is_first: bool) -> None:
        if is_first:  # and no thread is there to be told
            self._pipes.add(worker)
        else:
            self.tell(self._pipes.add, worker)

    def has_left(self, worker: "WorkerProcess") -> None:
        self.tell(self._bury, worker)

    def fail(self, job: int, index: int, error: BaseException) -> None:
        """Set the error of a task that was not sent."""
        self.tell(self._ready.append, (job, index, (False, error)))

    def fail_all(self, make_error: "Any") -> None:
        """Set an error for all tasks that are in flight, in a pool that sends no more."""
        self.tell(self._lose_all, make_error)

    def close(self) -> None:
        """Give up what belonged to the workers, when the thread has ended."""
        self._notes.clear()
        self._pipes.close()

    # -- What this thread does then ---------------------------------------------------

    def _hear(self) -> None:
        while self._notes:
            function, args = self._notes.popleft()
            function(*args)

    def _bury(self, worker: "WorkerProcess") -> None:
        # What it had sent before counts.
        try:
            while worker.reader.poll() and self._receive(worker):
                pass
        except OSError:  # Windows: it is at its end
            pass
        self._pipes.remove(worker)
        worker.reader.close()
        if worker.lost and self._lose(worker.lost, worker.lost_error()):
            self._log(str(worker))

    def _lose(self, number: int, error: "Exception") -> bool:
        task = self._tasks.pop(number)
        if task is not None:
            self._ready.append((*task, (False, error)))
        return task is not None

    def _lose_all(self, make_error: "Any") -> None:
        for number in self._tasks.in_flight():
            self._lose(number, make_error())
