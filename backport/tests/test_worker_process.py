"""Worker processes that are interrupted, ignore signals, or outlive their parent process."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import types

import pytest
from conftest import TIMEOUT, posix, wait_until
from multiprocessing_initret import WorkerLostError
from multiprocessing_initret._parent.launcher import Launcher
from multiprocessing_initret._shared.record import STOPPING, Records
from multiprocessing_initret._worker.process import RecordedTasks, ResultInterrupted, Results
from pool_support import (
    add,
    check_pool,
    interrupt_until,
    is_running,
    wait_until_idle,
    wait_until_replaced,
)

#
# Sending a result is interrupted
#


class Interrupted(Exception):
    pass


def make_results(send_bytes):
    tasks = types.SimpleNamespace(number=7)
    return Results("multiprocessing", types.SimpleNamespace(send_bytes=send_bytes), tasks)


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
def test_interrupted_results(error):
    """A large result may have been sent in part, a small one only as a whole."""

    def send_bytes(view):
        raise error

    with pytest.raises(error):
        make_results(send_bytes).put((0, 0, (True, b"")))
    large = ResultInterrupted if os.name == "posix" else error
    with pytest.raises(large):
        make_results(send_bytes).put((0, 0, (True, bytes(10**6))))
    assert not issubclass(ResultInterrupted, Exception)


def test_result_that_cannot_be_pickled():
    """Nothing has been sent: the worker's loop sends the error."""
    sent = []
    results = make_results(sent.append)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        results.put((0, 0, (True, [bytes(10**6), lambda: None])))
    assert sent == []


def interrupt(*args):
    raise Interrupted


def handle_alarm(value):
    signal.signal(signal.SIGALRM, interrupt)
    return value


def large_result(item, initret):
    return bytes(10**7)


def count_unread_bytes(reader):
    import fcntl
    import termios

    return int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), sys.byteorder)


@posix
@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="signal handlers wait until write() returns"
)
def test_signal_while_a_result_is_sent(make_pool):
    """The task fails because its worker exits; no other task fails."""
    pool = make_pool(1, handle_alarm)
    is_released = threading.Event()
    # The result handler waits in a callback, so the pipe of the worker is full.
    first = pool.apply_async(add, (1,), callback=lambda value: is_released.wait(TIMEOUT))
    [worker] = list(pool._pool)
    result = pool.apply_async(large_result, (1,))
    later = pool.apply_async(add, (2,))
    # Then the worker is in the system call that writes the result, which only a signal ends.
    wait_until(lambda: count_unread_bytes(worker.reader) > 4096)
    os.kill(worker.pid, signal.SIGALRM)
    # Not worker.exitcode: a fork server sends the exit code once, to the worker handler.
    wait_until_replaced(pool, [worker])
    is_released.set()
    assert first.get(TIMEOUT) == 41
    with pytest.raises(WorkerLostError, match="code 1"):
        result.get(TIMEOUT)
    assert later.get(TIMEOUT) == 42
    check_pool(pool)


@posix
def test_signal_while_workers_wait_for_a_task(make_pool):
    """The workers are replaced, and no task fails."""
    pool = make_pool(2, handle_alarm)
    check_pool(pool)
    wait_until_idle(pool, 2)
    workers = list(pool._pool)
    # A worker that waits for the lock handles the signal when it gets the lock.
    interrupt_until(lambda: not set(workers) <= set(pool._pool), workers, signal.SIGALRM)
    check_pool(pool)


#
# Receiving a task is interrupted
#


def make_tasks(acquire, release, recv_bytes, reader):
    """Return the tasks of a worker, with a lock and a reader that call these functions."""
    lock = types.SimpleNamespace(acquire=acquire, release=release)
    reader = types.SimpleNamespace(recv_bytes=recv_bytes, fileno=reader.fileno)
    channel = types.SimpleNamespace(
        record=Records("multiprocessing", 1).acquire(), defers_initializer=True, parent_pid=None
    )
    queue = types.SimpleNamespace(_rlock=lock, _reader=reader)
    return RecordedTasks("multiprocessing", queue, None, "", channel)


@posix
@pytest.mark.parametrize("is_parent_alive", [True, False])
def test_lock_is_released_if_the_parent_has_exited(is_parent_alive):
    """Otherwise the parent releases it, when it has removed the rest of the message."""
    calls = []

    def recv_bytes():
        raise KeyboardInterrupt

    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        tasks = make_tasks(lambda *_: True, lambda: calls.append("release"), recv_bytes, reader)
        if not is_parent_alive:
            writer.close()
        with pytest.raises(KeyboardInterrupt):
            tasks.get()
    assert calls == ([] if is_parent_alive else ["release"])


