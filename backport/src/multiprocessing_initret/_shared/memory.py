"""Memory that a process receives when it starts."""

import mmap
import os
import weakref

from .packages import module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Tuple

_WINDOWS = os.name == "nt"


def _anonymous_file() -> int:
    # Not in /dev/shm, which has 64 MB in a container.
    try:
        return os.memfd_create("multiprocessing_initret")
    except (AttributeError, OSError):  # another system, or one that forbids it
        from tempfile import TemporaryFile

        with TemporaryFile() as file:
            return os.dup(file.fileno())


def _named_mapping(name: str, size: int, access: int) -> mmap.mmap:
    return mmap.mmap(-1, size, tagname=name, access=access)  # type: ignore[call-arg,unused-ignore]


class Memory:
    """Anonymous memory, which processes can receive when they start.

    It is gone when nobody uses it any more.

    :param package: the package that starts the processes
    :param parts: what is in it, as pairs of an offset and a buffer, in order
    :param size: its size in bytes
    """

    def __init__(self, package: str, parts: "Iterable[Tuple[int, Any]]", size: int) -> None:
        self._package = package
        self._size = size
        if _WINDOWS:
            # It has no descriptors to give.  The memory is there, for all who know
            # its name, as long as somebody maps it.
            self._name = "multiprocessing_initret-" + os.urandom(16).hex()
            self._kept = _named_mapping(self._name, size, mmap.ACCESS_WRITE)
            for offset, part in parts:
                self._kept[offset : offset + len(part)] = bytes(part)
        else:
            self._own(_anonymous_file())
            os.ftruncate(self._fd, size)
            # To write() new pages is faster than to store through a mapping.
            with open(self._fd, "wb", closefd=False) as file:
                for offset, part in parts:
                    file.seek(offset)
                    file.write(part)

    def _own(self, fd: int) -> None:
        self._fd = fd
        # Not at exit: handlers of atexit that run later may still start a worker.
        self._finalizer = weakref.finalize(self, os.close, fd)
        self._finalizer.atexit = False

    def map(self, access: int) -> mmap.mmap:
        """Map all of it, shared (``mmap.ACCESS_WRITE``) or not (``mmap.ACCESS_COPY``)."""
        if _WINDOWS:
            return _named_mapping(self._name, self._size, access)
        return mmap.mmap(self._fd, self._size, access=access)

    def close(self) -> None:
        """Give it up; mappings stay."""
        if not _WINDOWS:
            self._finalizer()

    def __reduce__(self) -> "Tuple[Callable[..., Memory], Tuple[Any, ...]]":
        context = module(self._package, "context")
        context.assert_spawning(self)
        if _WINDOWS:
            # Until that process maps it, who has made it may be gone, as an executor is
            # of which somebody keeps a future alone.
            popen = context.get_spawning_popen()
            popen.kept = [*getattr(popen, "kept", ()), self._kept]
            return _receive, (self._package, self._name, self._size)
        handle = module(self._package, "reduction").DupFd(self._fd)
        return _receive, (self._package, handle, self._size)


def _receive(package: str, handle: "Any", size: int) -> Memory:
    memory = Memory.__new__(Memory)
    memory._package = package
    memory._size = size
    if _WINDOWS:
        memory._name = handle
    else:
        fd = handle.detach()
        os.set_inheritable(fd, False)  # a program that the worker runs would keep the memory
        memory._own(fd)
    return memory
