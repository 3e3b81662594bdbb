"""In the parent: the pipes of the workers' results, one for each, and one that wakes who reads.

A worker that is killed in the middle of a message leaves a part of it in its own pipe, and
is in nobody's way.
"""

import os
import select
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    from .worker_process import WorkerProcess

# What wakes the thread that handles results, no pickle. An empty message would do on
# POSIX; on Windows wait() reads it to see that it is there, and under Wine it is gone then.
_WAKE = b"wake"


class ResultPipes:
    """What both kinds of system have in common: who wakes the thread that handles results."""

    def __init__(self, queue: "Any") -> None:
        self._wakes, self._waker = queue._reader, queue._writer
        self._is_woken = False
        self._workers: "Dict[Any, Optional[WorkerProcess]]" = {}
        # Not at once on Windows, from Python 3.14.
        self._waking = threading.Lock()

    def wake(self) -> None:
        """Let :meth:`wait` return None in its list, in any thread."""
        with self._waking:
            if not self._is_woken:
                self._is_woken = True
                self._waker.send_bytes(_WAKE)

    def was_woken_to_end(self) -> bool:
        """Read what has woken the thread; tell whether it was the pool's own sentinel."""
        if self._wakes.recv_bytes() != _WAKE:
            return True
        self._is_woken = False
        return False

    def add(self, worker: "WorkerProcess") -> None:
        raise NotImplementedError

    def remove(self, worker: "WorkerProcess") -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Close the pipes of all workers."""
        for worker in list(filter(None, self._workers.values())):
            self.remove(worker)
            worker.reader.close()

    def wait(self) -> "List[Optional[WorkerProcess]]":
        """Wait until a worker has sent something, and return those; None for a wake."""
        raise NotImplementedError

    def receive(self, worker: "WorkerProcess") -> "Optional[List[memoryview]]":
        """Read from a worker, and return the messages that are whole; None at the end."""
        raise NotImplementedError


class PosixResultPipes(ResultPipes):
    def __init__(self, queue: "Any") -> None:
        super().__init__(queue)
        self._workers[self._wakes.fileno()] = None
        self._poller = select.poll()
        self._poller.register(self._wakes.fileno(), select.POLLIN)

    def add(self, worker: "WorkerProcess") -> None:
        fd = worker.reader.fileno()
        self._workers[fd] = worker
        self._poller.register(fd, select.POLLIN)

    def remove(self, worker: "WorkerProcess") -> None:
        fd = worker.reader.fileno()
        if self._workers.pop(fd, None):
            self._poller.unregister(fd)

    def wait(self) -> "List[Optional[WorkerProcess]]":
        return [self._workers[fd] for fd, _ in self._poller.poll()]

    def receive(self, worker: "WorkerProcess") -> "Optional[List[memoryview]]":
        data = os.read(worker.reader.fileno(), 65536)
        return worker.unread.feed(data) if data else None


class WindowsResultPipes(ResultPipes):
    def __init__(self, queue: "Any", wait: "Any") -> None:
        super().__init__(queue)
        self._connection_wait = wait
        self._workers[self._wakes] = None

    def add(self, worker: "WorkerProcess") -> None:
        self._workers[worker.reader] = worker

    def remove(self, worker: "WorkerProcess") -> None:
        self._workers.pop(worker.reader, None)

    def wait(self) -> "List[Optional[WorkerProcess]]":
        return [self._workers[reader] for reader in self._connection_wait(list(self._workers))]

    def receive(self, worker: "WorkerProcess") -> "Optional[List[memoryview]]":
        try:
            return [memoryview(worker.reader.recv_bytes())]
        except (EOFError, OSError):
            return None


def result_pipes(queue: "Any", wait: "Any") -> ResultPipes:
    """Return what this system has; wait is that of multiprocessing.connection."""
    return PosixResultPipes(queue) if os.name == "posix" else WindowsResultPipes(queue, wait)
