"""A pool is closed or terminated while its tasks run, wait, or are being submitted."""

import contextlib
import gc
import multiprocessing
import multiprocessing.pool
import multiprocessing.reduction
import multiprocessing.util
import os
import signal
import sys
import threading
import time
from functools import partial

import pytest
from conftest import (
    START_METHODS,
    TIMEOUT,
    call_with_timeout,
    counts_references,
    join_in_time,
    linux,
    posix,
    wait_until,
)
from multiprocessing_initret import WorkerLostError
from multiprocessing_initret._parent import reaper, terminator, workforce
from multiprocessing_initret._parent.critical_section import CriticalSection
from multiprocessing_initret._parent.launcher import Launcher
from multiprocessing_initret._parent.workforce import Workforce
from multiprocessing_initret._shared.record import INITIALIZING
from pool_support import (
    KILL,
    KILLED,
    add,
    block,
    check_pool,
    create_pool,
    echo,
    exit_at_three,
    is_lost,
    result_or_exception,
    results_and_exceptions,
    unblock,
    wait_for_pid,
    wait_until_idle,
    with_multiprocess,
    write_pid_and_wait,
)


def wait_for_event(event, initret):
    event.wait(TIMEOUT)


def start_calls(pool, func, argument):
    """Start a call of each method; return functions that return the first result of each call."""
    chunks = pool.imap(func, [argument] * 3, 2)
    return [
        pool.apply_async(func, (argument,)).get,
        pool.map_async(func, [argument] * 3, chunksize=2).get,
        pool.starmap_async(func, [(argument,)] * 3).get,
        pool.imap(func, [argument] * 3).next,
        pool.imap_unordered(func, [argument] * 3).next,
        lambda timeout: next(chunks),
    ]


def check_termination(pool, calls, terminate):
    """Check that the calls that threads wait for fail when a pool is terminated."""
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


@pytest.mark.skipif(sys.version_info < (3, 8), reason="the pool has no _check_running()")
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_pool_ends_after_the_check_that_it_is_running(make_pool, monkeypatch, end):
    """Race: another thread ends the pool after a call has checked that it is running."""
    pool = make_pool(1)
    check_pool(pool)
    monkeypatch.setattr(pool, "_check_running", getattr(pool, end))
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply_async(add, (1,))
    join_in_time(pool)


@pytest.mark.parametrize("by", ["terminate", "with"])
@with_multiprocess
def test_terminate(make_pool, tmp_path, by):
    pool = make_pool()
    path = str(tmp_path / "inside")
    with contextlib.ExitStack() as stack:
        if by == "with":
            stack.enter_context(pool)
        calls = start_calls(pool, block, path)
        wait_until(lambda: os.path.exists(path))
        check_termination(pool, calls, stack.close if by == "with" else pool.terminate)
        join_in_time(pool)


@pytest.mark.parametrize("by", ["terminate", "with"])
def test_terminate_threads(make_thread_pool, by):
    pool = make_thread_pool()
    event = threading.Event()
    with contextlib.ExitStack() as stack:
        if by == "with":
            stack.enter_context(pool)
        calls = start_calls(pool, wait_for_event, event)
        try:
            check_termination(pool, calls, stack.close if by == "with" else pool.terminate)
        finally:
            event.set()


def exit_on_sigterm(value):
    """Initializer: handle SIGTERM, but only after the worker has acquired the lock of the pipe."""
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


