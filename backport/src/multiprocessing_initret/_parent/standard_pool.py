"""The private names of ``multiprocessing.pool`` that we rely on, and a check that they exist.

The package plugs its own functions into a standard pool: attributes of the instance replace
the methods that the pool's constructor and its three threads call.  These methods are
private, and differ between versions of Python:

    name                             since       note
    -------------------------------  ----------  ------------------------------------------
    Pool.Process                     3.3         a static method with a context since 3.8
    Pool._cache                      2.6         a _PoolCache, which wakes the worker
                                                 handler when it is empty, since 3.8
    Pool._change_notifier            3.8         wakes the worker handler
    Pool._repopulate_pool_static     3.8         called by Pool._repopulate_pool
    Pool._get_sentinels              3.8         what else the worker handler waits for
    Pool._taskqueue_buffersize_...   3.16        the semaphores of imap(buffersize=)
    Pool._guarded_task_generation    3.6         has a parameter for such a semaphore since 3.16
    Pool._terminate_pool             2.6         one more parameter in 3.8 and in 3.16
    all others in _REQUIRED          3.6 or earlier
    queues.SimpleQueue._reader, ...  3.6 or earlier
    connection._ForkingPickler       3.6 or earlier

The positions of arguments are determined from the names of the parameters, never assumed.
``check()`` compares the interpreter with _REQUIRED before the first pool is created.
"""

import functools
import threading
import types
import weakref

from .._shared.packages import module, parameters
from .._worker.tasks import map_chunk, starmap_chunk
from .private_names import missing_names, raise_if_missing
from .throttle import Throttle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

    from .critical_section import CriticalSection
    from .private_names import Requirements

# What check() looks for; see missing_names().
_REQUIRED: "Requirements" = {
    "worker": ("inqueue", "outqueue", "initializer", "initargs"),
    "mapstar": (),
    "starmapstar": (),
    "ExceptionWithTraceback": (),
    "RemoteTraceback": (),
    "MaybeEncodingError": (),
    "RUN": (),
    "TERMINATE": (),
    "Pool.__init__": (
        *("processes", "initializer", "initargs", "maxtasksperchild", "context"),
        *("_cache", "_ctx", "_pool", "_processes", "_state", "_taskqueue", "_terminate"),
        *("_worker_handler", "_task_handler", "_result_handler", "_setup_queues"),
        *("_repopulate_pool", "_quick_put", "_quick_get", "_terminate_pool"),
        *("Pool", "_handle_workers", "_handle_tasks", "_handle_results"),
    ),
    "ThreadPool.__init__": ("processes", "initializer", "initargs"),
    "Pool.Process": (),
    "Pool._join_exited_workers": ("exitcode", "join"),
    "Pool._repopulate_pool": ("Process", "_processes"),
    "Pool._setup_queues": ("_inqueue", "_outqueue", "_quick_put", "_quick_get"),
    "Pool._map_async": ("func", "iterable", "mapper", "chunksize"),
    "Pool._guarded_task_generation": ("result_job", "func", "iterable"),
    "Pool._terminate_pool": (
        *("taskqueue", "inqueue", "outqueue", "pool"),
        *("worker_handler", "task_handler", "result_handler", "cache"),
    ),
    "ApplyResult.__init__": ("_cache", "_job", "_callback", "_error_callback", "_event"),
    "ApplyResult._set": ("_success", "_value"),
    "MapResult.__init__": ("_number_left", "_success", "_value"),
    "IMapIterator.__init__": ("_cache", "_job", "_cond", "_index", "_items", "_length"),
    "IMapIterator._set": (),
    "IMapIterator._set_length": (),
}
# Also required if the pool has a change notifier, as since Python 3.8.
_REQUIRED_WITH_NOTIFIER = {
    "Pool.__init__": ("Process",),
    "_PoolCache.__init__": ("notifier",),
    "Pool._get_sentinels": ("_change_notifier",),
    "Pool._repopulate_pool_static": (),
    "Pool._terminate_pool": ("change_notifier",),
}
# Also required if imap() has the parameter buffersize, as since Python 3.16.
_REQUIRED_WITH_BUFFERSIZE = {
    "Pool.__init__": ("_taskqueue_buffersize_semaphores",),
    "Pool._guarded_task_generation": ("sema",),
    "Pool._terminate_pool": ("taskqueue_buffersize_semaphores",),
    "IMapIterator.__init__": ("_buffersize_sema",),
}
_REQUIRED_OF_QUEUES = {"SimpleQueue.__init__": ("_reader", "_writer", "_rlock")}
_REQUIRED_OF_CONNECTIONS: "Requirements" = {"_ForkingPickler": ()}


