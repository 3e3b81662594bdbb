"""Unpickling of an ``ArgumentPickle``, in a worker or a template."""

import functools
import mmap
import sys

from .packages import module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Sequence, Tuple

# Arrays of ctypes that this process keeps.  On PyPy, a memoryview does not keep them alive: without
# these references, reading the view would crash the process.
_kept: "List[Any]" = []


def aligned(position: int) -> int:
    """Return the next multiple of 64 bytes, the alignment that Arrow recommends for buffers."""
    return -(-position // 64) * 64


def placeholder(number: int) -> "Any":
    """Stand, in a stream, for the object with this number among those pickled apart."""
    raise NotImplementedError("Unpickler.find_class() replaces this function")


@functools.lru_cache(maxsize=None)
def _unpickler_class(package: str) -> "Any":
    """Return a subclass of the package's unpickler class (multiprocess uses dill's)."""

    class Unpickler(module(package, "reduction").pickle.Unpickler):  # type: ignore[misc]
        apart: "Sequence[Any]" = ()  # the objects that placeholders stand for
        find_global: "Any" = None  # used instead of find_class() if it is set

        def find_class(self, module_name: str, name: str) -> "Any":
            if self.find_global:
                return self.find_global(module_name, name)
            if name == "placeholder" and module_name == placeholder.__module__:
                return self.apart.__getitem__
            return super().find_class(module_name, name)

    return Unpickler


def open_pickle(package: str, memory: "Any", index: int) -> "Tuple[Any, List[Any]]":
    """Return an unpickler for an ``ArgumentPickle``, and an empty list for what it loads."""
    file = memory.map(mmap.ACCESS_COPY)
    # The mapping is never closed: unpickled objects use the buffers, and keep it alive.
    buffers, start = [], 0
    for end in memoryview(file)[index:].cast("Q"):
        buffers.append((start, end - start))
        start = aligned(end)
    unpickler = _unpickler_class(package)
    return unpickler(file, buffers=(_buffer(file, *buffer) for buffer in buffers[1:])), []


def _buffer(file: mmap.mmap, start: int, size: int) -> "Any":
    """Return the buffer at a position of the mapping, as an object of its own.

    A slice of a memoryview of the mapping would not do: its ``obj`` is the whole mapping, and some
    classes use ``obj``, such as ``ZeroCopyByteArray`` in the documentation of ``pickle``.
    """
    # Imported here because few workers need it.  Workers that import NumPy import it, anyway.
    import ctypes

    array = (ctypes.c_char * size).from_buffer(file, start)
    if sys.implementation.name == "pypy":
        _kept.append(array)
    return memoryview(array).cast("B")
