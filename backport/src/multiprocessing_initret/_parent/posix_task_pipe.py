"""The task pipe of a pool on POSIX: how messages are written to it and removed from it."""

import fcntl
import os
import pickle
import select
import struct
import termios

from .._shared.messages import HEADER, header
from .task_pipe import SentMessage, TaskPipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .critical_section import CriticalSection

_SEND_INTERVAL = 0.1  # seconds after which a blocked send() checks whether the pipe was closed

# Size, in bytes, from which a message is written separately from its header, to save a copy.
_MIN_SEPARATE = 16384

# Maximum number of bytes that are passed to one os.write(): the capacity of a pipe on Linux.  PyPy
# copies all that are passed, even if the pipe has room for only a few.
_MAX_WRITTEN = 65536


class PosixTaskPipe(TaskPipe):
    """Task pipe on POSIX: a stream of bytes, in which a message may be incomplete."""

    def __init__(self, queue: "Any", section: "CriticalSection") -> None:
        super().__init__(queue, section)
        self._removed_number = 0  # number of a message that was removed while send() was writing it
        self._writer_fd = self._writer.fileno()
        os.set_blocking(self._writer_fd, False)

    def _begin(self, job: "Any", index: int, message: "Any") -> "Any":
        size = len(message)
        head = header(size)
        is_large = size >= _MIN_SEPARATE
        data = head if is_large else head + message
        number = self._register(job, index, len(head) + size, len(head))
        written = self._write_some(data)
        parts = []
        if written < len(data):
            parts.append(memoryview(data)[written:])
        if is_large:
            parts.append(memoryview(message))
        return number, parts

    def _finish(self, rest: "Any") -> None:
        number, parts = rest
        for part in parts:
            self._write(number, part)
        if self._is_stopping:
            # stop_workers() could not write the sentinel while this message was incomplete.
            self._write_sentinel()

    def _write(self, number: int, view: memoryview) -> None:
        """Write the rest of a message, unless it is removed or the pipe is closed meanwhile."""
        while view:
            with self._section, self._write_lock:
                if self._is_closed or self._removed_number == number:
                    return
                written = self._write_some(view[:_MAX_WRITTEN])
            view = view[written:]
            if not written:
                _wait_until_writable(self._writer_fd, _SEND_INTERVAL)

    def _write_some(self, data: "Any") -> int:
        """Write as many bytes as the pipe has room for, and return their number."""
        try:
            written = os.write(self._writer_fd, data)
        except BlockingIOError:
            return 0
        self._written += written
        return written

    def _write_sentinel(self) -> None:
        self._write_message(None, 0, pickle.dumps(None))

    def _write_message(self, job: "Any", index: int, message: bytes) -> bool:
        """Write a small message without blocking, and return whether that was possible."""
        message = header(len(message)) + message
        with self._section, self._write_lock:
            if self._is_closed or self._end != self._written or len(message) > select.PIPE_BUF:
                return False
            start = self._written
            if not self._write_some(message):
                return False
            self._last_number += 1
            self._end = self._written
            self._in_flight[self._last_number] = SentMessage(
                job, index, start, self._end, HEADER.size
            )
            return True

    def _unread(self) -> int:
        buffer = bytes(struct.calcsize("i"))
        buffer = fcntl.ioctl(self._reader.fileno(), termios.FIONREAD, buffer)
        return struct.unpack("i", buffer)[0]  # type: ignore[no-any-return]

    def _remove_from(self, position: int, number: int, sent: SentMessage) -> None:
        if sent.end > self._written:
            # The task handler is still writing this message.
            self._removed_number = number
            self._end = self._written
        end = min(sent.end, self._written)
        rest = bytearray()
        while position + len(rest) < end:
            rest += os.read(self._reader.fileno(), min(end - position - len(rest), 65536))
        # A worker that was killed while it waited for a message may have read only the header.
        # The task had not started then: requeue it, behind all others.
        is_whole_body = position == sent.start + sent.header_size and end == sent.end
        is_task = sent.job is not None and not self._is_stopping
        if is_whole_body and is_task and self._write_message(sent.job, sent.index, bytes(rest)):
            self._in_flight.pop(number, None)  # race: the pool may have failed all tasks

    def _remove_some(self) -> None:
        os.read(self._reader.fileno(), 65536)


def _wait_until_writable(fd: int, seconds: float) -> None:
    """Wait until a pipe has room for more bytes, but not longer than a number of seconds."""
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        poller.poll(1000 * seconds)
    else:  # eventlet removes select.poll()
        select.select([], [fd], [], seconds)