def test_lock_has_been_released_by_the_parent():
    """The parent has taken this worker for one that died with the lock."""

    def release():
        raise ValueError("semaphore or lock released too many times")

    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        tasks = make_tasks(lambda *_: True, release, reader.recv_bytes, reader)
        tasks._record.records.integers[STOPPING] = 1
        assert tasks.get() is None


#
# The pool is terminated
#


def ignore_sigterm(directory):
    signal.signal(signal.SIGTERM, lambda *args: None)
    open(os.path.join(directory, str(os.getpid())), "w").close()
    return 40


@posix
@pytest.mark.parametrize("processes", [1, 3])
def test_idle_workers_that_ignore_sigterm(make_pool, tmp_path, processes):
    """They exit by themselves."""
    pool = make_pool(processes, ignore_sigterm, (str(tmp_path),))
    check_pool(pool)
    wait_until(lambda: len(os.listdir(str(tmp_path))) == processes)
    wait_until_idle(pool, processes)
    workers = list(pool._pool)
    thread = threading.Thread(target=pool.terminate, daemon=True)
    thread.start()
    thread.join(TIMEOUT / 2)
    is_hung = thread.is_alive()
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
    # SIGTERM may arrive while the interpreter of a worker is being finalized.
    assert not is_hung and {worker.exitcode for worker in workers} <= {0, -signal.SIGTERM}


#
# The parent is killed
#

PARENT = """
import multiprocessing, os, sys, time
import multiprocessing_initret
from multiprocessing_initret._shared.record import READING

def result(path, initret):
    open(path + str(os.getpid()), "w").close()
    while not os.path.exists(path):
        time.sleep(0.01)
    return bytes(10**7)

def add(item, initret):
    return item + initret

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    pool = multiprocessing_initret.Pool(3, int, context=context, expect_initret=True)
    pool.map(add, range(6), chunksize=1)
    if len(sys.argv) > 2:
        results = [pool.apply_async(result, (sys.argv[2],)) for _ in range(3)]
    else:
        while all(worker.record.state != READING for worker in pool._pool):
            time.sleep(0.01)
    workers = sorted(pool._pool, key=lambda worker: worker.record.state != READING)
    # A child of the program inherits the task pipe, and outlives the program.
    if hasattr(os, "register_at_fork"):
        child = os.fork() or time.sleep(600)
    else:
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        process.start()
        child = process.pid
    print(*[worker.pid for worker in workers], child, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def start_parent(tmp_path, start_method):
    (tmp_path / "parent.py").write_text(PARENT)
    processes, pids = [], []

    def start(*args):
        process = subprocess.Popen(
            [sys.executable, "parent.py", start_method, *args],
            cwd=str(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        processes.append(process)
        pids.extend(map(int, process.stdout.readline().split()))
        assert len(pids) == 4
        return process, pids[:3]

    yield start
    for process in processes:
        process.stdout.close()
        process.kill()
        process.wait()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@posix
@pytest.mark.skipif(sys.platform == "darwin", reason="workers wait without a timeout there")
@pytest.mark.parametrize("victim", [0, 1], ids=["with", "without"])
def test_parent_and_a_worker_are_killed(start_parent, victim):
    """One of the three workers dies, with the lock of the task pipe or without.  All exit."""
    parent, pids = start_parent()
    os.kill(parent.pid, signal.SIGSTOP)
    os.kill(pids[victim], signal.SIGKILL)
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(map(is_running, pids)), TIMEOUT / 2)


@posix
@pytest.mark.skipif(sys.version_info < (3, 8), reason="there is no sys.unraisablehook")
def test_another_thread_forks_before_a_worker_starts(make_pool, monkeypatch):
    """The function that runs in the child, and closes the pipes of the pool, does not fail."""
    start, statuses = Launcher._start, []

    def fork_and_start(launcher, *args):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "unraisablehook", lambda _: os._exit(1))
            pid = os.fork() or os._exit(0)
        statuses.append(os.waitpid(pid, 0)[1])
        return start(launcher, *args)

    monkeypatch.setattr(Launcher, "_start", fork_and_start)
    check_pool(make_pool(2))
    assert statuses == [0, 0]


@posix
def test_parent_is_killed_while_results_are_sent(start_parent, tmp_path):
    path = str(tmp_path / "go")
    parent, pids = start_parent(path)
    wait_until(lambda: all(os.path.exists(path + str(pid)) for pid in pids))
    os.kill(parent.pid, signal.SIGSTOP)
    with open(path, "w"):
        pass
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(map(is_running, pids)), TIMEOUT / 2)
