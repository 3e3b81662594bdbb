"""Worker side of a pool of threads."""

from .._shared.errors import WorkerLostError, describe
from .tasks import Tasks, run_loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Sequence

    from .._shared.initargs import InitArgs


def run_thread(
    package: str,
    target: "Callable[..., object]",
    args: "Sequence[Any]",
    positions: "Sequence[int]",
    inqueue: "Any",
    outqueue: "Any",
    initargs: "InitArgs",
    hint: str,
) -> None:
    """Run a worker that is a thread, and continue after an exception that would end the thread.

    The pool's loop catches every ``Exception`` of a task.  A ``SystemExit`` or
    ``KeyboardInterrupt`` would end the thread.  The pool would not replace the thread, and the
    task would hang.
    """
    tasks = Tasks(package, inqueue, initargs, hint)
    initialize: "Callable[[], None]" = tasks.initialize
    while True:
        try:
            run_loop(target, args, positions, tasks, outqueue, initialize)
            tasks.clear()
            return
        except Exception:  # raised by a subclass's own target
            raise
        except BaseException as error:
            initialize = _do_nothing  # the next task calls the initializer if needed
            task = tasks.current()
            if task is not None:
                message = f"the task raised {describe(error)}, which would end its thread"
                lost = WorkerLostError(message)
                lost.__cause__ = error
                outqueue.put((*task[:2], (False, lost)))
                del task, lost  # break a reference cycle with the traceback of its cause


def _do_nothing() -> None:
    pass
