"""Send the tasks of an ``imap(buffersize=...)`` without blocking the task handler.

In Python 3.16 the task handler of the standard pool blocks in the semaphore of such an iterator
until its consumer has received a result.  Meanwhile it sends no task of any other call: a
program that makes another call before it consumes the iterator hangs.  ``close()`` discards the
tasks that have not been sent.  With a throttle, the other calls' tasks are sent meanwhile, and
``close()`` sends all that are left.
"""

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator


class Throttle:
    """Sender of one iterator's tasks, which replaces the iterator's semaphore.

    The task handler sends as many tasks as the buffer has room for, and then turns to other
    calls.  :meth:`release` puts the rest into the pool's ``_taskqueue`` again.  Only the task
    handler uses ``_tasks`` and ``_count``.

    ``_lock`` guards ``_room`` and ``_is_suspended``: the task handler calls
    :meth:`send_some`, and the consumer, ``close()`` and ``terminate()`` call
    :meth:`release`.

    :param is_running: returns whether the pool is running
    :param put: puts tasks into the pool's ``_taskqueue``
    :param set_length: called with the number of tasks when all of them have been sent
    :param room: how many results may be pending
    :param tasks: the tasks
    """

    def __init__(
        self,
        is_running: "Callable[[], bool]",
        put: "Callable[[Any], object]",
        set_length: "Callable[[int], object]",
        room: int,
        tasks: "Iterator[Any]",
    ) -> None:
        self._is_running = is_running
        self._put = put
        self._set_length = set_length
        self._tasks = tasks
        # Reentrant because the garbage collector may terminate the pool, which calls release(), in
        # a thread that holds it.
        self._lock = threading.RLock()
        self._room = room
        self._is_suspended = False
        self._count = 0

    def send_some(self) -> "Iterator[Any]":
        """Yield tasks until the buffer is full, or no task is left."""
        while self._has_room():
            task = next(self._tasks, None)
            if task is None:
                self._set_length(self._count)
                return
            self._count += 1
            yield task

    def _has_room(self) -> bool:
        with self._lock:
            # A pool that is closing sends the rest at once: the iterator may never be consumed.
            if self._room > 0 or not self._is_running():
                self._room -= 1
                return True
            self._is_suspended = True
            return False

    def release(self) -> None:
        """Make room for one task, as the semaphore does."""
        with self._lock:
            self._room += 1
            is_suspended, self._is_suspended = self._is_suspended, False
        if is_suspended:
            self._put((self.send_some(), None))