def set_initial_state(pool: "Any") -> None:
    """Set ``_state``, which ``__del__()`` reads (since 3.8) even if the constructor fails."""
    pool._state = None


@functools.lru_cache(maxsize=None)
def check(package: str) -> None:
    """Check that this interpreter has every private name that pools rely on.

    :param package: ``multiprocessing`` or the name of a derivative
    :raises RuntimeError: if a name is missing; the message contains all missing names
    """
    pool = module(package, "pool")
    missing = [
        *missing_names(pool, _REQUIRED),
        *missing_names(module(package, "queues"), _REQUIRED_OF_QUEUES),
        *missing_names(module(package, "connection"), _REQUIRED_OF_CONNECTIONS),
    ]
    if hasattr(pool, "_PoolCache"):
        missing += missing_names(pool, _REQUIRED_WITH_NOTIFIER)
    if "buffersize" in parameters(pool.Pool.imap):
        missing += missing_names(pool, _REQUIRED_WITH_BUFFERSIZE)
    raise_if_missing(package, missing)


class StandardPool:
    """The private attributes of one pool.

    The pool's threads refer to this object.  Therefore it must not refer to the pool, which is
    terminated as soon as nothing refers to it.

    The pool's threads, its callers, and threads that terminate it call the methods.

    :param pool: a pool whose constructor is running
    :param package: the package of the pool
    :param section: the pool's critical section
    """

    def __init__(self, pool: "Any", package: str, section: "CriticalSection") -> None:
        self._section = section
        self.module = module(package, "pool")
        # With a callback, the reference is dead before the garbage collector terminates the pool.
        # Without one, Python 3.15 clears it afterwards if the pool is in a reference cycle.
        self._weak_pool = weakref.ref(pool, _ignore)
        names = parameters(self.module.worker)
        #: positions, among the arguments of ``worker()``, of those that are replaced in a worker:
        #: *inqueue*, *outqueue*, *initializer* and *initargs*
        self.replaced_positions = tuple(names.index(name) for name in _REQUIRED["worker"])
        self._replaced: "Dict[str, Callable[[], Any]]" = {}
        #: the queue that wakes the worker handler; None before Python 3.8
        self.notifier: "Any" = None

    # Set the attributes that the constructor and the threads use.

    def replace(self, pool: "Any", **functions: "Any") -> None:
        """Replace methods by functions, as attributes of the pool."""
        for name, function in functions.items():
            method = getattr(pool, name)
            # A bound method would refer to the pool, or to a connection.  A result, which refers
            # to the cache and so to this object, would keep them alive.
            is_bound = isinstance(method, types.MethodType)
            self._replaced[name] = weakref.WeakMethod(method) if is_bound else _returning(method)
            setattr(pool, name, function)

    def original(self, name: str) -> "Any":
        """Return the method that :meth:`replace` replaced; None if its object is garbage."""
        return self._replaced[name]()

    def replace_cache(self, make_class: "Callable[[Any], Any]") -> "Any":
        """Replace the cache, which maps job numbers to pending results.

        :param make_class: returns a subclass of the class of the standard cache
        :returns: the new cache
        """
        pool: "Any" = self._weak_pool()
        kwargs = {}
        if hasattr(pool, "_change_notifier"):  # since Python 3.8
            self.notifier = pool._change_notifier
            kwargs["notifier"] = types.SimpleNamespace(put=self._wake_if_closing)
            # The worker handler must not wait for the result pipe.  While a callback runs, results
            # stay unread in it, and the worker handler would wake up again and again.
            results = getattr(pool._outqueue, "_reader", None)
            sentinels = [item for item in pool._get_sentinels() if item is not results]
            pool._get_sentinels = lambda: sentinels
        cache = pool._cache = make_class(type(pool._cache))(self.is_running, **kwargs)
        return cache

    def _wake_if_closing(self, _: None) -> None:
        # The worker handler needs to see an empty cache only when the pool is closing.
        # Waking it after every task would compete with the thread that submits the next.
        if not self.is_running():
            self.wake_worker_handler()

    def wake_worker_handler(self) -> None:
        """Make the worker handler look for exited workers now.

        Before Python 3.8 this does nothing, because the worker handler polls.
        """
        # Keep the pool alive: Pool.__del__() might run inside put(), and would wait for the lock of
        # the notifier, which put() holds.
        pool = self._weak_pool()
        if self.notifier is not None:
            with self._section:  # terminate() also acquires the lock of the notifier
                self.notifier.put(None)
        del pool

    # Read the state of the pool.

    def is_running(self) -> bool:
        """Return whether the pool accepts tasks."""
        pool: "Any" = self._weak_pool()
        return pool is not None and pool._state == self.module.RUN

    def is_garbage(self) -> bool:
        """Return whether nothing refers to the pool any more."""
        return self._weak_pool() is None

    def size(self) -> int:
        """Return how many workers the pool should have; a program may change this number."""
        pool: "Any" = self._weak_pool()
        return 0 if pool is None else int(pool._processes)

    def maintains_workers(self) -> bool:
        """Return whether the worker handler still starts replacements.

        It does so until the pool is terminated, or is closed and has no pending results.
        """
        pool: "Any" = self._weak_pool()
        if pool is None or not hasattr(pool, "_worker_handler"):
            return pool is not None
        state = pool._worker_handler._state
        return bool(state == self.module.RUN or (pool._cache and state != self.module.TERMINATE))

    def is_worker_handler(self) -> bool:
        """Return whether this thread is the worker handler."""
        pool = self._weak_pool()
        if pool is None:
            return True  # the program has no reference to the pool, so it is not in a method of it
        return threading.current_thread() is getattr(pool, "_worker_handler", None)

    def is_task_handler_terminated(self) -> bool:
        """Return whether :meth:`stop_handlers` has been called; called by the task handler."""
        return bool(getattr(threading.current_thread(), "_state", None) == self.module.TERMINATE)

    def has_standard_repopulate(self) -> bool:
        """Return whether the methods that add workers are those of the standard class."""
        names = "_repopulate_pool", "_repopulate_pool_static"  # the second since Python 3.8
        standard, cls = self.module.Pool, type(self._weak_pool())
        return all(getattr(cls, name, None) is getattr(standard, name, None) for name in names)

    def result_handler(self) -> "Any":
        """Return the result handler, or None if nothing refers to the pool any more."""
        return getattr(self._weak_pool(), "_result_handler", None)

    def throttle(self, result: "Any", tasks: "Iterator[Any]") -> Throttle:
        """Replace the semaphore of an ``imap(buffersize=...)`` by a throttle, and return that."""
        pool: "Any" = self._weak_pool()
        semaphore, room = result._buffersize_sema, 0
        while semaphore.acquire(False):
            room += 1
        set_length = result._set_length
        throttle = Throttle(self.is_running, pool._taskqueue.put, set_length, room, tasks)
        pool._taskqueue_buffersize_semaphores.discard(semaphore)
        pool._taskqueue_buffersize_semaphores.add(throttle)
        result._buffersize_sema = throttle
        # The task handler would set the length after the tasks that the buffer has room for.
        # The throttle sets it after the last task.
        result._set_length = _ignore
        return throttle

    def stop_handlers(self, named_args: "Any") -> None:
        """Make the worker handler and the task handler end, and wait for the worker handler.

        :param named_args: the arguments of ``_terminate_pool()``, as attributes
        """
        worker_handler = named_args.worker_handler
        worker_handler._state = named_args.task_handler._state = self.module.TERMINATE
        if hasattr(named_args, "change_notifier"):
            named_args.change_notifier.put(None)
        for throttle in list(getattr(named_args, "taskqueue_buffersize_semaphores", ())):
            throttle.release()
        # A running worker handler would start replacements.
        if threading.current_thread() is not worker_handler:
            worker_handler.join()

    def send_sentinels(self, handler: str) -> None:
        """Send the sentinels that the function of a thread sends when it ends.

        :param handler: the name of that function
        """
        pool: "Any" = self._weak_pool()
        if pool is None:
            return  # terminate() sends them
        if handler == "_handle_workers":
            pool._taskqueue.put(None)
        elif handler == "_handle_tasks":
            pool._outqueue.put(None)
            for _ in list(pool._pool):
                pool._quick_put(None)

    # Bind the arguments of the standard functions by name.

    def split_worker_args(self, args: "Sequence[Any]") -> "Tuple[List[Any], List[Any]]":
        """Separate the arguments of ``worker()`` that are replaced in a worker from the others.

        :returns: the values of *inqueue*, *outqueue*, *initializer* and *initargs*; and a copy of
            *args* that has None in the positions of these four
        """
        replaced, others = [], list(args)
        for position in self.replaced_positions:
            replaced.append(others[position])
            others[position] = None
        return replaced, others

    def _parameters(self, name: str) -> "Tuple[str, ...]":
        return parameters(getattr(self.module.Pool, name))[1:]  # without self or cls

    def bind(self, name: str, args: "Sequence[Any]", kwds: "Dict[str, Any]") -> "Dict[str, Any]":
        """Return the arguments of a call of a standard method, by the names of its parameters."""
        return {**dict(zip(self._parameters(name), args)), **kwds}

    def replace_args(
        self, name: str, args: "Sequence[Any]", kwds: "Dict[str, Any]", **values: "Any"
    ) -> "Tuple[List[Any], Dict[str, Any]]":
        """Replace some arguments of a call of a method of the standard pool.

        :param values: the new arguments, by the names of the parameters
        :returns: the positional and the keyword arguments
        """
        names = self._parameters(name)
        positional, keywords = list(args), dict(kwds)
        for key, value in values.items():
            position = names.index(key)
            if position < len(positional):
                positional[position] = value
            else:
                keywords[key] = value
        return positional, keywords

    def bind_terminate_args(self, args: "Tuple[Any, ...]") -> "Any":
        """Return the arguments of ``_terminate_pool()`` as attributes."""
        return types.SimpleNamespace(**self.bind("_terminate_pool", args, {}))

    def handlers(self, args: "Tuple[Any, ...]") -> "List[threading.Thread]":
        """Return the pool's three threads.

        :param args: the arguments of ``_terminate_pool()``
        """
        named_args = self.bind_terminate_args(args)
        return [named_args.worker_handler, named_args.task_handler, named_args.result_handler]

    def enable_second_terminate(self, *args: "Any") -> None:
        """Let the pool be terminated once more, after ``terminate()`` was interrupted.

        :param args: the arguments of ``_terminate_pool()``

        ``util.Finalize`` calls its function once only.
        """
        pool: "Any" = self._weak_pool()
        if pool is not None:
            pool._terminate = self.module.util.Finalize(
                pool, pool._terminate_pool, args=args, exitpriority=15
            )

    # Recognize what the standard functions pass on.

    def function_to_send(self, func: "Any") -> "Any":
        """Return what is sent to a worker as the function of a task."""
        if func is self.module.mapstar:
            return map_chunk
        if func is self.module.starmapstar:
            return starmap_chunk
        return func


