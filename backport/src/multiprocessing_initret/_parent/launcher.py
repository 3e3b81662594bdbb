"""Start worker processes, and fork them only while no result is being unpickled."""

import os

from .._shared.errors import WorkerLostError
from .main_module import startup_failure_hint
from .worker_process import METHODS_OF_CHILDREN

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from typing import Any, Optional

    from .._shared.record import Records
    from .reaper import Reaper
    from .standard_pool import StandardPool
    from .template import Template
    from .worker_process import WorkerProcess

# Time, in seconds, between checks whether the pool still needs a worker whose start waits until
# a result has been unpickled.
_UNPICKLING_INTERVAL = 0.1


class Launcher:
    """Starts worker processes, each with a record and a result pipe of its own.

    A :class:`Starter` calls it.

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

    def launch(self, worker: "WorkerProcess") -> bool:
        """Start a worker and return True, or return False if the pool does not need it any more.

        :raises Exception: any exception of ``Process.start()``
        """
        channel = worker.channel
        worker.reader, channel.writer = self._pipe(duplex=False)
        record, is_started = None, False
        try:
            record = channel.record = self._records.acquire()
            channel.defers_initializer = self._reaper.defers_initializer()
            channel.parent_pid = self._parent_pid(worker.process)
            worker.generation = self._reaper.generation
            self._template.adopt(worker.process)
            is_started = self._start_process(worker.process)
        finally:
            channel.writer.close()
            if not is_started:
                worker.reader.close()
                if record is not None:
                    self._records.release(record)
        if is_started:
            worker.watch_process()
        return is_started

    def _parent_pid(self, process: "Any") -> "Optional[int]":
        method = getattr(process, "_start_method", None) or self._ctx.get_start_method()
        return os.getpid() if method in METHODS_OF_CHILDREN else None

    def _start_process(self, process: "Any") -> bool:
        # Deadlock: the result handler may unpickle a result whose module is being imported by a
        # thread that terminates the pool, and terminate() waits for the current thread.
        while not self._unpickling_lock.acquire(True, _UNPICKLING_INTERVAL):
            if not self._standard.maintains_workers():
                return False
        try:
            process.start()
        finally:
            self._unpickling_lock.release()
        return True

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
