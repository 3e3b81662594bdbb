"""One copy of a large object for all workers of a machine."""

import mmap
import os
import pickle
import tempfile
import threading
import weakref
from array import array
from importlib import import_module
from typing import Any, Callable, Generic, List, Optional, Tuple, TypeVar

from . import _install

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

# Windows' processes inherit no file descriptors, and before Python 3.8 a pickle
# has all buffers in its stream (PEP 574): there, each worker gets a copy.
_SHARES_MEMORY = os.name == "posix" and pickle.HIGHEST_PROTOCOL >= 5

_NOT_LOADED: Any = object()


def _aligned(position: int) -> int:
    """Return the next multiple of 64 bytes, on which Arrow wants its buffers."""
    return -(-position // 64) * 64


def _anonymous_file() -> int:
    # Not in /dev/shm, which has 64 MB in a container.
    try:
        return os.memfd_create("broadcast")
    except (AttributeError, OSError):  # another system, or one that forbids it
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


class _SharedPickle:
    """A pickled object in a file without a name, which is gone when nobody uses it.

    In the file are the stream, the out-of-band buffers, and an index of where each
    of them ends.
    """

    def __init__(self, fd: int, index: int = 0) -> None:
        self.fd = fd
        self.index = index  # where the index begins
        weakref.finalize(self, os.close, fd)

    @classmethod
    def dump(cls, obj: object) -> "_SharedPickle":
        self = cls(_anonymous_file())
        buffers: List[pickle.PickleBuffer] = []
        # To write() new pages is faster than to store through a mapping.
        with open(self.fd, "wb", closefd=False) as file:
            pickle.Pickler(file, 5, buffer_callback=buffers.append).dump(obj)
            ends = array("Q", [file.tell()])
            for buffer in buffers:
                file.seek(_aligned(file.tell()))
                file.write(buffer.raw())
                ends.append(file.tell())
            self.index = file.seek(_aligned(file.tell()))
            file.write(ends)
        return self

    def load(self) -> Any:
        # Whatever is made of these views keeps the mapping.
        file = memoryview(mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ))
        parts, start = [], 0
        for end in file[self.index :].cast("Q"):
            parts.append(file[start:end])
            start = _aligned(end)
        return pickle.loads(parts[0], buffers=parts[1:])


def _context_that_starts_a_process() -> Any:
    """Return the module of multiprocessing, or of its fork, where this thread does so."""
    for package in ["multiprocessing", *_install._replaced]:
        context = import_module(package + ".context")
        if context.get_spawning_popen() is not None:
            return context
    raise RuntimeError(
        "a Broadcast can only be given to a process that is being started, in a pool's "
        "initargs or a Process's args: it can't be sent to one that runs, nor be saved"
    )


class Broadcast(Generic[_T_co]):
    """What :func:`broadcast` returns: an object, on its way to workers."""

    def __init__(self, value: _T_co) -> None:
        self._value = value
        self._shared: Optional[_SharedPickle] = None
        self._lock = threading.RLock()

    @property
    def value(self) -> _T_co:
        """The object itself, or in a process that did not inherit it, its copy.

        The copy is made when it is asked for, once in a process.  Its buffers are
        views into the memory that all workers share, which cannot be written to.

        :raises Exception: what unpickling the object raises
        """
        with self._lock:
            if self._value is _NOT_LOADED:
                assert self._shared is not None
                self._value = self._shared.load()
            return self._value

    def __reduce__(self) -> Tuple[Callable[..., "Broadcast[Any]"], Tuple[Any, ...]]:
        context = _context_that_starts_a_process()
        if not _SHARES_MEMORY:
            return Broadcast, (self._value,)
        popen = context.get_spawning_popen()
        with self._lock:
            if self._shared is None:
                # What only this child could receive must not be in the pickle.
                context.set_spawning_popen(None)
                try:
                    self._shared = _SharedPickle.dump(self._value)
                finally:
                    context.set_spawning_popen(popen)
        fd = popen.DupFd(popen.duplicate_for_child(self._shared.fd))
        return _receive, (fd, self._shared.index)


def _receive(descriptor: Any, index: int) -> Broadcast[Any]:
    fd = descriptor.detach()
    os.set_inheritable(fd, False)  # a program that the worker runs would keep the memory
    received: Broadcast[Any] = Broadcast(_NOT_LOADED)
    received._shared = _SharedPickle(fd, index)
    return received


def broadcast(obj: _T) -> Broadcast[_T]:
    """Make ``obj`` ready to reach every worker of a pool without a copy for each.

    Give what this returns to the workers when they start, in ``initargs`` or in
    the ``args`` of a ``Process``, and ask for its ``value`` there.  Forked workers
    and threads have ``obj`` itself.  For others it is pickled once, when the first
    of them starts, into memory that they all map: its buffers (NumPy arrays, Arrow
    tables, data frames, a ``pickle.PickleBuffer``) are never copied again, and what
    has none (a dict) is unpickled in each.  The memory is free when no process
    refers to it any more.  On Windows and before Python 3.8 each worker is sent a
    copy.

    :param obj: any object that can be pickled; it should not change any more
    :returns: the handle, whose ``value`` is ``obj``
    :raises RuntimeError: where the handle is pickled, unless a process is being
        started: it can be neither an argument of a task nor put into a queue
    :raises Exception: what pickling ``obj`` raises, where the first process is
        started

    Source: PEP 574, https://peps.python.org/pep-0574/, and the name from Spark,
    https://spark.apache.org/docs/latest/rdd-programming-guide.html#broadcast-variables
    """
    return Broadcast(obj)
