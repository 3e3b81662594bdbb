"""The locks of stdout and stderr in forked processes."""

import io
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def renew_stream_locks(owner: object) -> None:
    """Replace the locks of stdout and stderr in a process that has just been forked.

    Deadlock: a thread of the parent that prints holds the lock of a buffer, and the process is
    forked with the locked lock.  It would hang when it prints or exits (gh-91776, in all
    versions of Python).

    :param owner: the object that this function was registered for, with ``register_after_fork()``
        of ``multiprocessing.util``
    """
    for stream in (sys.stdout, sys.stderr):
        buffer: "Any" = getattr(stream, "buffer", None)
        if type(buffer) is io.BufferedWriter:
            # A second __init__() creates a new lock.  It also discards what is in the buffer;
            # the parent's thread writes that.
            buffer.__init__(buffer.raw)  # type: ignore[misc]
