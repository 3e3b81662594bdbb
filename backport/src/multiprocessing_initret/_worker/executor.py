"""Worker side of the executors: call the initializer, and pass initret to functions.

A spawned worker and an interpreter import this module, so its imports add to their
start-up time.
"""

import functools
import os
import threading
import traceback
import types
from multiprocessing import util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Tuple

    from .._shared.initargs import InitArgs

# Seconds to wait for the parent to receive a part of the traceback of a failing initializer.
_SEND_TIMEOUT = 5

# Characters of a traceback per message, of up to four bytes each.  Up to 4096 bytes are written
# to a pipe completely or not at all (on Linux and Windows).  If the worker were killed in the
# middle of a longer message, the parent would wait for the rest of it.
_CHARACTERS_PER_MESSAGE = 900

# Holds initret in a worker process or an interpreter.
_worker: "Any" = types.SimpleNamespace()

# Holds initret in a worker thread.  A thread belongs to one executor.
_worker_thread = threading.local()


def initialize(initializer: "Callable[..., object]", initargs: "Any") -> None:
    """Call the initializer in an interpreter, and keep initret for its tasks."""
    _worker.initret = initializer(*initargs)


def initialize_thread(initializer: "Callable[..., object]", initargs: "Any") -> None:
    """Call the initializer in a worker thread, and keep initret for its tasks."""
    _worker_thread.initret = initializer(*initargs)


def initialize_process(shared: "InitArgs", result_queue: "Any") -> None:
    """Call the initializer in a worker process, and keep initret for its tasks.

    :param shared: holds the initializer and its arguments
    :param result_queue: receives the traceback if the initializer fails.  Otherwise the parent
        would only see that the worker has exited.
    """
    try:
        initializer, *initargs = shared.load()
        initialize(initializer, initargs)
    except BaseException:
        send_traceback(result_queue, traceback.format_exc())
        raise
    # A forked worker exits without clearing modules, so finalizers of initret would not run.
    util.Finalize(None, delattr, (_worker, "initret"), exitpriority=0)


def send_traceback(result_queue: "Any", text: str) -> None:
    """Send the traceback of a failing initializer to the parent, as long as it receives parts.

    It is sent as text because the exception itself may not be picklable.
    """
    from .._parent.executor import TracebackPart  # only here: few workers need it

    offsets = range(0, len(text), _CHARACTERS_PER_MESSAGE)
    parts = [
        TracebackPart(
            os.getpid(), text[offset : offset + _CHARACTERS_PER_MESSAGE], offset == offsets[-1]
        )
        for offset in reversed(offsets)
    ]

    def send() -> None:
        while parts:
            result_queue.put(parts[-1])
            parts.pop()

    # Race: if another worker has just exited, the parent no longer reads results, and put()
    # blocks once the pipe is full.
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    unsent = None
    while sender.is_alive() and unsent != len(parts):
        unsent = len(parts)
        sender.join(_SEND_TIMEOUT)


def call(fn: "Callable[..., Any]", args: "Any", kwargs: "Dict[str, Any]") -> "Any":
    """Run a task of ``submit()`` in a worker process or an interpreter."""
    return fn(*args, **kwargs, initret=_worker.initret)


class MapFunction:
    """The function of a ``map()`` that is run in worker processes.

    A worker receives the function with initret bound to it.  It therefore does not matter how
    the standard ``map()`` divides the iterables into chunks, or how a chunk returns its results.
    """

    def __init__(self, fn: "Callable[..., Any]") -> None:
        self._fn = fn

    def __reduce__(self) -> "Tuple[Callable[..., Any], Tuple[Any]]":
        return _bind, (self._fn,)

    @staticmethod
    def is_in(arg: "Any") -> bool:
        """Return whether an argument of ``submit()`` is a function that runs a chunk of a map()."""
        return isinstance(arg, functools.partial) and any(
            isinstance(bound, MapFunction) for bound in arg.args
        )


def accept_initret(arg: "Any") -> "Any":
    """Make a function that runs a chunk of a ``map()`` accept initret, which it does not need."""
    return functools.partial(_run_chunk, arg) if MapFunction.is_in(arg) else arg


def _run_chunk(run: "Callable[..., Any]", *args: "Any", initret: "Any") -> "Any":
    return run(*args)


def _bind(fn: "Callable[..., Any]") -> "Callable[..., Any]":
    # This runs while the worker unpickles the task: an exception would kill the worker.  If fn
    # is not callable, calling it raises TypeError, which fails the task.
    return functools.partial(fn, initret=_worker.initret) if callable(fn) else fn


class ThreadCall:
    """A task of a pool of threads or interpreters.

    It refers to its executor until it runs.  A thread reports a failing initializer to the
    executor, which then fails the tasks in its queue.  If the executor had been collected by
    then, a future that is still referenced would never be completed.
    """

    def __init__(self, executor: "Any") -> None:
        self._executor = executor

    def __call__(self, fn: "Callable[..., Any]", args: "Any", kwargs: "Dict[str, Any]") -> "Any":
        # If fn raises, its traceback refers to this frame, and the frame to self.
        self._executor = None
        return fn(*args, **kwargs, initret=_worker_thread.initret)

    def __reduce__(self) -> "Tuple[Callable[..., Any], Tuple[Any, ...]]":
        # The thread is about to run the task in its interpreter (since Python 3.14).
        self._executor = None
        return functools.partial, (call,)
