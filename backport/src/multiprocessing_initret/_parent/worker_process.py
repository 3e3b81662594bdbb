"""In the parent: a worker as its pool has it in its list, a process with what is known of it."""

import contextlib
import os
import signal
import time
import weakref

from .._shared.messages import MessageBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Tuple

    from .._shared.record import Record
    from .workforce import Workforce

# Seconds in which a thread that has been told how a child ended writes that down.
_PATIENCE = 0.1

# The exit code of a process of which nobody knows how it ended, as multiprocessing has it.
UNKNOWN = 255


class Vacancy:
    """Stands in a pool's list where no worker is.

    :param exitcode: None for good, in a pool that starts no worker any more; else another
        start is tried when the pool looks at its workers again
    """

    name = ""
    daemon = True
    pid = None

    def __init__(self, exitcode: "Optional[int]" = None) -> None:
        self.exitcode = exitcode

    def start(self) -> None:
        pass

    terminate = join = start

    def is_alive(self) -> bool:
        return False


class WorkerProcess:
    """A worker: what the pool does with a process goes to that, some of it with more care.

    :param workforce: to be told how the start goes
    :param process: not started yet
    :param record: says what the worker does
    :param pipe: both ends of the pipe of its results
    :param generation: how many workers that left before they did anything led to this one
    """

    def __init__(
        self,
        workforce: "Workforce",
        process: "Any",
        record: "Record",
        pipe: "Tuple[Any, Any]",
        generation: int = 0,
    ) -> None:
        self._workforce = workforce
        self._process = process
        self.record = record
        self.reader, self._writer = pipe
        self.unread = MessageBuffer()
        self.generation = generation
        self._is_child = False  # of this process, not of a fork server
        self._pidfd: "Optional[int]" = None

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._process, name)

    # The pool sets these two.

    @property
    def name(self) -> str:
        return self._process.name  # type: ignore[no-any-return]

    @name.setter
    def name(self, name: str) -> None:
        self._process.name = name

    @property
    def daemon(self) -> bool:
        return self._process.daemon  # type: ignore[no-any-return]

    @daemon.setter
    def daemon(self, daemon: bool) -> None:
        self._process.daemon = daemon

    def start(self) -> None:
        """Start the process, or be a vacancy if it cannot be started or the pool has ended."""
        with self._workforce.starts(self) as may_start:
            try:
                if may_start:
                    self._process.start()
                    self._has_started()
                else:
                    self._process = Vacancy()
            except Exception as error:
                self._process = self._workforce.could_not_start(self, error)
            finally:
                self._writer.close()

    def _has_started(self) -> None:
        self._is_child = getattr(self._popen, "method", "") in ("fork", "spawn")
        if self._is_child and hasattr(os, "pidfd_open") and self._workforce.has_descriptors:
            try:
                self._pidfd = os.pidfd_open(self.pid)
            except OSError:
                pass
            else:
                # Not before: the pool may be waiting for it.
                weakref.finalize(self, os.close, self._pidfd).atexit = False
        self._workforce.has_started(self)

    @property
    def sentinel(self) -> "Any":
        # The process's own is a pipe that its children have too, by os.fork(), and tells
        # of it when they have all left. (Linux; from Python 3.9.)
        return self._process.sentinel if self._pidfd is None else self._pidfd

    @property
    def exitcode(self) -> "Any":
        code = self._process.exitcode
        if code is None and self._is_child and os.name == "posix":
            # Where SIGCHLD is ignored, or others wait for all children, nobody tells this
            # process how one has ended; multiprocessing takes it to be alive for ever.
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                code = self._exitcode_of_the_dead()
            except PermissionError:
                pass
        return code

    def _exitcode_of_the_dead(self) -> "Any":
        # Another thread may have been told, and not have written it down yet.
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            code = self._process.exitcode
            if code is not None:
                return code
            time.sleep(0.001)
        self._popen.returncode = UNKNOWN
        return UNKNOWN

    def kill(self) -> None:
        """End it, also where it ignores what :meth:`terminate` sends."""
        if os.name == "posix" and self.exitcode is None:
            with contextlib.suppress(ProcessLookupError):  # at this moment
                os.kill(self.pid, signal.SIGKILL)

    def __str__(self) -> str:
        code = self.exitcode
        if code >= 0:
            how = f"left with exit code {code}"
        else:
            try:
                how = "was killed by " + signal.Signals(-code).name
            except ValueError:
                how = f"was killed by signal {-code}"
            if -code == getattr(signal, "SIGKILL", None):
                how += " (by the system, if it was out of memory)"
        return f"worker {self.name} (pid {self.pid}) {how}"
