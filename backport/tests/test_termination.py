"""A pool is closed or terminated, at any moment."""

import contextlib
import gc
import multiprocessing
import multiprocessing.pool
import os
import signal
import sys
import threading

import multiprocessing_initret
import pytest
from conftest import TIMEOUT, ends, linux, wait_until
from multiprocessing_initret._parent import reaper
from pool_support import (
    KILL,
    KILLED,
    PartialOf,
    add,
    block,
    check,
    echo,
    is_lost,
    leave_at_three,
    main_rows,
    needs_signals,
    outcome,
    outcomes,
    pid_said,
    say_and_wait,
    settled,
)


def wait_for(event, initret):
    event.wait(TIMEOUT)


def awaited(pool, func, argument):
    """Start a call of each kind that no worker ends."""
    chunks = pool.imap(func, [argument] * 3, 2)
    return [
        pool.apply_async(func, (argument,)).get,
        pool.map_async(func, [argument] * 3, chunksize=2).get,
        pool.starmap_async(func, [(argument,)] * 3).get,
        pool.imap(func, [argument] * 3).next,
        pool.imap_unordered(func, [argument] * 3).next,
        lambda timeout: next(chunks),
    ]


def check_end(pool, calls, terminate):
    """See that a pool ends all calls that are awaited."""
    found = []

    def wait(get):
        try:
            found.append(get(TIMEOUT))
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=wait, args=(get,), daemon=True) for get in calls]
    for thread in threads:
        thread.start()
    terminate()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert len(found) == len(calls)
    assert all(is_lost(error, "terminated") for error in found), found


@pytest.mark.skipif(sys.version_info < (3, 8), reason="the pool looks elsewhere")
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_end_after_the_pool_has_looked(make, monkeypatch, end):
    """Another thread ends the pool when a call has found it running."""
    pool = make(1)
    check(pool)
    monkeypatch.setattr(pool, "_check_running", getattr(pool, end))
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply_async(add, (1,))
    ends(pool)


@pytest.mark.parametrize("by", ["terminate", "with"])
@main_rows
def test_terminate(make, tmp_path, by):
    pool = make()
    path = str(tmp_path / "inside")
    with contextlib.ExitStack() as stack:
        if by == "with":
            stack.enter_context(pool)
        calls = awaited(pool, block, path)
        wait_until(lambda: os.path.exists(path))
        check_end(pool, calls, stack.close if by == "with" else pool.terminate)
        ends(pool)


@pytest.mark.parametrize("by", ["terminate", "with"])
def test_terminate_threads(thread_pool, by):
    pool = thread_pool()
    event = threading.Event()
    with contextlib.ExitStack() as stack:
        if by == "with":
            stack.enter_context(pool)
        calls = awaited(pool, wait_for, event)
        try:
            check_end(pool, calls, stack.close if by == "with" else pool.terminate)
        finally:
            event.set()


def leave_late(value):
    """Handle SIGTERM in Python, and not while the worker waits for the lock of the pipe."""
    signal.signal(signal.SIGTERM, lambda *args: os._exit(0))
    lock = sys._getframe(1).f_locals["self"]._inqueue._rlock
    acquire = lock.acquire

    def acquire_first(*args):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        is_acquired = acquire(*args)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return is_acquired

    lock.acquire = acquire_first
    return value


