"""The pipes that a pool receives results from: one for each worker, and one for wake-ups.

A worker that is killed while it sends a message leaves an incomplete message in its own pipe,
which affects no other worker.
"""

import functools
import os
import select
import selectors
import threading

from .._shared.messages import LARGE, RESULT_HEADER, TruncatedMessage

if os.name != "posix":
    import _winapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    from .._shared.messages import Message
    from .worker_process import WorkerProcess

# The message that wakes the result handler.  It differs from the pool's sentinel, which is a
# pickle.  It is not empty because on Windows, connection.wait() would read an empty message.
_WAKE_UP = b"wake"

_READ_SIZE = 65536

# Total size, in bytes, of the large messages that are received at the same time.  A message that
# is larger is received alone.
_MAX_RECEIVED = 64 * 2**20

_READABLE = getattr(select, "EPOLLIN", 1)


class ResultPipes:
    """Result pipes of a pool, and the pipe of its ``_outqueue``, which wakes the result handler.

    Only the result handler calls the methods, with three exceptions: any thread may call
    :meth:`wake`, the pool's constructor calls :meth:`add` before the result handler starts, and
    :meth:`close` is called after the result handler has ended.  ``_wake_lock`` guards writing to
    the wake-up pipe.  :meth:`read_wake_up` does not acquire it: the thread that holds it might be
    waiting for the result handler to read.

    :param queue: the pool's ``_outqueue``
    """

    def __init__(self, queue: "Any") -> None:
        self._wake_reader, self._wake_writer = queue._reader, queue._writer
        self._is_woken = False  # a wake-up is in the pipe
        # Reentrant because the garbage collector may terminate the pool in a thread that
        # holds it.
        self._wake_lock = threading.RLock()
        # Workers by their descriptors (POSIX) or connections; None for the wake-up pipe.
        self._workers: "Dict[Any, Optional[WorkerProcess]]" = {}

    def wake(self) -> None:
        """Wake the result handler: make :meth:`wait` return a list that contains None."""
        with self._wake_lock:
            if not self._is_woken:
                # First, because the result handler resets it without the lock.
                self._is_woken = True
                try:
                    self._wake_writer.send_bytes(_WAKE_UP)
                except BaseException:
                    self._is_woken = False
                    raise

    def read_wake_up(self) -> bool:
        """Read a wake-up, and return whether it was the pool's sentinel instead."""
        is_sentinel = self._wake_reader.recv_bytes() != _WAKE_UP
        if not is_sentinel:
            self._is_woken = False
        return bool(is_sentinel)

    def add(self, worker: "WorkerProcess") -> None:
        """Include a worker in :meth:`wait`."""
        raise NotImplementedError

    def remove(self, worker: "WorkerProcess") -> None:
        """Exclude a worker from :meth:`wait`, if it is included."""
        raise NotImplementedError

    def wait(self, timeout: float = -1) -> "List[Optional[WorkerProcess]]":
        """Wait for messages, and return the workers that have sent some; None is a wake-up.

        :param timeout: in seconds; negative if there is none, as always on Windows
        """
        raise NotImplementedError

    def receive(self, worker: "WorkerProcess") -> "Optional[List[Message]]":
        """Read from a worker's pipe, after :meth:`wait` or :meth:`has_data` has returned.

        :returns: the messages that are complete now, or None at the end of the pipe
        :raises BlockingIOError: if there is nothing to read (POSIX)
        """
        raise NotImplementedError

    def has_data(self, worker: "WorkerProcess") -> bool:
        """Return whether :meth:`receive` may be called for a worker that has exited.

        On POSIX it may always be called: it does not wait.
        """
        return True

    def close(self) -> None:
        """Close the pipes of all workers."""
        for worker in list(filter(None, self._workers.values())):
            self.remove(worker)
            worker.reader.close()
        self._workers.clear()


