"""A worker exits while it calls the initializer."""

import multiprocessing
import multiprocessing.connection
import os

import pytest
from conftest import join_in_time, posix, wait_until
from pool_support import (
    EXITS,
    add,
    check_pool,
    exit_at_three,
    exit_worker,
    is_lost,
    result_or_exception,
    results_and_exceptions,
    some_exits,
    with_multiprocess,
)


def record_call(path):
    with open(path, "a") as file:
        file.write("1\n")


def count_calls(path):
    with open(path) as file:
        return len(file.readlines())


def record_call_and_exit(path, exit_by):
    record_call(path)
    exit_worker(exit_by)


def exit_in_first_three_calls(path, exit_by):
    record_call(path)
    if count_calls(path) <= 3:
        exit_worker(exit_by)
    return 40


def is_idle(pool):
    """Return whether the workers of a pool have all started and live on for half a second."""
    workers = list(pool._pool)
    try:
        sentinels = [worker.sentinel for worker in workers]
    except ValueError:  # a worker has not started
        return False
    is_complete = len(workers) == pool._processes
    return is_complete and not multiprocessing.connection.wait(sentinels, 0.5)


@with_multiprocess
@some_exits
def test_worker_exits_in_the_initializer(make_pool, tmp_path, exit_by):
    path = str(tmp_path / "starts")
    size = 2
    pool = make_pool(size, record_call_and_exit, (path, exit_by))
    for number in range(1, 6):
        assert is_lost(result_or_exception(pool.apply_async(add, (number,))), EXITS[exit_by][1])
        # The first workers call the initializer when they start, later ones for a task.
        assert number <= count_calls(path) <= number + size
    assert all(is_lost(error) for error in results_and_exceptions(pool.imap(add, range(5))))
    assert count_calls(path) <= 10 + size
    pool.close()
    join_in_time(pool)
    assert count_calls(path) <= 10 + size


def test_idle_pool_does_not_replace_workers_again_and_again(make_pool, tmp_path):
    path = str(tmp_path / "starts")
    pool = make_pool(2, record_call_and_exit, (path, "_exit"))
    wait_until(lambda: os.path.exists(path) and is_idle(pool))
    assert count_calls(path) <= 2


def exit_after_first_call(path):
    record_call(path)
    if count_calls(path) > 1:
        exit_worker("_exit")
    return 40


def test_initializer_succeeds_once_and_then_exits(make_pool, tmp_path):
    path = str(tmp_path / "starts")
    pool = make_pool(1, exit_after_first_call, (path,))
    check_pool(pool)
    assert is_lost(result_or_exception(pool.apply_async(exit_at_three, (3, "_exit"))))
    wait_until(lambda: count_calls(path) > 1 and is_idle(pool))
    assert count_calls(path) == 2


def test_initializer_exits_three_times_and_then_succeeds(make_pool, tmp_path):
    path = str(tmp_path / "starts")
    pool = make_pool(1, exit_in_first_three_calls, (path, "SIGKILL"))
    found = [result_or_exception(pool.apply_async(add, (1,))) for _ in range(4)]
    assert all(map(is_lost, found[:2])) and found[2:] == [41, 41]
    check_pool(pool)


def fork_and_return(value):
    os.fork()
    return value


@posix
@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="before Python 3.7")
def test_initializer_forks(make_pool):
    """The processes that it has forked receive no tasks: nobody would receive their results."""
    pool = make_pool(2, fork_and_return)
    for _ in range(20):
        check_pool(pool)
