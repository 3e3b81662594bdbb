"""Worker side of a pool of processes: its task queue and its result queue.

A worker may be killed between any two instructions, so it records each step in its
:class:`Record` (``_shared/record.py``), which the parent reads after the worker has died.
"""

import _thread
import contextlib
import io
import os
import select
import sys
import time

from .._shared.errors import describe
from .._shared.messages import HEADER, RESULT_HEADER, header
from .._shared.packages import module, pickler_class
from .._shared.record import (
    HOLDING,
    INITIALIZED,
    INITIALIZING,
    MESSAGES_READ,
    READING,
    RUNNING,
    STOPPING,
    WAITING,
)
from .tasks import Tasks, explain_missing_name, raise_error, run_loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Sequence, Tuple

    from .._shared.initargs import InitArgs
    from .._shared.record import Record
    from .tasks import Task

# Time, in seconds, that a worker waits for the lock of the task pipe before it checks whether
# its parent is alive.  Not on macOS: acquire() with a timeout polls there, which would delay
# each task by up to 20 milliseconds.
_CHECK_INTERVAL = None if sys.platform == "darwin" else 3.0

# Time, in seconds, that a worker has to exit after an exception; then os._exit() ends it.
_EXIT_TIMEOUT = 10.0

# Size, in bytes, of the largest pickle of an exception whose repr is made, because the repr of a
# large object takes a multiple of the object's memory.
_MAX_DESCRIBED = 2**20

# Largest message that is written to a pipe completely or not at all.  On Windows, every
# message is.
_MAX_ATOMIC = getattr(select, "PIPE_BUF", sys.maxsize)


def _parent_watch(package: str, reader: "Any", parent_pid: "Optional[int]") -> "Callable[[], bool]":
    """Return a function that reports whether the process that owns the pool is alive.

    :param reader: the end of the task pipe that workers read from
    :param parent_pid: pid of that process if it is the parent of this one, otherwise None
    """
    if os.name != "posix":
        # None before Python 3.8.
        parent = getattr(module(package, "process"), "parent_process", lambda: None)()
        return lambda: parent is None or parent.is_alive()

    # The parent may have died before this line, so that getppid() has changed already.
    ppid = os.getppid() if parent_pid is None else parent_pid

    def is_alive() -> bool:
        # Under a fork server, getppid() does not change when the owner of the pool exits.  Under
        # fork, a child of the owner may have kept the other end (on Python 3.6, for example).
        return os.getppid() == ppid and not _is_hung_up(reader)

    return is_alive


def _is_hung_up(reader: "Any") -> bool:
    """Return whether no process can write to a pipe."""
    if not hasattr(select, "poll"):  # eventlet removes it
        return False
    poller = select.poll()
    poller.register(reader, 0)
    # A descriptor that the program has closed is reported, too.
    return any(event & select.POLLHUP for _, event in poller.poll(0))


class Channel:
    """Result pipe and record of a worker process.

    The thread of the parent that starts the process sets the attributes.  The pool creates the
    process object earlier, with this object among its arguments.
    """

    #: the worker's end of its result pipe
    writer: "Any"
    #: the record of what the worker does
    record: "Record"
    #: whether the worker calls the initializer only when it has a task
    defers_initializer: bool
    #: pid of the process that owns the pool, or None if a fork server starts the worker
    parent_pid: "Optional[int]"


class RecordedTasks(Tasks):
    """The task queue of a worker process, which records what the worker does.

    The worker's main thread alone uses it.  The lock of the task pipe, which all workers share,
    is held while a message is read from the pipe.  If the worker exits in between, for whatever
    reason, it does not release the lock, because other workers would take the rest of its message
    for the next one.  The parent removes that rest and then releases the lock.
    """

    #: Number of the message that was received last.
    number = 0

    _has_ended = False

    def __init__(
        self, package: str, inqueue: "Any", initargs: "InitArgs", hint: str, channel: Channel
    ) -> None:
        self._loads = pickler_class(package).loads
        self._record: "Record" = channel.record
        self._parent_is_alive = _parent_watch(package, inqueue._reader, channel.parent_pid)
        super().__init__(package, inqueue, initargs, hint, channel.defers_initializer)

    def _initialize(self) -> None:
        self._record.set(INITIALIZING, self.number)
        super()._initialize()
        self._record.records.integers[INITIALIZED] = 1
        self._record.set(RUNNING, self.number)

    def clear(self) -> None:
        # The process exits next.  Releasing everything else would take it 10 microseconds more.
        self._initret = None
        self._keyword.clear()

    def end_in_child(self) -> None:
        """Receive no more tasks, in a process that is forked from the worker.

        An initializer or a task may call ``os.fork()`` and return in both processes.
        """
        self._has_ended = True

    def _receive_function(self) -> "Callable[[], Any]":
        return self._receive_recorded

    def _receive_recorded(self) -> "Optional[Task]":
        """Return the next task, or None if the worker is to exit."""
        if self._has_ended:
            raise EOFError("a process that was forked from a worker receives no tasks")
        set_state, integers = self._record.set, self._record.records.integers
        lock = self._inqueue._rlock
        set_state(WAITING)
        # If a worker and the parent are both killed, nobody releases the lock that the worker
        # may have held.
        while not lock.acquire(True, _CHECK_INTERVAL):
            if not self._parent_is_alive():
                raise EOFError("the parent process has exited")
        # No `with` statement: see the docstring of the class.
        if integers[STOPPING]:
            # Race: the parent may have released the lock, because the record does not show yet
            # that this worker holds it.
            with contextlib.suppress(ValueError):
                lock.release()
            return None
        previous = self.number
        self.number = number = integers[MESSAGES_READ] + 1
        set_state(READING, number)
        try:
            message = self._inqueue._reader.recv_bytes()
        except BaseException as error:
            # If the parent has exited, the other workers need the lock to receive EOFError, too.
            if isinstance(error, EOFError) or not self._parent_is_alive():
                # The parent may be alive: a task may have opened a file in place of the pipe.
                # READING would mean that this worker holds the lock.
                set_state(WAITING)
                lock.release()
                set_state(RUNNING, previous)
            raise
        set_state(HOLDING, number)
        integers[MESSAGES_READ] = number
        lock.release()
        set_state(RUNNING, number)
        try:
            task: "Optional[Task]" = self._loads(message)
            return task
        except Exception as error:
            return 0, 0, raise_error, (explain_missing_name(error, self._hint),), {}


