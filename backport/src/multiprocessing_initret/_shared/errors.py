"""``WorkerLostError``, and functions that describe and raise errors."""

import os
from multiprocessing import ProcessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Tuple


def describe(error: BaseException) -> str:
    """Return the repr of an exception, even if its own ``__repr__()`` raises an exception."""
    try:
        return repr(error)
    except Exception:
        return object.__repr__(error)


def drop_frames(error: BaseException) -> None:
    """Replace the traceback of an exception by its text.

    The frames would keep the pool and its initargs alive as long as a result that has failed.
    """
    # Imported here because workers import this module.
    import traceback
    from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
    error.__context__ = error.__traceback__ = None


def check_process(pid: int) -> None:
    """Raise :exc:`RuntimeError` in a forked child of the process that created a pool.

    The child has none of the pool's threads, so nothing would complete a result there.

    :param pid: identifier of the process that created the pool
    """
    current = os.getpid()
    if current != pid:
        raise RuntimeError(
            f"a pool of process {pid} was used in process {current}, which was forked from it: use "
            "a pool only in the process that created it"
        )


class WorkerLostError(ProcessError):
    """Raised for a task whose worker exited before the task had finished.

    The message contains the worker's name and pid, and how it exited.  The task may have
    run in part, or not at all.  All pending tasks fail with this exception when their pool
    breaks or is terminated.

    In a pool of threads, a task that raises an exception which would end its thread, such
    as :exc:`SystemExit`, fails with this exception instead.  Its ``__cause__`` is the
    exception that the task raised, and the thread continues.

    :param message: the reason, in a sentence
    :param exitcode: exit code of the worker, as
        :attr:`multiprocessing.Process.exitcode`; None if no worker exited
    :param pid: process identifier of the worker; None if no worker exited
    :param name: name of the worker; None if no worker exited
    """

    def __init__(
        self,
        message: str = "",
        exitcode: "Optional[int]" = None,
        pid: "Optional[int]" = None,
        name: "Optional[str]" = None,
    ) -> None:
        super().__init__(message)
        self.exitcode = exitcode
        self.pid = pid
        self.name = name

    def __reduce__(self) -> "Tuple[Callable[..., WorkerLostError], Tuple[object, ...]]":
        return type(self), (*self.args, self.exitcode, self.pid, self.name)


WorkerLostError.__module__ = "multiprocessing_initret"
