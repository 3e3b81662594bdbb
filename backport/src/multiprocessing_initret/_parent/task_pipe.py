"""The pipe from which all workers of a pool receive their tasks, as the parent sees it.

    send() --> | message 9 | message 8 | mes--> sage 7 --> the worker that holds the lock
               ^                            ^
               written                      read

Messages are numbered in the order in which they are written.  A worker's record holds the
number of the message that the worker reads, and the task pipe holds the task and position of
each message.  So if a worker dies while it reads a message, the parent can remove the rest of
that message, and the next worker starts to read at the beginning of a message.
"""

import collections
import contextlib
import threading
import time

from .._shared.record import HOLDING, MESSAGES_READ, READING, STOPPING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from .._shared.record import Record, Records
    from .critical_section import CriticalSection
    from .worker_process import WorkerProcess

# Seconds after which a lock that no record claims is attributed to the dead worker.  A living
# worker needs 100 nanoseconds to record that it has acquired the lock, but may not get a CPU for
# a second on a loaded machine.
_CLAIM_TIMEOUT = 5.0

# A message that was sent: job and index of its task (job is None for a message that makes a
# worker exit), its start and end among all bytes sent, and the size of its header.
SentMessage = collections.namedtuple("SentMessage", "job index start end header_size")


class TaskPipe:
    """Task pipe of a pool: the messages in it, and the lock that a worker holds to read one.

    The task handler calls :meth:`send`, and the result handler calls :meth:`pop`.  The thread that
    reaps workers calls :meth:`recover`: the worker handler or, in a closed pool, the task handler.
    The thread that breaks or terminates the pool calls the methods for termination.

    ``_read_lock`` is the lock that a worker holds while it reads a message.  ``_write_lock`` guards
    writing, and the positions and numbers of messages.  A thread that holds it is in the section,
    because the worker handler acquires it too.  ``_in_flight`` needs no lock: the methods of a dict
    are atomic.

    :param queue: the pool's ``_inqueue``
    :param section: the pool's critical section
    """

    def __init__(self, queue: "Any", section: "CriticalSection") -> None:
        self._section = section
        self._reader, self._writer, self._read_lock = queue._reader, queue._writer, queue._rlock
        self._in_flight: "Dict[int, SentMessage]" = {}
        self._write_lock = threading.RLock()
        self._last_number = 0
        self._written = 0  # bytes written so far
        self._end = 0  # end of the last message; greater than _written while that is incomplete
        self._is_stopping = False  # no more messages are accepted
        self._is_closed = False  # nothing is written, not even the rest of a message

    # -- Sending -----------------------------------------------------------------------

    def send(self, job: "Any", index: int, message: "Any") -> bool:
        """Write a message to the pipe; return False if the pipe does not accept messages.

        :param job: number of the job, or None for a message that makes a worker exit
        :param index: of the task in the job
        :param message: the pickled task
        """
        section = self._section
        section.sender = threading.get_ident()  # faster than a `with` statement
        try:
            with self._write_lock:
                if self._is_stopping:
                    return False
                rest = self._begin(job, index, message)
        finally:
            section.sender = None
        self._finish(rest)
        return True

    def _begin(self, job: "Any", index: int, message: "Any") -> "Any":
        """Begin to write a message, without blocking, and return what :meth:`_finish` needs."""
        raise NotImplementedError

    def _finish(self, rest: "Any") -> None:
        """Write the rest of a message."""
        raise NotImplementedError

    def _register(self, job: "Any", index: int, size: int, header_size: int) -> int:
        number = self._last_number = self._last_number + 1
        self._end = self._written + size
        self._in_flight[number] = SentMessage(job, index, self._written, self._end, header_size)
        return number

    def is_incomplete(self) -> bool:
        """Return whether the last message is incomplete; the next would be taken for its rest."""
        return self._end != self._written

    def pop(self, number: int) -> "Optional[Tuple[int, int]]":
        """Remove a message, and return the job and index of its task.

        :returns: None if the message has no task, or has been removed before
        """
        sent = self._in_flight.pop(number, None)
        return None if sent is None or sent.job is None else sent[:2]

    def has_task(self, number: int) -> bool:
        """Return whether a message has a task whose result has not arrived."""
        sent = self._in_flight.get(number)
        return sent is not None and sent.job is not None

    def in_flight(self) -> "List[int]":
        """Return the numbers of the messages that :meth:`pop` has not been called with."""
        return list(self._in_flight)

    # -- Recovery after the death of a worker --------------------------------------------

    def recover(self, record: "Record", states: "Callable[[], List[int]]") -> bool:
        """Release the lock if a dead worker holds it, and remove the rest of its message.

        :param record: record of the dead worker, in state WAITING, READING or HOLDING
        :param states: function that returns the states of the other workers, including those that
            are being started
        :returns: whether the worker had received a message, at least in part
        """
        state, number = record.read()
        deadline = time.monotonic() + _CLAIM_TIMEOUT
        while state != READING and not self._read_lock.acquire(False):
            # Either another worker holds the lock, or the dead worker does: it may have died
            # before it recorded that it held the lock (WAITING) or before it released the lock
            # (HOLDING).  Only the state READING proves that a worker holds the lock.
            if READING in states():
                return state == HOLDING
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
        # Now either this process or the dead worker holds the lock.
        has_message = self._remove_rest(number) if state == READING else state == HOLDING
        if has_message:
            # The dead worker may have counted this message, and others may have counted later ones.
            integers = record.records.integers
            integers[MESSAGES_READ] = max(integers[MESSAGES_READ], number)
        self._read_lock.release()
        return has_message

    def _remove_rest(self, number: int) -> bool:
        """Remove the rest of a message, and return True, if a worker has read a part of it."""
        with self._section, self._write_lock:
            sent = self._in_flight.get(number)
            position = self._written - self._unread()
            if sent is None or position <= sent.start:
                return False
            self._remove_from(position, number, sent)
            return True

    def _unread(self) -> int:
        """Return how many bytes are in the pipe."""
        raise NotImplementedError

    def _remove_from(self, position: int, number: int, sent: SentMessage) -> None:
        raise NotImplementedError

    # -- Termination -----------------------------------------------------------------------

    def stop_workers(self, records: "Records") -> None:
        """Accept no more messages, and make each worker exit instead of reading another.

        If a worker is reading a message that is being written, :meth:`send` completes it.
        """
        with self._section, self._write_lock:
            self._is_stopping = True
            records.integers[STOPPING] = 1
            self._write_sentinel()

    def _write_sentinel(self) -> None:
        """Write a message that makes a worker exit, for the one that waits at the empty pipe."""
        raise NotImplementedError

    def release_lock_of_dead_worker(self, states: "Callable[[], List[int]]") -> None:
        """Release the lock if a dead worker holds it, after :meth:`stop_workers`.

        The workers that wait for the lock acquire it and exit.  SIGTERM may not suffice for that:
        a handler written in Python cannot run before ``acquire()`` has returned.

        :param states: function that returns the states of the workers that are alive
        """
        for _ in range(2):
            current = states()
            if READING in current or HOLDING in current:
                return
            if self._read_lock.acquire(False):
                break
            time.sleep(0.001)  # race: a worker has acquired the lock but not recorded that yet
        with contextlib.suppress(ValueError):  # race: the worker has just released the lock
            self._read_lock.release()

    def close(self) -> None:
        """Write nothing more to the pipe, not even the rest of an incomplete message."""
        with self._section, self._write_lock:
            self._is_stopping = self._is_closed = True

    def close_in_child(self) -> None:
        """Close the writing end in a forked child: in a worker, or in a child of ``os.fork()``.

        Otherwise the workers would not reach the end of the pipe after the parent has exited.
        """
        with contextlib.suppress(OSError):  # the program has closed the descriptor
            self._writer.close()

    def drain(self) -> None:
        """Remove everything from the pipe, after the workers have exited."""
        # Two threads may do so, one that breaks the pool and one that terminates it.
        with self._section, self._write_lock:
            while self._reader.poll():
                self._remove_some()

    def _remove_some(self) -> None:
        raise NotImplementedError

    def unblock_sender(self, workers: "List[WorkerProcess]") -> None:
        """Make :meth:`send` return, after :meth:`close`.

        On POSIX, :meth:`send` returns by itself, because it checks whether the pipe is closed.

        :param workers: the workers, which have been terminated
        """
