"""In the parent: what becomes of the tasks when a worker leaves, or the pool ends.

The stock pool keeps its workers, and has one queue for their tasks and one for
their results.  A worker that is killed takes its task with it, and may take the
lock of a queue, or half a message; then everybody waits.  Here each worker has a
record, which says what it was doing, and a pipe for its results alone.
"""

import collections
import contextlib
import functools
import os
import select
import signal
import struct
import sys
import threading
import time
import types
import weakref

from ._packages import module
from ._shared import Records, Shared
from ._template import Template
from ._worker import (
    HOLDS,
    INITIALIZES,
    READS,
    RESULT,
    RUNS,
    WAITS,
    WorkerLostError,
    run,
    run_recorded,
    run_thread,
)

if os.name == "posix":
    import fcntl
    import termios
else:  # Windows
    import _winapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, Optional, Tuple

# Seconds after which a lock that nobody says to hold is that of the worker which
# left.  Between taking it and saying so are 100 nanoseconds.
_PATIENCE = 1.0

# How many workers in a row may be killed before they can do anything. Whoever kills
# workers at random meets those that start; who is out of memory meets no others.
_MANY = 100

# How many workers a pool may have. Before Python 3.13 Windows waits for 63 handles at once:
# with more, the stock pool's thread that handles workers ends, and close() waits for ever.
_MOST = 61 if os.name != "posix" and sys.version_info < (3, 13) else None


@functools.lru_cache(maxsize=None)
def _results_class(stock: "Any") -> "Any":
    """Return the class of the results that a pool waits for, by their jobs."""

    class Results(stock):  # type: ignore[misc]
        def __init__(self, is_running: "Callable[[], bool]", **kwds: "Any") -> None:
            super().__init__(**kwds)
            self._is_running = is_running
            # The jobs whose callbacks run: they have their outcome, and end by themselves.
            self.ending: "List[int]" = []

        def __setitem__(self, job: int, result: "Any") -> None:
            # A new result, which has its callbacks by now, and no outcome.
            for name in ("_callback", "_error_callback"):
                callback = getattr(result, name, None)
                if callback is not None:
                    setattr(result, name, functools.partial(self._call, job, callback))
            super().__setitem__(job, result)
            # Another thread may have closed the pool since the stock function looked. It
            # waits for what is here, and not for what comes later.
            if not self._is_running():
                with contextlib.suppress(KeyError):  # terminate() has ended it
                    del self[job]
                raise ValueError("Pool not running")

        def _call(self, job: int, callback: "Callable[[Any], object]", value: "Any") -> None:
            # What it raises would end the thread that handles all results.
            self.ending.append(job)
            try:
                callback(value)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                self.ending.remove(job)

    return Results


