"""Every private name of ``concurrent.futures`` that the executors rely on, and its check.

    name                                              Python   used to
    ------------------------------------------------  -------  -----------------------------------
    concurrent.futures.process
      ProcessPoolExecutor._result_queue                        send a traceback from a worker
      ProcessPoolExecutor._initargs                            pass the result queue to the workers,
                                                               release initargs on shutdown
      ProcessPoolExecutor._broken, ._shutdown_lock             break the executor
      _ExecutorManagerThread.executor_reference,      3.9 on   find the executor of a thread, its
        .processes, .pending_work_items, .thread_wakeup        workers and its tasks
      _queue_management_worker(...)                   to 3.8   the same: parameters of these names
      _ExecutorManagerThread._terminate_broken        3.12 on  see whether _shutdown_lock is held
                                                               while _broken is set
      _ThreadWakeup.clear                                      empty the wake-up pipe
      _WorkItem.future                                         fail a task
      _threads_wakeups                                         forget the executors of the parent
                                                               in a forked worker, if it exists
    threading.Thread._args                            to 3.8   arguments of the function above
    concurrent.futures.thread
      ThreadPoolExecutor._initializer_failed                   break the executor
        ._broken, ._shutdown_lock, ._work_queue
      ThreadPoolExecutor.BROKEN                       3.14 on  fail tasks with its exception class
      ThreadPoolExecutor._create_worker_context       3.14 on  release initargs on shutdown
      ThreadPoolExecutor._initargs                    to 3.13  the same
      _WorkItem.future                                         fail a task

No private name of ``concurrent.futures.interpreter`` is used.
"""

import contextlib
import functools
import queue
import threading
import traceback
from concurrent.futures import process as _process
from concurrent.futures import thread as _thread

from ._parent.private_names import missing_names, raise_if_missing
from ._shared.packages import parameters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List

    from ._parent.private_names import Requirements

_HAS_MANAGER_FUNCTION = hasattr(_process, "_queue_management_worker")  # before Python 3.9
_HAS_WORKER_CONTEXT = hasattr(_thread, "WorkerContext")  # since Python 3.14
# Whether the manager thread holds _shutdown_lock while it sets _broken, as it does since
# Python 3.12.
_BREAKS_UNDER_LOCK = hasattr(getattr(_process, "_ExecutorManagerThread", None), "_terminate_broken")

PROCESS_REQUIREMENTS: "Requirements" = {
    "ProcessPoolExecutor.__init__": ("_result_queue", "_initargs", "_broken", "_shutdown_lock"),
    "ProcessPoolExecutor.submit": ("_broken", "_shutdown_lock"),
    "_queue_management_worker" if _HAS_MANAGER_FUNCTION else "_ExecutorManagerThread.__init__": (
        *("executor_reference", "processes", "pending_work_items", "thread_wakeup"),
    ),
    "_ThreadWakeup.clear": (),
    "_WorkItem.__init__": ("future",),
}
THREAD_REQUIREMENTS: "Requirements" = {
    "ThreadPoolExecutor.__init__": (
        *("_broken", "_shutdown_lock", "_work_queue"),
        "_create_worker_context" if _HAS_WORKER_CONTEXT else "_initargs",
    ),
    "ThreadPoolExecutor.submit": ("_broken", "_shutdown_lock"),
    "ThreadPoolExecutor._initializer_failed": (),
    "_worker": ("_initializer_failed",),
    "_WorkItem.__init__": ("future",),
}


@functools.lru_cache(maxsize=None)
def check_process_pool() -> None:
    """Check that this Python has all that a ``ProcessPoolExecutor`` relies on.

    :raises RuntimeError: if not
    """
    raise_if_missing("concurrent.futures", missing_names(_process, PROCESS_REQUIREMENTS))


@functools.lru_cache(maxsize=None)
def check_thread_pool() -> None:
    """Check that this Python has all that a pool of threads or interpreters relies on.

    :raises RuntimeError: if not
    """
    raise_if_missing("concurrent.futures", missing_names(_thread, THREAD_REQUIREMENTS))


def failure_message(text: str) -> str:
    """Return the message of an executor that is broken by a failing initializer."""
    return f"A worker could not be initialized, the executor is not usable anymore:\n\n{text}"


def fail_unless_cancelled(future: "Any", error: BaseException) -> None:
    """Fail a future with an exception, unless it has been cancelled."""
    # Race: another thread may cancel the future, unless it is running.
    if future.running() or future.set_running_or_notify_cancel():
        future.set_exception(error)


