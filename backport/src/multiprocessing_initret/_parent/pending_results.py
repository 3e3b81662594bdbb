"""Pending results of a pool, which are completed even if the pool breaks or is terminated."""

import contextlib
import functools
import os
import sys
import time

from .._shared.errors import WorkerLostError, check_process
from .daemon_threads import end_daemon_threads
from .standard_pool import expect_failure, ignore_late_length, is_iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Tuple

# Time, in seconds, that another thread may need to finish constructing a result.  The
# standard constructor adds the result to the cache before it has set all attributes.
_CONSTRUCTION_TIMEOUT = 1.0


@functools.lru_cache(maxsize=None)
def pending_results_class(cache_class: "Any") -> "Any":
    """Return a subclass of a pool's cache that can fail all results still pending.

    :param cache_class: ``dict`` before Python 3.8, ``multiprocessing.pool._PoolCache`` since
    """

    class PendingResults(cache_class):  # type: ignore[misc]
        """Maps job numbers to results, as ``Pool._cache`` does.

        Callers add results, and the result handler completes and removes them.  The thread that
        terminates the pool fails the rest.  If one of the pool's threads has failed, the result
        handler or that thread fails them.  The methods of a dict are atomic, and need no lock.

        :param is_running: returns whether the pool accepts new tasks
        """

        def __init__(self, is_running: "Callable[[], bool]", **kwargs: "Any") -> None:
            super().__init__(**kwargs)
            self._is_running = is_running
            self._pid = os.getpid()
            # Jobs whose callbacks are running.  They have their value already and will be
            # completed by the thread that runs the callback.
            self._in_callback: "List[int]" = []

        def __setitem__(self, job: int, result: "Any") -> None:
            check_process(self._pid)
            # The result's constructor calls this, after setting the callbacks and before
            # any value can arrive.
            for name in ("_callback", "_error_callback"):
                callback = getattr(result, name, None)
                if callback is not None:
                    setattr(result, name, functools.partial(self._run_callback, job, callback))
            ignore_late_length(result, self, job)
            super().__setitem__(job, result)
            # Race: another thread may have closed the pool after apply_async() checked that
            # it was running.  The closing pool only waits for results added before that.
            if not self._is_running():
                del self[job]
                raise ValueError("Pool not running")

        def __delitem__(self, job: int) -> None:
            # Race: fail_all() may have removed the job before the result handler does.
            with contextlib.suppress(KeyError):
                super().__delitem__(job)

        def _run_callback(
            self, job: int, callback: "Callable[[Any], object]", value: "Any"
        ) -> None:
            """Call a callback, and report its exception instead of letting it kill the thread."""
            self._in_callback.append(job)
            try:
                callback(value)
            except BaseException:
                # sys.excepthook may be the user's own, and may raise too.
                with contextlib.suppress(BaseException):
                    sys.excepthook(*sys.exc_info())
            finally:
                self._in_callback.remove(job)

        def fail_all(self, error: WorkerLostError) -> None:
            """Complete all pending results with an exception.

            The result handler calls this when it, or another thread of the pool, has failed.
            """
            for job, result in self._unfinished():
                self._fail(job, result, error)

        def cancel_all(self, error: WorkerLostError, is_exiting: bool) -> None:
            """Complete all pending results of a terminated pool, without calling callbacks.

            The standard pool does not call them either.  They might wait for a lock that the
            caller of ``terminate()`` holds, or report errors although there is none.

            :param error: the exception
            :param is_exiting: whether the interpreter is exiting
            """
            for job, result in self._unfinished():
                result._error_callback = None
                if is_exiting:
                    end_daemon_threads(result)
                self._fail(job, result, error)

        def _unfinished(self) -> "List[Tuple[int, Any]]":
            # list() is atomic; other threads add and remove results meanwhile.
            items = list(self.items())
            return [(job, result) for job, result in items if job not in self._in_callback]

        def _fail(self, job: int, result: "Any", error: Exception) -> None:
            if is_iterator(result):
                # The iterator yields the items that have arrived, raises the error, and ends.
                result._set(result._index, (False, error))
                type(result)._set_length(result, result._index)
            deadline = time.monotonic() + _CONSTRUCTION_TIMEOUT
            while job in self:
                try:
                    # Race: the result handler may be counting a chunk at the same time.
                    expect_failure(result, error)
                    result._set(0, (False, error))
                except AttributeError:
                    # Race: another thread is still constructing the result.  If that thread
                    # was interrupted (Ctrl-C), no caller is waiting for the result.
                    if time.monotonic() > deadline:
                        del self[job]
                    time.sleep(0.001)

    return PendingResults