class Supervisor:
    """What a pool with the keyword puts between itself and its workers.

    This one leaves a pool with queues of its own what they do; those of threads and
    of stock queues do more.
    """

    def __init__(self, pool: "Any", package: str) -> None:
        self._package = package
        self._module = module(package, "pool")
        self._shared: "Optional[Shared]" = None
        # The threads of a pool hold this, and must not hold the pool: it ends when
        # nobody else does.
        self._weak_pool = weakref.ref(pool)
        process = pool.Process
        # Before Python 3.8 it is a method, and holds the pool.
        is_method = isinstance(process, types.MethodType)
        self._stock_process: "Any" = weakref.WeakMethod(process) if is_method else lambda: process
        self._stock_terminate = pool._terminate_pool
        pool.Process = self.process
        pool._terminate_pool = self.terminate
        pool._map_async = self._map_async
        pool._guarded_task_generation = self._generate

    def _share(self, initializer: "Any", initargs: "Any") -> Shared:
        if self._shared is None:
            if initializer is None:
                raise ValueError("expect_initret requires an initializer")
            self._shared = Shared((initializer, *initargs), self._package)
            pool: "Any" = self._weak_pool()
            self._size = pool._processes
            stock: "Any" = type(pool._cache)
            # These must not hold this supervisor, or all that it has would stay until the
            # garbage is collected.
            weak_pool, run = self._weak_pool, self._module.RUN
            notifier: "Any" = getattr(pool, "_change_notifier", None)

            def is_running() -> bool:
                pool: "Any" = weak_pool()
                return pool is not None and pool._state == run

            def notify(_: None) -> None:
                # That thread wants to know it when the pool closes, and close() wakes it
                # too. While the pool runs, it would be in the way of who waits for a task
                # and gives the next.
                if not is_running():
                    notifier.put(None)

            # From Python 3.8 it tells the thread that handles workers when it is empty.
            kwds = {} if stock is dict else {"notifier": types.SimpleNamespace(put=notify)}
            self._cache = pool._cache = _results_class(stock)(is_running, **kwds)
        return self._shared

    def process(self, *context: "Any", target: "Any", args: "Any", **kwds: "Any") -> "Any":
        """Make a worker, which is not started yet, as the pool's ``Process`` does."""
        inqueue, outqueue, initializer, initargs, *rest = args
        shared = self._share(initializer, initargs)
        target, args = self._bind(target, (inqueue, outqueue, shared, *rest))
        return self._stock_process()(*context, target=target, args=args, **kwds)

    def _bind(self, target: "Any", args: "Any") -> "Tuple[Any, Any]":
        return run, (self._package, target, *args)

    def _map_async(
        self,
        func: "Any",
        iterable: "Any",
        mapper: "Any",
        chunksize: "Optional[int]" = None,
        *args: "Any",
        **kwds: "Any",
    ) -> "Any":
        pool: "Any" = self._weak_pool()
        # The stock function sees that the pool runs, and then reads what may take long:
        # who closes the pool meanwhile leaves tasks that nobody takes.
        if not hasattr(iterable, "__len__") and pool._state == self._module.RUN:
            iterable = list(iterable)
        # It divides by the number of workers that there are just now: where all have been
        # killed that is none.
        if chunksize is None and hasattr(iterable, "__len__"):
            chunksize = -(-len(iterable) // (4 * self._size))
        return type(pool)._map_async(pool, func, iterable, mapper, chunksize, *args, **kwds)

    def _generate(self, job: int, func: "Any", iterable: "Iterable[Any]") -> "Iterator[Any]":
        """Yield the tasks of a job, and last what has ended them early, if anything has."""
        # What a map() waits for; the others are told how many tasks there were.
        chunks = getattr(self._cache.get(job), "_number_left", 0)
        i, is_reading = -1, True
        try:
            for i, args in enumerate(iterable):
                is_reading = False
                yield job, i, func, (args,), {}
                is_reading = True
            if i + 1 < chunks:
                raise ValueError("the iterable yielded fewer items than its len() said")
        except BaseException as error:
            if not is_reading:
                raise  # a GeneratorExit: nobody takes more
            for left in range(i + 1, max(i + 2, chunks)):
                yield job, left, self._module._helper_reraises_exception, (error,), {}

    def terminate(self, *args: "Any") -> None:
        """End the pool as ``_terminate_pool`` does, and all results that are left."""
        self._before_the_end(*args)
        result_handler, cache = args[-2:]
        if not result_handler.is_alive():
            # The stock function would complain of results that nobody will set.
            self._end_results(cache)
        self._stock_terminate(*args)
        self._end_results(cache)
        self._after_the_end(result_handler)

    def _before_the_end(self, *args: "Any") -> None:
        """Do what must be done for the stock function to come to an end."""

    def connect(self, pool: "Any") -> None:
        """Stand between the pool and its queues, once they are there."""

    def _after_the_end(self, result_handler: threading.Thread) -> None:
        """Give up what belonged to the workers."""

    def _end_results(self, cache: "Any") -> None:
        error = WorkerLostError("the pool was terminated before this task had ended")
        for job, result in list(cache.items()):
            if job in cache.ending:
                continue
            if hasattr(result, "_set_length"):
                # What has arrived comes first, then this, then the end.
                result._set(result._index, (False, error))
                if job in cache:
                    result._set_length(result._index)
            deadline = time.monotonic() + _PATIENCE
            while job in cache:
                try:
                    result._set(0, (False, error))
                except AttributeError:  # at this moment another thread completes it
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.001)