class ProcessPoolExecutor(_process.ProcessPoolExecutor):
    """Standard ``ProcessPoolExecutor`` that keeps the first reason why it is broken.

    It owns the result queue, which it passes to the workers.  ``_broken`` is set by the manager
    thread and read by submit() in any thread.  ``_shutdown_lock`` guards it: submit() holds the
    lock from reading ``_broken`` until the task is added.
    """

    _expect_initret = False

    def _pass_result_queue(self) -> None:
        """Add the result queue to the arguments of the workers' initializer.

        Called by the constructor.  No worker is started before the first submit().
        """
        self._initargs += (self._result_queue,)

    def _release_initargs(self) -> None:
        """Release initargs.  Called when no worker will be started any more."""
        self._initargs: "Any" = ()

    # The standard class sets this attribute when the executor breaks; submit() raises it.
    @property
    def _broken(self) -> "Any":
        return vars(self)["_broken"]

    @_broken.setter
    def _broken(self, reason: "Any") -> None:
        with contextlib.ExitStack() as stack:
            # Before Python 3.12 the manager thread sets it without the lock.  Race: a
            # submit() that has just seen that the executor is not broken would add a task
            # that is never completed.
            if self._expect_initret and not _BREAKS_UNDER_LOCK:
                stack.enter_context(self._shutdown_lock)
            # The manager thread sets it a second time, to a general message, after
            # ManagerThread.set_broken().
            vars(self)["_broken"] = vars(self).get("_broken") or reason


class ManagerThread:
    """The current thread, if it manages the worker processes of an executor.

    It refers to all that is needed to break the executor, even if the executor itself has
    been collected or shut down.
    """

    def __init__(self) -> None:
        self._thread = threading.current_thread()
        state: "Dict[str, Any]" = vars(self._thread)
        if _HAS_MANAGER_FUNCTION:
            function: "Any" = _process._queue_management_worker  # type: ignore[attr-defined]
            state = dict(zip(parameters(function), state["_args"]))
        self._executor_reference = state["executor_reference"]
        self._processes = state["processes"]
        self._pending_work_items = state["pending_work_items"]
        self._wakeup = state["thread_wakeup"]

    def traceback_parts(self, pid: int) -> "List[str]":
        """Return the list of the parts of a traceback that a worker has sent so far."""
        parts: "Dict[int, List[str]]" = vars(self._thread).setdefault("initret_tracebacks", {})
        return parts.setdefault(pid, [])

    def join_worker(self, pid: int, timeout: float) -> None:
        """Wait for a worker to exit."""
        process = self._processes.get(pid)
        if process is not None:
            process.join(timeout)

    def set_broken(self, message: str) -> None:
        """Make ``submit()`` raise, unless the executor has been collected."""
        executor = self._executor_reference()
        if executor is not None:
            # submit() holds the lock while it writes to the wake-up pipe.  If the pipe is
            # full, submit() waits for this thread to empty it (gh-105829).
            while not executor._shutdown_lock.acquire(timeout=0.1):
                self._wakeup.clear()
            vars(executor)["_broken"] = message
            executor._shutdown_lock.release()

    def remove_pending_futures(self) -> "Iterator[Any]":
        """Remove all tasks that are not completed, and yield their futures."""
        for number in list(self._pending_work_items):
            # Race: the thread that writes to the call queue removes a task that cannot be
            # pickled.
            item = self._pending_work_items.pop(number, None)
            if item is not None:
                yield item.future


class ThreadPoolExecutor(_thread.ThreadPoolExecutor):
    """Standard ``ThreadPoolExecutor`` whose reason for being broken contains a traceback.

    ``_broken`` is set by a worker thread and read by submit() in any thread.
    ``_shutdown_lock`` guards it: submit() holds the lock from reading ``_broken`` until the
    task is in ``_work_queue``.
    """

    _expect_initret = False

    def _release_initargs(self) -> None:
        """Release initargs.  Called when no thread will be started any more."""
        if _HAS_WORKER_CONTEXT:
            self._create_worker_context: "Any" = None
        else:
            self._initargs: "Any" = ()

    def _initializer_failed(self) -> None:
        """Break the executor.  Called by a worker thread that handles the exception."""
        if not self._expect_initret:
            super()._initializer_failed()  # type: ignore[misc,unused-ignore]
            return
        message = failure_message(traceback.format_exc())
        error_class: "Any" = getattr(self, "BROKEN", _thread.BrokenThreadPool)
        with self._shutdown_lock:
            self._broken: "Any" = message
        # From here on submit() adds no tasks.  The lock is not held, because a callback of a
        # future may call submit().
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._work_queue.get_nowait()
                if item is not None:
                    fail_unless_cancelled(item.future, error_class(message))
        # shutdown() may have put None, which makes the threads end: put it back.
        self._work_queue.put(None)  # type: ignore[arg-type,unused-ignore]
