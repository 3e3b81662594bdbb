"""The task pipe of a pool on Windows: how messages are written to it and removed from it."""

import _winapi
import pickle
import time

from .task_pipe import SentMessage, TaskPipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List

    from .critical_section import CriticalSection
    from .worker_process import WorkerProcess


class WindowsTaskPipe(TaskPipe):
    """Task pipe on Windows: each message is in the pipe completely or not at all."""

    def __init__(self, queue: "Any", section: "CriticalSection") -> None:
        super().__init__(queue, section)
        self._operation: "Any" = None  # the write that send() waits for

    def _begin(self, job: "Any", index: int, message: "Any") -> "Any":
        self._operation = self._write(job, index, message)

    def _finish(self, rest: "Any") -> None:
        # Workers can receive the message already.  While the pipe is full, the write is pending.
        try:
            self._operation.GetOverlappedResult(True)
        finally:
            self._operation = None

    def _write(self, job: "Any", index: int, message: "Any") -> "Any":
        """Start to write a message, and return the overlapped operation."""
        number = self._register(job, index, len(message), 0)
        try:
            operation, _ = _winapi.WriteFile(  # type: ignore[attr-defined,unused-ignore]
                self._writer.fileno(), message, overlapped=True
            )
        except BaseException:
            # The message was not written, for example one of 2 GiB: reuse its number.
            del self._in_flight[number]
            self._last_number -= 1
            self._end = self._written
            raise
        self._written = self._end
        return operation

    def _write_sentinel(self) -> None:
        if not self._is_closed and not self._unread():
            self._write(None, 0, pickle.dumps(None)).GetOverlappedResult(True)

    def unblock_sender(self, workers: "List[WorkerProcess]") -> None:
        # drain() reads from the pipe without the lock of the workers, so no worker may read at the
        # same time.  No worker can ignore terminate() on Windows.
        for worker in list(workers):
            worker.process.join()
        while self._operation is not None:
            self.drain()
            time.sleep(0.001)

    def _unread(self) -> int:
        return _winapi.PeekNamedPipe(self._reader.fileno())[0]  # type: ignore[attr-defined,unused-ignore,no-any-return]

    def _remove_from(self, position: int, number: int, sent: SentMessage) -> None:
        if position < sent.end:
            self._remove_some()  # the rest of this message

    def _remove_some(self) -> None:
        self._reader.recv_bytes()
