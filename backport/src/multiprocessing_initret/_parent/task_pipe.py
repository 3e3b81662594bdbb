"""The pipe that all workers of a pool receive their tasks from, as the parent sees it.

    send() --> | message 9 | message 8 | mes--> sage 7 --> the worker that holds the lock
               ^                            ^
               written                      read

Messages are numbered in the order in which they are written.  A worker's record holds the
number of its message; the task pipe holds the task of each message, and its position among all
bytes that have been written.  So if a worker dies while it reads, the parent can remove the
rest of its message, and the next worker finds the beginning of a message.
"""

import collections
import contextlib
import os
import pickle
import select
import selectors
import struct
import threading
import time

from .._shared.messages import HEADER, header
from .._shared.record import HOLDING, MESSAGES_READ, READING, STOPPING

if os.name == "posix":
    import fcntl
    import termios
else:  # Windows
    import _winapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from .._shared.record import Record, Records

# Time, in seconds, after which a lock that no record claims is attributed to the dead worker.
# Between acquiring the lock and recording that, a worker needs 100 nanoseconds.
_CLAIM_TIMEOUT = 1.0

# Time, in seconds, after which a blocked sender looks whether the pipe has been closed.
_SEND_INTERVAL = 0.1

# Messages from this size are not copied to be written together with their headers.
_LARGE = 16384

# As select.poll() may be missing (eventlet removes it).  Neither needs a descriptor.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)

# A message in the pipe: its task (job is None for a message that makes a worker exit), its
# first byte and the byte after its last, counted from the first message, and its header's size.
_Sent = collections.namedtuple("_Sent", "job index start end header_size")


