"""WorkerLostError: its attributes, and its pickle."""

import os
import pickle
import sys
import threading

import pytest
from conftest import TIMEOUT
from multiprocessing_initret import ThreadPool, WorkerLostError
from pool_support import KILL, WINDOWS, check_pool, create_pool, end_pool, error_of


def attributes(error):
    return error.exitcode, error.pid, error.name


def test_attributes_are_none_by_default():
    error = WorkerLostError("no worker exited")
    assert str(error) == "no worker exited"
    assert attributes(error) == (None, None, None)


@pytest.mark.parametrize("args", [(), ("text",), ("text", -9, 123, "Worker-1")])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(args, protocol):
    error = WorkerLostError(*args)
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is WorkerLostError
    assert str(copy) == str(error)
    assert attributes(copy) == attributes(error)
    assert copy.__cause__ is None


def test_pickle_without_its_cause():
    """The cause may hold objects that cannot be pickled."""
    error = WorkerLostError("text", 3, 123, "Worker-1")
    error.__cause__ = LookupError(threading.Lock())
    copy = pickle.loads(pickle.dumps(error))
    assert attributes(copy) == (3, 123, "Worker-1")
    assert copy.__cause__ is None


def kill_itself(item, initret):
    os.kill(os.getpid(), KILL)


def exit_with_three(item, initret):
    os._exit(3)


@pytest.mark.parametrize("func", [kill_itself, exit_with_three])
def test_attributes_of_a_task(start_method, func):
    if sys.version_info < (3, 7) and start_method == "forkserver" and func is kill_itself:
        pytest.skip("a fork server of Python 3.6 does not report signals")
    pool = create_pool(start_method, 1)
    try:
        [worker] = list(pool._pool)
        pid, name = worker.pid, worker.name
        error = error_of(pool.apply_async(func, (1,)))
        assert type(error) is WorkerLostError
        exitcode = 3 if func is exit_with_three else int(KILL) if WINDOWS else -int(KILL)
        assert attributes(error) == (exitcode, pid, name)
        assert name in str(error) and str(pid) in str(error)
        check_pool(pool)
    finally:
        end_pool(pool)


def fail_in_a_worker(item, initret):
    raise WorkerLostError("text", 3, 123, "Worker-1")


def test_attributes_cross_processes(start_method):
    pool = create_pool(start_method, 1)
    try:
        error = error_of(pool.apply_async(fail_in_a_worker, (1,)))
        assert attributes(error) == (3, 123, "Worker-1")
    finally:
        end_pool(pool)


def exit_thread(item, initret):
    sys.exit(1)


def test_thread():
    """A thread that raises SystemExit continues, so the error describes no worker."""
    pool = ThreadPool(1, int, (40,), expect_initret=True)
    error = error_of(pool.apply_async(exit_thread, (1,)))
    assert type(error) is WorkerLostError and attributes(error) == (None, None, None)
    check_pool(pool)
    end_pool(pool)


def wait_long(item, initret):
    threading.Event().wait(TIMEOUT)


def test_terminated_pool(start_method):
    """The task fails because of the pool, not because of a worker."""
    pool = create_pool(start_method, 1)
    result = pool.apply_async(wait_long, (1,))
    end_pool(pool)
    error = error_of(result)
    assert type(error) is WorkerLostError and attributes(error) == (None, None, None)
