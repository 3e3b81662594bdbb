"""One worker process, as its parent sees it."""

import contextlib
import functools
import os
import signal
import sys
import time
import weakref

from .._shared.errors import WorkerLostError, check_process
from .._shared.messages import MessageBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    from .._shared.record import Record
    from .._worker.process import Channel

# Time, in seconds, to wait for another thread to store an exit code that it has received.
_EXITCODE_TIMEOUT = 0.1

# The number of this system call on Linux, the same on all architectures but Alpha.
_SYS_PIDFD_OPEN = 434

#: Start methods of processes that are children of this process, not of a fork server.
METHODS_OF_CHILDREN = ("fork", "spawn")

#: Exit code of a process that has exited, if the system does not report how it exited.
UNKNOWN_EXITCODE = 255


@functools.lru_cache(maxsize=None)
def _c_library() -> "Any":
    # Cached, because each CDLL object creates a class, which is cyclic garbage later.
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _pidfd_open(pid: int) -> int:
    """Return a descriptor of a process, which becomes readable when the process has exited."""
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    # Before Python 3.9, and in PyPy.
    import ctypes

    pidfd: int = _c_library().syscall(_SYS_PIDFD_OPEN, pid, 0)
    if pidfd < 0:
        raise OSError(ctypes.get_errno(), "pidfd_open() failed")
    return pidfd


class PlaceholderProcess:
    """Stands in for a worker in the pool's list when no worker is started any more."""

    name = ""
    daemon = True
    pid = None

    def __init__(self, exitcode: "Optional[int]" = None) -> None:
        self.exitcode = exitcode

    def start(self) -> None:
        """Do nothing."""

    terminate = start

    def join(self, timeout: "Optional[float]" = None) -> None:
        """Do nothing."""

    def is_alive(self) -> bool:
        """Return False."""
        return False


