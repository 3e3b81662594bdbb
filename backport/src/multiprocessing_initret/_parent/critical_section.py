"""Sections of code in which the garbage collector must not terminate the pool."""

import sys
import threading

from .._shared.errors import report_exception

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, List, Optional, Tuple


class CriticalSection:
    """Context manager that postpones the termination of a pool that is garbage.

    The garbage collector may finalize a pool, and so terminate it, between any two bytecodes of
    any thread: while that thread holds a lock that terminate() waits for, or while it starts a
    worker that is not in the list of workers yet.  If a thread terminates the pool while it is in
    a critical section, the termination is postponed until the thread has left the section::

        with section:
            ...

        def terminate():
            if not section.postpones(terminate):
                ...

    terminate() also waits for the worker handler.  Therefore a thread must not hold a lock that the
    worker handler acquires, even a reentrant one, unless it is in the section.

    A section can be entered by several threads at once, and more than once by the same thread.
    It locks nothing.

    Each pool has one instance.  A thread that has entered the section of one pool with a ``with``
    statement is in the sections of all pools.  The termination of another pool may wait for the
    fork server, and the fork server may wait for the rest of a request that this thread is sending.
    """

    #: Identifier of the task handler while it begins to send a message, and of the result handler
    #: while it unpickles a result.  A ``with`` statement would take 0.4 microseconds.  Afterwards
    #: they call :meth:`run_postponed` if something is :attr:`postponed`.
    sender: "Optional[int]" = None
    receiver: "Optional[int]" = None

    # The frames of the `with` statements.  A thread identifier would not do: Ctrl-C may prevent the
    # call of __exit__(), and every later terminate() would then be postponed.
    _frames: "List[FrameType]" = []

    #: The calls that have been postponed, with the threads that are to make them.
    postponed: "List[Tuple[int, Callable[..., None], Tuple[Any, ...]]]" = []

    def __enter__(self) -> None:
        self._frames.append(sys._getframe(1))

    def __exit__(self, *_: "Any") -> None:
        frame = sys._getframe(1)
        if frame in self._frames:  # not in a child that was forked in the section
            self._frames.remove(frame)
        if self.postponed:
            self.run_postponed()

    def is_entered(self) -> bool:
        """Return whether this thread is in the section."""
        if threading.get_ident() in (self.sender, self.receiver):
            return True
        frame: "Optional[FrameType]" = sys._getframe(1)
        while frame is not None and frame not in self._frames:
            frame = frame.f_back
        return frame is not None

    def leave_in_child(self) -> None:
        """Forget the threads of the parent, in a process that was forked from it."""
        self._frames.clear()
        self.sender = self.receiver = None
        self.postponed.clear()

    def postpones(self, function: "Callable[..., None]", *args: "Any") -> bool:
        """Return whether this thread is in the section.

        If it is, the function is called with these arguments when the thread leaves it.
        """
        if not self.is_entered():
            return False
        self.postponed.append((threading.get_ident(), function, args))
        return True

    def run_postponed(self) -> None:
        """Make the calls that this thread has postponed, if it has left the section."""
        if self.is_entered():
            return
        thread = threading.get_ident()
        for call in list(self.postponed):
            # A function may enter the section, and make the other calls when it leaves it.
            if call[0] == thread and call in self.postponed:
                self.postponed.remove(call)
                _, function, args = call
                try:
                    function(*args)
                except Exception:
                    # What this thread does has nothing to do with the pool that was garbage.
                    report_exception()