class ThreadSupervisor(Supervisor):
    """That of a ThreadPool."""

    def _bind(self, target: "Any", args: "Any") -> "Tuple[Any, Any]":
        return run_thread, (self._package, target, *args)


#
# Pools of processes, with the queues of multiprocessing
#


# What stands before each message in a pipe, as multiprocessing.connection has it.
_HEADER = struct.Struct("!i")
_LONG_HEADER = struct.Struct("!iQ")
_INT = struct.Struct("i")
_NO_TASK = None, 0


_LIKELY_CAUSE = (
    'Is the pool made in a module that has no `if __name__ == "__main__":` before it, or '
    "does the main module raise an exception where a worker imports it? See stderr"
)


class _Vacancy:
    """Stands in the list of a broken pool, where no worker is started any more."""

    name = ""
    daemon = True
    exitcode = pid = None

    def start(self) -> None:
        pass

    terminate = join = start

    def is_alive(self) -> bool:
        return False


# What wakes the thread that handles results, no pickle. An empty message would do on
# POSIX; on Windows wait() reads it to see that it is there, and under Wine it is gone then.
_WAKE = b"wake"


class _Worker:
    """A worker as its pool has it in its list: a process, with what is known of it."""

    def __init__(
        self, supervisor: "ProcessSupervisor", process: "Any", slot: int, pipe: "Any"
    ) -> None:
        self._supervisor = supervisor
        self._process = process
        self.slot = slot  # that of its record
        self.reader, self.writer = pipe  # of its results
        self.unread = bytearray()
        self.lost: "Optional[int]" = None
        self._is_child = False  # of this process, not of a fork server
        self._pidfd: "Optional[int]" = None

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._process, name)

    # The pool sets these two.

    @property
    def name(self) -> str:
        return self._process.name  # type: ignore[no-any-return]

    @name.setter
    def name(self, name: str) -> None:
        self._process.name = name

    @property
    def daemon(self) -> bool:
        return self._process.daemon  # type: ignore[no-any-return]

    @daemon.setter
    def daemon(self, daemon: bool) -> None:
        self._process.daemon = daemon

    def start(self) -> None:
        if not self._supervisor.starts(self):  # at this moment the pool has ended
            self._process = _Vacancy()
            self.writer.close()
            return
        try:
            self._process.start()
        except Exception as error:
            self._supervisor.could_not_start(self, error)
            self._process = _Vacancy()
        else:
            self._is_child = getattr(self._popen, "method", "") in ("fork", "spawn")
            if self._is_child and hasattr(os, "pidfd_open"):
                try:
                    self._pidfd = os.pidfd_open(self.pid)
                except OSError:
                    pass
                else:
                    # Not before: the pool may be waiting for it.
                    weakref.finalize(self, os.close, self._pidfd).atexit = False
            self._supervisor.started(self)
        finally:
            self.writer.close()
            self._supervisor.goes_on()

    @property
    def sentinel(self) -> "Any":
        # The process's own is a pipe that its children have too, by os.fork(), and tells
        # of it when they have all left. (Linux; from Python 3.9.)
        return self._process.sentinel if self._pidfd is None else self._pidfd

    @property
    def exitcode(self) -> "Any":
        code = self._process.exitcode
        if code is None and self._is_child and os.name == "posix":
            # Where SIGCHLD is ignored, or others wait for all children, nobody tells this
            # process how one has ended; multiprocessing takes it to be alive for ever.
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                code = self._process.exitcode  # another thread may have been told
                if code is None:
                    code = self._popen.returncode = 255
            except PermissionError:
                pass
        return code

    def __str__(self) -> str:
        code = self.exitcode
        if code >= 0:
            how = f"left with exit code {code}"
        else:
            try:
                how = "was killed by " + signal.Signals(-code).name
            except ValueError:
                how = f"was killed by signal {-code}"
            if -code == getattr(signal, "SIGKILL", None):
                how += " (by the system, if it was out of memory)"
        return f"worker {self.name} (pid {self.pid}) {how}"


