"""Start worker processes, and fork none while a result is being unpickled."""

import os

from .._shared.errors import WorkerLostError
from .main_module import startup_failure_hint
from .worker_process import METHODS_OF_CHILDREN

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from typing import Any, List

    from .._shared.record import Records
    from .reaper import Reaper
    from .standard_pool import StandardPool
    from .template import Template
    from .worker_process import WorkerProcess

# More descriptors than ForkServer.connect_to_new_process() opens.
_DESCRIPTORS_OF_A_REQUEST = 8

# Time, in seconds, between checks whether the pool still needs a worker whose start waits until
# a result has been unpickled.
_UNPICKLING_INTERVAL = 0.1


class Launcher:
    """Starts worker processes, each with a record and a result pipe of its own.

    A :class:`Starter` calls it, in one thread at a time.

    :param ctx: the context of the pool
    :param pipe: ``multiprocessing.connection.Pipe``
    :param standard: the private attributes of the pool
    :param records: the records of the workers
    :param template: starts a fork server for this pool alone, if that is worthwhile
    :param reaper: counts how earlier workers exited
    :param unpickling_lock: held while a result is unpickled, because no process may be forked
        then
    """

    def __init__(
        self,
        ctx: "Any",
        pipe: "Any",
        standard: "StandardPool",
        records: "Records",
        template: "Template",
        reaper: "Reaper",
        unpickling_lock: "threading.Lock",
    ) -> None:
        self._ctx = ctx
        self._pipe = pipe
        self._standard = standard
        self._records = records
        self._template = template
        self._reaper = reaper
        self._unpickling_lock = unpickling_lock

    def launch(self, workers: "List[WorkerProcess]") -> None:
        """Start workers, except those that the pool does not need any more.

        After a fork, the first write to each page of memory copies that page.  Therefore as little
        as possible is done between two forks.

        :raises Exception: any exception of ``Process.start()``
        """
        try:
            methods = [self._prepare(worker) for worker in workers]
            for worker, method in zip(workers, methods):
                self._start(worker, method)
        finally:
            for worker in workers:
                if worker.pid is None and hasattr(worker.channel, "record"):
                    self._records.release(vars(worker.channel).pop("record"))
        for worker in workers:
            if worker.pid is not None:
                worker.watch_process()

    def _prepare(self, worker: "WorkerProcess") -> str:
        """Do what need not be done between two forks, and return the start method of a worker."""
        channel = worker.channel
        method: str = getattr(worker.process, "_start_method", None) or self._ctx.get_start_method()
        channel.record = self._records.acquire()
        channel.defers_initializer = self._reaper.defers_initializer()
        channel.parent_pid = os.getpid() if method in METHODS_OF_CHILDREN else None
        worker.generation = self._reaper.generation
        self._template.use_for(worker.process)
        return method

    def _start(self, worker: "WorkerProcess", method: str) -> None:
        channel = worker.channel
        worker.reader, channel.writer = self._pipe(duplex=False)
        try:
            self._start_process(worker.process, method)
        finally:
            channel.writer.close()
            # Ctrl-C may have interrupted this thread after the process had started.
            if worker.pid is None:
                worker.close_reader()

    def _start_process(self, process: "Any", method: str) -> None:
        if method == "fork":
            self._fork(process)
            return
        if method == "forkserver":
            _check_descriptors()
        process.start()

    def _fork(self, process: "Any") -> None:
        # Deadlock: a thread may call terminate() while it imports a module.  The result handler
        # may wait for that import, with the lock held, and terminate() waits for this thread.  So
        # do not wait for the lock after the pool has been terminated.
        while not self._unpickling_lock.acquire(True, _UNPICKLING_INTERVAL):
            if not self._standard.maintains_workers():
                return
        try:
            process.start()
        finally:
            self._unpickling_lock.release()

    def failed_in_constructor(self, error: Exception) -> Exception:
        """Close the template, and return the exception that the constructor of the pool raises."""
        self._template.close()
        if not isinstance(error, (ConnectionError, EOFError)):
            return error
        # In Python 3.13.8, 3.14.1 and later, a fork server imports the main module, and exits if
        # that fails.
        lost = WorkerLostError(f"no worker could be started. {startup_failure_hint()}")
        lost.__cause__ = error
        return lost


def _check_descriptors() -> None:
    """Raise :exc:`OSError` if there are too few descriptors for a request to a fork server.

    A fork server that receives an incomplete request exits.  Its workers then seem to have exited,
    and are killed.
    """
    fds: "List[int]" = []
    try:
        while len(fds) < _DESCRIPTORS_OF_A_REQUEST:
            fds += os.pipe()
    finally:
        for fd in fds:
            os.close(fd)
