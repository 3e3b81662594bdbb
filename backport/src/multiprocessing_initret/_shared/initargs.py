"""The initializer and initargs of a pool, as the parent passes them to the workers."""

import contextlib
import io
import mmap
import os
import pickle

from .argument_unpickler import open_pickle
from .memory import Memory
from .packages import imported, module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple

    from .argument_pickle import ArgumentPickle

# Whether initargs are pickled once for all workers.  Before Python 3.8, which added out-of-band
# buffers (PEP 574) and reducer_override(), they are pickled for each worker.
PICKLES_ONCE = pickle.HIGHEST_PROTOCOL >= 5

# Size, in bytes, of the largest pickle that is sent within a process object.  Before Python 3.14,
# starting a process by spawn hangs if the process exits before it has read its object, and the
# object is larger than a pipe.
_MAX_IN_PROCESS = 4096


# Methods that a program may have added to the pickler of process objects.
_PICKLER_HOOKS = {"dump", "persistent_id", "reducer_override", "save"}


def _reduction_of_processes(package: str) -> "Any":
    # Not the module reduction: a program may set the attribute `reducer` of a context.
    return module(package, "context").reduction


class InitArgs:
    """The initializer and initargs of a pool, pickled once for all its workers.

    A forked worker inherits the objects.  A non-forked worker receives a pickled ``InitArgs``,
    which can be pickled only while a worker is being started.  All workers share the memory of
    out-of-band buffers (of NumPy arrays, Arrow tables, data frames); a worker that writes to a
    buffer gets its own copy of the pages that it writes to.

    An ``InitArgs`` owns the pickle and its memory.  In the parent, the threads that start workers
    use it, one at a time, and the thread that ends the pool closes it.  The main thread of a worker
    process loads the objects; in a ``ThreadPool``, each worker thread does.

    :param objects: any objects that multiprocessing could pass to a process
    :param package: name of the package that starts the processes
    """

    def __init__(self, objects: "Iterable[Any]", package: str = "multiprocessing") -> None:
        self._objects: "Any" = tuple(objects)
        self._package = package
        self._pickle: "Optional[ArgumentPickle]" = None
        self._sent: "Any" = None

    def load(self) -> "Tuple[Any, ...]":
        """Return the objects.

        :raises Exception: if the objects cannot be unpickled.  The next call tries again.
        """
        objects: "Tuple[Any, ...]" = self._objects
        return objects

    def are(self, objects: "Tuple[Any, ...]") -> bool:
        """Return whether these are the objects, and not others that are equal to them."""
        return self._objects is None or [*map(id, self._objects)] == [*map(id, objects)]

    @property
    def is_pickled_once(self) -> bool:
        """Whether the objects are pickled once, and not for each process.

        A program may have replaced or changed the pickler of process objects, or the function that
        uses it.  These then pickle the objects, too.
        """
        reduction = _reduction_of_processes(self._package)
        # With fork, a program's own `reducer` needs no dump().
        pickler, dump = reduction.ForkingPickler, getattr(reduction, "dump", None)
        parts = pickler, getattr(pickler, "__init__", None), dump
        origins = {getattr(part, "__module__", None) for part in parts}
        is_changed = origins != {self._package + ".reduction"} or _PICKLER_HOOKS & {*vars(pickler)}
        return PICKLES_ONCE and not is_changed

    def pickle(self, minimum: int = 0) -> "ArgumentPickle":
        """Return the pickle of the objects, which is made on the first call.

        :param minimum: as for :class:`ArgumentPickle`; only that of the first call counts
        """
        if self._pickle is None:
            # Imported here because workers, which do not pickle, do not need it.
            from .argument_pickle import ArgumentPickle

            # Hide that a process is being started: pickling a lock, for example, then raises an
            # exception, so that the pickle for all workers contains no object that only one
            # process can receive.
            context = module(self._package, "context")
            popen = context.get_spawning_popen()
            context.set_spawning_popen(None)
            try:
                self._pickle = ArgumentPickle(self._objects, self._package, minimum)
            finally:
                context.set_spawning_popen(popen)
        return self._pickle

    def close(self) -> None:
        """Release the objects and their memory, when no more workers are started."""
        pickled, self._pickle = self._pickle, None
        if pickled is not None and pickled.memory is not None:
            pickled.memory.close()
        self._objects = self._sent = None

    def __reduce__(self) -> "Tuple[Callable[..., ReceivedInitArgs], Tuple[Any, ...]]":
        context = module(self._package, "context")
        context.assert_spawning(self)
        try:
            return ReceivedInitArgs, self._reduced()
        except BaseException:
            if os.name != "posix":
                # On Windows, the process has started already, and will open the pipe of its object
                # by the number of a handle of the parent, which closes the pipe now.  If the next
                # process had a pipe with that number, this one would read from it, and both hang.
                context.get_spawning_popen().terminate()
            raise

    def _reduced(self) -> "Tuple[Any, ...]":
        apart: "List[Any]" = [self._objects]
        location: "Tuple[Any, ...]" = ()
        if self.is_pickled_once:
            shared = self.pickle()
            apart, location = shared.apart, (shared.memory, shared.index, shared.order)
        # A pickle within the pickle of the process: if these objects cannot be unpickled, load()
        # raises the exception, as it does for the objects in memory.
        stream = io.BytesIO()
        _reduction_of_processes(self._package).dump(apart, stream)
        pickled: "Any" = stream.getvalue()
        if len(pickled) > _MAX_IN_PROCESS:
            with contextlib.suppress(OSError):  # as in ArgumentPickle
                pickled = Memory(self._package, [(0, pickled)], len(pickled))
                self._sent = pickled  # until the process has started
        return (self._package, pickled, *location)


