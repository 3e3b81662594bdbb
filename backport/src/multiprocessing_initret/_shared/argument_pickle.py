"""The pickle of a pool's initializer and initargs, which the parent makes once."""

import contextlib
import copyreg
import functools
import io
import os
import types
from array import array

from .argument_unpickler import aligned, placeholder
from .memory import Memory
from .packages import imported, module
from .plain_data import ALWAYS_IMPORTED, is_plain_class, is_plain_global

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pickle
    from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

# Levels of an object: which processes can unpickle it, with everything that it contains, without
# running user code.
_ANYWHERE = 0  # all processes: instances of built-in types
_WHERE_IMPORTED = 1  # processes that have imported the classes: other plain data
_NOWHERE = 2  # no process: all other objects

# Pickling modes: how the instances of a class are pickled.
(
    _AS_PLAIN_DATA,
    _AS_GLOBAL,
    _INTO_STREAM,
    _INTO_STREAM_IF_POSSIBLE,
    _APART,
    _FOR_ONE_PROCESS,  # the pickle cannot be for several processes
) = range(6)

# Classes that multiprocessing registers reducers for (in multiprocessing.managers for arrays),
# although any process can load their pickles.
_FOR_ANY_PROCESS = (
    types.MethodType,
    type(str.join),
    type(int.__add__),
    functools.partial,
    array,
)

# Buffers of fewer bytes stay in the stream: a view of such a buffer would take more memory than a
# copy.
_MINIMUM_SHARED = 4096

# Modules with classes whose instances, if they are pickled apart, refer to no objects of the
# program.  So do those of the pool's package, such as multiprocess.
_MODULES_OF_LEAVES = ("multiprocessing", "socket", "torch")


