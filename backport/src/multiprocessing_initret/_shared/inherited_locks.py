"""Locks that threads of the parent may hold when a worker is forked, and what they have printed."""

import io
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _NullWriter(io.RawIOBase):
    """A raw stream that discards everything."""

    def writable(self) -> bool:
        return True

    def write(self, data: "Any") -> int:
        return len(data)


def drop_inherited_locks(owner: object) -> None:
    """Replace or forget locks of the standard library in a process that has just been forked.

    Deadlock: if a thread of the parent holds such a lock, the process inherits the locked lock,
    and hangs when it prints or exits.

    :param owner: the object that this function was registered for, with ``register_after_fork()``
        of ``multiprocessing.util``
    """
    # A thread that prints holds the lock of a buffer (gh-91776, in all versions of Python).
    for stream in (sys.stdout, sys.stderr):
        buffer: "Any" = getattr(stream, "buffer", None)
        if type(buffer) is io.BufferedWriter:
            # A second __init__() creates a new lock.  The parent's thread writes what it has
            # printed: here that is discarded, in the buffer and in the stream.
            raw = buffer.raw
            buffer.__init__(_NullWriter())  # type: ignore[misc]
            try:
                stream.flush()
            finally:
                buffer.__init__(raw)  # type: ignore[misc]
    # A process that exits wakes the manager threads of all executors of its parent, and needs
    # a lock for that since Python 3.14.  Those threads do not exist in this process.
    executors: "Any" = sys.modules.get("concurrent.futures.process")
    wakeups: "Any" = getattr(executors, "_threads_wakeups", None)
    if wakeups:
        wakeups.clear()
