"""What runs in a worker: the pool's own loop, its tasks bound to initret."""

import io
import struct
from multiprocessing import ProcessError

from ._packages import module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Tuple

    from ._shared import Records, Shared

    _Task = Tuple[int, int, Callable[..., Any], Tuple[Any, ...], Dict[str, Any]]


class WorkerLostError(ProcessError):
    """The outcome of a task whose worker left before it had finished.

    The text says which worker it was and how it left.  The task may have run in
    part, or not at all.  When a pool breaks, and when it is terminated, this is the
    outcome of all its tasks that are left.
    """


WorkerLostError.__module__ = "multiprocessing_initret"

# Stands for "no initret yet", since None is a value an initializer may return.
_NO_INITRET: "Any" = object()


def _raise(error: Exception) -> None:
    raise error


class Tasks:
    """The task queue of one worker, as that worker's loop sees it."""

    def __init__(self, package: str, inqueue: "Any", shared: "Shared", lazy: bool = False) -> None:
        self._pool = module(package, "pool")
        self._inqueue = inqueue
        self._shared = shared
        self._lazy = lazy
        self._initret = _NO_INITRET
        self._keyword: "Dict[str, Any]" = {}
        self.get, self.current = self._make_get()

    def __getattr__(self, name: str) -> "Any":
        # The loop closes the pipe's end that it does not use, if there is one.
        return getattr(self._inqueue, name)

    def _make_get(self) -> "Tuple[Callable[[], Optional[_Task]], Callable[[], Optional[_Task]]]":
        # Closures, for in a ThreadPool a task that does nothing takes two microseconds,
        # and each attribute of self one or two hundredths of that.
        receive, keyword = self._receive(), self._keyword
        # By these the loop's own functions are told from those of the caller.
        mapstar, starmapstar = self._pool.mapstar, self._pool.starmapstar
        reraise = self._pool._helper_reraises_exception
        bound_mapstar, bound_starmapstar, bound = self._map, self._starmap, self._apply

        task: "Optional[_Task]" = None

        def current() -> "Optional[_Task]":
            return task

        def get() -> "Optional[_Task]":
            nonlocal task
            task = None  # not to keep what is done
            task = receive()
            if task is None:
                return None
            job, i, func, args, kwds = task
            if func is mapstar:
                return job, i, bound_mapstar, args, kwds
            if func is starmapstar:
                return job, i, bound_starmapstar, args, kwds
            if func is reraise or func is _raise:
                return task
            if keyword and not kwds:
                return job, i, func, args, keyword
            # Whatever is raised then, Python's own TypeError for a second initret among
            # others, is the task's outcome.
            return job, i, bound, (func, args, kwds), {}

        return get, current

    def _receive(self) -> "Callable[[], Any]":
        """Return the function that takes a task from the queue."""
        receive: "Callable[[], Any]" = self._inqueue.get
        return receive

    def _initialize(self) -> None:
        try:
            initializer, *initargs = self._shared.load()
        except AttributeError as error:
            raise _explained(error) from None
        self._initret = initializer(*initargs)
        self._keyword["initret"] = self._initret

    def forget(self) -> None:
        """Drop initret, and what finalizes it runs.

        What is here refers to itself, and a forked worker ends without collecting that.
        """
        vars(self).clear()

    def initialize(self) -> None:
        """Stand in for the initializer: keep what it returns, survive its failure.

        A worker that left would be replaced for ever and no caller would see
        the error; a thread would not even be replaced.
        """
        if not self._lazy:
            try:
                self._initialize()
            except Exception as error:
                self._pool.util.info("initializer failed, the next task runs it again: %r", error)

    def _get_initret(self) -> "Any":
        if self._initret is _NO_INITRET:
            self._initialize()
        return self._initret

    def _apply(self, func: "Callable[..., Any]", args: "Any", kwds: "Any") -> "Any":
        return func(*args, **kwds, initret=self._get_initret())

    def _map(self, args: "Any") -> "Any":
        func, batch = args
        initret = self._initret
        if initret is _NO_INITRET:
            initret = self._get_initret()
        if len(batch) == 1:
            # Until Python 3.11 the comprehension is one more call, and takes as long.
            return [func(batch[0], initret=initret)]
        return [func(x, initret=initret) for x in batch]

    def _starmap(self, args: "Any") -> "Any":
        func, batch = args
        initret = self._get_initret()
        return [func(*x, initret=initret) for x in batch]


def run(
    package: str,
    target: "Callable[..., object]",
    inqueue: "Any",
    outqueue: "Any",
    shared: "Shared",
    *args: "Any",
) -> None:
    """Run a worker's own target, stock or a subclass's, with tasks bound to initret."""
    tasks = Tasks(package, inqueue, shared)
    try:
        target(tasks, outqueue, tasks.initialize, (), *args)
    finally:
        tasks.forget()


#
# A worker that is a thread
#


