"""Unexpected exceptions in the pool's three threads, and in code of the program that they call."""

import multiprocessing
import os
import sys
import threading

import pytest
from conftest import TIMEOUT, call_with_timeout, posix, wait_until
from multiprocessing_initret import ThreadPool, WorkerLostError
from multiprocessing_initret._parent import standard_pool
from multiprocessing_initret._parent.collector import Collector
from multiprocessing_initret._parent.launcher import Launcher
from multiprocessing_initret._parent.process_supervisor import ProcessSupervisor
from multiprocessing_initret._parent.reaper import Reaper
from multiprocessing_initret._parent.starter import Starter
from multiprocessing_initret._parent.workforce import Workforce
from pool_support import (
    KILL,
    FullLog,
    add,
    check_pool,
    create_pool,
    end_pool,
    error_of,
    exit_at_three,
    wait_long,
    write_pid_and_wait,
)

# threading.excepthook() reports an exception that ends the function of a thread.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def pool():
    pool = create_pool(multiprocessing.get_all_start_methods()[0])
    check_pool(pool)
    yield pool
    end_pool(pool)


def raise_unexpected(*args, **kwds):
    raise ZeroDivisionError("unexpected")


def kill(worker):
    os.kill(worker.pid, KILL)


def check_broken(pool, *results):
    """Check that pending and later tasks fail with the cause, and that the pool ends."""
    results = [*results, pool.apply_async(add, (1,)), pool.map_async(add, range(5), chunksize=1)]
    for result in results:
        error = error_of(result)
        assert type(error) is WorkerLostError and "the pool is broken" in str(error)
        assert isinstance(error.__cause__, ZeroDivisionError)
        assert "in raise_unexpected" in str(error.__cause__.__cause__)
    with pytest.raises(WorkerLostError) as caught:
        pool.imap(add, [1]).next(TIMEOUT)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    end_pool(pool, "close")
    end_pool(pool, "terminate")
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "cls, name",
    [
        (Reaper, "reap"),
        (Reaper, "_recover"),
        (ProcessSupervisor, "_create"),
        (Starter, "_try_to_start"),
        (Starter, "_handle_failed_start"),
    ],
)
def test_worker_handler(pool, monkeypatch, cls, name):
    """The worker handler fails while it reaps a killed worker or starts the replacement."""
    result = pool.apply_async(wait_long)
    if name == "_handle_failed_start":
        monkeypatch.setattr(Launcher, "launch", raise_unexpected)
    monkeypatch.setattr(cls, name, raise_unexpected)
    # One of the two workers runs the task.
    kill(pool._pool[0])
    # If that worker was killed, the task may have failed for this reason, before the pool breaks.
    pending = [result] if "the pool is broken" in str(error_of(result)) else []
    workforce = pool._quick_put.__self__._workforce
    wait_until(lambda: workforce.broken)
    check_broken(pool, *pending)


def test_task_handler(pool, monkeypatch):
    """The task that could not be sent fails, and so do all others."""
    pending = pool.apply_async(wait_long)
    monkeypatch.setattr(ProcessSupervisor, "_send_task", raise_unexpected)
    check_broken(pool, pending, pool.apply_async(add, (1,)))


@posix
def test_task_handler_has_sent_a_part_of_a_message(pool, monkeypatch):
    """The next message would be taken for the rest of this one."""
    from multiprocessing_initret._parent import posix_task_pipe

    monkeypatch.setattr(posix_task_pipe, "_wait_until_writable", raise_unexpected)
    # Both workers are busy, and the pipe has no room for the whole message.
    pending = [pool.apply_async(wait_long) for _ in range(2)]
    check_broken(pool, *pending, pool.apply_async(add, (bytes(10**6),)))