def _returning(value: "Any") -> "Callable[[], Any]":
    return lambda: value


def has_standard_queues(pool: "Any", package: str) -> bool:
    """Return whether a pool sends tasks and receives results through the standard queues.

    A subclass of the program's own may have other queues.  A context of the program's own may have
    other queues too, and may lack the methods of ``BaseContext`` that :class:`ProcessSupervisor`
    uses.

    :raises RuntimeError: if the interpreter itself creates queues of an unknown type
    """
    if not isinstance(pool._ctx, module(package, "context").BaseContext):
        return False
    kind = module(package, "queues").SimpleQueue
    is_standard = (
        type(pool._inqueue) is type(pool._outqueue) is kind
        and pool._quick_put == pool._inqueue._writer.send
        and pool._quick_get == pool._outqueue._reader.recv
    )
    has_standard_method = type(pool)._setup_queues is module(package, "pool").Pool._setup_queues
    if not is_standard and has_standard_method:
        raise_if_missing(package, ["queues of a known type"])
    return is_standard


def chunks_pending(result: "Any") -> int:
    """Return how many chunks a ``map()`` still waits for; 0 for other results."""
    return getattr(result, "_number_left", 0)


def expect_failure(result: "Any", error: BaseException) -> None:
    """Let the next chunk complete a ``map()`` with an exception, even if others are pending.

    Race: the result handler may be setting a chunk that has succeeded.  The result must then not
    contain None for the other chunks.  Therefore the ``map()`` fails before they count as set.
    """
    if hasattr(result, "_number_left"):
        if result._success:
            result._success = False
            result._value = error
        result._number_left = 1


def is_iterator(result: "Any") -> bool:
    """Return whether a result is the iterator of an ``imap()``."""
    return hasattr(result, "_set_length")


def ignore_late_length(result: "Any", cache: "Any", job: int) -> None:
    """Let the length of an iterator be set only while its job is in the cache.

    Race: the pool may fail the iterator, and set its length, while the task handler still reads
    the iterable.  If the task handler then set the length at the end of the iterable, the iterator
    would wait for more results.
    """
    if is_iterator(result):
        result._set_length = functools.partial(_set_length, cache, job)


def _set_length(cache: "Any", job: int, length: int) -> None:
    result = cache.get(job)
    if result is not None:
        type(result)._set_length(result, length)


def _ignore(_: "Any") -> None:
    pass
