"""In the parent: the pipe that all workers take their tasks from.

    put() --> | message 9 | message 8 | mes--> sage 7 --> the worker that has the lock
              ^                            ^
              written                      written - unread

The messages are numbered by their order in the pipe.  A worker's record says which one it
has; here is written which task that is, and from where to where its bytes are.  So where a
worker leaves that was reading, what it has left of its message can be taken out, and the
next worker finds the beginning of the next message.

One thread, that of the tasks, sends; that of the workers recovers; that of the results
takes out of ``_in_flight`` what has its outcome.
"""

import collections
import contextlib
import os
import select
import struct
import threading
import time

from .._shared.messages import HEADER, header
from .._shared.record import HOLDING, MESSAGES_READ, READING

if os.name == "posix":
    import fcntl
    import termios
else:  # Windows
    import _winapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from .._shared.record import Record

_INT = struct.Struct("i")

# Seconds after which a lock that nobody says to hold is that of the worker which
# left.  Between taking it and saying so are 100 nanoseconds.
_PATIENCE = 1.0

# A message: its task, from which byte of all to which it is in the pipe, the size of its
# header.  Of one that dismisses a worker, the job is None.
_Sent = collections.namedtuple("_Sent", "job index start end header")


class TaskPipe:
    """What both kinds of system have in common: the lock, and who has which message."""

    def __init__(self, queue: "Any") -> None:
        self._reader, self._writer, self._lock = queue._reader, queue._writer, queue._rlock
        self._in_flight: "Dict[int, _Sent]" = {}
        # For these, which say what is in the pipe, and for what is put into it.
        self._mutex = threading.Lock()
        self._number = 0  # of the last message
        self._written = 0  # bytes in all
        self._announced = 0  # with the message that is being written, all of it
        self._is_closed = False

    def send(self, job: "Any", index: int, message: "Any") -> bool:
        """Put a message into the pipe; tell whether it is open."""
        raise NotImplementedError

    def _register(self, job: "Any", index: int, size: int, header: int) -> int:
        number = self._number = self._number + 1
        self._announced = self._written + size
        self._in_flight[number] = _Sent(job, index, self._written, self._announced, header)
        return number

    def pop(self, number: int) -> "Optional[Tuple[int, int]]":
        """Return the job and the index of a task that has its outcome now, once."""
        sent = self._in_flight.pop(number, None)
        return None if sent is None or sent.job is None else sent[:2]

    def in_flight(self) -> "List[int]":
        """Return the numbers of the messages whose tasks have no outcome."""
        return list(self._in_flight)

    def close(self) -> None:
        """Let nothing be written any more, also of a message of which there is a part."""
        with self._mutex:
            self._is_closed = True

    # -- Where a worker has left -------------------------------------------------

    def recover(self, record: "Record", states: "Callable[[], List[int]]") -> bool:
        """Take the lock from a worker that left with it, and put the pipe in order.

        :param record: that of the worker, which waited, read or had read
        :param states: returns those of the other workers
        :returns: whether the worker has taken a message
        """
        state, number = record.read()
        deadline = time.monotonic() + _PATIENCE
        while state != READING and not self._lock.acquire(False):
            # It left before it could say that it has the lock, or after it had said
            # that for the last time.  Whoever reads now has got it from another.  Who
            # holds it may have given it back, and not have said so yet.
            if READING in states():
                return state == HOLDING
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
        # Now nobody else has it.
        has_taken = self._clear(number) if state == READING else state == HOLDING
        if has_taken:
            # It may have counted its message, and others theirs since.
            numbers = record.records.integers
            numbers[MESSAGES_READ] = max(numbers[MESSAGES_READ], number)
        self._lock.release()
        return has_taken

    def _clear(self, number: int) -> bool:
        """Take out what has been left of a message; tell whether its reading had begun."""
        with self._mutex:
            sent = self._in_flight.get(number)
            position = self._written - self._unread()
            if sent is None or position <= sent.start:
                return False
            self._clear_rest(number, sent, position)
            return True

    def _unread(self) -> int:
        """Return how many bytes are in the pipe."""
        raise NotImplementedError

    def _clear_rest(self, number: int, sent: _Sent, position: int) -> None:
        raise NotImplementedError

    def free_lock(self, states: "Callable[[], List[int]]") -> None:
        """Give the lock back, if who had it has left, in a pool that ends.

        A handler of SIGTERM in Python runs when the worker comes back from the system. So a
        worker that was about to wait for the lock waits, and leaves when it gets it.

        :param states: returns those of the workers that are alive
        """
        for _ in range(2):
            found = states()
            if READING in found or HOLDING in found:
                return
            if self._lock.acquire(False):
                break
            time.sleep(0.001)  # who has just got it has said so then
        with contextlib.suppress(ValueError):  # who had it has given it back
            self._lock.release()

    def drain(self) -> None:
        """Take out what no worker will read."""
        while self._reader.poll():
            self._drain_some()

    def let_go(self) -> None:
        """Let the thread go on that sends, if it waits for a worker to read, and none is left."""

    def _drain_some(self) -> None:
        raise NotImplementedError