class TaskPipe:
    """Task pipe of a pool: the messages in it, and its lock.

    The task handler sends; the worker handler recovers; the result handler removes messages
    whose tasks have a result.  The thread that terminates the pool stops, drains and closes the
    pipe.  ``_mutex`` guards writing and the positions and numbers of messages.  It is reentrant
    because the garbage collector may terminate the pool in a thread that holds it.

    The lock of the pipe is shared with the workers.  The parent holds it only while it recovers
    the lock of a worker that has died.

    :param queue: the pool's ``_inqueue``
    """

    def __init__(self, queue: "Any") -> None:
        self._reader, self._writer, self._lock = queue._reader, queue._writer, queue._rlock
        self._in_flight: "Dict[int, _Sent]" = {}
        self._mutex = threading.RLock()
        self._last_number = 0
        self._written = 0  # bytes written so far
        self._end = 0  # of the last message; greater than _written while that is being written
        self._is_stopping = False  # no other message is written
        self._is_closed = False  # nothing is written, not even the rest of a message

    # -- Sending -----------------------------------------------------------------------

    def send(self, job: "Any", index: int, message: "Any") -> bool:
        """Write a message to the pipe, and return whether the pipe accepts messages.

        :param job: number of the job, or None for a message that makes a worker exit
        :param index: of the task in the job
        :param message: the pickled task
        """
        raise NotImplementedError

    def _register(self, job: "Any", index: int, size: int, header_size: int) -> int:
        number = self._last_number = self._last_number + 1
        self._end = self._written + size
        self._in_flight[number] = _Sent(job, index, self._written, self._end, header_size)
        return number

    def pop(self, number: int) -> "Optional[Tuple[int, int]]":
        """Return the job and index of the task of a message; None if it has a result already."""
        sent = self._in_flight.pop(number, None)
        return None if sent is None or sent.job is None else sent[:2]

    def in_flight(self) -> "List[int]":
        """Return the numbers of the messages whose tasks have no result yet."""
        return list(self._in_flight)

    # -- Recovery after the death of a worker --------------------------------------------

    def recover(self, record: "Record", states: "Callable[[], List[int]]") -> bool:
        """Release the lock if a dead worker holds it, and remove the rest of its message.

        :param record: record of the dead worker, in state WAITING, READING or HOLDING
        :param states: returns the states of the other workers
        :returns: whether the worker has received a message
        """
        state, number = record.read()
        deadline = time.monotonic() + _CLAIM_TIMEOUT
        while state != READING and not self._lock.acquire(False):
            # The worker died before it could record that it held the lock, or after it had
            # released the lock, or another worker holds it.  A worker in state READING
            # certainly does.  In state HOLDING it may have released the lock already.
            if READING in states():
                return state == HOLDING
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
        # Now either this process or the dead worker holds the lock.
        has_message = self._remove_rest(number) if state == READING else state == HOLDING
        if has_message:
            # Race: the worker may have counted the message, and others theirs since.
            integers = record.records.integers
            integers[MESSAGES_READ] = max(integers[MESSAGES_READ], number)
        self._lock.release()
        return has_message

    def _remove_rest(self, number: int) -> bool:
        """Remove what is left of a message, and return whether any of it had been read."""
        with self._mutex:
            sent = self._in_flight.get(number)
            position = self._written - self._unread()
            if sent is None or position <= sent.start:
                return False
            self._remove_from(position, number, sent)
            return True

    def _unread(self) -> int:
        """Return how many bytes are in the pipe."""
        raise NotImplementedError

    def _remove_from(self, position: int, number: int, sent: _Sent) -> None:
        raise NotImplementedError

    # -- The end of the pool ---------------------------------------------------------------

    def stop_workers(self, records: "Records") -> None:
        """Make each worker exit instead of receiving another task, and accept no messages.

        A message that is being written is still completed if a worker reads it.

        :param records: the records of the pool's workers
        """
        with self._mutex:
            self._is_stopping = True
            records.integers[STOPPING] = 1

    def release_abandoned_lock(self, states: "Callable[[], List[int]]") -> None:
        """Release the lock if a worker that has died holds it, in a pool that is ending.

        Workers that wait for the lock exit when they get it.  This matters for a worker that
        handles SIGTERM in Python: the handler cannot run before acquire() returns.

        :param states: returns the states of the workers that are alive
        """
        for _ in range(2):
            current = states()
            if READING in current or HOLDING in current:
                return
            if self._lock.acquire(False):
                break
            time.sleep(0.001)  # a worker that has just acquired the lock records it meanwhile
        with contextlib.suppress(ValueError):  # race: the worker has just released the lock
            self._lock.release()

    def close(self) -> None:
        """Write nothing more to the pipe, not even the rest of an incomplete message."""
        with self._mutex:
            self._is_stopping = self._is_closed = True

    def close_in_child(self) -> None:
        """Close the writing end in a process that was forked, such as a worker of another pool.

        Otherwise the workers would not see the end of the pipe when the parent has exited.
        """
        self._writer.close()

    def drain(self) -> None:
        """Remove what no worker will read."""
        while self._reader.poll():
            self._remove_some()

    def _remove_some(self) -> None:
        raise NotImplementedError

    def unblock_sender(self) -> None:
        """Let :meth:`send` return, in a pipe that is closed, when no worker is left."""


