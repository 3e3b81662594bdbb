"""What runs in an executor's worker: a process, a thread or an interpreter.

It is what such a process or interpreter imports, and so what its start costs.
"""

import functools
import os
import threading
import traceback
from concurrent.futures import process as _process
from multiprocessing import util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Tuple

    from ._shared import Shared

# Seconds that a process and its parent wait for each other, once it has failed.
_PATIENCE = 5

# Bytes of a traceback. A message of less than 4096 is in a pipe whole, or not at all (on
# Linux and Windows); of another the parent would wait for the rest, after the worker left.
_MOST = 3500


class _Initret:
    """Where a worker keeps its initret, if it is a process or an interpreter.

    An interpreter is entered anew for each task, with nothing that was local to
    a thread the time before.
    """

    value: "Any"


# Where a worker that is a thread does: each belongs to one executor, but those
# of several executors share a process.
_this_thread = threading.local()


def initialize(initializer: "Callable[..., object]", initargs: "Any") -> None:
    _Initret.value = initializer(*initargs)


def initialize_thread(initializer: "Callable[..., object]", initargs: "Any") -> None:
    _this_thread.initret = initializer(*initargs)


def initialize_process(shared: "Shared", results: "Any") -> None:
    try:
        initialize(*shared.load())
    except BaseException:
        # All that the parent sees of it otherwise is a worker that has left.  A
        # parent that has seen another leave reads no more: do not wait for it.
        failure = _Failure(os.getpid(), traceback.format_exc())
        sender = threading.Thread(target=results.put, args=(failure,), daemon=True)
        sender.start()
        sender.join(_PATIENCE)
        raise
    # A forked process that leaves drops nothing that is global: finalizers would not run.
    util.Finalize(None, delattr, (_Initret, "value"), exitpriority=0)


def call(fn: "Callable[..., Any]", args: "Any", kwargs: "Dict[str, Any]") -> "Any":
    return fn(*args, **kwargs, initret=_Initret.value)


def call_chunk(fn: "Callable[..., Any]", chunk: "Any") -> "List[Any]":
    initret = _Initret.value
    if len(chunk[0]) == 1:
        # With a star the call takes two to four times as long.
        return [fn(x, initret=initret) for (x,) in chunk]
    return [fn(*x, initret=initret) for x in chunk]


class KeepingCall:
    """A call that keeps its executor until a worker, a thread or an interpreter, makes it.

    Those tell an executor that their initializer has failed.  If it is gone by
    then, whoever still holds a future of it would wait for ever.
    """

    def __init__(self, executor: "Any") -> None:
        self._executor = executor

    def __call__(self, fn: "Callable[..., Any]", args: "Any", kwargs: "Dict[str, Any]") -> "Any":
        self._executor = None  # The traceback of what fn raises has this frame.
        return fn(*args, **kwargs, initret=_this_thread.initret)

    def __reduce__(self) -> "Tuple[Callable[..., Any], Tuple[Any, ...]]":  # from Python 3.14
        self._executor = None
        return functools.partial, (call,)


class _Failure:
    """How an initializer failed, on its way to the thread that reads the results.

    It is sent as text, since an exception may not survive pickling.
    """

    def __init__(self, pid: int, text: str) -> None:
        self._pid = pid
        data = text.encode("utf-8", "backslashreplace")
        if len(data) > _MOST:
            data = data[: _MOST // 2] + b"\n[...]\n" + data[-_MOST // 2 :]
        self._text = data.decode("utf-8", "replace")

    def __reduce__(self) -> "Tuple[Callable[..., None], Tuple[int, str]]":
        return _break, (self._pid, self._text)


def reason(text: str) -> str:
    return f"A worker could not be initialized, the executor is not usable anymore:\n\n{text}"


def fail(future: "Any", error: BaseException) -> None:
    # One that nobody has begun may have been cancelled, even at this moment.
    if future.running() or future.set_running_or_notify_cancel():
        future.set_exception(error)


def _break(pid: int, text: str) -> None:
    """Break the executor whose results this thread reads, in the parent.

    The thread has all that this needs, also when the executor itself is gone.

    :raises BrokenProcessPool: always, which that thread takes for a result that
        cannot be read; so it ends the other workers, and itself
    """
    thread: Any = threading.current_thread()
    if hasattr(thread, "pending_work_items"):
        executor = thread.executor_reference()
        processes, pending = thread.processes, thread.pending_work_items
        wakeup = thread.thread_wakeup
    else:  # before Python 3.9
        reference, processes, pending, _, _, _, wakeup = thread._args
        executor = reference()
    why = reason(text)
    if executor is not None:
        # A submit() that has the lock may wait for room in a pipe that this thread empties.
        while not executor._shutdown_lock.acquire(timeout=0.1):
            wakeup.clear()
        executor.__dict__["_broken"] = why
        executor._shutdown_lock.release()
        del executor
    # From here on nobody adds a task.
    for number in list(pending):
        item = pending.pop(number, None)
        if item is not None:
            fail(item.future, _process.BrokenProcessPool(why))
    # It has yet to log what was raised, and leaves then.
    if pid in processes:
        processes[pid].join(_PATIENCE)
    raise _process.BrokenProcessPool(why)
