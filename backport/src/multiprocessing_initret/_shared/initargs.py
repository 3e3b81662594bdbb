"""What a pool gives its workers, pickled once for all of them."""

import copyreg
import functools
import io
import mmap
import pickle
import sys
import types
from array import array

from .memory import Memory
from .packages import module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

# Before Python 3.8 a pickle has all buffers in its stream (PEP 574), and pickles
# can't be told apart by what is in them: each worker is sent one of its own.
PICKLES_ONCE = pickle.HIGHEST_PROTOCOL >= 5


def _aligned(position: int) -> int:
    """Return the next multiple of 64 bytes, on which Arrow wants its buffers."""
    return -(-position // 64) * 64


#
# What a pool gives its workers
#


class Shared:
    """What a pool gives each worker, pickled once for all of them.

    A process that does not inherit it receives it when it starts, and not in any
    other way.  Its buffers (NumPy arrays, Arrow tables, data frames) are one memory
    for all, until a process writes to its own.

    :param objects: any objects that multiprocessing could hand to a process
    :param package: the package that starts the processes

    Source: PEP 574, https://peps.python.org/pep-0574/
    """

    def __init__(self, objects: "Iterable[Any]", package: str = "multiprocessing") -> None:
        self._objects = tuple(objects)
        self._package = package
        self._pickle: "Optional[_Pickle]" = None

    def load(self) -> "Tuple[Any, ...]":
        """Return the objects.

        :raises Exception: what unpickling them raises, each time
        """
        return self._objects

    def __reduce__(self) -> "Tuple[Callable[..., object], Tuple[Any, ...]]":
        module(self._package, "context").assert_spawning(self)
        beside: "List[Any]" = [self._objects]
        location: "Tuple[Any, ...]" = ()
        if PICKLES_ONCE:
            beside, location = self.pickle().beside, self.pickle().location
        # A pickle of its own, for the worker to load where it can tell of an error.
        pickled = bytes(module(self._package, "reduction").ForkingPickler.dumps(beside))
        return Received, (self._package, pickled, *location)

    def pickle(self) -> "_Pickle":
        """Return the pickle, made once."""
        if self._pickle is None:
            # What only the process could receive which is being started, if one is,
            # must not be in it.
            context = module(self._package, "context")
            popen = context.get_spawning_popen()
            context.set_spawning_popen(None)
            try:
                self._pickle = _Pickle(self._objects, self._package)
            finally:
                context.set_spawning_popen(popen)
        return self._pickle


class _Pickle:
    """The pickle of some objects, in memory that processes can receive.

    In the memory are the streams, one behind the other, the buffers that are not
    in them, and an index of where each part ends.  What only one process may
    receive (a lock, a queue, a connection), or is pickled otherwise while a process
    is being started (a manager's proxy, which has its key then), is not there: it
    stands beside, and the streams refer to it by number.
    """

    def __init__(self, objects: "Tuple[Any, ...]", package: str) -> None:
        self.beside: "List[Any]" = []
        stream = io.BytesIO()
        buffers: "List[pickle.PickleBuffer]" = []
        pickler = _pickler(package, self.beside)(stream, 5, buffer_callback=buffers.append)
        # One pickler, for what is one object in two places is one again then.  The
        # package's own objects come last: a template loads what comes before the
        # first that has something beside it.
        order = sorted(range(len(objects)), key=lambda i: _is_of(package, objects[i]))
        complete = 0
        for i in order:
            pickler.dump(objects[i])
            complete += not self.beside
        #: what a template would save each worker from reading, in bytes
        self.size = stream.tell()

        parts, ends, position = [], array("Q"), 0
        for part in [stream.getbuffer(), *(buffer.raw() for buffer in buffers)]:
            position = _aligned(position)
            parts.append((position, part))
            position += len(part)
            ends.append(position)
        index = _aligned(position)
        parts.append((index, memoryview(ends).cast("B")))
        memory = Memory(package, parts, index + 8 * len(ends))
        self.location = memory, index, order, complete


def _is_of(package: str, obj: object) -> bool:
    return type(obj).__module__.partition(".")[0] == package


def _pickler(package: str, beside: "List[Any]") -> "Any":
    """Return a class of picklers, which put into the list what must stand beside."""
    reduction, managers = module(package, "reduction"), sys.modules.get(package + ".managers")
    registered = reduction.ForkingPickler._extra_reducers
    # Registered too, but good for any process.
    plain = (types.MethodType, type(str.join), type(int.__add__), functools.partial)
    defaults = {
        name: getattr(object, name, None)
        for name in ("__reduce_ex__", "__reduce__", "__getstate__")
    }
    ways: "Dict[type, str]" = {}

    def way_of(cls: type) -> str:
        if cls in registered and cls not in plain:
            return "beside"
        if managers and issubclass(cls, managers.BaseProxy):
            return "beside"
        known = cls in copyreg.dispatch_table or cls in getattr(Pickler, "dispatch", ())
        if known or issubclass(cls, (type, types.FunctionType, *plain)):
            return "stream"
        if any(getattr(cls, name, None) is not default for name, default in defaults.items()):
            return "try"
        return "stream"

    # That of the package, for multiprocess has dill's.
    class Pickler(reduction.pickle.Pickler):  # type: ignore[misc,name-defined]
        dispatch_table = {**copyreg.dispatch_table, **registered}

        def reducer_override(self, obj: "Any") -> "Any":
            cls = type(obj)
            way = ways.get(cls)
            if way is None:
                way = ways[cls] = way_of(cls)
            if way == "stream":
                return NotImplemented
            if way == "try":
                try:
                    return obj.__reduce_ex__(5)
                except Exception:
                    # It asks for a process that is being started, as a lock does.
                    # Or it can't be pickled, and says so again where there is one.
                    pass
            beside.append(obj)
            return _from_beside, (len(beside) - 1,)

    return Pickler


# What stands beside the pickle that is being read.
_beside: "List[Any]" = []


def _from_beside(number: int) -> "Any":
    return _beside[number]


# In a template: what it has loaded, until it is a worker that takes it.
_loaded: "Optional[Received]" = None


class Received(Shared):
    """What :class:`Shared` is in a process that did not inherit it."""

    def __init__(self, package: str, beside: bytes, *location: "Any") -> None:
        global _loaded
        super().__init__((), package)
        self._beside: "Any" = beside
        self._location = location
        self._reader: "Any" = None
        if _loaded is not None:
            self._reader, _loaded = _loaded._reader, None

    def _open(self) -> "Tuple[Any, List[Any]]":
        memory, index, _, _ = self._location
        file = memory.map(mmap.ACCESS_COPY)
        # Whatever is made of these views keeps the mapping.
        view, buffers, start = memoryview(file), [], 0
        for end in view[index:].cast("Q"):
            buffers.append(view[start:end])
            start = _aligned(end)
        unpickler = module(self._package, "reduction").pickle.Unpickler
        return unpickler(file, buffers=buffers[1:]), []

    def load_for_workers(self) -> None:
        """Load, in a template, what the workers that are forked from it can have of it."""
        global _loaded
        unpickler, objects = self._reader = self._open()
        while len(objects) < self._location[-1]:
            objects.append(unpickler.load())
        self._location[0].close()
        _loaded = self

    def load(self) -> "Tuple[Any, ...]":
        global _beside
        if not self._objects:
            if isinstance(self._beside, bytes):
                self._beside = module(self._package, "reduction").ForkingPickler.loads(self._beside)
            if not self._location:
                (self._objects,) = self._beside
                return self._objects
            memory, _, order, _ = self._location
            # The reader of a template stays: it refers to all that it has read, and
            # to free it would write to, and so copy, all that.
            unpickler, objects = self._reader or self._open()
            _beside = self._beside
            try:
                while len(objects) < len(order):
                    objects.append(unpickler.load())
            except BaseException:
                self._reader = None  # it stands in the middle of an object
                raise
            finally:
                _beside = []
            memory.close()
            self._objects = tuple(objects[order.index(i)] for i in range(len(order)))
        return self._objects
