"""Convert the messages of workers, and the deaths of workers, to the results of tasks.

The result handler thread sets the result of each task, and other threads post calls to it.  If two
results of a task are reported, such as a message and the worker's death, the first counts.
``PendingResults`` completes the results that are still pending when the pool breaks or is
terminated.
"""

import collections
import contextlib
import threading
import time

from .._shared.messages import RESULT_HEADER, TruncatedMessage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Optional, Tuple

    from .._shared.messages import Message
    from .critical_section import CriticalSection
    from .result_pipes import ResultPipes
    from .task_pipe import TaskPipe
    from .worker_process import WorkerProcess

    Result = Tuple[int, int, Tuple[bool, Any]]

# Time, in seconds, between checks for exited workers whose exit the system may not report.
_CHECK_INTERVAL = 1.0


class Collector:
    """Source of a pool's results, which returns the result of each task exactly once.

    A collector owns the result pipes, the results that are ready, and the calls that other
    threads have posted.  The result handler thread calls :meth:`get`, which calls the private
    methods.  Any thread may call the other public methods, except :meth:`close`, which is called
    after the result handler has ended.  The deques need no lock: their methods are atomic.
    :attr:`unpickling_lock` is held while a result is unpickled, and while ``Launcher`` forks a
    worker.

    :param pipes: the result pipes
    :param tasks: the task pipe, which holds the task of each message
    :param pool_module: ``multiprocessing.pool``
    :param pickler: the class of the picklers of connections
    :param section: the pool's critical section
    :param log: function that logs a line
    :param on_failure: function that is called with an unexpected exception in the result handler;
        it breaks the pool, and fails the pending results
    :param check_workers: makes the worker handler look for exited workers
    """

    def __init__(
        self,
        pipes: "ResultPipes",
        tasks: "TaskPipe",
        pool_module: "Any",
        pickler: "Any",
        section: "CriticalSection",
        log: "Callable[[str], None]",
        on_failure: "Callable[[BaseException], None]",
        check_workers: "Callable[[], None]",
    ) -> None:
        self._pipes = pipes
        self._tasks = tasks
        self._module = pool_module
        self._loads = pickler.loads
        self._section = section
        #: Held while a result is unpickled.  No worker may be forked meanwhile: unpickling may
        #: import modules, and no thread of the worker would release their import locks.
        self.unpickling_lock = threading.Lock()
        self._log = log
        self._on_failure = on_failure
        self._check_workers = check_workers
        # Time of the next check, in seconds of time.monotonic(); None if none is necessary.
        self._next_check: "Optional[float]" = None
        # One queue for all calls: a worker may start and exit while the result handler is busy,
        # and must be added before it is removed.
        self._calls: "Deque[Tuple[Callable[..., None], Tuple[Any, ...]]]" = collections.deque()
        self._ready: "Deque[Result]" = collections.deque()
        self._is_ending = False  # the pool's sentinel has arrived
        self._has_failed = False

    # -- In the result handler thread ------------------------------------------------------

    def get(self) -> "Optional[Result]":
        """Return the next result, or None at the end; replaces the pool's ``_quick_get``.

        :raises RuntimeError: if the result handler cannot continue; :class:`ThreadGuard` then fails
            the tasks
        """
        ready = self._ready
        while True:
            try:
                while not ready:
                    if self._wait():
                        return None
                return ready.popleft()
            except BaseException as error:
                self._handle_failure(error)

    def _wait(self) -> bool:
        """Wait for messages and calls, and process them; return whether :meth:`get` is to end."""
        timeout = -1.0 if self._next_check is None else self._check_if_due(self._next_check)
        # After a failure, read wake-ups only: the posted calls fail the remaining tasks.
        for worker in [None] if self._has_failed else self._pipes.wait(timeout):
            if worker is not None:
                self._receive(worker)
            elif self._pipes.read_wake_up():
                self._is_ending = True
                return True
            else:
                self._run_calls()
                # Skip the rest of the list: a call may have closed a worker's pipe, and the
                # descriptor may belong to the pipe of another worker now.  After the sentinel,
                # get() returns None if no result is ready.  The result handler then checks whether
                # results are pending, and calls get() again if so.
                return not self._ready and self._is_ending
        return False

    def _check_if_due(self, next_check: float) -> float:
        """Wake the worker handler if a check is due, and return the seconds until the next one.

        The check is due at a fixed time, so that a steady stream of results does not delay it.
        """
        now = time.monotonic()
        if now >= next_check:
            self._next_check = next_check = now + _CHECK_INTERVAL
            self._check_workers()
        return next_check - now

    def _receive(self, worker: "WorkerProcess") -> bool:
        """Read from a worker's pipe; return False at the end of the pipe."""
        messages = self._pipes.receive(worker)
        if messages is None:
            self._pipes.remove(worker)
            return False
        for message in messages:
            self._deliver(message)
        return True

    def _deliver(self, message: "Message") -> None:
        number, description_size = RESULT_HEADER.unpack_from(message)
        task = self._tasks.pop(number)
        if task is None:
            # The pool is broken, or the worker has sent two messages for the task.
            return
        try:
            with self.unpickling_lock:
                result = self._loads(message[RESULT_HEADER.size :])  # ignores the description
        except BaseException as error:
            result = False, _unpickling_error(self._module, error, message, description_size)
        self._ready.append((*task, result))
        del result  # break a reference cycle: the traceback of its exception refers to this frame

    def _handle_failure(self, error: BaseException) -> None:
        # After the first failure the result handler continues, because it must run the posted
        # calls.  Only a second failure reaches ThreadGuard, which fails tasks more slowly.
        if not self._has_failed:
            self._has_failed = True
            try:
                self._on_failure(error)
                return
            except BaseException as second:
                error = second
        try:
            # The standard _handle_results() returns if it catches an OSError, so ThreadGuard would
            # catch nothing.
            raise RuntimeError("the result handler cannot continue") from error
        finally:
            del error  # break a reference cycle with the traceback

    # -- In any thread ------------------------------------------------------------------------

    def call_soon(self, function: "Callable[..., None]", *args: "Any") -> None:
        """Post a call of a function to the result handler thread."""
        self._calls.append((function, args))
        # The garbage collector might call terminate(), which would write a sentinel in the middle
        # of the wake-up.
        with self._section:
            self._pipes.wake()

    def add_worker(self, worker: "WorkerProcess", is_constructing: bool) -> None:
        """Receive the results of a worker that has started.

        :param is_constructing: whether the constructor of the pool starts the worker, before it
            starts the result handler
        """
        if not worker.is_watched:
            self._next_check = time.monotonic() + _CHECK_INTERVAL
        if is_constructing:
            self._pipes.add(worker)
        else:
            self.call_soon(self._pipes.add, worker)

    def remove_worker(self, worker: "WorkerProcess", number: "Optional[int]") -> None:
        """Deliver the results that a worker had sent before it exited, and close its pipe.

        :param number: number of the message whose task the worker may not have finished, or None;
            if no result of that task has arrived, the task fails, which is logged
        """
        self.call_soon(self._remove_worker, worker, number)

    def fail(self, job: int, index: int, error: BaseException) -> None:
        """Fail a task that could not be sent."""
        self.call_soon(self._ready.append, (job, index, (False, error)))

    def fail_all(self, error: BaseException) -> None:
        """Fail all tasks in flight; called when no more tasks are sent."""
        self.call_soon(self._fail_all, error)

    def discard(self) -> None:
        """Discard the posted calls and the results, when :meth:`get` will not be called again."""
        self._calls.clear()
        self._ready.clear()

    def close(self) -> None:
        """Close the result pipes and drop references, after the result handler has ended."""
        self.discard()
        self._pipes.close()

    # -- The posted calls, in the result handler thread -----------------------------------------

    def _run_calls(self) -> None:
        while self._calls:
            function, args = self._calls.popleft()
            function(*args)

    def _remove_worker(self, worker: "WorkerProcess", number: "Optional[int]") -> None:
        try:
            # Read until the pipe is empty or its end is reached.
            with contextlib.suppress(OSError):
                while not self._has_failed and self._pipes.has_data(worker):
                    if not self._receive(worker):
                        break
            self._pipes.remove(worker)
            worker.reader.close()
        finally:
            task = None if number is None else self._tasks.pop(number)
            if task is not None:
                error = worker.lost_error()
                self._ready.append((*task, (False, error)))
                self._log(str(error))

    def _fail_all(self, error: BaseException) -> None:
        for number in self._tasks.in_flight():
            task = self._tasks.pop(number)
            if task is not None:
                self._ready.append((*task, (False, error)))


def _unpickling_error(
    pool_module: "Any", reason: BaseException, message: "Message", description_size: int
) -> BaseException:
    """Return the exception for a task whose result or exception cannot be unpickled."""
    if type(message) is TruncatedMessage:
        return MemoryError("not enough memory to receive the result")
    if isinstance(reason, Exception) and not description_size:
        return reason
    description = bytes(message[-description_size:]) if description_size else b""
    text, _, traceback = description.decode("utf-8").partition("\0")
    try:
        error: Exception = pool_module.MaybeEncodingError(reason, None)
    except Exception:  # raised by the reason's own __repr__()
        error = pool_module.MaybeEncodingError(object.__repr__(reason), None)
    error.value = text  # type: ignore[attr-defined]
    if traceback:
        error.__cause__ = pool_module.RemoteTraceback(traceback)
    return error
