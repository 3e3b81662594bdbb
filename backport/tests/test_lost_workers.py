"""A worker exits while running a task, or while it waits for one."""

import multiprocessing
import os
import signal
import time

import pytest
from conftest import TIMEOUT, ends
from multiprocessing_initret import WorkerLostError
from pool_support import (
    KILL,
    KILLED,
    LEAVE,
    PartialOf,
    add,
    all_ways,
    check,
    is_lost,
    leave,
    leave_at_three,
    main_rows,
    needs_signals,
    outcome,
    outcomes,
    pid_said,
    say_and_wait,
    settled,
    some_ways,
    wait_until_replaced,
)


def leave_at_three_or_two(item, way, initret):
    if item in (2, 3):
        leave(way)
    return item + initret


@main_rows
@all_ways
def test_worker_leaves_inside_a_task(make, way):
    pool = make()
    results = [pool.apply_async(leave_at_three, (i, way)) for i in range(6)]
    found = [outcome(result) for result in results]
    assert is_lost(found.pop(3), LEAVE[way][1])
    assert found == [40, 41, 42, 44, 45]
    check(pool)
    pool.close()
    ends(pool)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@some_ways
def test_each_index_of_an_iterator_has_one_outcome(make, method, way):
    pool = make()
    found = outcomes(getattr(pool, method)(PartialOf(leave_at_three_or_two, way), range(8)))
    lost = [item for item in found if isinstance(item, Exception)]
    assert len(lost) == 2 and all(is_lost(error, LEAVE[way][1]) for error in lost)
    if method == "imap":
        assert found[2:4] == lost
    assert sorted(set(found) - set(lost)) == [40, 41, 44, 45, 46, 47]
    assert len(found) == 8
    check(pool)


@some_ways
def test_chunks(make, way):
    pool, done = make(), []
    for chunksize in 1, 2, 3, 8:
        for method, items in (("map_async", range(8)), ("starmap_async", zip(range(8)))):
            result = getattr(pool, method)(
                PartialOf(leave_at_three, way),
                items,
                chunksize,
                callback=lambda value: done.append("callback"),
                error_callback=lambda error: done.append(error),
            )
            assert is_lost(outcome(result), LEAVE[way][1])
    check(pool)
    assert len(done) == 8 and all(map(is_lost, done))


def test_chunks_of_an_iterator(make):
    pool = make()
    # The iterator of chunks ends at the first that failed, as without the feature.
    iterator = pool.imap(PartialOf(leave_at_three, "SIGKILL"), range(8), 2)
    assert [next(iterator), next(iterator)] == [40, 41]
    with pytest.raises(WorkerLostError) as caught:
        next(iterator)
    assert is_lost(caught.value, KILLED)
    check(pool)


def test_worker_killed_by_hand(make, tmp_path):
    pool = make()
    path = str(tmp_path / "inside")
    done = []
    inside = pool.apply_async(
        say_and_wait, (path,), callback=done.append, error_callback=done.append
    )
    pid = pid_said(path)
    name = next(worker.name for worker in pool._pool if worker.pid == pid)
    check(pool)
    os.kill(pid, KILL)
    error = outcome(inside)
    assert is_lost(error, KILLED) and f"{name} (pid {pid}) " in str(error)
    assert ("out-of-memory" in str(error)) == ("SIGKILL" in str(error))
    check(pool)
    assert done == [error]


def test_all_workers_killed_at_once(make, tmp_path):
    pool = make(3)
    paths = [str(tmp_path / str(i)) for i in range(3)]
    inside = [pool.apply_async(say_and_wait, (path,)) for path in paths]
    waiting = [pool.apply_async(add, (i,)) for i in range(3)]
    for pid in [pid_said(path) for path in paths]:
        os.kill(pid, KILL)
    assert all(is_lost(outcome(result), KILLED) for result in inside)
    assert [outcome(result) for result in waiting] == [40, 41, 42]
    check(pool)


def test_with_install(start_method, installed):
    context = multiprocessing.get_context(start_method)
    with context.Pool(2, int, (40,), expect_initret=True) as pool:
        found = [outcome(pool.apply_async(leave_at_three, (i, "SIGKILL"))) for i in range(6)]
        assert is_lost(found.pop(3), KILLED)
        assert found == [40, 41, 42, 44, 45]
        check(pool)
    ends(pool)


def test_keyword_in_a_manager(start_method, installed):
    manager = multiprocessing.get_context(start_method).Manager()
    with manager, manager.Pool(1, int, (40,), expect_initret=True) as pool:
        assert is_lost(outcome(pool.apply_async(leave_at_three, (3, "SIGKILL"))), KILLED)
        assert pool.apply_async(leave_at_three, (4, "SIGKILL")).get(TIMEOUT) == 44


def test_maxtasksperchild(start_method, make):
    pool = make(2, maxtasksperchild=1)
    # So often that workers start and leave while their results are read.
    for _ in range(15 if start_method == "fork" else 3):
        found = outcomes(pool.imap(PartialOf(leave_at_three, "SIGKILL"), range(8)))
        assert is_lost(found.pop(3))
        assert found == [40, 41, 42, 44, 45, 46, 47]
    check(pool)
    pool.close()
    ends(pool)


@main_rows
@pytest.mark.parametrize("size", [1, 3])
def test_idle_workers_killed(make, size):
    pool = make(size)
    for _ in range(3):
        check(pool)
        settled(pool, size)
        workers = list(pool._pool)
        for worker in workers:
            os.kill(worker.pid, KILL)
        # A task that came while they die would be in their hands.
        wait_until_replaced(pool, workers)
        check(pool)
    pool.close()
    ends(pool)


def test_map_while_there_is_no_worker(make):
    """The size of chunks does not depend on how many workers there are just now."""
    pool = make(1)
    for _ in range(3):
        check(pool)
        settled(pool, 1)
        workers = list(pool._pool)
        os.kill(workers[0].pid, KILL)
        results = []
        while not pool._pool or pool._pool == workers:
            results.append(pool.map_async(add, range(6)))
            time.sleep(0.0001)
        # It may have had the first in its hands.
        found = [outcome(result) for result in results]
        wrong = [item for item in found if not is_lost(item) and item != list(range(40, 46))]
        assert not wrong
        assert sum(map(is_lost, found)) <= 1


@needs_signals
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_idle_worker_gets_a_signal(make, name):
    pool = make(1)
    check(pool)
    settled(pool, 1)
    workers = list(pool._pool)
    os.kill(workers[0].pid, getattr(signal, name))
    wait_until_replaced(pool, workers)
    check(pool)
