"""The executors of ``concurrent.futures``, taking ``expect_initret``.

What the initializer returned in a worker, be it a process, a thread or an
interpreter, reaches every function that worker runs, as the keyword argument
``initret``.  The classes are subclasses of the stock ones, which they leave
alone, and with the keyword off they are those and nothing more.

Source: gh-79018 and https://docs.python.org/3/library/concurrent.futures.html
"""

import contextlib
import functools
import queue
import sys
import traceback
from concurrent import futures as _stock
from concurrent.futures import process as _process
from concurrent.futures import thread as _thread

from . import _executor
from ._shared import Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict

__all__ = ["ProcessPoolExecutor", "ThreadPoolExecutor"]

# Whether the stock ProcessPoolExecutor holds its lock while it breaks, as it does
# since 3.12.
_BREAKS_UNDER_LOCK = hasattr(getattr(_process, "_ExecutorManagerThread", None), "_terminate_broken")


def _check(initializer: object) -> None:
    if not hasattr(_stock, "BrokenExecutor"):  # before Python 3.7
        raise NotImplementedError("expect_initret requires Python 3.7, as initializer does")
    if initializer is None:
        raise ValueError("expect_initret requires an initializer")
    if not callable(initializer):
        raise TypeError(f"initializer is not callable: {initializer!r}")


def _given(initializer: object, initargs: object, **others: object) -> "Dict[str, object]":
    """Return the arguments that are given: an older constructor does not know them all."""
    given = {name: value for name, value in others.items() if value is not None}
    if initializer is not None:
        given.update(initializer=initializer, initargs=initargs)
    return given


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
            worker, as the keyword argument ``initret``.  The initializer and its
            arguments are pickled once, and arrays among them are shared by all
            workers until one writes to its own.  An initializer that raises, or
            that cannot be unpickled, breaks the executor, as without, and its
            traceback is in the message of each ``BrokenProcessPool``.
        :raises ValueError: with ``expect_initret`` and no initializer
        :raises TypeError: with ``expect_initret`` and an initializer that is not
            callable
        :raises NotImplementedError: with ``expect_initret`` on Python 3.6, whose
            executors have no initializer

        Source: gh-79018 and
        https://docs.python.org/3/library/concurrent.futures.html#processpoolexecutor
        """

        _expect_initret = False

        def __init__(
            self,
            max_workers=None,
            mp_context=None,
            initializer=None,
            initargs=(),
            *,
            max_tasks_per_child=None,
            expect_initret=False,
        ):
            if expect_initret:
                _check(initializer)
                initargs = (Shared((initializer, initargs)),)
                initializer = _executor.initialize_process
            given = _given(
                initializer,
                initargs,
                mp_context=mp_context,
                max_tasks_per_child=max_tasks_per_child,
            )
            super().__init__(max_workers, **given)
            if expect_initret:
                # The queue is here now, and there are no workers before submit().
                self._initargs += (self._result_queue,)
                self._expect_initret = True

        @functools.wraps(_stock.ProcessPoolExecutor.submit)
        def submit(__self, *args, **kwargs):
            if not (__self._expect_initret and args):
                return super().submit(*args, **kwargs)
            fn = args[0]
            if isinstance(fn, functools.partial) and fn.func is _process._process_chunk:
                # From map(): the one argument of this function is a chunk.
                return super().submit(_executor.call_chunk, *fn.args, *args[1:])
            return super().submit(_executor.call, fn, args[1:], kwargs)

        @functools.wraps(_stock.ProcessPoolExecutor.shutdown)
        def shutdown(self, wait=True, **kwds):
            super().shutdown(wait, **kwds)
            if wait and self._expect_initret:
                # An executor may be kept, the memory that its workers shared is not.
                self._initargs = ()

        # Why the executor is broken, once it is: the stock class sets it, and
        # raises it from submit().
        @property
        def _broken(self):
            return self.__dict__["_broken"]

        @_broken.setter
        def _broken(self, reason):
            with contextlib.ExitStack() as stack:
                if self._expect_initret and not _BREAKS_UNDER_LOCK:  # before Python 3.12
                    # A submit() that has found nothing broken adds its task before
                    # this, or nobody would see it and its future would wait for ever.
                    stack.enter_context(self._shutdown_lock)
                # The first reason is the one that has the traceback.
                self.__dict__["_broken"] = self.__dict__.get("_broken") or reason

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
        :raises TypeError: with ``expect_initret`` and an initializer that is not
            callable
        :raises NotImplementedError: with ``expect_initret`` on Python 3.6, whose
            executors have no initializer

        Source: gh-79018 and
        https://docs.python.org/3/library/concurrent.futures.html#threadpoolexecutor
        """

        _expect_initret = False
        _initialize = staticmethod(_executor.initialize_thread)

        def __init__(
            self,
            max_workers=None,
            thread_name_prefix="",
            initializer=None,
            initargs=(),
            *,
            expect_initret=False,
            **ctxkwargs,
        ):
            if expect_initret:
                _check(initializer)
                initializer, initargs = self._initialize, (initializer, initargs)
            given = _given(initializer, initargs, **ctxkwargs)
            super().__init__(max_workers, thread_name_prefix, **given)
            if expect_initret:
                self._expect_initret = True

        @functools.wraps(_stock.ThreadPoolExecutor.submit)
        def submit(__self, *args, **kwargs):
            if not (__self._expect_initret and args):
                return super().submit(*args, **kwargs)
            call = _executor.KeepingCall(__self)
            return super().submit(call, args[0], args[1:], kwargs)

        def _initializer_failed(self):
            # A thread calls it while it handles what the initializer raised.
            if not self._expect_initret:
                super()._initializer_failed()
                return
            reason = _executor.reason(traceback.format_exc())
            broken = getattr(self, "BROKEN", _thread.BrokenThreadPool)
            with self._shutdown_lock:
                self._broken = reason
            # From here on nobody adds a task.
            with contextlib.suppress(queue.Empty):
                while True:
                    item = self._work_queue.get_nowait()
                    if item is not None:
                        _executor.fail(item.future, broken(reason))
            # What tells the other threads to end may have been among these.
            self._work_queue.put(None)

    if hasattr(_stock, "InterpreterPoolExecutor"):  # from Python 3.14
        __all__ += ["InterpreterPoolExecutor"]

        class InterpreterPoolExecutor(ThreadPoolExecutor, _stock.InterpreterPoolExecutor):
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
            :raises TypeError: with ``expect_initret`` and an initializer that is not
                callable

            Source: gh-79018 and
            https://docs.python.org/3/library/concurrent.futures.html#interpreterpoolexecutor
            """

            _initialize = staticmethod(_executor.initialize)
