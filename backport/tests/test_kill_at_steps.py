"""A worker is killed at each step of receiving a task and sending its result."""

import os
import sys
import threading

import pytest
from conftest import TIMEOUT, ends
from multiprocessing_initret import WorkerLostError
from pool_support import (
    KILLED,
    WINDOWS,
    check,
    echo,
    is_lost,
    kill_itself,
    outcomes,
    settled,
)

needs_pipes = pytest.mark.skipif(WINDOWS, reason="moves a message through its pipes as a whole")


class Moment:
    """An initializer, after which the first worker that gets to some moment is killed there.

    The first after :func:`arm`.
    """

    def __init__(self, name, path):
        self.name, self.path = name, str(path)

    def __call__(self, value):
        lock = sys._getframe(1).f_locals["self"]._inqueue._rlock
        Connection = type(sys._getframe(1).f_locals["self"]._inqueue._reader)

        def first():
            if not os.path.exists(self.path + ".armed"):
                return False
            try:
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return False
            return True

        def dies_around(owner, name, is_it=lambda *args: True, part=None):
            """Replace a function: the first call dies before, after, or in the middle."""
            stock = getattr(owner, name)

            def function(*args):
                if not is_it(*args) or (self.when == "after" and os.path.exists(self.path)):
                    return stock(*args)
                if self.when == "before" and first():
                    kill_itself()
                if self.when == "within" and first():
                    part(*args)
                    kill_itself()
                result = stock(*args)
                if self.when == "after" and first():
                    kill_itself()
                return result

            setattr(owner, name, function)

        def half(connection, data):
            if name == "send":
                os.write(connection.fileno(), data[: len(data) // 2])
            else:
                os.read(connection.fileno(), data // 2)

        self.when, _, name = self.name.partition(" ")
        if name in ("acquire", "release"):
            dies_around(lock, name)
        elif name == "header":
            dies_around(Connection, "_recv", lambda connection, size: size == 4, half)
        elif name == "recv":
            dies_around(Connection, "_recv", lambda connection, size: size > 4, half)
        else:
            dies_around(Connection, "_send", lambda connection, data: len(data) > 4, half)
        return value


def arm(path):
    with open(str(path) + ".armed", "w"):
        pass


# With the number of tasks that are lost then.
MOMENTS = {
    "before acquire": 0,
    "after acquire": 0,
    "before header": 0,
    "within header": 1,
    "after header": 0,
    "within recv": 1,
    "after recv": 1,
    "before release": 1,
    "after release": 1,
    "before send": 1,
    "within send": 1,
    "after send": 0,
}


@pytest.mark.slow
@needs_pipes
@pytest.mark.parametrize("size", [1, 10**6], ids=["small", "large"])
@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("moment", sorted(MOMENTS))
def test_killed_at_a_moment(make, tmp_path, moment, processes, size):
    path = tmp_path / "killed"
    arm(path)
    pool = make(processes, Moment(moment, path), (40,))
    # Unlike that of imap(), its iterator shows what comes twice.
    found = outcomes(pool.imap_unordered(echo, [bytes(size)] * 6))
    assert path.exists()
    lost = [item for item in found if isinstance(item, Exception)]
    assert all(is_lost(error, KILLED) for error in lost)
    # A message that was not there as a whole does not come back.
    partial = moment == "after header" and size > 65536
    assert len(lost) == MOMENTS[moment] + partial
    assert [item for item in found if item not in lost] == [bytes(size)] * (6 - len(lost))
    check(pool)
    pool.close()
    ends(pool)


@needs_pipes
@pytest.mark.parametrize("moment", ["after acquire", "before release"])
def test_killed_when_it_is_dismissed(make, tmp_path, moment):
    path = tmp_path / "killed"
    pool = make(3, Moment(moment, path), (40,))
    for _ in range(3):
        check(pool)
    settled(pool, 3)
    arm(path)
    pool.close()
    ends(pool)
    assert path.exists()


@needs_pipes
@pytest.mark.parametrize("moment", ["within header", "after header"])
def test_killed_while_the_iterable_waits_for_the_outcome(make, tmp_path, moment):
    path, arrived = tmp_path / "killed", threading.Event()

    def iterable():
        yield 1
        assert arrived.wait(TIMEOUT / 2)
        yield 2

    arm(path)
    iterator = make(1, Moment(moment, path), (40,)).imap(echo, iterable())
    try:
        outcome = iterator.next(TIMEOUT / 4)
    except WorkerLostError:
        outcome = 1
    finally:
        arrived.set()
    assert outcome == 1 and iterator.next(TIMEOUT) == 2