def test_task_handler_of_a_pool_that_closes(pool, monkeypatch):
    """The task handler cannot send the messages that make workers exit."""
    monkeypatch.setattr(ProcessSupervisor, "_shut_down_workers", raise_unexpected)
    end_pool(pool, "close")
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("name", ["_receive", "_deliver", "_run_calls"])
def test_result_handler(pool, monkeypatch, name):
    """The posted calls that fail tasks may raise an exception, too."""
    pending = pool.apply_async(wait_long)
    monkeypatch.setattr(Collector, name, raise_unexpected)
    results = [pending]
    if name == "_run_calls":
        kill(pool._pool[0])
    else:
        results.append(pool.apply_async(add, (1,)))
    for result in results:
        assert type(error_of(result)) is WorkerLostError
    assert type(error_of(pool.apply_async(add, (1,)))) is WorkerLostError
    end_pool(pool, "close")
    end_pool(pool, "terminate")
    assert not multiprocessing.active_children()


@posix
def test_worker_that_cannot_be_terminated(pool, monkeypatch):
    """The process has changed its user, so it must not send signals to the worker."""

    def refuse(process):
        raise PermissionError

    pending = pool.apply_async(wait_long)
    with monkeypatch.context() as patch:
        patch.setattr(multiprocessing.process.BaseProcess, "terminate", refuse)
        patch.setattr(Collector, "_deliver", raise_unexpected)
        for result in pool.apply_async(add, (1,)), pending, pool.apply_async(add, (1,)):
            assert type(error_of(result)) is WorkerLostError
    assert pool._result_handler.is_alive()


def test_pool_that_cannot_be_broken(pool, monkeypatch):
    """The result handler fails the tasks all the same."""

    def fail_to_break(*args):
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(Workforce, "break_pool", fail_to_break)
        patch.setattr(Collector, "_deliver", raise_unexpected)
        assert type(error_of(pool.apply_async(add, (1,)))) is WorkerLostError
    assert type(error_of(pool.apply_async(add, (1,)))) is WorkerLostError


def test_iterator_fails_before_its_tasks_are_generated(pool, monkeypatch):
    """The task handler sets its length afterwards, and must not make it wait for more items."""
    generate = pool._guarded_task_generation

    def fail_and_generate(*args):
        pool._cache.fail_all(WorkerLostError("failed"))
        return generate(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pool, "_guarded_task_generation", fail_and_generate)
        iterator = pool.imap(add, [1, 2, 3])
    check_pool(pool)
    with pytest.raises(WorkerLostError):
        iterator.next(TIMEOUT)
    with pytest.raises(StopIteration):
        iterator.next(TIMEOUT)


def test_result_handler_counts_a_chunk_while_a_map_fails(pool, tmp_path):
    result = pool.map_async(write_pid_and_wait, [str(tmp_path / "inside")])
    result._number_left -= 1  # the result handler has not compared it with 0 yet
    call_with_timeout(pool._cache.cancel_all, WorkerLostError("failed"), False)
    assert type(error_of(result)) is WorkerLostError


def test_result_handler_sets_a_chunk_while_a_map_fails(pool, tmp_path):
    """The result must not contain None for the chunks that are missing."""
    paths = [str(tmp_path / name) for name in ["1", "2", "3"]]
    result = pool.map_async(write_pid_and_wait, paths, chunksize=1)
    standard_pool.expect_failure(result, WorkerLostError("failed"))
    result._set(0, (True, [0]))  # by the result handler
    assert type(error_of(result)) is WorkerLostError


def test_map_that_has_failed_keeps_its_exception(pool, tmp_path):
    paths = [str(tmp_path / name) for name in ["1", "2", "3"]]
    result = pool.map_async(write_pid_and_wait, paths, chunksize=1)
    result._set(0, (False, ZeroDivisionError()))
    call_with_timeout(pool._cache.cancel_all, WorkerLostError("failed"), False)
    assert type(error_of(result)) is ZeroDivisionError


def test_task_is_sent_just_before_the_result_handler_ends(pool, monkeypatch):
    calls, failed, both_failed = [], [], threading.Event()

    def run_calls(self):
        calls.append(None)
        if len(calls) > 1:
            assert both_failed.wait(TIMEOUT)
        raise_unexpected()

    def fail(self, *args):
        standard_fail(self, *args)
        failed.append(args)
        if len(failed) == 2:
            both_failed.set()

    standard_fail = Collector.fail
    monkeypatch.setattr(Collector, "_run_calls", run_calls)
    monkeypatch.setattr(Collector, "fail", fail)
    pending = pool.apply_async(wait_long)
    kill(pool._pool[0])
    assert type(error_of(pending)) is WorkerLostError
    # When the second of these tasks fails, the task handler has finished with the first.
    for result in [pool.apply_async(add, (1,)), pool.apply_async(add, (2,))]:
        assert type(error_of(result)) is WorkerLostError