class ArgumentPickle:
    """Pickle of a sequence of objects, in memory that processes can receive.

    The memory contains the streams, one for each object, then the large buffers, then an
    index with the end of the last stream and of each buffer.  One pickler writes all streams, so
    that an object contained in two of them is unpickled as one object.  A later stream may
    therefore refer to an earlier one.  The streams are in the order of the objects, because
    unpickling one object may prepare the process for the next, as in the standard pool.  Only if
    a template is worthwhile do the streams of plain data, which it loads, come first.

    Objects that can be pickled only while a process is being started (locks, queues,
    connections), or are pickled differently then (a manager's proxies), are pickled apart, for
    each process.  The streams contain placeholders for them.  All objects are pickled apart in
    these cases: an object that is pickled apart may refer to others, which might be in the streams
    too; an object has a pickle that only one process can load; pickling fails; or the system
    provides no memory.

    An ``ArgumentPickle`` owns its memory.  The thread that starts the first worker creates the
    ``ArgumentPickle``.  The threads that start other workers only read its attributes.

    :param objects: the objects
    :param package: name of the package that starts the processes
    :param minimum: the streams of plain data come first if they contain at least this many bytes;
        0 if there is no template
    """

    def __init__(self, objects: "Sequence[Any]", package: str, minimum: int = 0) -> None:
        levels = [_NOWHERE] * len(objects)
        if minimum:
            levels = [_ANYWHERE if is_plain_class(type(obj)) else _NOWHERE for obj in objects]
        stream: "Optional[io.BytesIO]" = None
        while stream is None:
            #: indexes of the objects, in the order of their streams
            self.order = sorted(range(len(objects)), key=levels.__getitem__)
            #: for each object of plain data: the end of its stream, and the modules and names
            #: of the classes and functions that a process must have imported to load it
            self.plain: "List[Tuple[int, Set[Tuple[str, str]]]]" = []
            #: objects that are pickled for each process
            self.apart: "List[Any]" = []
            try:
                stream, buffers = self._dump(objects, package, levels, minimum)
            except _OrderChanged:
                pass
            except _TooLittlePlainData:
                levels, minimum = [_NOWHERE] * len(objects), 0
            except Exception:
                # _ForOneProcess, or the objects can be pickled only while a process is being
                # started.  If they cannot be pickled at all, starting it raises the exception.
                break
        self.memory: "Any" = None
        self.index = 0
        if stream is not None and all(_is_leaf(obj, package) for obj in self.apart):
            with contextlib.suppress(OSError):  # no memory, or RLIMIT_FSIZE, which limits it
                self.memory, self.index = self._store(package, stream, buffers)
        if self.memory is None:
            # One pickle, so that an object to which two others refer stays one object.
            self.order, self.plain, self.apart = [], [], [tuple(objects)]

    @property
    def plain_size(self) -> int:
        """Size of the streams of plain data, in bytes."""
        return self.plain[-1][0] if self.plain else 0

    def _dump(
        self, objects: "Sequence[Any]", package: str, levels: "List[int]", minimum: int
    ) -> "Tuple[io.BytesIO, List[pickle.PickleBuffer]]":
        """Pickle all objects, and return the streams and the buffers.

        :param levels: what is assumed about the objects; corrected if one is less plain
        :raises _OrderChanged: if the objects must be pickled in another order
        :raises _TooLittlePlainData: if there is less plain data than *minimum*
        :raises _ForOneProcess: if all objects must be pickled for each process
        """
        stream = io.BytesIO()
        buffers: "List[pickle.PickleBuffer]" = []

        def stays_in_stream(buffer: "pickle.PickleBuffer") -> bool:
            is_small = memoryview(buffer).nbytes < _MINIMUM_SHARED
            if not is_small:
                buffers.append(buffer)
            return is_small

        pickler = _pickler_class(package)(stream, 5, buffer_callback=stays_in_stream)
        pickler.prepare(self.apart)
        has_order_changed = False
        for i, following in zip(self.order, [*self.order[1:], None]):
            pickler.level = levels[i]
            if following is not None:
                pickler.highest_level = levels[following]
            elif self.plain_size < minimum:
                pickler.highest_level = _WHERE_IMPORTED  # stop as soon as this object is not plain
            else:
                pickler.highest_level = _NOWHERE
            pickler.needed = set()
            if has_order_changed:
                # Only find out the levels of the other objects.
                if levels[i] == _NOWHERE:
                    break
                pickler.highest_level = levels[i]
            elif levels[i] == _NOWHERE and self.plain_size < minimum:
                raise _TooLittlePlainData
            with contextlib.suppress(_OrderChanged):
                pickler.dump(objects[i])
            levels[i] = pickler.level
            has_order_changed |= pickler.level > pickler.highest_level
            if pickler.level < _NOWHERE:
                self.plain.append((stream.tell(), pickler.needed))
        if has_order_changed:
            raise _OrderChanged
        if self.plain_size < minimum:
            raise _TooLittlePlainData
        return stream, buffers

    def _store(
        self, package: str, stream: io.BytesIO, buffers: "List[pickle.PickleBuffer]"
    ) -> "Tuple[Any, int]":
        """Write all parts to memory; return the memory and the offset of the index."""
        parts, ends, position = [], array("Q"), 0
        for part in [stream.getbuffer(), *(buffer.raw() for buffer in buffers)]:
            position = aligned(position)
            parts.append((position, part))
            position += len(part)
            ends.append(position)
        index = aligned(position)
        parts.append((index, memoryview(ends).cast("B")))
        return Memory(package, parts, index + 8 * len(ends)), index


def _is_leaf(obj: "Any", package: str) -> bool:
    """Return whether an object that is pickled apart refers to no objects of the program."""

    # An object of ctypes in shared memory contains only numbers, even if its class is a program's.
    reducer = module(package, "reduction").ForkingPickler._extra_reducers.get(type(obj))
    if getattr(reducer, "__module__", "") == package + ".sharedctypes":
        return True
    if type(obj).__module__.partition(".")[0] not in (package, *_MODULES_OF_LEAVES):
        return False
    # The program may have passed these to Value(), Array(), Condition() and Barrier().
    given = (getattr(obj, name, None) for name in ("_lock", "_action"))
    return all(part is None or _is_leaf(part, package) for part in given)


class _OrderChanged(Exception):
    """Raised if an object is less plain than assumed: others must be pickled before it."""


class _TooLittlePlainData(Exception):
    """Raised if no template is worthwhile: streams must then be in the order of the objects."""


class _ForOneProcess(Exception):
    """Raised if only one process could load the pickle, so each process needs its own pickle."""