class PosixTaskPipe(TaskPipe):
    """A stream of bytes: each message has a header, and may be there in part."""

    def __init__(self, queue: "Any") -> None:
        super().__init__(queue)
        self._given_up = 0  # the number of a message whose rest nobody wants
        os.set_blocking(self._writer.fileno(), False)

    def send(self, job: "Any", index: int, message: "Any") -> bool:
        size = len(message)
        head = header(size)
        with self._mutex:
            if self._is_closed:
                return False
            number = self._register(job, index, len(head) + size, len(head))
        for part in [head + message] if size < 16384 else [head, message]:
            self._write(number, memoryview(part))
        return True

    def _write(self, number: int, view: memoryview) -> None:
        writer = self._writer.fileno()
        while view:
            with self._mutex:
                if self._is_closed or self._given_up == number:
                    return
                try:
                    count = os.write(writer, view)
                except BlockingIOError:
                    count = 0
                self._written += count
            view = view[count:]
            if not count:
                # The time is for what ends a pool, whose workers read no more.
                poller = select.poll()
                poller.register(writer, select.POLLOUT)
                poller.poll(100)

    def _unread(self) -> int:
        size = fcntl.ioctl(self._reader.fileno(), termios.FIONREAD, bytes(_INT.size))
        return _INT.unpack(size)[0]  # type: ignore[no-any-return]

    def _clear_rest(self, number: int, sent: _Sent, position: int) -> None:
        end = sent.end
        if end > self._written:
            end = self._written
            self._given_up = number
        rest = bytearray()
        while position + len(rest) < end:
            rest += os.read(self._reader.fileno(), min(end - position - len(rest), 65536))
        if position - sent.start == sent.header and sent.job is not None:
            # Who is killed while it waits may have got the first that comes, the
            # header.  That is no task yet.
            self._put_back(number, bytes(rest))

    def _put_back(self, number: int, message: bytes) -> None:
        """Put a message behind all others, if it can be done at once and in one piece."""
        message = header(len(message)) + message
        is_between = self._announced == self._written and not self._is_closed
        if is_between and len(message) <= select.PIPE_BUF:
            try:
                os.write(self._writer.fileno(), message)
            except BlockingIOError:  # at this moment
                return
            sent = self._in_flight.pop(number)
            self._register(sent.job, sent.index, len(message), HEADER.size)
            self._written = self._announced

    def _drain_some(self) -> None:
        os.read(self._reader.fileno(), 65536)


class WindowsTaskPipe(TaskPipe):
    """A message is in the pipe whole, or not at all."""

    def __init__(self, queue: "Any") -> None:
        super().__init__(queue)
        self._writing: "Any" = None  # the operation

    def send(self, job: "Any", index: int, message: "Any") -> bool:
        with self._mutex:
            if self._is_closed:
                return False
            number = self._register(job, index, len(message), 0)
            try:
                self._writing, _ = _winapi.WriteFile(  # type: ignore[attr-defined,unused-ignore]
                    self._writer.fileno(), message, overlapped=True
                )
            except BaseException:  # of 2 GiB, for instance
                # Or all that come later would be taken for their neighbours.
                del self._in_flight[number]
                self._number -= 1
                self._announced = self._written
                raise
            self._written = self._announced
        # Where it has found no room it is there as well, and this waits until it is read.
        try:
            self._writing.GetOverlappedResult(True)
        finally:
            self._writing = None
        return True

    def let_go(self) -> None:
        while self._writing is not None:
            if self._reader.poll(0.01):
                self._drain_some()

    def _unread(self) -> int:
        return _winapi.PeekNamedPipe(self._reader.fileno())[0]  # type: ignore[attr-defined,unused-ignore,no-any-return]

    def _clear_rest(self, number: int, sent: _Sent, position: int) -> None:
        if position < sent.end:
            self._drain_some()  # the rest of this message

    def _drain_some(self) -> None:
        self._reader.recv_bytes()


def task_pipe(queue: "Any") -> TaskPipe:
    """Return what this system has."""
    return PosixTaskPipe(queue) if os.name == "posix" else WindowsTaskPipe(queue)
