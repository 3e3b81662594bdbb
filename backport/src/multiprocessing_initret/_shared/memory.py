"""Shared memory without a name in the file system, which a process receives when it starts."""

import errno
import mmap
import os
import weakref

from .packages import module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Tuple


# Errors of posix_fallocate() in a file system that does not support it.  The GNU C library writes
# zeros instead; others do not.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class PosixMemory:
    """Memory in an anonymous file, which is freed when no process has it open or mapped.

    It owns the descriptor of the file, and no mapping.  Any thread may map it.

    :param package: name of the package that starts the processes
    :param parts: the contents: pairs of an offset and a buffer; the rest of the memory is zeros
    :param size: size in bytes
    """

    def __init__(self, package: str, parts: "Iterable[Tuple[int, Any]]", size: int) -> None:
        self._own(package, _anonymous_file(size), size)
        os.ftruncate(self._fd, size)
        # Writing new pages with pwrite() is faster than storing to them through a mapping.
        for offset, part in parts:
            view = memoryview(part)
            while view:  # pwrite() writes at most 2 GiB on Linux
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written

    def _own(self, package: str, fd: int, size: int) -> None:
        self._package, self._fd, self._size = package, fd, size
        # Do not close the descriptor at exit: atexit handlers that run later may start a worker.
        self._finalizer = weakref.finalize(self, os.close, fd)
        self._finalizer.atexit = False

    def map(self, access: int) -> mmap.mmap:
        """Map the memory, shared (``mmap.ACCESS_WRITE``) or private (``mmap.ACCESS_COPY``)."""
        return mmap.mmap(self._fd, self._size, access=access)

    def close(self) -> None:
        """Close the descriptor.  Mappings stay valid."""
        self._finalizer()

    def __reduce__(self) -> "Tuple[Callable[..., PosixMemory], Tuple[Any, ...]]":
        module(self._package, "context").assert_spawning(self)
        fd = module(self._package, "reduction").DupFd(self._fd)
        return _receive_posix, (self._package, fd, self._size)


def _receive_posix(package: str, received: "Any", size: int) -> PosixMemory:
    fd = received.detach()
    os.set_inheritable(fd, False)  # a program that the worker executes must not keep it
    memory = PosixMemory.__new__(PosixMemory)
    memory._own(package, fd, size)
    return memory


def _anonymous_file(size: int) -> int:
    # Not shm_open(): containers usually limit /dev/shm to 64 MB.
    try:
        return os.memfd_create("multiprocessing_initret")
    except (AttributeError, OSError):  # not Linux, or the system forbids it
        with _temporary_file() as file:
            _allocate(file.fileno(), size)
            return os.dup(file.fileno())


def _temporary_file() -> "Any":
    from tempfile import TemporaryFile

    try:
        return TemporaryFile()
    except FileNotFoundError:  # a read-only system; the semaphores of a pool are in /dev/shm
        return TemporaryFile(dir="/dev/shm")


def _allocate(fd: int, size: int) -> None:
    """Raise :exc:`OSError` if the file system has no room for a file of this size.

    Otherwise the first store to a page of the file would kill the process with SIGBUS.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


class WindowsMemory:
    """Memory in a named mapping, which exists while at least one process has it mapped.

    The parameters are those of :class:`PosixMemory`.
    """

    def __init__(self, package: str, parts: "Iterable[Tuple[int, Any]]", size: int) -> None:
        self._package, self._size = package, size
        self._name = "multiprocessing_initret-" + os.urandom(16).hex()
        self._mapping = self.map(mmap.ACCESS_WRITE)
        for offset, part in parts:
            self._mapping[offset : offset + len(part)] = bytes(part)

    def map(self, access: int) -> mmap.mmap:
        return mmap.mmap(  # type: ignore[call-arg,unused-ignore]
            -1, self._size, tagname=self._name, access=access
        )

    def close(self) -> None:
        vars(self).pop("_mapping", None)

    def __reduce__(self) -> "Tuple[Callable[..., WindowsMemory], Tuple[Any, ...]]":
        context = module(self._package, "context")
        context.assert_spawning(self)
        # The new process may map the memory after its owner was released (an executor that is
        # only referred to by its futures): keep the mapping as long as the process object.
        popen = context.get_spawning_popen()
        popen.kept = [*getattr(popen, "kept", ()), self._mapping]
        return _receive_windows, (self._package, self._name, self._size)


def _receive_windows(package: str, name: str, size: int) -> WindowsMemory:
    memory = WindowsMemory.__new__(WindowsMemory)
    memory._package, memory._name, memory._size = package, name, size
    return memory


Memory: "Any" = WindowsMemory if os.name == "nt" else PosixMemory
