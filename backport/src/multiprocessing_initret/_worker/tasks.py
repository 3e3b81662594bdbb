"""Worker side of every pool: run the pool's own loop, with each task bound to initret.

The pool's loop, ``multiprocessing.pool.worker()``, runs unchanged.  It receives a
:class:`Tasks` in place of its task queue, and so receives tasks that are bound to initret,
the object that the initializer returned in this worker.
"""

import contextlib

from .._shared.packages import module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

    from .._shared.initargs import InitArgs

    Task = Tuple[int, int, Callable[..., Any], Tuple[Any, ...], Dict[str, Any]]

# Marks a worker whose initializer has not returned yet; None is a valid initret.
_NO_INITRET: "Any" = object()


# The parent sends these three as the functions of tasks, in place of the functions that
# multiprocessing.pool has for the same purposes.


def map_chunk(args: "Any") -> "Any":
    """Stand for ``[func(item) for item in chunk]``, where ``args`` is ``(func, chunk)``."""
    raise NotImplementedError("Tasks binds this to initret")


def starmap_chunk(args: "Any") -> "Any":
    """Stand for ``[func(*item) for item in chunk]``, where ``args`` is ``(func, chunk)``."""
    raise NotImplementedError("Tasks binds this to initret")


def raise_error(error: Exception) -> None:
    """Raise an exception as the result of a task."""
    try:
        raise error
    finally:
        del error  # break a reference cycle with the traceback


def explain_missing_name(error: Exception, hint: str) -> Exception:
    """Return an exception that explains why a name is missing from the worker's main module.

    :param error: raised by unpickling; any other exception is returned unchanged
    :param hint: the likely cause, as determined by the parent
    """
    text = str(error) if type(error) is AttributeError else ""
    if "_main__'" not in text:
        return error
    return AttributeError(f"{text}: {hint}").with_traceback(error.__traceback__)


class Tasks:
    """Task queue of one worker, as the pool's loop in that worker sees it.

    Its worker alone uses it.  It shares the queue and, in a ``ThreadPool``, *initargs* with
    other workers.

    :param package: the package of the pool
    :param inqueue: the queue that the pool's loop would use
    :param initargs: the initializer and its arguments
    :param hint: explains why a name may be missing from the main module
    :param defers_initializer: whether the initializer is called only when there is a task
    """

    def __init__(
        self,
        package: str,
        inqueue: "Any",
        initargs: "InitArgs",
        hint: str = "",
        defers_initializer: bool = False,
    ) -> None:
        self._package = package
        self._inqueue = inqueue
        self._initargs = initargs
        self._hint = hint
        self._defers_initializer = defers_initializer
        self._initret = _NO_INITRET
        self._keyword: "Dict[str, Any]" = {}
        self.get, self.current = self._make_get()

    def __getattr__(self, name: str) -> "Any":
        # The pool's loop closes the end of the pipe that it does not use.
        return getattr(self._inqueue, name)

    def _make_get(self) -> "Tuple[Callable[[], Optional[Task]], Callable[[], Optional[Task]]]":
        """Return ``get``, which the pool's loop calls, and ``current``, which returns its task."""
        # Closures, because reading an attribute of self would add 1 or 2 % to the time of a
        # task in a ThreadPool.
        receive, keyword = self._receive_function(), self._keyword
        run_map, run_starmap, run_call = self._map, self._starmap, self._call

        task: "Optional[Task]" = None

        def current() -> "Optional[Task]":
            return task

        def get() -> "Optional[Task]":
            nonlocal task
            task = None  # or the previous task would stay alive meanwhile
            task = receive()
            if task is None:
                return None
            job, i, func, args, kwds = task
            if func is map_chunk:
                return job, i, run_map, args, kwds
            if func is starmap_chunk:
                return job, i, run_starmap, args, kwds
            if func is raise_error:
                return task
            if keyword and not kwds:
                return job, i, func, args, keyword
            # run_call() runs inside the task, so that an exception of the initializer, or
            # Python's TypeError for a second initret, is the exception of the task.
            return job, i, run_call, (func, args, kwds), {}

        return get, current

    def _receive_function(self) -> "Callable[[], Any]":
        """Return the function that receives a task from the queue."""
        receive: "Callable[[], Any]" = self._inqueue.get
        return receive

    def _initialize(self) -> None:
        try:
            initializer, *initargs = self._initargs.load()
        except AttributeError as error:
            raise explain_missing_name(error, self._hint) from None
        self._initret = initializer(*initargs)
        self._keyword["initret"] = self._initret

    def clear(self) -> None:
        """Release initret, so that its finalizers run.

        This object refers to itself, and a forked worker exits without collecting garbage.
        """
        vars(self).clear()

    def initialize(self) -> None:
        """Call the initializer in place of the pool's loop, and log its exception.

        A worker that exited would be replaced again and again, and no caller would see the
        exception; a thread would not even be replaced.
        """
        if not self._defers_initializer:
            try:
                self._initialize()
            except Exception:
                self._log_failure()

    def _log_failure(self) -> None:
        # By default the logger of multiprocessing has no handlers, and logging then prints
        # warnings to stderr.  A handler of the program's own may raise an exception.
        with contextlib.suppress(Exception, SystemExit):
            module(self._package, "util").get_logger().warning(
                "initializer failed; it will be called again for the next task", exc_info=True
            )

    def _get_initret(self) -> "Any":
        if self._initret is _NO_INITRET:
            self._initialize()
        return self._initret

    def _call(self, func: "Callable[..., Any]", args: "Any", kwds: "Any") -> "Any":
        return func(*args, **kwds, initret=self._get_initret())

    def _map(self, args: "Any") -> "List[Any]":
        func, chunk = args
        initret = self._initret
        if initret is _NO_INITRET:
            initret = self._get_initret()
        if len(chunk) == 1:
            # Before Python 3.12 a comprehension costs an additional function call.
            return [func(chunk[0], initret=initret)]
        return [func(item, initret=initret) for item in chunk]

    def _starmap(self, args: "Any") -> "List[Any]":
        func, chunk = args
        initret = self._get_initret()
        return [func(*item, initret=initret) for item in chunk]


def run_loop(
    target: "Callable[..., object]",
    args: "Sequence[Any]",
    positions: "Sequence[int]",
    tasks: Tasks,
    outqueue: "Any",
    initialize: "Callable[[], None]",
) -> None:
    """Run a worker's target, ``worker()`` or a subclass's own, with tasks bound to initret.

    :param args: the arguments of the target, in the order of the parameters of ``worker()``
    :param positions: positions in *args* of *inqueue*, *outqueue*, *initializer* and *initargs*
    :param tasks: replaces the argument *inqueue*
    :param outqueue: replaces the argument *outqueue*
    :param initialize: replaces the argument *initializer*
    """
    args = list(args)
    for position, replacement in zip(positions, (tasks, outqueue, initialize, ())):
        args[position] = replacement
    target(*args)


def run_worker(
    package: str,
    target: "Callable[..., object]",
    args: "Sequence[Any]",
    positions: "Sequence[int]",
    inqueue: "Any",
    outqueue: "Any",
    initargs: "InitArgs",
    hint: str,
) -> None:
    """Run a worker of a pool whose queues are not the standard ones."""
    tasks = Tasks(package, inqueue, initargs, hint)
    try:
        run_loop(target, args, positions, tasks, outqueue, tasks.initialize)
    finally:
        tasks.clear()
