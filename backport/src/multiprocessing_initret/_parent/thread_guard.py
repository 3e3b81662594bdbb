"""The last line of defence in each of a pool's three threads.

The functions that the threads run are those of the standard pool.  They call into this package,
which catches the exceptions raised in its own code.  Any other exception would end the thread, and
then tasks, or ``close()`` and ``join()``, would hang.  Examples are a log handler at level DEBUG
that raises an exception, and a system call on a descriptor that the program has closed.
"""

import contextlib
import functools
import sys
import threading
import time
import types

from .._shared.errors import WorkerLostError, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .standard_pool import StandardPool

# The methods that the threads run, and the names of these threads in error messages.
_HANDLERS = {
    "_handle_workers": "worker handler",
    "_handle_tasks": "task handler",
    "_handle_results": "result handler",
}

# Time, in seconds, between two attempts to fail the pending results of a pool that has not ended.
_INTERVAL = 0.1


class ThreadGuard:
    """Runs the functions of a pool's three threads, and breaks the pool if one of them fails.

    After a failure, the guard runs in that thread until the pool is terminated, or is closed and
    has no pending results.  Until then it fails the pending results.  Finally it sends the
    sentinels that the failed function would have sent, so that the other two threads end.
    """

    def attach(
        self,
        standard: "StandardPool",
        break_pool: "Callable[[str, BaseException], None]",
        fail_pending: "Callable[[WorkerLostError], None]",
    ) -> None:
        """Set what :meth:`run` uses, before the constructor of the pool starts the threads.

        :param standard: the private attributes of the pool
        :param break_pool: breaks the pool
        :param fail_pending: fails the pending tasks
        """
        self._standard = standard
        self._break_pool = break_pool
        self._fail_pending = fail_pending

    def constructor(self, pool_module: "Any") -> "Callable[..., None]":
        """Return a copy of the constructor of ``Pool`` that makes each thread call :meth:`run`.

        The constructor looks up the functions of the threads in the class that its global name
        ``Pool`` refers to, so attributes of an instance or a subclass cannot replace them.
        Therefore the copy has its own globals.  ``multiprocessing`` itself is not changed.

        If the program or a tracer has decorated the constructor, that constructor is returned, and
        the threads are not guarded.

        :param pool_module: ``multiprocessing.pool``
        """
        cls = pool_module.Pool
        # install() keeps the constructor that it replaces in the attribute `standard`.
        standard: "Any" = getattr(cls.__init__, "standard", cls.__init__)
        if getattr(standard, "__globals__", None) is not vars(pool_module):
            return standard  # type: ignore[no-any-return]  # it is decorated
        functions = {name: self._guarded(name, getattr(cls, name)) for name in _HANDLERS}
        names = {**standard.__globals__, "Pool": types.SimpleNamespace(**functions)}
        constructor = types.FunctionType(
            standard.__code__, names, None, standard.__defaults__, standard.__closure__
        )
        constructor.__kwdefaults__ = standard.__kwdefaults__  # where Python has expect_initret
        return constructor

    def _guarded(self, name: str, function: "Any") -> "Callable[..., None]":
        # update_wrapper(), because since Python 3.10 a thread has the name of its function.
        return functools.update_wrapper(functools.partial(self.run, name, function), function)

    def run(self, name: str, function: "Any", *args: "Any") -> None:
        """Run the function of one of the threads.

        If it raises an exception, report that as the module ``threading`` does, and break the pool.

        :param name: one of the names in :data:`_HANDLERS`
        :param function: the method of that name
        """
        try:
            function(*args)
        except BaseException as error:
            with contextlib.suppress(BaseException):  # the hook may be the user's own
                if hasattr(threading, "excepthook"):  # since Python 3.8
                    thread = threading.current_thread()
                    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), thread)))
                else:
                    sys.excepthook(*sys.exc_info())
            self._fail_until_end(name, error)

    def _fail_until_end(self, name: str, error: BaseException) -> None:
        """Break the pool, fail its pending results until it ends, and end the other threads.

        :param name: the name of the function that has failed
        :param error: its exception
        """
        reason = f"{describe(error)} in the {_HANDLERS[name]}"
        if self._standard.maintains_workers():
            with contextlib.suppress(BaseException):  # the tasks must fail in any case
                self._break_pool(reason, error)
        while self._standard.maintains_workers():
            self._fail(reason, error)
            time.sleep(_INTERVAL)
        self._fail(reason, error)  # results may have been added since the last time
        self._standard.send_sentinels(name)

    def _fail(self, reason: str, cause: BaseException) -> None:
        # A new exception each time: raising it adds the frames of the caller, which may refer to
        # the pool, and this thread must not keep them.
        lost = WorkerLostError("the pool is broken: " + reason)
        lost.__cause__ = cause
        self._fail_pending(lost)