class ProcessSupervisor(Supervisor):
    """That of a Pool."""

    def connect(self, pool: "Any") -> None:
        self._ctx, self._inqueue, self._outqueue = pool._ctx, pool._inqueue, pool._outqueue
        self._pickler = module(self._package, "reduction").ForkingPickler
        self._wait = module(self._package, "connection").wait
        self._constructing = threading.current_thread()
        self._starting: "Optional[threading.Thread]" = None
        self._postponed: "Any" = None
        self._records: "Any" = None
        self._workers: "List[_Worker]" = []
        # The garbage collector may end the pool wherever it is, in the middle of that too.
        self._settling = threading.RLock()
        self._broken = ""  # why it is
        self._lazy = False  # whether workers start without the initializer
        self._in_vain = 0  # how many workers in a row have left before it
        # The tasks that have been put into the pipe and have no outcome, by the
        # numbers of their messages: job, index, where the message starts and ends in
        # the pipe, the size of its header.
        self._tasks: "Dict[int, Tuple[Any, int, int, int, int]]" = {}
        self._number = 0
        self._written = 0  # bytes
        self._announced = 0  # with the message that is being written, all of it
        self._writing: "Any" = None  # the operation, on Windows
        self._given_up = 0  # the number of a message whose rest nobody wants
        self._stopped = False
        self._mutex = threading.Lock()  # for what the pipe and these say of each other
        # What that thread is to do which handles results, from others. In one queue, for
        # a worker may start and leave while it is busy, and starts before it leaves.
        self._notes: "Deque[Tuple[Callable[[Any], None], Any]]" = collections.deque()
        self._woken = False
        # That thread's own.
        self._ending = False
        self._ready: "Deque[Any]" = collections.deque()
        self._readers: "Dict[Any, Optional[_Worker]]" = {}
        self._poller: "Any" = None
        if os.name == "posix":
            os.set_blocking(self._inqueue._writer.fileno(), False)
            self._poller = select.poll()
        pool._quick_put, pool._quick_get = self.put, self.get
        self._register(self._outqueue._reader, None)
        module(self._package, "util").register_after_fork(self, ProcessSupervisor._after_fork)

    def _after_fork(self) -> None:
        # A worker is to see that nobody reads its results when the parent is gone.
        for worker in self._workers:
            worker.reader.close()

    # -- Workers ---------------------------------------------------------------

    def process(self, *context: "Any", target: "Any", args: "Any", **kwds: "Any") -> "Any":
        # The pool asks for a worker at first, and when one has left.
        self._settle()
        if self._broken or self._stopped:
            return _Vacancy()
        inqueue, _, initializer, initargs, *rest = args
        shared = self._share(initializer, initargs)
        if self._records is None:
            if _MOST and self._size > _MOST:
                raise ValueError(
                    f"processes must be at most {_MOST} on Windows with expect_initret, before "
                    f"Python 3.13, not {self._size}"
                )
            self._template = Template(self._package, self._ctx, shared)
            self._records = Records(self._package, 1 + 2 * self._size)
            self._slots = list(range(1, 1 + 2 * self._size))
        slot = self._slots.pop()
        self._records.numbers[slot] = 0
        try:
            pipe = self._ctx.Pipe(duplex=False)
        except OSError as error:
            self._cannot_start(error)
            return _Vacancy()
        bound = self._package, target, inqueue, pipe[1], shared, self._lazy, self._records, slot
        process = self._stock_process()(
            *context, target=run_recorded, args=bound + tuple(rest), **kwds
        )
        self._template.adopt(process)
        return _Worker(self, process, slot, pipe)

    def starts(self, worker: _Worker) -> bool:
        """Take notice of a worker that is about to start, and tell whether it may."""
        self._starting = threading.current_thread()
        if self._stopped:  # at this moment
            self._starting = None
            return False
        self._workers.append(worker)
        return True

    def goes_on(self) -> None:
        """Take notice that a worker has started, or could not."""
        self._starting = None
        if self._postponed is not None:
            self.terminate(*self._postponed)

    def terminate(self, *args: "Any") -> None:
        if threading.current_thread() is self._starting:
            # The garbage collector ends the pool while this thread starts a worker, which
            # may run by now, and of which nothing is known yet.
            self._postponed = args
        else:
            super().terminate(*args)

    def started(self, worker: _Worker) -> None:
        if threading.current_thread() is self._constructing:
            # No thread handles results yet: the one that handles workers would wake up
            # again and again for what is there for it.
            self._listen(worker)
        else:
            self._tell(self._listen, worker)

    def could_not_start(self, worker: _Worker, error: Exception) -> None:
        self._workers.remove(worker)
        self._cannot_start(error)

    def _cannot_start(self, error: Exception) -> None:
        if threading.current_thread() is self._constructing:
            self._template.close()
            if isinstance(error, (ConnectionError, EOFError)):  # from Python 3.13.1
                # A fork server that imports the main module leaves as a worker would.
                raise WorkerLostError(f"no worker could be started. {_LIKELY_CAUSE}") from error
            raise error
        self._break(f"a worker could not be started: {error!r}")

    def _state(self, worker: _Worker) -> int:
        return self._records.numbers[worker.slot] & 7  # type: ignore[no-any-return]

    def _settle(self) -> None:
        """See which workers have left, and put in order what they had in their hands."""
        with self._settling:
            if self._stopped:
                return
            left = [worker for worker in self._workers if worker.exitcode is not None]
            # Who was reading has the lock of the pipe, for sure.
            for worker in sorted(left, key=lambda worker: self._state(worker) != READS):
                self._make_sure_it_left(worker)
                if self._stopped:
                    return
                self._workers.remove(worker)
                number, state = divmod(self._records.numbers[worker.slot], 8)
                if state in (WAITS, READS, HOLDS):
                    state = self._repair(state, number)
                if state in (INITIALIZES, HOLDS, RUNS) and not self._broken:
                    worker.lost = number
                if state == INITIALIZES and not number:
                    self._lazy = True
                self._in_vain = 0 if state else self._in_vain + 1
                enough = self._size if worker.exitcode >= 0 else _MANY
                self._slots.append(worker.slot)
                self._tell(self._bury, worker)
                if self._in_vain >= enough and not any(map(self._state, self._workers)):
                    self._break(
                        f"{self._in_vain} workers in a row left before they could do anything, "
                        f"at last {worker}. {_LIKELY_CAUSE}"
                    )

    def _make_sure_it_left(self, worker: _Worker) -> None:
        """Kill a worker that only seems to have left.

        Where a fork server is killed, all its processes are said to have left with
        exit code 255, and go on.
        """
        if worker.exitcode == 255 and getattr(worker._popen, "method", "") == "forkserver":
            poller = select.poll()
            poller.register(worker.reader, 0)  # it tells of a hangup
            if not poller.poll(0):
                try:
                    os.kill(worker.pid, signal.SIGKILL)
                except ProcessLookupError:  # at this moment
                    return
                poller.poll(1000 * _PATIENCE)

    def _repair(self, state: int, number: int) -> int:
        """Take the lock of the tasks' pipe from a worker that left with it.

        :returns: the state with what is known now: whether it had read a message
        """
        lock, deadline = self._inqueue._rlock, time.monotonic() + _PATIENCE
        while state != READS and not lock.acquire(False):
            # It left before it could say that it has the lock, or after it had said
            # that for the last time.  Whoever reads now has got it from another.  Who
            # holds it may have given it back, and not have said so yet.
            if READS in map(self._state, self._workers):
                return state
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
        # Now nobody else has it.
        if state == READS and self._put_pipe_in_order(number):
            state = HOLDS
        if state == HOLDS:
            # It may have counted its message, and others theirs since.
            self._records.numbers[0] = max(self._records.numbers[0], number)
        lock.release()
        return state

    def _put_pipe_in_order(self, number: int) -> bool:
        """Read what a worker has left of a message; tell whether it had begun."""
        with self._mutex:
            nothing = None, 0, self._written, self._written, 0
            job, i, start, end, header = self._tasks.get(number, nothing)
            reader = self._inqueue._reader.fileno()
            if os.name == "posix":
                (available,) = _INT.unpack(fcntl.ioctl(reader, termios.FIONREAD, bytes(_INT.size)))
            else:  # Windows
                available = _winapi.PeekNamedPipe(reader)[0]  # type: ignore[attr-defined,unused-ignore]
            position = self._written - available
            if position <= start:
                return False
            if os.name != "posix":
                if position < end:
                    self._inqueue._reader.recv_bytes()  # the rest of this message
                return True
            if end > self._written:
                end = self._written
                self._given_up = number
            rest = bytearray()
            while position + len(rest) < end:
                rest += os.read(reader, min(end - position - len(rest), 65536))
            if job is not None and position - start == header:
                # Who is killed while it waits may have got the first that comes, the
                # header.  That is no task yet.
                self._put_back(number, bytes(rest))
            return True

    def _put_back(self, number: int, message: bytes) -> None:
        """Put a message behind all others, if it can be done at once and in one piece."""
        job, i, *_ = self._tasks[number]
        message = _HEADER.pack(len(message)) + message
        if self._announced == self._written and len(message) <= select.PIPE_BUF:
            try:
                os.write(self._inqueue._writer.fileno(), message)
            except BlockingIOError:  # at this moment
                return
            del self._tasks[number]
            self._register_task(job, i, len(message), _HEADER.size)
            self._written = self._announced

    def _register_task(self, job: "Any", i: int, size: int, header: int) -> int:
        number = self._number = self._number + 1
        start = self._written
        self._announced = start + size
        self._tasks[number] = job, i, start, self._announced, header
        return number

    def _break(self, why: str) -> None:
        """End all tasks, now and later, with an error that says why."""
        with self._mutex:
            self._broken = "the pool is broken: " + why
        self._log(self._broken)
        for worker in self._workers:
            worker.terminate()
        self._wake()
        if os.name != "posix":
            # The thread of tasks may write what nobody will read.
            for worker in self._workers:
                worker.join()
            while self._writing is not None:
                if self._inqueue._reader.poll(0.01):
                    self._inqueue._reader.recv_bytes()

    def _log(self, message: str) -> None:
        # The level of those of multiprocessing is not shown where nobody asks for it.
        logger = module(self._package, "util")._logger
        if logger:
            logger.warning("%s", message)

    # -- Tasks, in the thread that handles them --------------------------------

    def put(self, task: "Any") -> None:
        if task is None:
            self._dismiss()
            return
        job, i, func, args, _ = task
        if func is self._module._helper_reraises_exception:
            self._post(job, i, args[0])
            return
        try:
            sent = self._send(job, i, self._pickler.dumps(task))
        except BaseException as error:
            self._post(job, i, error)
        else:
            if not sent:
                self._post(job, i, WorkerLostError(self._broken))

    def _send(self, job: "Any", i: int, message: "Any") -> bool:
        """Put a message into the pipe, if the pool is not broken."""
        if os.name != "posix":
            return self._send_whole(job, i, message)
        size = len(message)
        header = _HEADER.pack(size) if size <= 0x7FFFFFFF else _LONG_HEADER.pack(-1, size)
        parts = [header + message] if size < 16384 else [header, message]
        with self._mutex:
            if self._broken:
                return False
            number = self._register_task(job, i, len(header) + size, len(header))
        for part in parts:
            self._write(number, memoryview(part))
        return True

    def _write(self, number: int, view: memoryview) -> None:
        writer = self._inqueue._writer.fileno()
        while view:
            with self._mutex:
                if self._broken or self._stopped or self._given_up == number:
                    return
                try:
                    count = os.write(writer, view)
                except BlockingIOError:
                    count = 0
                self._written += count
            view = view[count:]
            if not count:
                # The time is for what ends a pool, whose workers read no more.
                poller = select.poll()
                poller.register(writer, select.POLLOUT)
                poller.poll(100)

    def _send_whole(self, job: "Any", i: int, message: "Any") -> bool:
        # On Windows a message is in the pipe whole, or not at all; where it finds no room
        # it is there as well, and this waits until it is read.
        with self._mutex:
            if self._broken:
                return False
            number = self._register_task(job, i, len(message), 0)
            try:
                self._writing, _ = _winapi.WriteFile(  # type: ignore[attr-defined,unused-ignore]
                    self._inqueue._writer.fileno(), message, overlapped=True
                )
            except BaseException:  # of 2 GiB, for instance
                # Or all that come later would be taken for their neighbours.
                del self._tasks[number]
                self._number -= 1
                self._announced = self._written
                raise
            self._written = self._announced
        try:
            self._writing.GetOverlappedResult(True)
        finally:
            self._writing = None
        return True

    def _post(self, job: int, i: int, error: BaseException) -> None:
        """Let the thread that handles results set an error, as it does with any."""
        self._tell(self._ready.append, (job, i, (False, error)))
        if self._broken and hasattr(self._cache.get(job), "_set_length"):
            time.sleep(0.001)  # its iterable may be endless

    def _tell(self, function: "Callable[[Any], None]", argument: "Any") -> None:
        self._notes.append((function, argument))
        self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._outqueue._writer.send_bytes(_WAKE)

    def _dismiss(self) -> None:
        """Let the workers leave, and see that each can, whoever is killed meanwhile."""
        for _ in self._workers:
            self._send(None, 0, self._pickler.dumps(None))
        while self._workers and not self._stopped:
            left = self._wait([worker.sentinel for worker in self._workers])
            for worker in list(self._workers):
                if worker.sentinel in left:
                    worker.join()  # its sentinel may tell of it a moment before
            self._settle()
        if not self._stopped:
            self._template.close()

    # -- Results, in the thread that handles them ------------------------------

    def _register(self, reader: "Any", worker: "Optional[_Worker]") -> None:
        key = reader
        if self._poller:
            key = reader.fileno()
            self._poller.register(key, select.POLLIN)
        self._readers[key] = worker

    def _unregister(self, worker: _Worker) -> None:
        for key, other in list(self._readers.items()):
            if other is worker:
                del self._readers[key]
                if self._poller:
                    self._poller.unregister(key)

    def get(self) -> "Any":
        ready = self._ready
        while not ready:
            if self._poller:
                keys = [key for key, _ in self._poller.poll()]
            else:  # Windows
                keys = self._wait(list(self._readers))
            for key in keys:
                worker = self._readers.get(key)
                if worker is not None:
                    self._receive(worker)
                elif key in self._readers:
                    if self._outqueue._reader.recv_bytes() != _WAKE:
                        self._ending = True
                        return None  # what it got is the sentinel
                    self._woken = False
                    self._hear()
                    if not ready and (self._ending or self._stopped):
                        # The thread empties this pipe before it ends, and looks
                        # whether there is more each time.
                        return None
                    # The other keys are old: one may be that of a new pipe by now, in
                    # the place of one that was closed, with nothing to read.
                    break
        return ready.popleft()

    def _receive(self, worker: _Worker) -> bool:
        """Read what a worker has sent, at least in part; tell whether more may come."""
        try:
            if not self._poller:  # Windows
                self._deliver(memoryview(worker.reader.recv_bytes()))
                return True
            data = os.read(worker.reader.fileno(), 65536)
        except (EOFError, OSError):  # Windows: it is at its end
            data = b""
        if not data:
            self._unregister(worker)
            return False
        unread, start = worker.unread, 0
        unread += data
        while len(unread) - start >= _HEADER.size:
            (size,) = _HEADER.unpack_from(unread, start)
            head = _HEADER.size
            if size == -1:  # 2 GiB or more
                head = _LONG_HEADER.size
                if len(unread) - start < head:
                    break
                _, size = _LONG_HEADER.unpack_from(unread, start)
            end = start + head + size
            if end > len(unread):
                break
            if not start and end == len(unread):
                worker.unread = bytearray()
                self._deliver(memoryview(unread)[head:])
                return True
            self._deliver(memoryview(unread[start + head : end]))
            start = end
        del unread[:start]
        return True

    def _deliver(self, message: memoryview) -> None:
        number, size = RESULT.unpack_from(message)
        job, i, *_ = self._tasks.pop(number, _NO_TASK)
        if job is None:  # at this moment the pool has broken
            return
        pickled = message[RESULT.size + size :]
        try:
            outcome = self._pickler.loads(pickled)
        except BaseException as error:
            if size or not isinstance(error, Exception):
                description = bytes(message[RESULT.size : RESULT.size + size])
                error = self._undelivered(error, description.decode("utf-8"))
            outcome = False, error
        self._ready.append((job, i, outcome))

    def _undelivered(self, reason: BaseException, description: str) -> Exception:
        text, _, traceback = description.partition("\0")
        error: Exception = self._module.MaybeEncodingError(reason, None)
        error.value = text  # type: ignore[attr-defined]
        if traceback:
            error.__cause__ = self._module.RemoteTraceback(traceback)
        return error

    def _hear(self) -> None:
        """Take notice of what other threads have to say."""
        while self._notes:
            function, argument = self._notes.popleft()
            function(argument)
        if self._broken:
            for number in list(self._tasks):
                self._lose(number, self._broken)

    def _listen(self, worker: _Worker) -> None:
        self._register(worker.reader, worker)

    def _bury(self, worker: _Worker) -> None:
        # What it had sent before counts.
        try:
            while worker.reader.poll() and self._receive(worker):
                pass
        except OSError:  # Windows: it is at its end
            pass
        self._unregister(worker)
        worker.reader.close()
        self._lose(worker.lost, f"{worker}")

    def _lose(self, number: "Optional[int]", why: str) -> None:
        job, i, *_ = self._tasks.pop(number, _NO_TASK) if number else _NO_TASK
        if job is not None:
            self._log(why)
            self._ready.append((job, i, (False, WorkerLostError(why))))

    # -- The end -----------------------------------------------------------------

    def _before_the_end(self, *args: "Any") -> None:
        taskqueue, inqueue, _, _, *notifiers, worker_handler, task_handler, _, _ = args
        worker_handler._state = task_handler._state = self._module.TERMINATE
        for notifier in notifiers:
            notifier.put(None)
        if threading.current_thread() is not worker_handler:
            worker_handler.join()  # or it would start others
        with self._settling:
            self._stopped = True
        for worker in self._workers:
            if worker.exitcode is None:
                worker.terminate()
        for worker in self._workers:
            while worker.exitcode is None:
                worker.join(0.1)
                self._free_lock()
            self._make_sure_it_left(worker)
        # The stock function takes this lock, and reads whole messages from the pipe, where
        # a part of one may be left.
        self._free_lock()
        taskqueue.put(None)
        while task_handler.is_alive() and threading.current_thread() is not task_handler:
            while inqueue._reader.poll():
                if os.name == "posix":
                    os.read(inqueue._reader.fileno(), 65536)
                else:  # Windows
                    inqueue._reader.recv_bytes()
            task_handler.join(0.01)

    def _free_lock(self) -> None:
        """Give the lock of the tasks' pipe back, if who had it has left.

        A handler of SIGTERM in Python runs when the worker comes back from the system. So a
        worker that was about to wait for the lock waits, and leaves when it gets it.
        """
        lock = self._inqueue._rlock
        for _ in range(2):
            if any(w.is_alive() and self._state(w) in (READS, HOLDS) for w in self._workers):
                return
            if lock.acquire(False):
                break
            time.sleep(0.001)  # who has just got it has said so then
        with contextlib.suppress(ValueError):  # who had it has given it back
            lock.release()

    def _after_the_end(self, result_handler: threading.Thread) -> None:
        self._template.close()
        if threading.current_thread() is not result_handler:
            # Or they would stay, with all that is open, until the garbage is collected.
            for worker in self._workers:
                worker.reader.close()
            self._workers.clear()
            self._readers.clear()
            self._notes.clear()
