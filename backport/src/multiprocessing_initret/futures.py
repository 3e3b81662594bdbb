"""The executors of ``concurrent.futures``, taking ``expect_initret``.

What the initializer returned in a worker, be it a process, a thread or an
interpreter, reaches every function that worker runs, as the keyword argument
``initret``.  The classes are subclasses of the stock ones, which they leave
alone, and with the keyword off they are those and nothing more.

Source: gh-79018 and https://docs.python.org/3/library/concurrent.futures.html
"""

import contextlib
import functools
import inspect
import sys
import threading
import traceback
from concurrent import futures as _stock
from concurrent.futures import process as _process
from typing import TYPE_CHECKING, Any, Callable, Dict, Tuple, Type

from ._pool import with_keyword

__all__ = ["ProcessPoolExecutor", "ThreadPoolExecutor"]


#
# What runs in a worker
#


class _ThisProcess:
    """Where a worker keeps its initret, if it is a process or an interpreter.

    An interpreter is entered anew for each task, with nothing that was local to
    a thread the time before.
    """

    initret: Any


# Where a worker that is a thread does: each belongs to one executor, but those
# of several executors share a process.
_this_thread = threading.local()

# Whether the stock ProcessPoolExecutor holds its lock while it breaks, as it does
# since 3.12.
_BREAKS_UNDER_LOCK = hasattr(getattr(_process, "_ExecutorManagerThread", None), "_terminate_broken")

# Seconds after which a worker gives up telling of its failure.
_PATIENCE = 5


def _initialize(keeper: Any, initializer: Callable[..., object], initargs: Any) -> None:
    keeper.initret = initializer(*initargs)


def _initialize_process(
    keeper: Any, initializer: Callable[..., object], initargs: Any, results: Any
) -> None:
    try:
        _initialize(keeper, initializer, initargs)
    except BaseException:
        # All that the parent sees of it otherwise is a worker that has left.  A
        # parent that has seen another leave reads no more: do not wait for it.
        note = _Failure(traceback.format_exc())
        sender = threading.Thread(target=results.put, args=(note,), daemon=True)
        sender.start()
        sender.join(_PATIENCE)
        raise


def _call(keeper: Any, fn: Callable[..., Any], args: Any, kwargs: Dict[str, Any]) -> Any:
    initret = keeper.initret
    if isinstance(fn, functools.partial) and fn.func is _process._process_chunk:
        (fn,), (chunk,) = fn.args, args
        if len(chunk[0]) == 1:
            # With a star the call takes two to four times as long.
            return [fn(x, initret=initret) for (x,) in chunk]
        return [fn(*x, initret=initret) for x in chunk]
    return fn(*args, **kwargs, initret=initret)


#
# What runs in the parent
#