@needs_signals
def test_terminate_where_workers_handle_the_signal(make):
    # So may any handler in Python be late: it runs when the worker is back from the system.
    pool = make(4, leave_late)
    check(pool)
    settled(pool, 4)
    workers = list(pool._pool)
    thread = threading.Thread(target=pool.terminate, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if thread.is_alive():
        for worker in workers:  # or the pool would not end, nor this test
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
    assert -signal.SIGKILL not in [worker.exitcode for worker in workers]


def test_close_while_a_task_runs(make, thread_pool, tmp_path):
    for pool in make(), thread_pool():
        path = str(tmp_path / "inside")
        result = pool.apply_async(block, (path,))
        wait_until(lambda: os.path.exists(path))  # noqa: B023
        pool.close()
        if hasattr(pool, "_change_notifier"):
            # From Python 3.8: the thread that handles workers has seen that the pool is
            # closed, and waits for the last result.
            wait_until(pool._change_notifier.empty)
        os.remove(path)
        assert outcome(result) is None
        ends(pool)


class Slow:
    """Items whose number is asked for while another thread ends the pool."""

    def __init__(self, end):
        self.end = end

    def __len__(self):
        if self.end:
            thread = threading.Thread(target=self.end)
            self.end = None
            thread.start()
            thread.join(TIMEOUT)
        return 3

    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_pool_ends_while_a_task_is_made(make, thread_pool, end):
    for pool in make(), thread_pool():
        with pytest.raises(ValueError):
            pool.map_async(add, Slow(getattr(pool, end)))
        ends(pool)


@pytest.mark.parametrize("where", ["one has left", "one starts"])
def test_garbage_collector_ends_the_pool(make, monkeypatch, where):
    # In the thread that handles workers.
    pool = make(2)
    check(pool)

    def collect(self, *args):
        monkeypatch.undo()
        if where == "one starts":
            # It runs, and nothing is known of it yet.
            self.start()
            popen, self._popen = self._popen, None
            pool.terminate()
            self._popen = popen
        else:
            pool.terminate()

    if where == "one starts":
        monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", collect)
    else:
        monkeypatch.setattr(reaper.Reaper, "ensure_exit", collect)
    result = pool.apply_async(leave_at_three, (3, "_exit"))
    error = outcome(result)
    assert is_lost(error) and "broken" not in str(error)
    wait_until(lambda: pool._state != multiprocessing.pool.RUN)
    ends(pool)


def test_an_iterator_has_what_came_before_the_end(make, tmp_path):
    pool = make(1)
    path = str(tmp_path / "inside")
    iterator = pool.imap(first_of_pair, [(echo, 1), (echo, 2), (block, path), (echo, 3)])
    wait_until(lambda: os.path.exists(path))
    pool.terminate()
    found = outcomes(iterator)
    assert found[:2] == [1, 2]
    assert is_lost(found[2], "terminated") and len(found) == 3


def first_of_pair(pair, initret):
    func, argument = pair
    return func(argument, initret)


@pytest.mark.parametrize("processes", [1, 3])
def test_killed_while_the_pool_closes(make, tmp_path, processes):
    pool = make(processes)
    path = str(tmp_path / "inside")
    inside = pool.apply_async(say_and_wait, (path,))
    waiting = pool.map_async(add, range(4), chunksize=1)
    pid = pid_said(path)
    pool.close()
    os.kill(pid, KILL)
    ends(pool)
    assert is_lost(outcome(inside), KILLED)
    assert outcome(waiting) == [40, 41, 42, 43]


@pytest.mark.parametrize("end", ["close", "terminate"])
@pytest.mark.parametrize("processes", [1, 3])
def test_idle_workers_killed_while_the_pool_ends(make, processes, end):
    for order in "kill first", "end first":
        pool = make(processes)
        check(pool)
        settled(pool, processes)
        workers = list(pool._pool)
        if order == "end first":
            getattr(pool, end)()
        for worker in workers:
            with contextlib.suppress(OSError):
                os.kill(worker.pid, KILL)
        getattr(pool, end)()
        ends(pool)


def test_terminate_right_after_a_kill(make, tmp_path):
    pool = make(2)
    path = str(tmp_path / "inside")
    inside = pool.apply_async(say_and_wait, (path,))
    waiting = pool.apply_async(block, (path + ".other",))
    pid = pid_said(path)
    os.kill(pid, KILL)
    pool.terminate()
    ends(pool)
    assert is_lost(outcome(inside)) and is_lost(outcome(waiting))


def test_close_with_nothing_left_but_lost_tasks(make):
    pool = make(2)
    results = [pool.apply_async(leave_at_three, (3, "_exit")) for _ in range(5)]
    pool.close()
    ends(pool)
    assert all(is_lost(outcome(result)) for result in results)


def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("end", ["close", "terminate"])
@linux
def test_nothing_is_left_behind(make, start_method, end):
    def use():
        pool = multiprocessing_initret.Pool(
            2, int, (40,), context=multiprocessing.get_context(start_method), expect_initret=True
        )
        found = outcomes(pool.imap(PartialOf(leave_at_three, "SIGKILL"), range(6)))
        assert is_lost(found[3])
        getattr(pool, end)()
        ends(pool)

    use()
    before = descriptors(), threading.active_count()
    for _ in range(8):
        use()
    wait_until(lambda: descriptors() <= before[0])
    assert threading.active_count() <= before[1]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("end", ["close", "terminate"])
@linux
@pytest.mark.skipif(not hasattr(sys, "getrefcount"), reason="all waits for it on PyPy")
def test_nothing_waits_for_the_garbage_collector(start_method, end, no_collector):
    def use():
        pool = multiprocessing_initret.Pool(
            2, int, (40,), context=multiprocessing.get_context(start_method), expect_initret=True
        )
        check(pool)
        getattr(pool, end)()
        ends(pool)
        del pool
        return len(os.listdir("/proc/self/fd"))

    before = use()
    assert [use() for _ in range(4)] == [before] * 4
