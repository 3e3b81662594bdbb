"""Start workers: as soon as they are needed, or later if that fails while others are alive."""

import os
import threading

from .._shared.errors import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List

    from .critical_section import CriticalSection
    from .launcher import Launcher
    from .standard_pool import StandardPool
    from .worker_process import WorkerProcess
    from .workforce import Workforce

# Shortest and longest pause, in seconds, before another attempt to start a worker.
_FIRST_PAUSE = 0.01
_LAST_PAUSE = 1.0


class Starter:
    """Starts the workers of one pool, and repeats a start that has failed.

    The constructor of the pool calls it, then the worker handler, and a program that calls
    ``_repopulate_pool()``.  ``_lock`` is held while workers are started.  The constructor defers
    its workers, to start all of them together.

    :param standard: the private attributes of the pool
    :param section: the pool's critical section
    :param launcher: starts processes
    :param workforce: the workers that have been started
    :param wait: ``multiprocessing.connection.wait``
    :param log: logs a warning
    """

    def __init__(
        self,
        standard: "StandardPool",
        section: "CriticalSection",
        launcher: "Launcher",
        workforce: "Workforce",
        wait: "Any",
        log: "Callable[[str], None]",
    ) -> None:
        self._standard = standard
        self._section = section
        self._launcher = launcher
        self._workforce = workforce
        self._wait = wait
        self._log = log
        self._deferred: "List[WorkerProcess]" = []
        self._has_failed = False
        self._lock = threading.Lock()

    def defer(self, worker: "WorkerProcess") -> bool:
        """Let :meth:`start_deferred` start a worker, and return True."""
        self._deferred.append(worker)
        return True

    def start_first(self, worker: "WorkerProcess") -> bool:
        """Start a worker of the constructor at once, and return True."""
        self.defer(worker)
        self.start_deferred()
        return True

    def start_deferred(self) -> None:
        """Start the workers of the constructor together, which takes less time.

        :raises WorkerLostError: if the fork server has exited
        :raises Exception: any exception of ``Process.start()``
        """
        try:
            with self._section, self._lock:
                self._launch(self._deferred, is_constructing=True)
        except Exception as error:
            # Before Python 3.8 the standard constructor leaves the other workers running.
            self._workforce.terminate()
            failure = self._launcher.failed_in_constructor(error)
            try:
                raise failure from failure.__cause__
            finally:
                del failure  # break a reference cycle with the traceback
        finally:
            self.discard_deferred()

    def discard_deferred(self) -> None:
        """Put placeholders in place of the deferred workers that have not been started."""
        for worker in self._deferred:
            if worker.pid is None:
                worker.set_failed()
        self._deferred = []

    def start(self, worker: "WorkerProcess") -> bool:
        """Start a worker, and return whether it has been started.

        The worker handler repeats a failed start while other workers are alive, because a lack of
        processes or descriptors may be transient.

        :raises Exception: in other threads, any exception of ``Process.start()``
        """
        try:
            if not self._try_to_start(worker):
                return self._start_later(worker)
            return True
        except Exception as error:
            if not self._standard.is_worker_handler():
                raise
            # An exception would end the worker handler.
            self._workforce.break_pool(f"{describe(error)} while a worker was started", error)
            return False

    def _start_later(self, worker: "WorkerProcess") -> bool:
        """Try to start a worker again and again, until the pool does not need it any more."""
        pause = _FIRST_PAUSE
        try:
            while self._workforce.accepts_workers() and self._standard.maintains_workers():
                self._pause(pause, self._standard.notifier)
                pause = min(2 * pause, _LAST_PAUSE)
                if self._try_to_start(worker):
                    return True
            return False
        finally:
            # _pause() has emptied the notifier, and the state of the pool may have changed.
            self._standard.wake_worker_handler()

    def _try_to_start(self, worker: "WorkerProcess") -> bool:
        if not self._workforce.accepts_workers():
            return False
        try:
            with self._section, self._lock:
                self._launch([worker], is_constructing=False)
        except Exception as error:
            if not self._standard.is_worker_handler():
                raise
            self._handle_failed_start(error)
            return worker.pid is not None  # an exception may have been raised after the start
        if worker.pid is None:
            return False
        self._has_failed = False
        return True

    def _launch(self, workers: "List[WorkerProcess]", is_constructing: bool) -> None:
        pid = os.getpid()
        self._workforce.starting += workers
        try:
            self._launcher.launch(workers)
        finally:
            if os.getpid() != pid:
                # Ctrl-C has interrupted a forked child before it runs the worker.  It must not
                # continue in the code of its parent, and write to the memory that they share.
                os._exit(1)
            # Ctrl-C may have interrupted launch() after a process had started: without add(), the
            # worker would receive tasks, and its results would be lost.
            try:
                started = [worker for worker in workers if worker.pid is not None]
                self._workforce.add(started, is_constructing)
            finally:
                for worker in workers:
                    self._workforce.starting.remove(worker)

    def _handle_failed_start(self, error: Exception) -> None:
        """Log that a worker could not be started; break the pool if no worker is alive."""
        reason = f"a worker could not be started: {describe(error)}"
        if not any(worker.exitcode is None for worker in self._workforce.workers):
            self._workforce.break_pool(reason, error)
        elif not self._has_failed:
            self._has_failed = True
            self._log(reason)

    def _pause(self, seconds: float, notifier: "Any") -> None:
        """Wait until a worker exits or the pool is closed, but not longer than *seconds*."""
        waited: "List[Any]" = [worker.sentinel for worker in self._workforce.workers]
        if notifier is not None:
            waited.append(notifier._reader)
        self._wait(waited, seconds)
        while notifier is not None and not notifier.empty():
            notifier.get()
        self._workforce.reap()
