"""Exceptions in the standard functions that the pool's three threads run."""

import contextlib
import gc
import logging
import multiprocessing
import multiprocessing.pool
import os
import sys
import threading
import time
import types
import weakref

import pytest
from conftest import TIMEOUT, call_with_timeout, counts_references, join_in_time, wait_until
from multiprocessing_initret import ThreadPool, WorkerLostError
from multiprocessing_initret._parent import thread_guard
from multiprocessing_initret._parent.thread_guard import ThreadGuard
from multiprocessing_initret._parent.workforce import Workforce
from pool_support import KILL, add, check_pool, create_pool, end_pool, error_of


class FailingHandler(logging.Handler):
    """A log handler that raises an exception for one message, in the process that created it."""

    def __init__(self, text):
        super().__init__()
        self.text, self.pid, self.threads = text, os.getpid(), []

    def handle(self, record):
        if os.getpid() == self.pid and self.text in record.getMessage():
            self.threads.append(threading.current_thread())
            raise ZeroDivisionError("unexpected")


@pytest.fixture
def fail(add_log_handler):
    """Return a function that makes the threads of all pools fail at one debugging message."""
    logger = multiprocessing.get_logger()
    level = logger.level

    def fail(text):
        handler = FailingHandler(text)
        add_log_handler(handler)
        logger.setLevel(logging.DEBUG)
        return handler

    yield fail
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def reported(monkeypatch):
    """Replace threading.excepthook(), and return the list of the exceptions that it receives."""
    errors = []
    if hasattr(threading, "excepthook"):  # since Python 3.8
        # pytest replaces threading.excepthook(), and may do so between this fixture and the test.
        names = {**vars(threading), "excepthook": lambda args: errors.append(args.exc_value)}
        monkeypatch.setattr(thread_guard, "threading", types.SimpleNamespace(**names))
    else:
        monkeypatch.setattr(sys, "excepthook", lambda cls, error, traceback: errors.append(error))
    return errors


@pytest.fixture
def pool():
    pool = create_pool(multiprocessing.get_all_start_methods()[0])
    check_pool(pool)
    return pool


@pytest.fixture(params=["processes", "threads"])
def any_pool(request):
    if request.param == "processes":
        return request.getfixturevalue("pool")
    return ThreadPool(2, int, (40,), expect_initret=True)


def wait(item=None, *, initret):
    time.sleep(TIMEOUT)


def check_broken(pool, text, *pending):
    """Check that pending and later tasks fail, and that the pool can be closed."""
    results = [*pending, pool.map_async(wait, range(5)), pool.apply_async(wait)]
    for result in results:
        error = error_of(result)
        assert type(error) is WorkerLostError and text in str(error)
    with pytest.raises(WorkerLostError):
        call_with_timeout(pool.imap(wait, [1]).next)
    end_pool(pool, "close")
    end_pool(pool, "terminate")


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_worker_handler(pool, fail, reported, end):
    """The thread fails after a worker has exited.  The task of the other worker fails, too."""
    handler = fail("cleaning up worker")
    pending = [pool.apply_async(wait) for _ in range(2)]
    os.kill(pool._pool[0].pid, KILL)
    for result in pending:
        assert type(error_of(result)) is WorkerLostError
    error = error_of(pool.apply_async(add, (1,)))
    assert "ZeroDivisionError" in str(error) and "in the worker handler" in str(error)
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert [error.__cause__] == reported
    assert handler.threads[:1] == [pool._worker_handler]
    if end == "close":
        check_broken(pool, "in the worker handler")
    end_pool(pool, "terminate")
    assert not multiprocessing.active_children()


@pytest.mark.skipif(sys.version_info < (3, 8), reason="the worker handler polls")
def test_worker_handler_cannot_wait(pool, monkeypatch):
    """The program may have closed the descriptor of a sentinel, for example."""

    def fail_to_wait(*args, **kwds):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(multiprocessing.pool, "wait", fail_to_wait)
    pool._change_notifier.put(None)
    check_broken(pool, "Bad file descriptor")


def test_task_handler(pool, fail, reported):
    """The thread fails after it has sent the tasks of an imap()."""
    pending = pool.apply_async(wait)
    handler = fail("doing set_length()")
    with pytest.raises(WorkerLostError):
        iterator = pool.imap(wait, [1, 2])
        call_with_timeout(iterator.next)
    check_broken(pool, "in the task handler", pending)
    assert len(handler.threads) == len(reported) == 1


def test_result_handler(pool, reported):
    """The thread receives a result that it cannot unpack."""
    pending = pool.apply_async(wait)
    collector = pool._quick_get.__self__
    collector.call_soon(collector._ready.append, ())
    check_broken(pool, "in the result handler", pending)
    assert [type(error) for error in reported] == [ValueError]


def raise_(error):
    raise error


def test_result_handler_fails_twice(pool, reported):
    """The second exception is an OSError, which _handle_results() treats as the end of results."""
    pending = pool.apply_async(wait)
    collector = pool._quick_get.__self__
    collector.call_soon(raise_, ZeroDivisionError("unexpected"))
    collector.call_soon(raise_, OSError())
    for _ in range(9):
        error_of(pool.apply_async(wait))
    wait_until(lambda: not collector._calls)  # posted calls must not accumulate
    check_broken(pool, "in the result handler", pending)
    assert [type(error) for error in reported] == [RuntimeError]


def raise_first():
    raise ZeroDivisionError("first")


def raise_second(*args):
    raise OSError("second")