@functools.lru_cache(maxsize=None)
def _pickler_class(package: str) -> "Any":
    """Return a subclass of the package's pickler class (multiprocess uses dill's)."""
    reduction = module(package, "reduction")
    registered = reduction.ForkingPickler._extra_reducers
    defaults = {
        name: getattr(object, name, None)
        for name in ("__reduce_ex__", "__reduce__", "__getstate__")
    }

    class Pickler(reduction.pickle.Pickler):  # type: ignore[misc,name-defined]
        # The level of what has been pickled of the current object so far, the highest level that
        # keeps the order, and the names that must be imported to load the object.
        level = highest_level = _NOWHERE
        needed: "Set[Tuple[str, str]]"

        # Not __init__(): the arguments of PyPy's pickler are those of __new__().
        def prepare(self, apart: "List[Any]") -> None:
            self.dispatch_table = {**copyreg.dispatch_table, **registered}
            self._apart = apart
            # Keys of the resource sharer increase: _release() compares them with this one.
            sharer = imported(package, "resource_sharer")
            self._last_key = sharer._resource_sharer._key if sharer else 0
            self._modes: "Dict[type, int]" = {}
            self._reduced: "Dict[int, Any]" = {}

        def reducer_override(self, obj: "Any") -> "Any":
            cls = type(obj)
            mode = self._modes.get(cls)
            if mode is None:
                mode = self._modes[cls] = self._pickling_mode(cls)
            if mode == _AS_PLAIN_DATA:
                return NotImplemented
            if mode == _AS_GLOBAL:
                self._require_global(obj)
                return NotImplemented
            self._raise_level(_NOWHERE)
            if mode == _FOR_ONE_PROCESS:
                self._release(obj)
                raise _ForOneProcess
            # PyPy's pickler calls this method before it looks for the object in its memo.
            if mode == _INTO_STREAM or id(obj) in self._reduced:
                return NotImplemented
            self._reduced[id(obj)] = obj
            if mode == _INTO_STREAM_IF_POSSIBLE:
                try:
                    return obj.__reduce_ex__(5)
                except Exception:
                    # The object may be one that can be pickled only while a process is being
                    # started, such as a lock.  If it cannot be pickled at all, starting the
                    # process raises the exception again.
                    pass
            self._apart.append(obj)
            return placeholder, (len(self._apart) - 1,)

        def _pickling_mode(self, cls: type) -> int:
            # The object is one that reduction.DupFd() returns while no process is being started.
            # Only one process can receive the descriptor from it.
            if cls.__module__ == package + ".resource_sharer":
                return _FOR_ONE_PROCESS
            managers = imported(package, "managers")
            if cls in registered and cls not in _FOR_ANY_PROCESS:
                return _APART
            if managers and issubclass(cls, managers.BaseProxy):
                return _APART
            if is_plain_class(cls):
                return _AS_PLAIN_DATA
            if issubclass(cls, (type, types.FunctionType, types.BuiltinFunctionType)):
                return _AS_GLOBAL
            known = cls in copyreg.dispatch_table or cls in getattr(Pickler, "dispatch", ())
            if known or issubclass(cls, _FOR_ANY_PROCESS):
                return _INTO_STREAM
            if any(getattr(cls, name, None) is not default for name, default in defaults.items()):
                return _INTO_STREAM_IF_POSSIBLE
            return _INTO_STREAM

        def _release(self, obj: "Any") -> None:
            """Close the descriptor that an object of class ``DupFd`` holds for another process.

            An object that was created before this pickler belongs to the program, and is kept.
            """
            with contextlib.suppress(Exception):
                if obj._id[1] > self._last_key:
                    received = obj.detach()
                    os.close(received) if isinstance(received, int) else received.close()

        def _require_global(self, obj: "Any") -> None:
            """Record that the stream refers to a class or function by its name."""
            if not is_plain_global(obj):
                self._raise_level(_NOWHERE)
            elif obj.__module__ not in ALWAYS_IMPORTED:
                self._raise_level(_WHERE_IMPORTED)
                self.needed.add((obj.__module__, obj.__qualname__))

        def _raise_level(self, level: int) -> None:
            if level > self.level:
                self.level = level
                if level > self.highest_level:
                    raise _OrderChanged

    return Pickler
