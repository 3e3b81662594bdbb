"""What runs in a worker: the pool's own loop, its tasks bound to initret."""

from .._shared.packages import module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Tuple

    from .._shared.initargs import InitArgs

    _Task = Tuple[int, int, Callable[..., Any], Tuple[Any, ...], Dict[str, Any]]


# Stands for "no initret yet", since None is a value an initializer may return.
_NO_INITRET: "Any" = object()


def raise_(error: Exception) -> None:
    raise error


def explained(error: Exception) -> Exception:
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


class Tasks:
    """The task queue of one worker, as that worker's loop sees it."""

    def __init__(
        self, package: str, inqueue: "Any", shared: "InitArgs", lazy: bool = False
    ) -> None:
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
            if func is reraise or func is raise_:
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
            raise explained(error) from None
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
    shared: "InitArgs",
    *args: "Any",
) -> None:
    """Run a worker's own target, stock or a subclass's, with tasks bound to initret."""
    tasks = Tasks(package, inqueue, shared)
    try:
        target(tasks, outqueue, tasks.initialize, (), *args)
    finally:
        tasks.forget()