class ResultInterrupted(BaseException):
    """Ends a worker that may have sent a part of a result.

    It does not derive from ``Exception``, which the worker's loop would catch: the loop would
    then send another message after the incomplete one.
    """


class Results:
    """The result queue of a worker process, which sends results through a pipe of its own.

    The worker's main thread alone uses it.

    :param writer: the end of that pipe
    :param tasks: holds the number of the message that a result answers
    """

    def __init__(self, package: str, writer: "Any", tasks: RecordedTasks) -> None:
        self._exception_with_traceback = module(package, "pool").ExceptionWithTraceback
        self._pickler = pickler_class(package)
        self._send_bytes = writer.send_bytes
        self._tasks = tasks
        # The worker's loop closes the reader of its result queue.  This queue has no reader.
        self._reader = io.BytesIO()

    def put(self, task_result: "Tuple[int, int, Tuple[bool, Any]]") -> None:
        """Send the result or exception of the current task.

        :raises ResultInterrupted: if an exception, for example from a signal handler, may have
            left an incomplete message in the pipe
        """
        succeeded, value = result = task_result[2]
        message = io.BytesIO()
        message.write(RESULT_HEADER.pack(self._tasks.number, 0))
        self._pickler(message, None).dump(result)
        if not succeeded:
            description = self._describe(value, message.tell())
            message.write(description)
            message.seek(0)
            message.write(RESULT_HEADER.pack(self._tasks.number, len(description)))
        view = message.getbuffer()
        if HEADER.size + len(view) <= _MAX_ATOMIC:
            # If this is interrupted, the worker's loop sends the exception as well.  The parent
            # ignores the second message for a task.
            self._send_bytes(view)
            return
        header(len(view))  # raises an exception for a result that is too large
        try:
            self._send_bytes(view)
        except BaseException as error:
            raise ResultInterrupted("sending a result was interrupted") from error

    def _describe(self, error: "Any", size: int) -> bytes:
        """Return the repr and the traceback of an exception, in case the parent cannot unpickle it.

        :param size: size of its pickle in bytes; if that is large, only the type is described
        """
        traceback = ""
        if isinstance(error, self._exception_with_traceback):
            error, traceback = error.exc, error.tb
        if size > _MAX_DESCRIBED:
            text, traceback = object.__repr__(error), ""  # the traceback contains str(error)
        else:
            text = describe(error)
        return "\0".join((text, traceback)).encode("utf-8", "backslashreplace")


def run_process(
    package: str,
    target: "Callable[..., object]",
    args: "Sequence[Any]",
    positions: "Sequence[int]",
    inqueue: "Any",
    channel: Channel,
    initargs: "InitArgs",
    hint: str,
) -> None:
    """Run a worker process with recorded tasks and a result pipe of its own.

    :param target: the pool's ``worker`` function, or a subclass's own
    :param args: its arguments
    """
    tasks = RecordedTasks(package, inqueue, initargs, hint, channel)
    if hasattr(os, "register_at_fork"):  # since Python 3.7, on POSIX
        # As long as this pipe is open, Reaper.ensure_exit() regards this process as running.
        os.register_at_fork(after_in_child=channel.writer.close)
        os.register_at_fork(after_in_child=tasks.end_in_child)
    try:
        results = Results(package, channel.writer, tasks)
        run_loop(target, args, positions, tasks, results, tasks.initialize)
    except BaseException:
        # SystemExit, KeyboardInterrupt, or a result that could not be sent.  The parent fails the
        # task, and releases the lock of the task pipe, when this process has exited.  The exit may
        # hang: it waits for threads that a task has started, and even for threads of the parent if
        # Ctrl-C interrupted the function of the module threading that runs after a fork.
        _thread.start_new_thread(_exit_late, ())
        raise
    finally:
        tasks.clear()


def _exit_late() -> None:
    time.sleep(_EXIT_TIMEOUT)
    os._exit(1)
