"""Parent side of a ``ProcessPoolExecutor``: report the traceback of a failed initializer.

The standard executor only reports that a worker has exited.  Here, the worker first sends the
traceback, which becomes the message of the :exc:`BrokenProcessPool`:

    worker     initializer raises --> send_traceback() --> logs the exception, exits
                                            |
                              TracebackPart, through the result queue
                                            |
    parent     manager thread receives it --+--> join the worker --> break the executor

Only the ``TracebackPart`` is created in the worker.  Everything else in this module runs in the
manager thread, which receives the results of the executor's workers.
"""

from concurrent.futures.process import BrokenProcessPool

from .._standard_executor import ManagerThread, fail_unless_cancelled, failure_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Tuple

# Seconds to wait for a worker to exit after its initializer has failed.
_EXIT_TIMEOUT = 5


class TracebackPart:
    """Message with a part of the traceback of a failed initializer.

    Unpickling the message calls :func:`_receive`.

    :param pid: process ID of the worker
    :param text: the part
    :param is_last: whether the part completes the traceback
    """

    def __init__(self, pid: int, text: str, is_last: bool) -> None:
        self._args = pid, text, is_last

    def __reduce__(self) -> "Tuple[Callable[..., None], Tuple[Any, ...]]":
        return _receive, self._args


def _receive(pid: int, text: str, is_last: bool) -> None:
    """Collect a part of a traceback, and break the executor if the traceback is complete.

    :returns: None, which the manager thread treats as a wake-up without a result
    :raises BrokenProcessPool: if the traceback is complete.  The manager thread treats this as
        a result that cannot be unpickled: it terminates the other workers, and ends.
    """
    manager = ManagerThread()
    parts = manager.traceback_parts(pid)
    parts.append(text)
    if is_last:
        # The worker logs the exception after it has sent the traceback.  Wait for that: the log
        # record must have been written when a future fails.
        manager.join_worker(pid, _EXIT_TIMEOUT)
        message = failure_message("".join(parts))
        manager.set_broken(message)
        # From here on, submit() raises an exception, so no futures are added.
        for future in manager.remove_pending_futures():
            fail_unless_cancelled(future, BrokenProcessPool(message))
        raise BrokenProcessPool(message)
