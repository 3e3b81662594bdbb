"""A worker exits while running a task, or while it waits for one."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from functools import partial

import pytest
from conftest import TIMEOUT, join_in_time, posix
from multiprocessing_initret import WorkerLostError
from multiprocessing_initret._worker import process
from pool_support import (
    EXITS,
    KILL,
    KILLED,
    add,
    all_exits,
    check_pool,
    create_pool,
    exit_at_three,
    exit_worker,
    interrupt_until,
    is_lost,
    is_replaced,
    result_or_exception,
    results_and_exceptions,
    some_exits,
    wait_for_pid,
    wait_until_idle,
    wait_until_replaced,
    with_multiprocess,
    write_pid_and_wait,
)


def exit_at_two_or_three(item, exit_by, initret):
    if item in (2, 3):
        exit_worker(exit_by)
    return item + initret


@with_multiprocess
@all_exits
def test_worker_exits_while_running_a_task(make_pool, exit_by):
    pool = make_pool()
    results = [pool.apply_async(exit_at_three, (i, exit_by)) for i in range(6)]
    found = [result_or_exception(result) for result in results]
    assert is_lost(found.pop(3), EXITS[exit_by][1])
    assert found == [40, 41, 42, 44, 45]
    check_pool(pool)
    pool.close()
    join_in_time(pool)


def close_task_pipe(fd, initret):
    os.close(fd)


@posix
def test_task_closes_the_pipe(make_pool, start_method):
    """A task may close all descriptors, as daemons do; the worker exits and is replaced."""
    if start_method != "fork":
        pytest.skip("the descriptor has another number in the worker")
    pool = make_pool()
    fd = pool._inqueue._reader.fileno()
    for _ in range(2):
        assert result_or_exception(pool.apply_async(close_task_pipe, (fd,))) is None
        check_pool(pool)


def start_thread_and_exit(initret):
    threading.Thread(target=time.sleep, args=(2 * TIMEOUT,)).start()
    sys.exit(3)


@posix
def test_worker_hangs_while_it_exits(monkeypatch):
    """Its exit waits for a thread (since Python 3.7), and is forced after some seconds."""
    monkeypatch.setattr(process, "_EXIT_TIMEOUT", 0.1)
    with create_pool("fork") as pool:
        result = pool.apply_async(start_thread_and_exit)
        assert is_lost(result_or_exception(result), "exited with code")
        check_pool(pool)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@some_exits
def test_iterator_yields_one_result_per_item(make_pool, method, exit_by):
    pool = make_pool()
    found = results_and_exceptions(
        getattr(pool, method)(partial(exit_at_two_or_three, exit_by=exit_by), range(8))
    )
    lost = [item for item in found if isinstance(item, Exception)]
    assert len(lost) == 2 and all(is_lost(error, EXITS[exit_by][1]) for error in lost)
    if method == "imap":
        assert found[2:4] == lost
    assert sorted(set(found) - set(lost)) == [40, 41, 44, 45, 46, 47]
    assert len(found) == 8
    check_pool(pool)


@some_exits
def test_chunks(make_pool, exit_by):
    pool, done = make_pool(), []
    for chunksize in 1, 2, 3, 8:
        for method, items in (("map_async", range(8)), ("starmap_async", zip(range(8)))):
            result = getattr(pool, method)(
                partial(exit_at_three, exit_by=exit_by),
                items,
                chunksize,
                callback=lambda value: done.append("callback"),
                error_callback=lambda error: done.append(error),
            )
            assert is_lost(result_or_exception(result), EXITS[exit_by][1])
    check_pool(pool)
    assert len(done) == 8 and all(map(is_lost, done))


def test_chunks_of_an_iterator(make_pool):
    pool = make_pool()
    # As without expect_initret, the iterator ends at the first chunk that fails.
    iterator = pool.imap(partial(exit_at_three, exit_by="SIGKILL"), range(8), 2)
    assert [next(iterator), next(iterator)] == [40, 41]
    with pytest.raises(WorkerLostError) as caught:
        next(iterator)
    assert is_lost(caught.value, KILLED)
    check_pool(pool)


def test_exception_describes_the_killed_worker(make_pool, tmp_path):
    pool = make_pool()
    path = str(tmp_path / "inside")
    done = []
    inside = pool.apply_async(
        write_pid_and_wait, (path,), callback=done.append, error_callback=done.append
    )
    pid = wait_for_pid(path)
    worker = next(worker for worker in pool._pool if worker.pid == pid)
    check_pool(pool)
    os.kill(pid, KILL)
    error = result_or_exception(inside)
    assert is_lost(error, KILLED) and f"{worker.name} (pid {pid}) " in str(error)
    assert (error.name, error.pid, error.exitcode) == (worker.name, pid, worker.exitcode)
    assert ("out-of-memory" in str(error)) == ("SIGKILL" in str(error))
    check_pool(pool)
    assert done == [error]


def test_all_workers_killed_at_once(make_pool, tmp_path):
    pool = make_pool(3)
    paths = [str(tmp_path / str(i)) for i in range(3)]
    inside = [pool.apply_async(write_pid_and_wait, (path,)) for path in paths]
    waiting = [pool.apply_async(add, (i,)) for i in range(3)]
    for pid in [wait_for_pid(path) for path in paths]:
        os.kill(pid, KILL)
    assert all(is_lost(result_or_exception(result), KILLED) for result in inside)
    assert [result_or_exception(result) for result in waiting] == [40, 41, 42]
    check_pool(pool)


def test_with_install(start_method, installed):
    context = multiprocessing.get_context(start_method)
    with context.Pool(2, int, (40,), expect_initret=True) as pool:
        found = [
            result_or_exception(pool.apply_async(exit_at_three, (i, "SIGKILL"))) for i in range(6)
        ]
        assert is_lost(found.pop(3), KILLED)
        assert found == [40, 41, 42, 44, 45]
        check_pool(pool)
    join_in_time(pool)


def test_pool_of_a_manager(start_method, installed):
    manager = multiprocessing.get_context(start_method).Manager()
    with manager, manager.Pool(1, int, (40,), expect_initret=True) as pool:
        assert is_lost(result_or_exception(pool.apply_async(exit_at_three, (3, "SIGKILL"))), KILLED)
        assert pool.apply_async(exit_at_three, (4, "SIGKILL")).get(TIMEOUT) == 44


def test_maxtasksperchild(start_method, make_pool):
    pool = make_pool(2, maxtasksperchild=1)
    # Often enough that workers start and exit while their results are read.
    for _ in range(15 if start_method == "fork" else 3):
        found = results_and_exceptions(
            pool.imap(partial(exit_at_three, exit_by="SIGKILL"), range(8))
        )
        assert is_lost(found.pop(3))
        assert found == [40, 41, 42, 44, 45, 46, 47]
    check_pool(pool)
    pool.close()
    join_in_time(pool)


@with_multiprocess
@pytest.mark.parametrize("size", [1, 3])
def test_idle_workers_killed(make_pool, size):
    pool = make_pool(size)
    for _ in range(3):
        check_pool(pool)
        wait_until_idle(pool, size)
        workers = list(pool._pool)
        for worker in workers:
            os.kill(worker.pid, KILL)
        # Race: a worker that is being killed may still receive a task, which then fails.
        wait_until_replaced(pool, workers)
        check_pool(pool)
    pool.close()
    join_in_time(pool)


def test_map_while_the_only_worker_is_replaced(make_pool):
    """The chunksize does not depend on how many workers happen to be alive."""
    pool = make_pool(1)
    for _ in range(3):
        check_pool(pool)
        wait_until_idle(pool, 1)
        workers = list(pool._pool)
        os.kill(workers[0].pid, KILL)
        results = []
        while len(results) < 1000 and (not pool._pool or pool._pool == workers):
            results.append(pool.map_async(add, range(6)))
            time.sleep(0.0001)
        # The killed worker may have received the first task.
        found = [result_or_exception(result) for result in results]
        assert all(is_lost(item) or item == list(range(40, 46)) for item in found)
        assert sum(map(is_lost, found)) <= 1


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_idle_worker_receives_a_signal(make_pool, name):
    pool = make_pool(1)
    check_pool(pool)
    wait_until_idle(pool, 1)
    workers = list(pool._pool)
    os.kill(workers[0].pid, getattr(signal, name))
    wait_until_replaced(pool, workers)
    check_pool(pool)


@posix
def test_idle_worker_is_interrupted(make_pool):
    pool = make_pool(1)
    check_pool(pool)
    wait_until_idle(pool, 1)
    workers = list(pool._pool)
    interrupt_until(lambda: is_replaced(pool, workers), workers, signal.SIGINT)
    check_pool(pool)
