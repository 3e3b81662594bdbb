"""Parent side of a ``ProcessPoolExecutor``: a failing initializer breaks the executor.

The standard executor only sees that a worker has exited:

    worker     initializer raises --> send_traceback() --> logs the exception, exits
                                            |
                              TracebackPart, through the result queue
                                            |
    parent     manager thread receives it --+--> join the worker --> break the executor

Everything in this module runs in the manager thread, which receives the results of the
executor's workers.
"""

from concurrent.futures.process import BrokenProcessPool

from .._standard_executor import ManagerThread, fail_unless_cancelled, failure_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Tuple

# Seconds to wait for a worker to exit after its initializer has failed.
_EXIT_TIMEOUT = 5


class TracebackPart:
    """Message with a part of the traceback of a failing initializer.

    Unpickling it passes the part to :func:`_receive`.

    :param pid: process ID of the worker
    :param text: the part
    :param is_last: whether it completes the traceback
    """

    def __init__(self, pid: int, text: str, is_last: bool) -> None:
        self._args = pid, text, is_last

    def __reduce__(self) -> "Tuple[Callable[..., None], Tuple[Any, ...]]":
        return _receive, self._args


def _receive(pid: int, text: str, is_last: bool) -> None:
    """Collect the parts of a traceback, and break the executor when it is complete.

    :returns: None, which the manager thread ignores like a wake-up without a result
    :raises BrokenProcessPool: when the traceback is complete.  The manager thread regards this
        as a result that cannot be unpickled: it terminates the other workers, and ends.
    """
    manager = ManagerThread()
    parts = manager.traceback_parts(pid)
    parts.append(text)
    if is_last:
        # The worker logs the exception after it has sent the traceback.  When a future
        # fails, the log record must have been written.
        manager.join_worker(pid, _EXIT_TIMEOUT)
        message = failure_message("".join(parts))
        manager.set_broken(message)
        # From here on submit() adds no tasks.
        for future in manager.remove_pending_futures():
            fail_unless_cancelled(future, BrokenProcessPool(message))
        raise BrokenProcessPool(message)