@posix
def test_terminate_while_workers_handle_sigterm(make_pool):
    # Any handler written in Python may run that late: it runs after acquire() has returned.
    pool = make_pool(4, exit_on_sigterm)
    check_pool(pool)
    wait_until_idle(pool, 4)
    workers = list(pool._pool)
    thread = threading.Thread(target=pool.terminate, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if thread.is_alive():
        for worker in workers:  # otherwise the test would hang
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
    assert -signal.SIGKILL not in [worker.exitcode for worker in workers]


def test_close_while_a_task_runs(make_pool, make_thread_pool, tmp_path):
    for pool in make_pool(), make_thread_pool():
        path = str(tmp_path / "inside")
        result = pool.apply_async(block, (path,))
        wait_until(lambda: os.path.exists(path))  # noqa: B023
        pool.close()
        if hasattr(pool, "_change_notifier"):
            # Since Python 3.8: the worker handler has seen that the pool is closed, and waits
            # for the last result.
            wait_until(pool._change_notifier.empty)
        unblock(path)
        assert result_or_exception(result) is None
        join_in_time(pool)


class EndsPoolInLen:
    """An iterable whose length is read while another thread ends the pool."""

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
def test_pool_ends_while_a_call_reads_the_length(make_pool, make_thread_pool, end):
    for pool in make_pool(), make_thread_pool():
        with pytest.raises(ValueError):
            pool.map_async(add, EndsPoolInLen(getattr(pool, end)))
        join_in_time(pool)


def write_at_exit(directory):
    path = os.path.join(directory, str(os.getpid()))
    multiprocessing.util.Finalize(None, open, (path, "w"), exitpriority=0)
    return 40


def test_idle_workers_exit_by_themselves(make_pool, monkeypatch, tmp_path):
    """Programs such as coverage write files when a worker exits."""
    monkeypatch.setattr(workforce, "_IDLE_TIMEOUT", TIMEOUT)
    pool = make_pool(3, write_at_exit, (str(tmp_path),))
    check_pool(pool)
    workers = {str(worker.pid) for worker in pool._pool}
    wait_until(lambda: all(worker.record.state > INITIALIZING for worker in list(pool._pool)))
    pool.terminate()
    assert set(os.listdir(str(tmp_path))) == workers


@posix
def test_terminate_in_the_task_handler(make_pool, monkeypatch):
    """The task pipe may contain a part of a message, after a worker was killed."""
    pool = make_pool()
    terminate = Workforce.terminate

    def terminate_and_leave_a_part(workforce):
        terminate(workforce)
        os.write(pool._inqueue._writer.fileno(), b"\0\0")

    def items():
        yield 1
        pool.terminate()

    monkeypatch.setattr(Workforce, "terminate", terminate_and_leave_a_part)
    pool.imap(add, items())
    call_with_timeout(pool._task_handler.join)
    join_in_time(pool)


@posix
@pytest.mark.parametrize("start_method", {"forkserver"} & set(START_METHODS))
def test_garbage_collector_terminates_a_pool_while_another_one_starts(make_pool, monkeypatch):
    """The fork server waits for the request, and would not report that workers have exited."""
    pool, sendfds = make_pool(), multiprocessing.reduction.sendfds

    def terminate_and_send(*args):
        monkeypatch.undo()
        pool.terminate()
        return sendfds(*args)

    monkeypatch.setattr(multiprocessing.reduction, "sendfds", terminate_and_send)
    other = call_with_timeout(make_pool)
    check_pool(other)
    join_in_time(pool)


@posix
@counts_references
@pytest.mark.skipif("forkserver" not in START_METHODS, reason="needs a fork server")
@pytest.mark.skipif(sys.version_info < (3, 8), reason="the pool's threads refer to the pool")
@pytest.mark.parametrize("is_in_cycle", [False, True])
def test_pool_is_garbage_while_the_program_starts_a_process(monkeypatch, is_in_cycle):
    """The fork server waits for the request, and the worker handler for the fork server."""
    is_starting, may_start = threading.Event(), threading.Event()
    launch, sendfds = Launcher.launch, multiprocessing.reduction.sendfds
    threads = threading.active_count()
    pools = [create_pool("forkserver", 2)]

    def wait_and_launch(self, workers):
        is_starting.set()
        assert may_start.wait(TIMEOUT)
        return launch(self, workers)

    def drop_pool_and_send(*args):
        monkeypatch.undo()
        may_start.set()
        if is_in_cycle:
            pools[0].cycle = pools[0]
        pools.clear()
        gc.collect()
        return sendfds(*args)

    handler = pools[0]._worker_handler
    monkeypatch.setattr(Launcher, "launch", wait_and_launch)
    os.kill(pools[0]._pool[0].pid, KILL)
    assert is_starting.wait(TIMEOUT)
    monkeypatch.setattr(multiprocessing.reduction, "sendfds", drop_pool_and_send)
    process = multiprocessing.get_context("forkserver").Process(target=print)
    call_with_timeout(process.start)
    call_with_timeout(process.join)
    assert process.exitcode == 0
    wait_until(lambda: threading.active_count() <= threads)
    assert not handler.is_alive()


def return_is_entered(initret):
    return CriticalSection().is_entered()


def test_worker_is_not_in_the_section(make_pool):
    """A worker is forked in the section.  A nested pool must end before its `with` block does."""
    assert make_pool().apply_async(return_is_entered).get(TIMEOUT) is False


@pytest.mark.parametrize("step", ["reap", "start"])
def test_garbage_collector_terminates_the_pool(make_pool, monkeypatch, step):
    """The garbage collector runs in the worker handler, which reaps or starts a worker."""
    pool = make_pool(2)
    check_pool(pool)

    def collect(self, *args):
        monkeypatch.undo()
        if step == "start":
            # Race: the process runs, and its attributes are not set yet.
            self.start()
            popen, self._popen = self._popen, None
            pool.terminate()
            self._popen = popen
        else:
            pool.terminate()

    if step == "start":
        monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", collect)
    else:
        monkeypatch.setattr(reaper.Reaper, "ensure_exit", collect)
    result = pool.apply_async(exit_at_three, (3, "_exit"))
    error = result_or_exception(result)
    assert is_lost(error) and "broken" not in str(error)
    wait_until(lambda: pool._state != multiprocessing.pool.RUN)
    join_in_time(pool)


def test_terminate_waits_for_a_result_that_is_being_constructed(make_pool):
    """Ctrl-C may have interrupted map() there.  All other results have failed afterwards."""
    pool = make_pool()
    result = multiprocessing.pool.MapResult.__new__(multiprocessing.pool.MapResult)
    dict.__setitem__(pool._cache, -1, result)
    result = pool.apply_async(wait_for_item, (1,))
    call_with_timeout(pool.terminate)
    assert result.ready() and is_lost(result_or_exception(result), "terminated")


@pytest.mark.parametrize("method", ["imap", "apply_async"])
def test_terminate_with_the_lock_of_a_result(make_pool, monkeypatch, method):
    """A __del__() method calls terminate() in a thread that begins to wait for a result."""
    monkeypatch.setattr(terminator, "_PENDING_TIMEOUT", 0.1)
    pool = make_pool()
    if method == "imap":
        result = pool.imap(wait_for_item, range(9))
        lock = result._cond
    else:
        result = pool.apply_async(wait_for_item, (1,))
        lock = result._event._cond

    def terminate():
        with lock:
            pool.terminate()

    call_with_timeout(terminate)
    error = results_and_exceptions(result) if method == "imap" else [result_or_exception(result)]
    assert list(map(type, error)) == [WorkerLostError]


def wait_for_item(item, initret):
    time.sleep(TIMEOUT)


@posix
@pytest.mark.skipif(sys.version_info < (3, 8), reason="the worker handler polls")
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_terminate_with_the_lock_of_the_notifier(make_thread_pool, kind):
    """A __del__() method calls terminate() in a thread that wakes the worker handler."""
    method = multiprocessing.get_all_start_methods()[0]
    pool = create_pool(method) if kind == "processes" else make_thread_pool()
    calls = []
    notifier, standard = pool._change_notifier, pool.Process.__self__._standard
    put = notifier.put

    def put_and_terminate(obj):
        calls.append(obj)
        if len(calls) == 1:
            with notifier._wlock:
                pool.terminate()
        put(obj)

    notifier.put = put_and_terminate
    call_with_timeout(standard.wake_worker_handler)
    wait_until(lambda: not pool._worker_handler.is_alive())
    join_in_time(pool)


def test_iterator_yields_results_that_arrived_before_termination(make_pool, tmp_path):
    pool = make_pool(1)
    path = str(tmp_path / "inside")
    iterator = pool.imap(call_first, [(echo, 1), (echo, 2), (block, path), (echo, 3)])
    wait_until(lambda: os.path.exists(path) and len(iterator._items) == 2)
    pool.terminate()
    found = results_and_exceptions(iterator)
    assert found[:2] == [1, 2]
    assert is_lost(found[2], "terminated") and len(found) == 3


def call_first(pair, initret):
    func, argument = pair
    return func(argument, initret)


@pytest.mark.parametrize("processes", [1, 3])
def test_worker_killed_while_the_pool_closes(make_pool, tmp_path, processes):
    pool = make_pool(processes)
    path = str(tmp_path / "inside")
    inside = pool.apply_async(write_pid_and_wait, (path,))
    waiting = pool.map_async(add, range(4), chunksize=1)
    pid = wait_for_pid(path)
    pool.close()
    os.kill(pid, KILL)
    join_in_time(pool)
    assert is_lost(result_or_exception(inside), KILLED)
    assert result_or_exception(waiting) == [40, 41, 42, 43]


@pytest.mark.parametrize("end", ["close", "terminate"])
@pytest.mark.parametrize("processes", [1, 3])
def test_idle_workers_killed_while_the_pool_ends(make_pool, processes, end):
    for order in "kill first", "end first":
        pool = make_pool(processes)
        check_pool(pool)
        wait_until_idle(pool, processes)
        workers = list(pool._pool)
        if order == "end first":
            getattr(pool, end)()
        for worker in workers:
            with contextlib.suppress(OSError):
                os.kill(worker.pid, KILL)
        getattr(pool, end)()
        join_in_time(pool)


def test_terminate_right_after_a_kill(make_pool, tmp_path):
    pool = make_pool(2)
    path = str(tmp_path / "inside")
    inside = pool.apply_async(write_pid_and_wait, (path,))
    waiting = pool.apply_async(block, (path + ".other",))
    pid = wait_for_pid(path)
    os.kill(pid, KILL)
    pool.terminate()
    join_in_time(pool)
    assert is_lost(result_or_exception(inside)) and is_lost(result_or_exception(waiting))


def test_close_when_every_task_is_lost(make_pool):
    pool = make_pool(2)
    results = [pool.apply_async(exit_at_three, (3, "_exit")) for _ in range(5)]
    pool.close()
    join_in_time(pool)
    assert all(is_lost(result_or_exception(result)) for result in results)


def count_descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("end", ["close", "terminate"])
@linux
def test_descriptors_and_threads_are_released(make_pool, start_method, end):
    def use_pool():
        pool = create_pool(start_method)
        found = results_and_exceptions(
            pool.imap(partial(exit_at_three, exit_by="SIGKILL"), range(6))
        )
        assert is_lost(found[3])
        getattr(pool, end)()
        join_in_time(pool)

    use_pool()
    before = count_descriptors(), threading.active_count()
    for _ in range(8):
        use_pool()
    wait_until(lambda: count_descriptors() <= before[0])
    assert threading.active_count() <= before[1]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("end", ["close", "terminate"])
@linux
@counts_references
def test_descriptors_are_released_without_garbage_collection(start_method, end, no_collector):
    def use_pool():
        pool = create_pool(start_method)
        check_pool(pool)
        getattr(pool, end)()
        join_in_time(pool)
        del pool
        return len(os.listdir("/proc/self/fd"))

    before = use_pool()
    assert [use_pool() for _ in range(4)] == [before] * 4