def test_result_handler_and_the_cause(pool, monkeypatch):
    pending = pool.apply_async(wait_long)
    monkeypatch.setattr(Collector, "_deliver", raise_unexpected)
    check_broken(pool, pending, pool.apply_async(add, (1,)))


#
# Code of the program that the threads call
#


@pytest.mark.parametrize("error", [OSError, SystemExit])
def test_log_handler_raises(pool, add_log_handler, error):
    """The result handler logs that a worker has exited, and continues."""
    add_log_handler(FullLog(error))
    for _ in range(3):
        assert type(error_of(pool.apply_async(exit_at_three, (3, "_exit")))) is WorkerLostError
        check_pool(pool)


def test_log_handler_raises_when_the_pool_breaks(pool, add_log_handler, monkeypatch):
    add_log_handler(FullLog(SystemExit))
    pending = pool.apply_async(wait_long)
    monkeypatch.setattr(ProcessSupervisor, "_send_task", raise_unexpected)
    check_broken(pool, pending, pool.apply_async(add, (1,)))


def test_pool_breaks_once(pool, log):
    """Other threads may find a reason, too.  The first one counts, and alone is logged."""
    workforce = pool._quick_put.__self__._workforce
    for reason in "first", "second":
        workforce.break_pool(reason)
    assert str(error_of(pool.apply_async(add, (1,)))) == "the pool is broken: first"
    assert [record.getMessage() for record in log] == ["the pool is broken: first"]


def raise_in_hook(*args):
    raise OSError("stderr is closed")


@pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_callback_and_excepthook_raise(pool, monkeypatch, kind, error):
    if kind == "threads":
        pool = ThreadPool(2, int, (40,), expect_initret=True)

    def callback(value):
        raise error("callback")

    monkeypatch.setattr(sys, "excepthook", raise_in_hook)
    callbacks = {"callback": callback, "error_callback": callback}
    for _ in range(2):
        assert pool.apply_async(add, (1,), **callbacks).get(TIMEOUT) == 41
        assert pool.map_async(add, range(3), **callbacks).get(TIMEOUT) == [40, 41, 42]
        assert isinstance(error_of(pool.apply_async(add, ("",), **callbacks)), TypeError)
        assert isinstance(error_of(pool.map_async(add, [""], **callbacks)), TypeError)
    check_pool(pool)
    if kind == "threads":
        end_pool(pool, "close")


class RecordingLock:
    """A lock that records whether a thread of the pool is in the section when it acquires it."""

    def __init__(self, lock, section, thread):
        self._lock, self._section, self._thread = lock, section, thread
        self.seen = []

    def __enter__(self):
        if threading.current_thread() is self._thread:
            self.seen.append(self._section.is_entered())
        self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()


def test_worker_handler_fails_in_a_critical_section(pool, monkeypatch):
    """The garbage collector must not terminate the pool while its lock is held."""
    workforce = pool._quick_put.__self__._workforce
    lock = RecordingLock(workforce._lock, workforce._section, pool._worker_handler)
    monkeypatch.setattr(workforce, "_lock", lock)
    monkeypatch.setattr(Reaper, "reap", raise_unexpected)
    result = pool.apply_async(wait_long)
    kill(pool._pool[0])
    error_of(result)
    assert len(lock.seen) >= 2 and all(lock.seen)


def test_worker_is_started_in_a_critical_section(pool, monkeypatch):
    starter = pool._quick_put.__self__._starter
    lock = RecordingLock(starter._lock, starter._section, pool._worker_handler)
    monkeypatch.setattr(starter, "_lock", lock)
    kill(pool._pool[0])
    wait_until(lambda: lock.seen)
    check_pool(pool)
    assert all(lock.seen)