@counts_references
@pytest.mark.parametrize("second", ["a call", "broken_error"])
def test_failures_keep_no_frames(reported, no_collector, monkeypatch, second):
    """The exceptions do not keep the frames they were raised through."""
    pool = create_pool(multiprocessing.get_all_start_methods()[0])
    collector = weakref.ref(pool._quick_get.__self__)
    result = pool.apply_async(wait)
    wait_until(lambda: collector()._tasks.in_flight())
    if second == "broken_error":  # break_pool() calls it
        monkeypatch.setattr(Workforce, "broken_error", raise_second)
    collector().call_soon(raise_first)
    if second == "a call":
        collector().call_soon(raise_second)
    assert type(error_of(result)) is WorkerLostError
    end_pool(pool, "terminate")
    assert [type(error) for error in reported] == [RuntimeError]
    reported.clear()
    del pool
    wait_until(lambda: collector() is None)


def wait_for(event, initret):
    event.wait(TIMEOUT)


@pytest.mark.parametrize("name", ["_handle_tasks", "_handle_results"])
def test_thread_pool(monkeypatch, name):
    """One of the threads of a ThreadPool fails at once."""

    def fail(*args):
        raise ZeroDivisionError("unexpected")

    monkeypatch.setattr(multiprocessing.pool.Pool, name, fail)
    event = threading.Event()
    pool = ThreadPool(2, int, (40,), expect_initret=True)
    results = [pool.apply_async(wait_for, (event,)), pool.map_async(wait_for, [event] * 5)]
    for result in results:
        error = error_of(result)
        assert type(error) is WorkerLostError and "unexpected" in str(error)
        assert isinstance(error.__cause__, ZeroDivisionError)
    event.set()
    end_pool(pool, "close")


def test_worker_handler_of_a_thread_pool(monkeypatch):
    """The threads run their tasks all the same, as in the standard pool, and the pool ends."""

    def fail(*args):
        raise ZeroDivisionError("unexpected")

    monkeypatch.setattr(multiprocessing.pool.Pool, "_handle_workers", fail)
    pool = ThreadPool(2, int, (40,), expect_initret=True)
    wait_until(lambda: not pool._cache)
    assert pool.apply_async(sleep_and_add, (0.3,)).get(TIMEOUT) == 40.3
    end_pool(pool, "close")


def sleep_and_add(seconds, initret):
    time.sleep(seconds)
    return seconds + initret


@counts_references
@pytest.mark.skipif(sys.version_info < (3, 8), reason="the pool's threads refer to the pool")
def test_broken_pool_is_collected(fail):
    """Its error does not keep the frames of callers, which may refer to the pool."""
    threads = []

    def use_pool():
        pool = create_pool(multiprocessing.get_all_start_methods()[0])
        handler = fail("doing set_length()")
        threads.append(pool._task_handler)
        for _ in range(3):
            with contextlib.suppress(WorkerLostError):
                pool.imap(wait, [1]).next(TIMEOUT)
        assert handler.threads == threads

    def has_ended():
        # Each time, because a thread of the pool may refer to it for a moment.
        gc.collect()
        return not threads[0].is_alive()

    use_pool()
    wait_until(has_ended)


@pytest.mark.parametrize(
    "text",
    [
        "worker handler exiting",
        "task handler got sentinel",
        "task handler sending sentinel to result handler",
        "task handler sending sentinel to workers",
        "task handler exiting",
        "result handler got sentinel",
        "result handler exiting",
    ],
)
def test_closing_pool(any_pool, fail, reported, text):
    """One thread fails while the pool is closing.  The others end, and the workers exit."""
    pool = any_pool
    result = pool.map_async(add, range(3))
    handler = fail(text)
    pool.close()
    join_in_time(pool)
    assert result.get() == [40, 41, 42]
    assert len(handler.threads) == len(reported) == 1
    end_pool(pool, "terminate")
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "text",
    [
        "worker handler exiting",
        "task handler found thread._state",
        "task handler sending sentinel to workers",
        "result handler found thread._state",
        "result handler exiting",
    ],
)
def test_terminated_pool(pool, fail, text):
    """A thread fails when the pool is terminated."""
    pending = pool.imap(wait, iter(int, 1))
    fail(text)
    end_pool(pool, "terminate")
    with pytest.raises(WorkerLostError):
        call_with_timeout(pending.next)
    assert not multiprocessing.active_children()


def test_decorated_constructor(monkeypatch):
    """If a tracer has replaced the constructor, pools work, but their threads are not guarded."""
    standard, calls = multiprocessing.pool.Pool.__init__, []

    def constructor(*args, **kwds):
        calls.append(args)
        standard(*args, **kwds)

    constructor.__wrapped__ = standard
    monkeypatch.setattr(multiprocessing.pool.Pool, "__init__", constructor)
    assert ThreadGuard().constructor(multiprocessing.pool) is constructor
    pool = create_pool(multiprocessing.get_all_start_methods()[0])
    check_pool(pool)
    end_pool(pool, "close")
    assert len(calls) == 1


def test_names_of_threads(any_pool):
    """Since Python 3.10, a thread has the name of its function."""
    plain = multiprocessing.pool.ThreadPool(1)
    for name in "_worker_handler", "_task_handler", "_result_handler":
        ours, standard = getattr(any_pool, name).name, getattr(plain, name).name
        assert ours.partition(" ")[2] == standard.partition(" ")[2]
    for ended in plain, any_pool:
        end_pool(ended, "close")
