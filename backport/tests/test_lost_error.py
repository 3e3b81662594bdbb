"""WorkerLostError: its class, its attributes, and its pickle."""

import multiprocessing
import pickle
import sys
import threading

import pytest
from conftest import WINDOWS
from multiprocessing_initret import ThreadPool, WorkerLostError
from multiprocessing_initret._shared.errors import drop_frames
from pool_support import (
    FORK_SERVER_REPORTS_SIGNALS,
    KILL,
    check_pool,
    create_pool,
    end_pool,
    error_of,
    exit_at_three,
    wait_long,
)


def test_worker_lost_error_is_a_process_error():
    assert issubclass(WorkerLostError, multiprocessing.ProcessError)
    assert WorkerLostError.__module__ == "multiprocessing_initret"


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


def test_cause_without_frames():
    """The frames would keep the pool alive.  Those of exceptions in the chain would, too."""
    try:
        try:
            raise LookupError("first")
        except LookupError as error:
            raise RuntimeError("second") from error
    except RuntimeError as error:
        drop_frames(error)
        assert error.__context__ is None and error.__traceback__ is None
        assert "LookupError: first" in str(error.__cause__)
        assert "RuntimeError: second" in str(error.__cause__)


@pytest.mark.parametrize("exit_by", ["SIGKILL", "_exit"])
def test_attributes_of_a_task(start_method, exit_by):
    """The error describes the worker that exited while running the task."""
    is_killed = exit_by == "SIGKILL"
    if start_method == "forkserver" and not FORK_SERVER_REPORTS_SIGNALS:
        pytest.skip("the fork server does not report how a process exited")
    pool = create_pool(start_method, 1)
    try:
        [worker] = list(pool._pool)
        pid, name = worker.pid, worker.name
        error = error_of(pool.apply_async(exit_at_three, (3, exit_by)))
        assert type(error) is WorkerLostError
        exitcode = 3 if not is_killed else int(KILL) if WINDOWS else -int(KILL)
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


def test_terminated_pool(start_method):
    """The task fails because of the pool, not because of a worker."""
    pool = create_pool(start_method, 1)
    result = pool.apply_async(wait_long)
    end_pool(pool)
    error = error_of(result)
    assert type(error) is WorkerLostError and attributes(error) == (None, None, None)
