"""What runs in a worker that is a thread."""

from .._shared.errors import WorkerLostError
from .tasks import Tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    from .._shared.initargs import InitArgs


def run_thread(
    package: str,
    target: "Callable[..., object]",
    inqueue: "Any",
    outqueue: "Any",
    shared: "InitArgs",
    *args: "Any",
) -> None:
    """Do as :func:`run` in a thread, and go on after what would end it.

    The loop catches every Exception.  A SystemExit would end the thread, which
    nobody replaces, and its task with it.
    """
    tasks = Tasks(package, inqueue, shared)
    initialize: "Optional[Callable[[], None]]" = tasks.initialize
    while True:
        try:
            target(tasks, outqueue, initialize, (), *args)
            tasks.forget()
            return
        except Exception:  # of a subclass's own target
            raise
        except BaseException as error:
            initialize = None
            task = tasks.current()
            if task is not None:
                lost = WorkerLostError(f"the task raised {error!r}, which would end its thread")
                lost.__cause__ = error
                outqueue.put((*task[:2], (False, lost)))
