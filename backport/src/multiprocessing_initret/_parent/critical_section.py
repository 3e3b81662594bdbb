"""Sections of code in which a thread must not terminate the pool, but lets another thread do so."""

import _thread
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, List, Optional


class CriticalSection:
    """Context manager for code that holds a lock which terminate() waits for.

    The garbage collector may call ``__del__()`` methods of the program between any two bytecodes of
    any thread, and these may terminate the pool.  terminate() also waits for the worker handler,
    and so for each lock that the worker handler acquires, even for a reentrant one.  Therefore a
    thread that holds such a lock is in the section, and calls terminate() in another thread::

        with section, lock:
            ...

        def terminate():
            if section.is_entered():
                start_thread(terminate)

    A section can be entered by several threads at once, and more than once by the same thread.
    It locks nothing.

    Each pool has one instance.  A thread that has entered the section of one pool with a ``with``
    statement is in the sections of all pools.  The termination of another pool may wait for the
    fork server, and the fork server may wait for the rest of a request that this thread is sending.
    """

    #: Identifier of the task handler while it begins to send a message.  A ``with`` statement would
    #: add 0.4 microseconds to each task.
    sender: "Optional[int]" = None

    # The frames of the `with` statements.  If Ctrl-C prevents the call of __exit__(), a frame that
    # has returned is in no stack; a thread identifier would still be that of a running thread.
    _frames: "List[FrameType]" = []

    def __enter__(self) -> None:
        self._frames.append(sys._getframe(1))

    def __exit__(self, *_: "Any") -> None:
        frame = sys._getframe(1)
        if frame in self._frames:  # not in a child that was forked in the section
            self._frames.remove(frame)

    def is_entered(self) -> bool:
        """Return whether this thread is in the section."""
        if threading.get_ident() == self.sender:
            return True
        frame: "Optional[FrameType]" = sys._getframe(1)
        while frame is not None and frame not in self._frames:
            frame = frame.f_back
        return frame is not None

    def leave_in_child(self) -> None:
        """Leave the section in a forked child, such as a worker, which is forked in the section."""
        self._frames.clear()
        self.sender = None


def start_thread(function: "Callable[[], object]") -> None:
    """Call a function in another thread, or in this one if no thread can be started."""

    def start() -> None:
        try:
            threading.Thread(target=function, daemon=True).start()
        except RuntimeError:
            function()

    try:
        # Thread.start() acquires a lock of the module threading.  The garbage collector may have
        # called this function in a thread that holds that lock, so Thread.start() runs in another.
        _thread.start_new_thread(start, ())
    except RuntimeError:  # the interpreter is exiting, or the system allows no more threads
        function()