def run_thread(
    package: str,
    target: "Callable[..., object]",
    inqueue: "Any",
    outqueue: "Any",
    shared: "Shared",
    *args: "Any",
) -> None:
    """Do as :func:`run` in a thread, and go on after what would end it.

    The loop catches every Exception.  A SystemExit would end the thread, which
    nobody replaces, and its task with it.
    """
    tasks = Tasks(package, inqueue, shared)
    initialize: "Optional[Callable[[], None]]" = tasks.initialize
    while True:
        try:
            target(tasks, outqueue, initialize, (), *args)
            tasks.forget()
            return
        except Exception:  # of a subclass's own target
            raise
        except BaseException as error:
            initialize = None
            task = tasks.current()
            if task is not None:
                lost = WorkerLostError(f"the task raised {error!r}, which would end its thread")
                lost.__cause__ = error
                outqueue.put((*task[:2], (False, lost)))


#
# A worker that is a process, and writes down what it does
#

# What a worker's record says: the number of a message, and in the last three bits
# what the worker does with it.  The messages are numbered by their order in the
# pipe, which the first number of the records counts.
_NEW, INITIALIZES, WAITS, READS, HOLDS, RUNS = range(6)

# What a result has before its pickle: the number of the message, and the size of
# the text that tells of it where the parent cannot unpickle it.
RESULT = struct.Struct("=qi")


class _RecordedTasks(Tasks):
    """The tasks of a worker that may be killed, whatever it does.

    Whoever reads from the pipe holds its lock.  Where that worker is killed, its
    record tells the parent that the lock is to be released, how much of a message
    may be gone, and which task was running.
    """

    number = 0

    def __init__(
        self,
        package: str,
        inqueue: "Any",
        shared: "Shared",
        lazy: bool,
        records: "Records",
        slot: int,
    ) -> None:
        self._loads = module(package, "reduction").ForkingPickler.loads
        self._numbers = records.numbers
        self._slot = slot
        super().__init__(package, inqueue, shared, lazy)

    def _initialize(self) -> None:
        self._numbers[self._slot] = self.number << 3 | INITIALIZES
        super()._initialize()
        self._numbers[self._slot] = self.number << 3 | RUNS

    def _receive(self) -> "Callable[[], Any]":
        return self._receive_recorded

    def _receive_recorded(self) -> "Optional[_Task]":
        numbers, slot, lock = self._numbers, self._slot, self._inqueue._rlock
        numbers[slot] = WAITS
        lock.acquire()
        # No `with`: whatever ends this worker before the message is whole, the lock
        # stays with it until the parent has put the pipe in order.
        self.number = number = numbers[0] + 1
        numbers[slot] = number << 3 | READS
        try:
            message = self._inqueue._reader.recv_bytes()
        except EOFError:
            # The parent is gone: all workers are to see that.
            lock.release()
            raise
        numbers[slot] = number << 3 | HOLDS
        numbers[0] = number
        lock.release()
        numbers[slot] = number << 3 | RUNS
        try:
            task: "Optional[_Task]" = self._loads(message)
            return task
        except Exception as error:
            return 0, 0, _raise, (_explained(error),), {}


def _explained(error: Exception) -> Exception:
    """Say what to do about a name that is not in the worker's main module."""
    text = str(error)
    if isinstance(error, AttributeError) and "_main__'" in text:
        error = AttributeError(
            text + ": what is typed into an interpreter or a notebook, or defined under "
            '`if __name__ == "__main__":`, is not there in a worker that was not forked. Put '
            "it into a module of its own, or use the fork start method, or multiprocess "
            'with multiprocessing_initret.install("multiprocess")'
        ).with_traceback(error.__traceback__)
    return error


class _Results:
    """The result queue of one worker: a pipe of its own, which no other can block."""

    def __init__(self, package: str, writer: "Any", tasks: _RecordedTasks) -> None:
        self._with_traceback = module(package, "pool").ExceptionWithTraceback
        self._pickler = module(package, "reduction").ForkingPickler
        self._send = writer.send_bytes
        self._tasks = tasks
        self._reader = self  # which the loop closes, for it does not use that end

    def close(self) -> None:
        pass

    def _describe(self, error: "Any") -> bytes:
        traceback = ""
        if isinstance(error, self._with_traceback):
            error, traceback = error.exc, error.tb
        try:
            text = repr(error)
        except Exception:
            text = object.__repr__(error)
        return "\0".join((text, traceback)).encode("utf-8", "backslashreplace")

    def put(self, outcome: "Tuple[int, int, Tuple[bool, Any]]") -> None:
        succeeded, value = result = outcome[2]
        description = b"" if succeeded else self._describe(value)
        buffer = io.BytesIO()
        buffer.write(RESULT.pack(self._tasks.number, len(description)))
        buffer.write(description)
        self._pickler(buffer, None).dump(result)
        self._send(buffer.getbuffer())


def run_recorded(
    package: str,
    target: "Callable[..., object]",
    inqueue: "Any",
    writer: "Any",
    shared: "Shared",
    lazy: bool,
    records: "Records",
    slot: int,
    *args: "Any",
) -> None:
    """Do as :func:`run` in a process, keep its record, and send results by its own pipe."""
    tasks = _RecordedTasks(package, inqueue, shared, lazy, records, slot)
    try:
        target(tasks, _Results(package, writer, tasks), tasks.initialize, (), *args)
    finally:
        tasks.forget()