class PosixTaskPipe(TaskPipe):
    """Stream of bytes, in which each message has a header and may be incomplete."""

    def __init__(self, queue: "Any") -> None:
        super().__init__(queue)
        self._abandoned = 0  # number of a message that is not to be completed
        self._writer_fd = self._writer.fileno()
        os.set_blocking(self._writer_fd, False)
        self._writable = _Selector()
        self._writable.register(self._writer_fd, selectors.EVENT_WRITE)

    def send(self, job: "Any", index: int, message: "Any") -> bool:
        size = len(message)
        data = head = header(size)
        is_large = size >= _LARGE
        if not is_large:
            data += message
        with self._mutex:
            if self._is_stopping:
                return False
            number = self._register(job, index, len(head) + size, len(head))
            written = self._write_some(data)
        if written < len(data):
            self._write(number, memoryview(data)[written:])
        if is_large:
            self._write(number, memoryview(message))
        if self._is_stopping:
            # stop_workers() cannot write its message while another one is incomplete.
            self._write_sentinel()
        return True

    def _write(self, number: int, view: memoryview) -> None:
        """Write the rest of a message, unless it is abandoned or the pipe closed meanwhile."""
        while view:
            with self._mutex:
                if self._is_closed or self._abandoned == number:
                    return
                written = self._write_some(view)
            view = view[written:]
            if not written:
                self._writable.select(_SEND_INTERVAL)

    def _write_some(self, data: "Any") -> int:
        """Write as much as there is room for, and return the number of bytes."""
        try:
            written = os.write(self._writer_fd, data)
        except BlockingIOError:
            return 0
        self._written += written
        return written

    def stop_workers(self, records: "Records") -> None:
        super().stop_workers(records)
        self._write_sentinel()

    def close(self) -> None:
        super().close()
        self._writable.close()  # selectors are cyclic garbage unless they are closed

    def _write_sentinel(self) -> None:
        """Let the worker that is blocked in reading from the empty pipe exit."""
        self._write_message(None, 0, pickle.dumps(None))

    def _write_message(self, job: "Any", index: int, message: bytes) -> bool:
        """Write a small message without blocking, and return whether that was possible."""
        message = header(len(message)) + message
        with self._mutex:
            is_between_messages = self._end == self._written and not self._is_closed
            if not is_between_messages or len(message) > select.PIPE_BUF:
                return False
            start = self._written
            if not self._write_some(message):
                return False
            self._last_number += 1
            self._end = self._written
            self._in_flight[self._last_number] = _Sent(job, index, start, self._end, HEADER.size)
            return True

    def _unread(self) -> int:
        size = struct.Struct("i")
        buffer = fcntl.ioctl(self._reader.fileno(), termios.FIONREAD, bytes(size.size))
        return size.unpack(buffer)[0]  # type: ignore[no-any-return]

    def _remove_from(self, position: int, number: int, sent: _Sent) -> None:
        if sent.end > self._written:
            # The task handler is still writing this message.
            self._abandoned = number
            self._end = self._written
        end = min(sent.end, self._written)
        rest = bytearray()
        while position + len(rest) < end:
            rest += os.read(self._reader.fileno(), min(end - position - len(rest), 65536))
        is_only_header_read = position - sent.start == sent.header_size
        is_complete = end == sent.end
        # A worker that was killed while it waited may have read the header, which arrives
        # first.  Its task had not started, so it is requeued, behind all others.
        is_task = sent.job is not None and not self._is_stopping
        if is_only_header_read and is_complete and is_task:
            self._requeue(number, sent, bytes(rest))

    def _requeue(self, number: int, sent: _Sent, message: bytes) -> None:
        if self._write_message(sent.job, sent.index, message):
            del self._in_flight[number]

    def _remove_some(self) -> None:
        os.read(self._reader.fileno(), 65536)


class WindowsTaskPipe(TaskPipe):
    """Sequence of messages, each of which is in the pipe completely or not at all."""

    def __init__(self, queue: "Any") -> None:
        super().__init__(queue)
        self._operation: "Any" = None  # the write that the sender waits for

    def send(self, job: "Any", index: int, message: "Any") -> bool:
        with self._mutex:
            if self._is_stopping:
                return False
            number = self._register(job, index, len(message), 0)
            try:
                self._operation, _ = _winapi.WriteFile(  # type: ignore[attr-defined,unused-ignore]
                    self._writer.fileno(), message, overlapped=True
                )
            except BaseException:
                # For example, a message of 2 GiB.  It was not written, so its number must
                # belong to the next message.
                del self._in_flight[number]
                self._last_number -= 1
                self._end = self._written
                raise
            self._written = self._end
        # The message is in the pipe even if the pipe is full.  Wait until it has been read.
        try:
            self._operation.GetOverlappedResult(True)
        finally:
            self._operation = None
        return True

    def unblock_sender(self) -> None:
        while self._operation is not None:
            if self._reader.poll(0.01):
                self._remove_some()

    def _unread(self) -> int:
        return _winapi.PeekNamedPipe(self._reader.fileno())[0]  # type: ignore[attr-defined,unused-ignore,no-any-return]

    def _remove_from(self, position: int, number: int, sent: _Sent) -> None:
        if position < sent.end:
            self._remove_some()  # the rest of this message

    def _remove_some(self) -> None:
        self._reader.recv_bytes()


def task_pipe(queue: "Any") -> TaskPipe:
    """Return the task pipe of this operating system for a pool's ``_inqueue``."""
    return PosixTaskPipe(queue) if os.name == "posix" else WindowsTaskPipe(queue)
