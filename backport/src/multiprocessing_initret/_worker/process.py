"""What runs in a worker that is a process: it writes down what it does, for it may be killed."""

import io
import struct

from .._shared.packages import module
from .._shared.record import HOLDING, INITIALIZING, MESSAGES_READ, READING, RUNNING, WAITING
from .tasks import Tasks, explained, raise_

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Tuple

    from .._shared.initargs import InitArgs
    from .._shared.record import Record

    _Task = Tuple[int, int, Callable[..., Any], Tuple[Any, ...], Dict[str, Any]]

# What a result has before its pickle: the number of the message, and the size of
# the text that tells of it where the parent cannot unpickle it.
RESULT = struct.Struct("=qi")


class RecordedTasks(Tasks):
    """The tasks of a worker that may be killed, whatever it does.

    Whoever reads from the pipe holds its lock.  Where that worker is killed, its
    record tells the parent that the lock is to be released, how much of a message
    may be gone, and which task was running.
    """

    number = 0

    def __init__(
        self, package: str, inqueue: "Any", shared: "InitArgs", is_lazy: bool, record: "Record"
    ) -> None:
        self._loads = module(package, "reduction").ForkingPickler.loads
        self._record = record
        super().__init__(package, inqueue, shared, is_lazy)

    def _initialize(self) -> None:
        self._record.set(INITIALIZING, self.number)
        super()._initialize()
        self._record.set(RUNNING, self.number)

    def _receive(self) -> "Callable[[], Any]":
        return self._receive_recorded

    def _receive_recorded(self) -> "Optional[_Task]":
        note, numbers, lock = self._record.set, self._record.records.integers, self._inqueue._rlock
        note(WAITING)
        lock.acquire()
        # No `with`: whatever ends this worker before the message is whole, the lock
        # stays with it until the parent has put the pipe in order.
        self.number = number = numbers[MESSAGES_READ] + 1
        note(READING, number)
        try:
            message = self._inqueue._reader.recv_bytes()
        except EOFError:
            # The parent is gone: all workers are to see that.
            lock.release()
            raise
        note(HOLDING, number)
        numbers[MESSAGES_READ] = number
        lock.release()
        note(RUNNING, number)
        try:
            task: "Optional[_Task]" = self._loads(message)
            return task
        except Exception as error:
            return 0, 0, raise_, (explained(error),), {}


class Results:
    """The result queue of one worker: a pipe of its own, which no other can block."""

    def __init__(self, package: str, writer: "Any", tasks: RecordedTasks) -> None:
        self._with_traceback = module(package, "pool").ExceptionWithTraceback
        self._pickler = module(package, "reduction").ForkingPickler
        self._send = writer.send_bytes
        self._tasks = tasks
        self._reader = self  # which the loop closes, for it does not use that end

    def close(self) -> None:
        pass

    def _describe(self, error: "Any") -> bytes:
        traceback = ""
        if isinstance(error, self._with_traceback):
            error, traceback = error.exc, error.tb
        try:
            text = repr(error)
        except Exception:
            text = object.__repr__(error)
        return "\0".join((text, traceback)).encode("utf-8", "backslashreplace")

    def put(self, outcome: "Tuple[int, int, Tuple[bool, Any]]") -> None:
        succeeded, value = result = outcome[2]
        description = b"" if succeeded else self._describe(value)
        buffer = io.BytesIO()
        buffer.write(RESULT.pack(self._tasks.number, len(description)))
        buffer.write(description)
        self._pickler(buffer, None).dump(result)
        self._send(buffer.getbuffer())


def run_recorded(
    package: str,
    target: "Callable[..., object]",
    inqueue: "Any",
    writer: "Any",
    shared: "InitArgs",
    is_lazy: bool,
    record: "Record",
    *args: "Any",
) -> None:
    """Do as :func:`run` in a process, keep its record, and send results by its own pipe."""
    tasks = RecordedTasks(package, inqueue, shared, is_lazy, record)
    try:
        target(tasks, Results(package, writer, tasks), tasks.initialize, (), *args)
    finally:
        tasks.forget()