class _SelectorPoller:
    """The best selector of this operating system, with the methods of ``select.epoll``."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.unregister = self._selector.unregister
        self.close = self._selector.close

    def register(self, fd: int, events: int) -> None:
        self._selector.register(fd, selectors.EVENT_READ)

    def poll(self, timeout: float) -> "List[Tuple[int, int]]":
        keys = self._selector.select(None if timeout < 0 else timeout)
        return [(key.fd, events) for key, events in keys]


class PosixResultPipes(ResultPipes):
    """Result pipes on POSIX: streams of bytes, in which a message may arrive in parts.

    With epoll or kqueue, the cost of a result does not grow with the number of workers.

    The standard pool receives one message at a time.  If all workers sent large ones here, the
    parent would need memory for all of them.  Therefore workers may have to wait for their turn,
    in the order in which their large messages have begun to arrive.
    """

    def __init__(self, queue: "Any") -> None:
        super().__init__(queue)
        # A selector takes 0.4 microseconds more for each result than epoll itself.  It is used
        # on systems that have no epoll, and if eventlet or gevent has removed epoll.
        self._poller: "Any" = select.epoll() if hasattr(select, "epoll") else _SelectorPoller()
        # Workers that are sending a large message, with its size, and those that wait to do so.
        self._large: "Dict[WorkerProcess, int]" = {}
        self._waiting: "List[WorkerProcess]" = []
        self._register(self._wake_reader.fileno(), None)

    def _register(self, fd: int, worker: "Optional[WorkerProcess]") -> None:
        self._workers[fd] = worker
        self._poller.register(fd, _READABLE)

    def add(self, worker: "WorkerProcess") -> None:
        fd = worker.reader.fileno()
        os.set_blocking(fd, False)
        self._register(fd, worker)

    def remove(self, worker: "WorkerProcess") -> None:
        # This must precede closing the descriptor: forked workers have inherited the pipe, so
        # epoll would continue to report it.
        fd = worker.reader.fileno()
        if self._workers.pop(fd, None) is None:
            return
        if worker in self._waiting:
            self._waiting.remove(worker)
        else:
            self._poller.unregister(fd)
        self._end_large(worker)

    def wait(self, timeout: float = -1) -> "List[Optional[WorkerProcess]]":
        return [self._workers[fd] for fd, _ in self._poller.poll(timeout)]

    def receive(self, worker: "WorkerProcess") -> "Optional[List[Message]]":
        data = os.read(worker.reader.fileno(), _READ_SIZE)
        if not data:
            return None
        messages = worker.unread.feed(data)
        if messages and self._large:
            self._end_large(worker)
        if worker.unread.incomplete_size > LARGE:
            self._limit(worker)
        return messages

    def _limit(self, worker: "WorkerProcess") -> None:
        """Receive no more from a worker until it is its turn to send its large message."""
        if worker in self._large or worker in self._waiting:
            return
        size = worker.unread.incomplete_size
        if not self._waiting and self._has_room(size):
            self._large[worker] = size
        else:
            self._waiting.append(worker)
            self._poller.unregister(worker.reader.fileno())

    def _has_room(self, size: int) -> bool:
        return not self._large or sum(self._large.values()) + size <= _MAX_RECEIVED

    def _end_large(self, worker: "WorkerProcess") -> None:
        """Receive from waiting workers when the large message of a worker is complete."""
        if self._large.pop(worker, None) is not None:
            while self._waiting and self._has_room(self._waiting[0].unread.incomplete_size):
                waiting = self._waiting.pop(0)
                self._large[waiting] = waiting.unread.incomplete_size
                self._poller.register(waiting.reader.fileno(), _READABLE)

    def close(self) -> None:
        super().close()
        self._poller.close()


class WindowsResultPipes(ResultPipes):
    """Result pipes on Windows: each message is read as a whole.

    :param wait: ``multiprocessing.connection.wait``
    """

    def __init__(self, queue: "Any", wait: "Any") -> None:
        super().__init__(queue)
        self._connection_wait = wait
        self._workers[self._wake_reader] = None
        # The pool's threads call put() to send the sentinel.  put() needs the lock: later releases
        # of Python 3.11 and 3.12, and all of 3.13, raise an exception if two threads send through a
        # connection at the same time.  A bound method of this object would be in a cycle with it.
        queue.put = functools.partial(_put, self._wake_lock, self._wake_writer)

    def add(self, worker: "WorkerProcess") -> None:
        self._workers[worker.reader] = worker

    def remove(self, worker: "WorkerProcess") -> None:
        self._workers.pop(worker.reader, None)

    def wait(self, timeout: float = -1) -> "List[Optional[WorkerProcess]]":
        return [self._workers[reader] for reader in self._connection_wait(list(self._workers))]

    def receive(self, worker: "WorkerProcess") -> "Optional[List[Message]]":
        try:
            return [memoryview(worker.reader.recv_bytes())]
        except MemoryError:
            # recv_bytes() has read and discarded the beginning of the message, with the number.
            # The worker's record still holds the number, because the worker waits until a large
            # message has been read.
            self._discard_rest(worker.reader.fileno())
            _, number = worker.record.read()
            return [TruncatedMessage(RESULT_HEADER.pack(number, 0))]
        except (EOFError, OSError):
            return None

    def has_data(self, worker: "WorkerProcess") -> bool:
        return bool(worker.reader.poll())

    def _discard_rest(self, handle: int) -> None:
        error = _winapi.ERROR_MORE_DATA  # type: ignore[attr-defined,unused-ignore]
        while error == _winapi.ERROR_MORE_DATA:  # type: ignore[attr-defined,unused-ignore]
            operation, _ = _winapi.ReadFile(handle, _READ_SIZE, overlapped=True)  # type: ignore[attr-defined,unused-ignore]
            _, error = operation.GetOverlappedResult(True)


def _put(lock: "Any", writer: "Any", sentinel: None) -> None:
    with lock:
        writer.send(sentinel)


def result_pipes(queue: "Any", wait: "Any") -> ResultPipes:
    """Return a pool's result pipes, made from its ``_outqueue``."""
    return PosixResultPipes(queue) if os.name == "posix" else WindowsResultPipes(queue, wait)
