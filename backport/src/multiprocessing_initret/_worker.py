"""What runs in a worker: the pool's own loop, its tasks bound to initret."""

from importlib import import_module
from typing import Any, Callable, Iterable, Optional, Tuple

_Task = Tuple[int, int, Callable[..., Any], Tuple[Any, ...], Any]

# Stands for "no initret yet", since None is a value an initializer may return.
_NO_INITRET: Any = object()


class _BoundTasks:
    """The task queue of one worker, as that worker's loop sees it."""

    def __init__(
        self, pool: Any, inqueue: Any, initializer: Callable[..., object], initargs: Iterable[Any]
    ) -> None:
        # By these the loop's own functions are told from those of the caller.
        self._reraise = pool._helper_reraises_exception
        self._mapstar = pool.mapstar
        self._starmapstar = pool.starmapstar
        self._info = pool.util.info
        self._inqueue = inqueue
        self._initializer = initializer
        self._initargs = initargs
        self._initret = _NO_INITRET

    def __getattr__(self, name: str) -> Any:
        # The loop closes the pipe's end that it does not use, if there is one.
        return getattr(self._inqueue, name)

    def initialize(self) -> None:
        """Stand in for the initializer: keep what it returns, survive its failure.

        A worker that left would be replaced for ever and no caller would see
        the error; a thread would not even be replaced.
        """
        try:
            self._initret = self._initializer(*self._initargs)
        except Exception as error:
            self._info("initializer failed, the next task runs it again: %r", error)

    def get(self) -> Optional[_Task]:
        task: Optional[_Task] = self._inqueue.get()
        if task is None or task[2] is self._reraise:
            return task
        job, i, func, args, kwds = task
        # The binding is left to the call, so that whatever it raises, Python's
        # own TypeError for a second initret among others, is the task's outcome.
        return job, i, self._call, (func, args, kwds), {}

    def _call(self, func: Callable[..., Any], args: Any, kwds: Any) -> Any:
        initret = self._initret
        if initret is _NO_INITRET:
            initret = self._initret = self._initializer(*self._initargs)
        if func is self._mapstar:
            [(func, batch)] = args
            return [func(x, initret=initret) for x in batch]
        if func is self._starmapstar:
            [(func, batch)] = args
            return [func(*x, initret=initret) for x in batch]
        return func(*args, **kwds, initret=initret)


def run(
    module: str,
    target: Callable[..., object],
    inqueue: Any,
    outqueue: Any,
    initializer: Callable[..., object],
    initargs: Iterable[Any],
    *args: Any,
) -> None:
    """Run a worker's own target, stock or a subclass's, with tasks bound to initret.

    The module is the one of the stock pool, by its name: multiprocessing.pool,
    or that of a fork of it.
    """
    tasks = _BoundTasks(import_module(module), inqueue, initializer, initargs)
    target(tasks, outqueue, tasks.initialize, (), *args)
