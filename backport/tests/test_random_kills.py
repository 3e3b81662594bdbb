"""Workers are killed at random."""

import contextlib
import itertools
import os
import random
import threading
import time
from functools import partial

import pytest
from conftest import TIMEOUT, WINDOWS, join_in_time, wait_until
from multiprocessing_initret import WorkerLostError
from pool_support import (
    KILL,
    check_pool,
    echo,
    is_lost,
    length,
    result_or_exception,
    results_and_exceptions,
)


@pytest.mark.slow
@pytest.mark.parametrize("func", [length, echo])
def test_killed_while_transferring_large_messages(make_pool, func):
    """Workers are killed at any step of a message that the pipe cannot hold."""
    pool = make_pool(2)
    iterator = pool.imap_unordered(func, itertools.repeat(bytes(10**6), 60))
    found = 0
    kills = 0
    broken = False
    for number in range(60):
        try:
            value = iterator.next(TIMEOUT)
        except WorkerLostError as error:
            broken = broken or "the pool is broken" in str(error)
        else:
            found += 1
            assert value == 10**6 or len(value) == 10**6
        if number % 6 == 0:
            # The worker has exited, the pool has none at present, or the worker has not started.
            with contextlib.suppress(OSError, IndexError, TypeError):
                os.kill(random.choice(pool._pool).pid, KILL)
                kills += 1
    with pytest.raises(StopIteration):
        iterator.next(TIMEOUT)
    assert not broken and found >= 60 - kills


def record_and_add(item, path, initret):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{item}\n".encode())
    os.close(fd)
    end = time.perf_counter() + 0.001
    while time.perf_counter() < end:
        pass
    return item + initret


class Killer:
    """Kills a worker of a pool about every 50 milliseconds, a limited number of times.

    A pool whose workers were killed faster than they start would never finish.
    """

    def __init__(self, pool, times=10):
        self.pool, self.times, self.kills = pool, times, 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while self.kills < self.times and not self.stop.wait(0.05):
            # The pool has no worker at present, or the worker has exited or has not started.
            with contextlib.suppress(IndexError, OSError, TypeError):
                os.kill(random.choice(self.pool._pool).pid, KILL)
                self.kills += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.stop.set()
        self.thread.join()


@pytest.mark.skipif(
    WINDOWS, reason="exit codes on Windows do not show that a starting worker was killed"
)
@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "apply"])
def test_exactly_once(make_pool, tmp_path, method):
    path, done, count = str(tmp_path / "items"), [], 600
    func = partial(record_and_add, path=path)
    pool = make_pool(3)
    with Killer(pool) as killer:
        if method == "map":
            results = [
                pool.map_async(func, range(i, i + 10), 3, done.append, done.append)
                for i in range(0, count, 10)
            ]
            found = [result_or_exception(result) for result in results]
        elif method == "apply":
            results = [
                pool.apply_async(func, (i,), {}, done.append, done.append) for i in range(count)
            ]
            found = [result_or_exception(result) for result in results]
        else:
            found = results_and_exceptions(getattr(pool, method)(func, range(count)))
            assert len(found) == count
        wait_until(lambda: killer.kills > 3)
    lost = [item for item in found if isinstance(item, Exception)]
    assert all(map(is_lost, lost))
    answers = [item for item in found if not isinstance(item, Exception)]
    with open(path) as file:
        ran = sorted(int(line) for line in file)
    assert len(ran) == len(set(ran))  # no task runs twice
    if method == "map":
        assert all(answer == list(range(answer[0], answer[0] + 10)) for answer in answers)
    else:
        assert len(answers) == len(set(answers))
        assert {answer - 40 for answer in answers} <= set(ran)
        for i, item in enumerate(found):
            assert method == "imap_unordered" or item in lost or item == i + 40
    check_pool(pool)
    if done:
        assert len(done) == len(found)
        assert {id(item) for item in done} == {id(item) for item in found}
    pool.close()
    join_in_time(pool)


def spin(microseconds, initret):
    end = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < end:
        pass
    return microseconds


def return_megabyte(item, initret):
    return bytes([item]) * 10**6


@pytest.mark.slow
@pytest.mark.parametrize("load", ["20 us", "2 ms", "results of 1 MB", "arguments of 1 MB"])
def test_random_kills(make_pool, load):
    func, arguments, answers = {
        "20 us": (spin, range(20, 40), range(20, 40)),
        "2 ms": (spin, range(2000, 2020), range(2000, 2020)),
        "results of 1 MB": (return_megabyte, range(20), [bytes([i]) * 10**6 for i in range(20)]),
        "arguments of 1 MB": (
            length,
            [bytes(i) for i in range(10**6, 10**6 + 20)],
            range(10**6, 10**6 + 20),
        ),
    }[load]
    deadline = time.monotonic() + 3
    for end in itertools.cycle(["close", "terminate"]):
        pool = make_pool(4)
        with Killer(pool):
            found = results_and_exceptions(pool.imap(func, arguments))
            assert len(found) == 20
            assert all(is_lost(item) or item == answers[i] for i, item in enumerate(found))
            found = results_and_exceptions(pool.imap_unordered(func, arguments))
            assert len(found) == 20
            assert all(is_lost(item) or item in answers for item in found)
            found = result_or_exception(pool.map_async(func, arguments, 7))
            assert is_lost(found) or found == list(answers)
            getattr(pool, end)()
            join_in_time(pool)
        if time.monotonic() > deadline:
            break
