"""A section of code in which the garbage collector does not terminate the pool."""

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Tuple


class CriticalSection:
    """A section of code in which the garbage collector does not terminate the pool.

    The garbage collector may run between any two bytecodes of any thread, and terminates a
    pool that nothing refers to.  ``terminate()`` would then run while its own thread holds a
    lock that another thread of the pool needs, or while that thread starts a worker of which
    nothing is known yet.  Inside this section it is postponed until the section is left.

    Any thread may enter it; threads do not exclude each other.  The operations on the list
    are atomic, and need no lock.
    """

    def __init__(self) -> None:
        self._threads: "List[int]" = []
        self._postponed: "Optional[Tuple[Callable[..., object], Tuple[Any, ...]]]" = None

    def __enter__(self) -> None:
        self._threads.append(threading.get_ident())

    def __exit__(self, *_: "Any") -> None:
        self._threads.remove(threading.get_ident())
        if self._postponed is not None and threading.get_ident() not in self._threads:
            (function, args), self._postponed = self._postponed, None
            function(*args)

    def postpones(self, function: "Callable[..., object]", *args: "Any") -> bool:
        """Return whether this thread is in the section; if it is, call the function at its end."""
        if threading.get_ident() not in self._threads:
            return False
        self._postponed = function, args
        return True