class WorkerProcess:
    """A worker process: the standard process object, and its parent's data about it.

    The pool's list of workers holds it.  A thread of ``Starter`` starts it, and the worker handler
    or the task handler reaps it.  The result handler reads from its result pipe, and
    alone uses :attr:`unread`.  Any thread may read its exit code, and may terminate or kill it.

    :param start: ``Starter.start()``, or ``defer()`` or ``start_first()`` in the constructor
    :param reap: ``Workforce.reap()``
    :param process: the standard process object, not started yet
    :param channel: the argument of the process that is completed when the process is started
    """

    #: the end of the result pipe that the parent reads from; None until the pipe is created
    reader: "Any" = None

    def __init__(
        self,
        start: "Callable[[WorkerProcess], bool]",
        reap: "Callable[[], None]",
        process: "Any",
        channel: "Channel",
    ) -> None:
        # The workforce refers to its workers.  References in the other direction would be cycles:
        # start() deletes the first one, and the second is weak.
        self._start = start
        self._reap = weakref.WeakMethod(reap)
        self._creator_pid = os.getpid()
        self.process = process
        self.channel = channel
        self.unread = MessageBuffer()
        #: how many generations of workers in a row had exited while starting before this one
        self.generation = 0
        #: whether the sentinel is ready as soon as the process has exited; see watch_process()
        self.is_watched = False

    def __getattr__(self, name: str) -> "Any":
        return getattr(self.process, name)

    # Programs compare the pool's list of workers with multiprocessing.active_children().

    def __eq__(self, other: object) -> bool:
        return other is self or other is self.process

    def __hash__(self) -> int:
        return hash(self.process)

    def __repr__(self) -> str:
        return repr(self.process)

    # The pool sets name and daemon, which __getattr__() does not cover.

    @property
    def name(self) -> str:
        return self.process.name  # type: ignore[no-any-return]

    @name.setter
    def name(self, name: str) -> None:
        self.process.name = name

    @property
    def daemon(self) -> bool:
        return self.process.daemon  # type: ignore[no-any-return]

    @daemon.setter
    def daemon(self, daemon: bool) -> None:
        self.process.daemon = daemon

    @property
    def record(self) -> "Record":
        return self.channel.record

    def start(self) -> None:
        """Start the process, at once or later.

        If no worker is needed any more, put a placeholder in its place.
        """
        start = vars(self).pop("_start")
        try:
            if not start(self):
                self.process = PlaceholderProcess()
        except BaseException:
            # Before Python 3.8, the pool has this worker in its list already, and must remove it.
            # Ctrl-C may have raised this exception after the process has started.
            if self.pid is None:
                self.set_failed()
            raise

    def set_failed(self) -> None:
        """Put a placeholder in place of the process, which could not be started."""
        self.process = PlaceholderProcess(exitcode=1)

    def join(self, timeout: "Optional[float]" = None) -> None:
        """Wait until the process has exited, and reap it.

        The worker handler joins each worker that has exited, even one that it does not replace.

        :raises RuntimeError: in a forked child of the process that created the pool
        """
        check_process(self._creator_pid)
        self.process.join(timeout)
        reap = self._reap()
        if reap is not None and self.exitcode is not None:
            reap()

    def close_reader(self) -> None:
        """Close the parent's end of the result pipe."""
        # Race: another thread may fork after the pipe has been closed.  Workforce.close_in_child()
        # must not close the same descriptor again, which may belong to another file in the child.
        reader, self.reader = self.reader, None
        reader.close()

    @property
    def start_method(self) -> str:
        """The method that the process was started with."""
        return getattr(self._popen, "method", "")

    @property
    def _is_child(self) -> bool:
        """Whether the process is a child of this process, not of a fork server."""
        return self.start_method in METHODS_OF_CHILDREN

    def watch_process(self) -> None:
        """Make the sentinel ready as soon as the process itself has exited.

        The standard sentinel is a pipe.  It is inherited by the children that the worker forks,
        and by processes that other threads fork at the same time, and becomes ready only when all
        of them have exited, too.  On Linux, a descriptor of the process itself replaces the pipe.
        """
        # A fork server reports the exit itself.
        self.is_watched = os.name != "posix" or not self._is_child
        if self.is_watched or not sys.platform.startswith("linux"):
            return
        popen = self.process._popen
        if popen.returncode is not None:  # another Process.start() has reaped it
            self.is_watched = True
            return
        try:
            pidfd = _pidfd_open(popen.pid)
        except (OSError, ImportError):  # no descriptors, a kernel before Linux 5.3, or no ctypes
            return
        os.dup2(pidfd, popen.sentinel, inheritable=False)
        os.close(pidfd)
        self.is_watched = True

    @property
    def exitcode(self) -> "Optional[int]":
        code: "Optional[int]" = self.process.exitcode
        if code is None and os.name == "posix" and self.pid is not None and self._is_child:
            # If SIGCHLD is ignored, or the program waits for all children, the system does
            # not report how a child exited, and multiprocessing regards it as alive.
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                code = self._unreported_exitcode()
            except PermissionError:
                pass
        return code

    def _unreported_exitcode(self) -> int:
        # Race: another thread may have received the exit code, and not have stored it yet.
        is_ignored = signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
        deadline = time.monotonic() + (0 if is_ignored else _EXITCODE_TIMEOUT)
        while time.monotonic() < deadline:
            code = self.process.exitcode
            if code is not None:
                return code  # type: ignore[no-any-return]
            time.sleep(0.001)
        self._popen.returncode = UNKNOWN_EXITCODE
        return UNKNOWN_EXITCODE

    def kill(self) -> None:
        """Kill the process.  On Windows, ``terminate()`` has done so."""
        if os.name == "posix" and self.exitcode is None:
            with contextlib.suppress(ProcessLookupError):  # race: it has just exited
                os.kill(self.pid, signal.SIGKILL)

    def __str__(self) -> str:
        code = self.exitcode
        if code is None:
            how = "is running"
        elif code >= 0:
            how = f"exited with code {code}"
        else:
            try:
                how = "was killed by " + signal.Signals(-code).name
            except ValueError:
                how = f"was killed by signal {-code}"
            if -code == getattr(signal, "SIGKILL", None):
                how += " (possibly by the kernel's out-of-memory killer)"
        return f"worker {self.name} (pid {self.pid}) {how}"

    def lost_error(self) -> WorkerLostError:
        """Return the exception of the task that this worker was running when it exited."""
        return WorkerLostError(str(self), self.exitcode, self.pid, self.name)
