"""A task or the initializer of a ThreadPool raises SystemExit or KeyboardInterrupt."""

import sys
import threading

from conftest import join_in_time
from pool_support import (
    add,
    check_pool,
    is_lost,
    result_or_exception,
    results_and_exceptions,
    sys_exit_at_three,
)


def test_task_raises_system_exit(make_thread_pool):
    pool = make_thread_pool()
    workers = [worker.ident for worker in pool._pool]
    for _ in range(4):  # more often than the pool has threads
        found = results_and_exceptions(pool.imap(sys_exit_at_three, range(6)))
        error = found.pop(3)
        assert is_lost(error, "SystemExit('no luck'")
        assert type(error.__cause__) is SystemExit
        assert found == [40, 41, 42, 44, 45]
        assert is_lost(
            result_or_exception(pool.map_async(sys_exit_at_three, range(6), chunksize=2))
        )
    check_pool(pool)
    assert [worker.ident for worker in pool._pool] == workers
    assert all(worker.is_alive() for worker in pool._pool)
    pool.close()
    join_in_time(pool)


def interrupt(initret=None):
    raise KeyboardInterrupt


def test_keyboard_interrupt(make_thread_pool):
    pool = make_thread_pool(1)
    assert is_lost(result_or_exception(pool.apply_async(interrupt)), "KeyboardInterrupt")
    check_pool(pool)
    pool = make_thread_pool(1, interrupt, ())
    assert is_lost(result_or_exception(pool.apply_async(add, (1,))), "KeyboardInterrupt")


def test_initializer_raises_system_exit(make_thread_pool):
    pool = make_thread_pool(2, sys.exit, ("no luck",))
    results = [pool.apply_async(add, (i,)) for i in range(5)]
    assert all(is_lost(result_or_exception(result), "SystemExit('no luck'") for result in results)
    pool.close()
    join_in_time(pool)


def test_initializer_raises_system_exit_once(make_thread_pool):
    threads = []

    def initializer():
        threads.append(threading.current_thread())
        if len(threads) == 1:
            sys.exit()
        return 40

    pool = make_thread_pool(1, initializer, ())
    check_pool(pool)
    assert len(threads) == 2 and threads[0] is threads[1]


def test_task_raises_system_exit_in_dummy_pool(installed):
    from multiprocessing import dummy

    with dummy.Pool(2, int, (40,), expect_initret=True) as pool:
        assert is_lost(results_and_exceptions(pool.imap(sys_exit_at_three, range(6)))[3])
        check_pool(pool)
