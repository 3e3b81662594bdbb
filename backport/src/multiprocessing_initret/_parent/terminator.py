"""Terminate a pool: stop its threads and workers, and fail the results that are still pending."""

import _thread
import functools
import threading
import time

from .._shared.errors import WorkerLostError
from .critical_section import start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, Tuple

    from .critical_section import CriticalSection
    from .standard_pool import StandardPool

    class Terminable(Protocol):
        """What a terminator needs of a supervisor."""

        #: the pending results; None before the first worker is created
        results: Any

        def stop_workers(self) -> None: ...
        def discard_tasks(self) -> None: ...
        def release(self, result_handler: threading.Thread) -> None: ...


# Time, in seconds, after which terminate() stops waiting for a task handler that is blocked
# in an iterable.
_ITERABLE_TIMEOUT = 1.0

# Time, in seconds, that terminate() waits until more of the pending results have failed.  Another
# thread may need a second to finish constructing one.
_PENDING_TIMEOUT = 3.0

# Time, in seconds, that ``del pool`` and the garbage collector wait until the pool has ended.
_GARBAGE_TIMEOUT = 1.0

# Time, in seconds, that the exiting interpreter waits for a pool that another thread terminates.  A
# worker that ignores SIGTERM is killed after 10.
_EXIT_TIMEOUT = 20.0


class _PlaceholderThread:
    """Stands in for a blocked task handler, so that ``_terminate_pool()`` does not wait for it."""

    def is_alive(self) -> bool:
        return False

    def join(self) -> None:
        pass


class Terminator:
    """Terminates one pool, in place of the standard ``_terminate_pool()``.

    Any thread may call :meth:`terminate`: a caller of the pool, the garbage collector, which runs
    in any thread, or the interpreter when it exits.

    The supervisor does not refer to its terminator, so they are not in a reference cycle.

    :param supervisor: stops the workers, and releases what they used
    :param standard: the private attributes of the pool
    :param section: the pool's critical section
    """

    def __init__(
        self, supervisor: "Terminable", standard: "StandardPool", section: "CriticalSection"
    ) -> None:
        self._supervisor = supervisor
        self._standard = standard
        self._section = section

    def terminate(self, *args: "Any") -> None:
        """Terminate the pool, as ``_terminate_pool()`` does, and fail its pending results.

        If the pool is garbage, the garbage collector calls this between any two bytecodes of any
        thread.  That thread may hold a lock that a thread of the pool waits for, for example the
        lock of the fork server.  Therefore another thread terminates such a pool, and this one
        waits a limited time only.
        """
        if self._section.is_entered():
            self._terminate_in_thread(args, timeout=0)
            return
        running = [thread.ident for thread in self._standard.handlers(args) if thread.is_alive()]
        if running and self._standard.is_garbage():
            # Without current_thread(), which may acquire a lock of the module threading.
            is_handler = threading.get_ident() in running
            self._terminate_in_thread(args, timeout=0 if is_handler else _GARBAGE_TIMEOUT)
        else:
            self._terminate(*args)

    def _terminate_in_thread(self, args: "Tuple[Any, ...]", timeout: float) -> None:
        """Terminate the pool in another thread.

        :param timeout: maximum time to wait until the pool has ended, in seconds
        """
        ended = _thread.allocate_lock()
        ended.acquire()
        # When the interpreter exits, it waits for the pool.  Otherwise it would terminate workers a
        # second time, and delete semaphores that starting workers need.
        at_exit = self._standard.module.util.Finalize(
            None, ended.acquire, args=(True, _EXIT_TIMEOUT), exitpriority=15
        )
        calls = [functools.partial(self._terminate, *args)]

        def terminate() -> None:
            try:
                calls.pop()()  # afterwards, nothing in this thread refers to the arguments
            finally:
                at_exit.cancel()
                ended.release()

        start_thread(terminate)
        if ended.acquire(True, timeout):
            ended.release()  # the exit handler may be waiting, too

    def _terminate(self, *args: "Any") -> None:
        named_args = self._standard.bind_terminate_args(args)
        try:
            self._standard.stop_handlers(named_args)
            self._supervisor.stop_workers()
            remaining_args = self._wait_for_task_handler(named_args, args)
            if not named_args.result_handler.is_alive():
                # If the result handler has ended, the standard function asserts that no
                # result is pending.
                self._fail_pending()
            self._standard.original("_terminate_pool")(*remaining_args)
        except BaseException:
            # Ctrl-C, or the exception of a signal handler.
            self._standard.enable_second_terminate(*args)
            raise
        finally:
            self._fail_pending()
        self._supervisor.release(named_args.result_handler)

    def _wait_for_task_handler(
        self, named_args: "Any", args: "Tuple[Any, ...]"
    ) -> "Tuple[Any, ...]":
        """Wait until the task handler has ended, but at most :data:`_ITERABLE_TIMEOUT` seconds.

        :returns: the arguments for ``_terminate_pool()``, which must not wait for a task handler
            that is blocked in an iterable of the program
        """
        deadline = time.monotonic() + _ITERABLE_TIMEOUT
        named_args.taskqueue.put(None)
        task_handler = named_args.task_handler
        while task_handler.is_alive() and threading.current_thread() is not task_handler:
            self._supervisor.discard_tasks()
            task_handler.join(0.01)
            if time.monotonic() > deadline:
                placeholder = _PlaceholderThread()
                return tuple(placeholder if arg is task_handler else arg for arg in args)
        # The loop does nothing if the task handler had ended before, or is this thread.
        self._supervisor.discard_tasks()
        return args

    def _fail_pending(self) -> None:
        """Fail the pending results in another thread, and wait as long as it makes progress.

        A ``__del__()`` method of the program may call ``terminate()`` in a thread that holds the
        lock of a result, and could not acquire it once more.
        """
        results = self._supervisor.results
        if not results:  # None before the first worker is created
            return
        ended = _thread.allocate_lock()
        ended.acquire()
        lost = WorkerLostError("the pool was terminated before this task had finished")
        is_exiting = self._standard.module.util.is_exiting()

        def fail() -> None:
            try:
                results.cancel_all(lost, is_exiting)
            finally:
                ended.release()

        start_thread(fail)
        pending = len(results) + 1
        while len(results) < pending:
            pending = len(results)
            if ended.acquire(True, _PENDING_TIMEOUT):
                break