# The unpickler of a template, the objects that it has loaded, and their classes and functions by
# module and name.  A worker that is forked from the template moves them to its ReceivedInitArgs.
_preloaded: "Optional[Tuple[Any, List[Any], Dict[Tuple[str, str], Any]]]" = None


class ReceivedInitArgs(InitArgs):
    """An :class:`InitArgs` as a non-forked worker receives it.

    The main thread of the worker alone uses it.

    :param package: name of the package that starts the processes
    :param apart: pickle of the objects that are pickled for each process, or, without a memory,
        of a list that contains the sequence of all objects; a :class:`Memory` if it is large
    :param memory: memory of the :class:`ArgumentPickle`, or None if all objects are apart
    :param index: offset of the index in the memory
    :param order: indexes of the objects, in the order of their streams
    """

    def __init__(
        self,
        package: str,
        apart: "Any",
        memory: "Any" = None,
        index: int = 0,
        order: "Sequence[int]" = (),
    ) -> None:
        global _preloaded
        super().__init__((), package)
        self._apart = apart
        self._memory, self._index, self._order = memory, index, order
        self._preloaded, _preloaded = _preloaded, None

    def load(self) -> "Tuple[Any, ...]":
        if not self._objects:
            if not isinstance(self._apart, list):
                self._apart = self._load_apart()
            self._objects = self._load_from_memory() if self._memory else tuple(self._apart[0])
        objects: "Tuple[Any, ...]" = self._objects
        return objects

    def _load_apart(self) -> "List[Any]":
        pickled = self._apart
        if not isinstance(pickled, bytes):
            pickled = pickled.map(mmap.ACCESS_COPY)[:]
        # The manager of a proxy may have ended.  While a process unpickles its own object, a proxy
        # does not count its reference; it does so afterwards, and ignores exceptions.
        process = module(self._package, "process").current_process()
        registry = module(self._package, "util")._afterfork_registry
        known = set(registry)
        process._inheriting = True
        try:
            pickler = _reduction_of_processes(self._package).ForkingPickler
            apart: "List[Any]" = pickler.loads(pickled)
        finally:
            del process._inheriting
        managers = imported(self._package, "managers")
        for key in set(registry) - known:
            obj = registry.get(key)
            if managers and isinstance(obj, managers.BaseProxy):
                obj._after_fork()
        return apart

    def _load_from_memory(self) -> "Tuple[Any, ...]":
        # Keep the unpickler of a template.  It refers to every object that it has loaded, and
        # releasing these references would write to, and so copy, all memory of the objects.
        if self._preloaded is not None and _are_current(self._preloaded[2]):
            unpickler, objects, _ = self._preloaded
        else:
            unpickler, objects = open_pickle(self._package, self._memory, self._index)
        unpickler.apart = self._apart
        try:
            while len(objects) < len(self._order):
                objects.append(unpickler.load())
        except BaseException:
            self._preloaded = None  # it cannot continue in the middle of an object
            raise
        finally:
            unpickler.apart = ()
        self._memory.close()
        by_index = dict(zip(self._order, objects))
        return tuple(by_index[i] for i in range(len(by_index)))


def _are_current(found: "Dict[Tuple[str, str], Any]") -> bool:
    """Return whether names still stand for the classes and functions that a template has found.

    The main module may have replaced them, or may be another than that of the fork server.
    """
    from .plain_data import find_plain_global

    try:
        return all(find_plain_global(*names) is obj for names, obj in found.items())
    except pickle.UnpicklingError:
        return False


def preload(
    package: str,
    memory: "Any",
    index: int,
    plain: "Sequence[Tuple[int, Set[Tuple[str, str]]]]",
    minimum: int,
) -> bool:
    """Load plain data in a template, for the workers that are forked from it.

    :param package: name of the package that starts the processes
    :param memory: memory of the :class:`ArgumentPickle`
    :param index: offset of the index in the memory
    :param plain: attribute of the :class:`ArgumentPickle`
    :param minimum: size of the streams, in bytes, from which a template is worthwhile
    :returns: whether streams of at least that size could be loaded without imports
    """
    from .plain_data import find_plain_global

    global _preloaded
    size = count = 0
    found: "Dict[Tuple[str, str], Any]" = {}
    for end, needed in plain:
        try:
            found.update({names: find_plain_global(*names) for names in needed})
        except pickle.UnpicklingError:
            break
        size, count = end, count + 1
    if size < minimum:
        return False
    unpickler, objects = open_pickle(package, memory, index)
    unpickler.find_global = find_plain_global
    while len(objects) < count:
        objects.append(unpickler.load())
    del unpickler.find_global
    _preloaded = unpickler, objects, found
    return True
