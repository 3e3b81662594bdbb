"""Daemon threads that use a result while the interpreter exits.

When the interpreter exits, ``multiprocessing`` terminates the pool, and its pending results fail.
A daemon thread that waits for one of them would print the exception, although the program has done
nothing wrong.  Therefore such a thread ends silently.
"""

import collections
import threading

from .standard_pool import is_iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def end_daemon_threads(result: "Any") -> None:
    """End each daemon thread that waits for a result, or asks for it, once the result has failed.

    :param result: a pending result, or an iterator
    """
    if is_iterator(result):
        with result._cond:
            result._items = _Items(result._items)
    else:
        result._event = _Event(result._event)


class _Items(collections.deque):  # type: ignore[type-arg]
    """The items that have arrived; ``next()`` of an iterator removes the first."""

    def popleft(self) -> "Any":
        _exit_daemon_thread()
        return super().popleft()


class _Event(threading.Event):
    """The event that ``get()``, ``wait()`` and ``ready()`` of a result use.

    :param event: the event that threads may be waiting for
    """

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self._event = event

    def set(self) -> None:
        super().set()
        self._event.set()

    def is_set(self) -> bool:
        _exit_daemon_thread()
        return super().is_set()


def _exit_daemon_thread() -> None:
    thread = threading.current_thread()
    if thread.daemon and thread is not threading.main_thread():
        raise SystemExit  # threading.excepthook() ignores it
