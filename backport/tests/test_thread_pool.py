"""A task or the initializer of a ThreadPool exits."""

import sys
import threading

from conftest import ends
from pool_support import add, check, exit_at_three, is_lost, outcome, outcomes


def test_task_that_exits_in_a_thread(thread_pool):
    pool = thread_pool()
    workers = [worker.ident for worker in pool._pool]
    for _ in range(4):  # more often than there are threads
        found = outcomes(pool.imap(exit_at_three, range(6)))
        error = found.pop(3)
        assert is_lost(error, "SystemExit('no luck'")
        assert type(error.__cause__) is SystemExit
        assert found == [40, 41, 42, 44, 45]
        assert is_lost(outcome(pool.map_async(exit_at_three, range(6), chunksize=2)))
    check(pool)
    assert [worker.ident for worker in pool._pool] == workers
    assert all(worker.is_alive() for worker in pool._pool)
    pool.close()
    ends(pool)


def test_initializer_that_exits_in_a_thread(thread_pool):
    pool = thread_pool(2, sys.exit, ("no luck",))
    results = [pool.apply_async(add, (i,)) for i in range(5)]
    assert all(is_lost(outcome(result), "SystemExit('no luck'") for result in results)
    pool.close()
    ends(pool)


def test_initializer_that_exits_once_in_a_thread(thread_pool):
    tries = []

    def initializer():
        tries.append(threading.current_thread())
        if len(tries) == 1:
            sys.exit()
        return 40

    pool = thread_pool(1, initializer, ())
    check(pool)
    assert len(tries) == 2 and tries[0] is tries[1]


def test_tasks_that_exit_in_installed_pools(installed):
    from multiprocessing import dummy

    with dummy.Pool(2, int, (40,), expect_initret=True) as pool:
        assert is_lost(outcomes(pool.imap(exit_at_three, range(6)))[3])
        check(pool)