class _Failure:
    """How an initializer failed, on its way to the thread that reads the results.

    It is sent as text, since an exception may not survive pickling, and arrives
    as None, which that thread takes for no result.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __reduce__(self) -> Tuple[Callable[[str], None], Tuple[str]]:
        return _note_failure, (self._text,)


def _note_failure(text: str) -> None:
    _this_thread.failure = text


def _set_broken(future: Any, reason: str, error: BaseException) -> None:
    del future.set_exception  # It is this function, bound to the future.
    # What it raises for a cancelled one ends the stock thread before 3.12.
    if not future.cancelled():
        future.set_exception(type(error)(reason))


class _Expecting:
    """What the keyword puts in front of the class of an executor."""

    _keeper: Any = _ThisProcess

    def _prepare(self) -> None:
        """Do what remains after the stock constructor."""

    @functools.wraps(_stock.Executor.submit)  # type: ignore[arg-type]
    def submit(__self, __fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        submit = super().submit  # type: ignore[misc]
        return submit(_call, __self._keeper, __fn, args, kwargs)

    # Why the executor is broken, once it is: the stock class sets it, and
    # raises it from submit().
    @property
    def _broken(self) -> Any:
        return vars(self)["_broken"]

    @_broken.setter
    def _broken(self, reason: Any) -> None:
        vars(self)["_broken"] = reason and self._explain(reason)

    def _explain(self, reason: str) -> str:
        # A thread sets it while it handles what the initializer raised.
        return f"{reason}; the initializer raised:\n\n{traceback.format_exc()}"


class _ExpectingThreads(_Expecting):
    _keeper = _this_thread


class _ExpectingProcesses(_Expecting):
    _initargs: Any
    _pending_work_items: Any
    _result_queue: Any
    _shutdown_lock: Any

    def _prepare(self) -> None:
        # The queue is here now, and there are no workers before submit().
        self._initializer = _initialize_process
        self._initargs += (self._result_queue,)

    def _explain(self, reason: str) -> str:
        # The thread that reads the results sets it, and gives the futures another
        # reason next.  Only they can replace it: after shutdown() that thread has
        # a collection of its own.
        failure = getattr(_this_thread, "failure", None)
        if failure is not None:
            reason = f"{reason}; the initializer raised:\n\n{failure}"
        with contextlib.nullcontext() if _BREAKS_UNDER_LOCK else self._shutdown_lock:
            # A submit() that has found nothing broken adds its task before this,
            # or nobody would see it and its future would wait for ever.
            vars(self)["_broken"] = reason
        if failure is not None:
            for item in list(self._pending_work_items.values()):
                item.future.set_exception = functools.partial(_set_broken, item.future, reason)
        return reason


def _init_of(stock: Any, expecting: Type[_Expecting]) -> Callable[..., None]:
    """Return the constructor of a stock executor, with the keyword added."""
    signature = inspect.signature(stock.__init__)

    def __init__(self: Any, *args: Any, expect_initret: bool = False, **kwargs: Any) -> None:
        if not expect_initret:
            stock.__init__(self, *args, **kwargs)
            return
        if "initializer" not in signature.parameters:
            raise NotImplementedError("expect_initret requires Python 3.7, as initializer does")
        call = signature.bind(self, *args, **kwargs)
        call.apply_defaults()
        initializer = call.arguments["initializer"]
        if initializer is None:
            raise ValueError("expect_initret requires an initializer")
        if not callable(initializer):
            raise TypeError(f"initializer is not callable: {initializer!r}")
        call.arguments["initializer"] = _initialize
        call.arguments["initargs"] = expecting._keeper, initializer, call.arguments["initargs"]
        # The class may be one that others have derived.
        cls = type(self)
        self.__class__ = type(cls.__name__, (expecting, cls), {"__module__": cls.__module__})
        stock.__init__(*call.args, **call.kwargs)
        self._prepare()

    __init__.__signature__ = with_keyword(signature)  # type: ignore[attr-defined]
    return __init__


if TYPE_CHECKING:
    from ._futures import ProcessPoolExecutor, ThreadPoolExecutor

    if sys.version_info >= (3, 14):
        from ._futures import InterpreterPoolExecutor as InterpreterPoolExecutor
else:

    class ProcessPoolExecutor(_stock.ProcessPoolExecutor):
        """A :class:`concurrent.futures.ProcessPoolExecutor` that takes ``expect_initret``.

        :param max_workers: number of worker processes, by default that of the CPUs
        :param mp_context: what ``multiprocessing.get_context()`` returned, which
            decides the start method
        :param initializer: called as ``initializer(*initargs)`` in each worker
            when it starts
        :param initargs: the initializer's arguments
        :param max_tasks_per_child: number of tasks after which a worker is
            replaced, by default never; from Python 3.11
        :param expect_initret: whether each function given to ``submit()`` and
            ``map()`` is called with what the initializer returned in that
            worker, as the keyword argument ``initret``.  An initializer that
            raises breaks the executor, as without, and its traceback is in the
            message of each ``BrokenProcessPool``.
        :raises ValueError: with ``expect_initret`` and no initializer
        :raises NotImplementedError: with ``expect_initret`` on Python 3.6, whose
            executors have no initializer

        Source: gh-79018 and
        https://docs.python.org/3/library/concurrent.futures.html#processpoolexecutor
        """

        __init__ = _init_of(_stock.ProcessPoolExecutor, _ExpectingProcesses)

    class ThreadPoolExecutor(_stock.ThreadPoolExecutor):
        """A :class:`concurrent.futures.ThreadPoolExecutor` that takes ``expect_initret``.

        :param max_workers: number of worker threads, by default a few more than
            there are CPUs
        :param thread_name_prefix: what the names of the threads start with
        :param initializer: called as ``initializer(*initargs)`` in each worker
            when it starts
        :param initargs: the initializer's arguments
        :param expect_initret: as for :class:`ProcessPoolExecutor`, with
            ``BrokenThreadPool``
        :raises ValueError: with ``expect_initret`` and no initializer
        :raises NotImplementedError: with ``expect_initret`` on Python 3.6, whose
            executors have no initializer

        Source: gh-79018 and
        https://docs.python.org/3/library/concurrent.futures.html#threadpoolexecutor
        """

        __init__ = _init_of(_stock.ThreadPoolExecutor, _ExpectingThreads)

    if hasattr(_stock, "InterpreterPoolExecutor"):
        __all__ += ["InterpreterPoolExecutor"]

        class InterpreterPoolExecutor(_stock.InterpreterPoolExecutor):
            """A :class:`concurrent.futures.InterpreterPoolExecutor` that takes ``expect_initret``.

            :param max_workers: number of worker interpreters, by default a few
                more than there are CPUs
            :param thread_name_prefix: what the names of the threads start with
            :param initializer: called as ``initializer(*initargs)`` in each worker
                when it starts
            :param initargs: the initializer's arguments
            :param expect_initret: as for :class:`ProcessPoolExecutor`, with
                ``BrokenInterpreterPool``
            :raises ValueError: with ``expect_initret`` and no initializer

            Source: gh-79018 and
            https://docs.python.org/3/library/concurrent.futures.html#interpreterpoolexecutor
            """

            __init__ = _init_of(_stock.InterpreterPoolExecutor, _Expecting)
