"""The last line of defence in each of a pool's three threads.

The functions that the threads run are those of the standard pool.  They call into this package,
which handles its own exceptions.  An exception elsewhere would end a thread, and leave tasks, or
``close()`` and ``join()``, waiting for ever: that of a log handler at level DEBUG, for example, or
that of a system call on a descriptor which the program has closed.
"""

import contextlib
import functools
import sys
import time
import types

from .._shared.errors import WorkerLostError, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .standard_pool import StandardPool

# The methods that the threads run, and what the messages call these threads.
_HANDLERS = {
    "_handle_workers": "worker handler",
    "_handle_tasks": "task handler",
    "_handle_results": "result handler",
}

# Time, in seconds, between checks whether tasks of a broken pool are pending, or it was closed.
_INTERVAL = 0.1


class ThreadGuard:
    """Runs the functions of a pool's three threads, and breaks the pool if one of them fails.

    Then it stays in that thread until the pool is closed or terminated, fails what is pending
    meanwhile, and does what the function would have done at its end, so that the other two threads
    end.
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
        """Return the constructor of ``Pool``, changed such that each thread calls :meth:`run`.

        The constructor takes the functions of the threads from the class that its global name
        ``Pool`` refers to, so no attribute of an instance or a subclass can replace them.
        Therefore the copy has globals of its own.  It does not change ``multiprocessing``.

        :param pool_module: ``multiprocessing.pool``
        """
        cls = pool_module.Pool
        # install() keeps the constructor that it replaces in the attribute `standard`.
        standard: "Any" = getattr(cls.__init__, "standard", cls.__init__)
        if getattr(standard, "__globals__", None) is not vars(pool_module):
            return standard  # type: ignore[no-any-return]  # decorated by the program or a tracer
        functions = {name: self._guarded(getattr(cls, name)) for name in _HANDLERS}
        names = {**standard.__globals__, "Pool": types.SimpleNamespace(**functions)}
        constructor = types.FunctionType(
            standard.__code__, names, None, standard.__defaults__, standard.__closure__
        )
        constructor.__kwdefaults__ = standard.__kwdefaults__  # where Python has expect_initret
        return constructor

    def _guarded(self, function: "Any") -> "Callable[..., None]":
        # update_wrapper(), because since Python 3.10 a thread has the name of its function.
        return functools.update_wrapper(functools.partial(self.run, function), function)

    def run(self, function: "Any", *args: "Any") -> None:
        """Run the function of one of the threads, and do what is needed if it fails.

        :param function: one of the methods in :data:`_HANDLERS`
        """
        try:
            function(*args)
        except BaseException as error:
            # sys.excepthook may be the user's own, and may raise too.
            with contextlib.suppress(BaseException):
                sys.excepthook(*sys.exc_info())
            self._stay(function.__name__, error)

    def _stay(self, name: str, error: BaseException) -> None:
        """Fail the tasks of the pool until it is closed or terminated, and end the other threads.

        :param name: the name of the function that has failed
        :param error: its exception
        """
        reason = f"{describe(error)} in the {_HANDLERS[name]}"
        lost = WorkerLostError("the pool is broken: " + reason)
        lost.__cause__ = error
        if self._standard.maintains_workers():
            with contextlib.suppress(BaseException):  # the tasks must fail in any case
                self._break_pool(reason, error)
        while self._standard.maintains_workers():
            self._fail_pending(lost)
            time.sleep(_INTERVAL)
        self._standard.send_sentinels(name)
