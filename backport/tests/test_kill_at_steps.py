"""A worker is killed at each step of receiving a task and sending its result."""

import multiprocessing.util
import os
import signal
import sys
import threading

import pytest
from conftest import TIMEOUT, join_in_time, posix, wait_until
from multiprocessing_initret import WorkerLostError
from multiprocessing_initret._parent.worker_process import WorkerProcess
from multiprocessing_initret._shared.record import STARTING
from pool_support import (
    KILLED,
    check_pool,
    create_pool,
    echo,
    is_lost,
    kill_itself,
    results_and_exceptions,
    wait_until_idle,
)


class KillAtStep:
    """An initializer: the first worker that reaches a step after :func:`arm` kills itself.

    :param step: "before", "within" or "after", and the name of what the worker does
    :param path: a file that the worker creates before it is killed
    """

    def __init__(self, step, path):
        self.step, self.path = step, str(path)

    def __call__(self, value):
        inqueue = sys._getframe(1).f_locals["self"]._inqueue
        lock, Connection = inqueue._rlock, type(inqueue._reader)
        when, _, name = self.step.partition(" ")

        def is_first():
            """Return whether this is the first worker, and create the file if it is."""
            if not os.path.exists(self.path + ".armed"):
                return False
            try:
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return False
            return True

        def kill_around(owner, name, is_concerned=lambda *args: True, transfer_half=None):
            """Replace a method by one that kills the worker before, within or after a call."""
            original = getattr(owner, name)

            def function(*args):
                if not is_concerned(*args) or (when == "after" and os.path.exists(self.path)):
                    return original(*args)
                if when == "before" and is_first():
                    kill_itself()
                if when == "within" and is_first():
                    transfer_half(*args)
                    kill_itself()
                result = original(*args)
                if when == "after" and is_first():
                    kill_itself()
                return result

            setattr(owner, name, function)

        def transfer_half(connection, data):
            if name == "send":
                os.write(connection.fileno(), data[: len(data) // 2])
            else:
                os.read(connection.fileno(), data // 2)

        if name in ("acquire", "release"):
            kill_around(lock, name)
        elif name == "header":
            kill_around(Connection, "_recv", lambda connection, size: size == 4, transfer_half)
        elif name == "recv":
            kill_around(Connection, "_recv", lambda connection, size: size > 4, transfer_half)
        else:
            kill_around(Connection, "_send", lambda connection, data: len(data) > 4, transfer_half)
        return value


def arm(path):
    """Make the next worker that reaches the step of a :class:`KillAtStep` kill itself."""
    with open(str(path) + ".armed", "w"):
        pass


# How many tasks are lost if a worker is killed at each step.
LOST_TASKS = {
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
@posix
@pytest.mark.parametrize("size", [1, 10**6], ids=["small", "large"])
@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("step", sorted(LOST_TASKS))
def test_killed_at_step(make_pool, tmp_path, step, processes, size):
    path = tmp_path / "killed"
    arm(path)
    pool = make_pool(processes, KillAtStep(step, path), (40,))
    # Unlike imap(), imap_unordered() would yield a result that arrives twice.
    found = results_and_exceptions(pool.imap_unordered(echo, [bytes(size)] * 6))
    assert path.exists()
    lost = [item for item in found if isinstance(item, Exception)]
    assert all(is_lost(error, KILLED) for error in lost)
    # A message is requeued only if all of it was in the pipe, whose capacity is 64 KiB.
    is_incomplete = step == "after header" and size > 65536
    assert len(lost) == LOST_TASKS[step] + is_incomplete
    assert [item for item in found if item not in lost] == [bytes(size)] * (6 - len(lost))
    check_pool(pool)
    pool.close()
    join_in_time(pool)


@posix
def test_killed_while_starting(make_pool, monkeypatch, start_method):
    """Six workers are killed while they start.  The pool keeps running."""
    killed = []
    watch_process = WorkerProcess.watch_process

    def kill_and_watch(worker):
        if len(killed) < 6:
            os.kill(worker.pid, signal.SIGKILL)
            # A forked worker starts in less than a millisecond.  Another may have started, too, if
            # this process had to wait for the CPU; then a seventh is killed.
            if start_method == "fork" or worker.record.state == STARTING:
                killed.append(worker)
        watch_process(worker)

    monkeypatch.setattr(WorkerProcess, "watch_process", kill_and_watch)
    pool = make_pool(2)
    wait_until(lambda: len(killed) == 6)
    check_pool(pool)
    pool.close()
    join_in_time(pool)


@posix
def test_killed_before_the_first_step(tmp_path):
    """Six forked workers are killed before they call run_process().  The pool keeps running."""

    class Key:
        pass

    def kill_six(_):
        for number in range(6):
            try:
                os.close(os.open(str(tmp_path / str(number)), os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            kill_itself()

    key = Key()  # the function is called as long as this object exists
    multiprocessing.util.register_after_fork(key, kill_six)
    pool = create_pool("fork")
    wait_until((tmp_path / "5").exists)
    check_pool(pool)
    pool.close()
    join_in_time(pool)
    del key


@posix
@pytest.mark.parametrize("step", ["after acquire", "before release"])
def test_killed_at_step_while_the_pool_closes(make_pool, tmp_path, step):
    path = tmp_path / "killed"
    pool = make_pool(3, KillAtStep(step, path), (40,))
    for _ in range(3):
        check_pool(pool)
    wait_until_idle(pool, 3)
    arm(path)
    pool.close()
    join_in_time(pool)
    assert path.exists()


@posix
@pytest.mark.parametrize("step", ["within header", "after header"])
def test_killed_while_the_iterable_waits_for_a_result(make_pool, tmp_path, step):
    path, arrived = tmp_path / "killed", threading.Event()

    def iterable():
        yield 1
        assert arrived.wait(TIMEOUT / 2)
        yield 2

    arm(path)
    iterator = make_pool(1, KillAtStep(step, path), (40,)).imap(echo, iterable())
    try:
        assert iterator.next(TIMEOUT / 4) == 1
    except WorkerLostError:
        assert step == "within header"
    finally:
        arrived.set()
    assert iterator.next(TIMEOUT) == 2
