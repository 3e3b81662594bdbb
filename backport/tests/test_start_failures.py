"""Workers that cannot be started because the system has no process or descriptor to spare."""

import errno
import multiprocessing
import os
import signal
import sys
import threading
import weakref

import pytest
from conftest import TIMEOUT, call_with_timeout, counts_references, posix, wait_until
from multiprocessing_initret import WorkerLostError
from multiprocessing_initret._parent.process_supervisor import ProcessSupervisor
from multiprocessing_initret._parent.starter import Starter
from pool_support import add, check_pool, create_pool, end_pool, error_of, wait_long

pytestmark = posix


class FailingFork:
    """Replaces os.fork(): it fails a number of times, then forks again."""

    def __init__(self, failures):
        self.failures = failures
        self.calls = 0
        self._fork = os.fork

    def __call__(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return self._fork()


@pytest.fixture
def make():
    pools = []

    def make(processes):
        pools.append(create_pool("fork", processes))
        check_pool(pools[-1])
        return pools[-1]

    yield make
    for pool in pools:
        end_pool(pool)


@pytest.fixture
def make_fork_fail(monkeypatch):
    def make_fork_fail(failures):
        fork = FailingFork(failures)
        monkeypatch.setattr(os, "fork", fork)
        return fork

    return make_fork_fail


def kill(worker):
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(TIMEOUT)


def living(pool):
    # Not is_alive(): it may be True while another thread receives the exit code of the process.
    return sum(worker.exitcode is None for worker in list(pool._pool) if worker.pid)


def test_pool_has_its_full_size_again(make, make_fork_fail, log):
    """The pool retries without another event, such as a task or the exit of a worker."""
    pool = make(2)
    fork = make_fork_fail(3)
    kill(pool._pool[0])
    wait_until(lambda: fork.calls == 4 and living(pool) == 2)
    [record] = log
    assert "could not be started" in record.getMessage()
    assert "BlockingIOError" in record.getMessage()
    check_pool(pool)


def test_other_workers_continue(make, make_fork_fail):
    pool = make(2)
    fork = make_fork_fail(10**9)
    kill(pool._pool[0])
    wait_until(lambda: fork.calls >= 2)
    for _ in range(3):
        check_pool(pool)
    assert living(pool) == 1
    fork.failures = 0
    wait_until(lambda: living(pool) == 2)
    check_pool(pool)


def test_each_failure_is_logged_once(make, make_fork_fail, log):
    pool = make(3)
    for number in 1, 2:
        fork = make_fork_fail(4)
        kill(pool._pool[0])
        wait_until(lambda fork=fork: fork.calls == 5 and living(pool) == 3)
        assert len(log) == number


def test_pauses(make, make_fork_fail, monkeypatch):
    """The pauses between attempts grow, up to one second."""
    pauses = []

    def pause(self, seconds, notifier):
        pauses.append(seconds)

    pool = make(2)
    monkeypatch.setattr(Starter, "_pause", pause)
    make_fork_fail(15)
    kill(pool._pool[0])
    wait_until(lambda: living(pool) == 2)
    assert len(pauses) == 15
    assert pauses == sorted(pauses) and pauses[0] < pauses[1] and pauses[-1] == 1


def test_no_worker_is_left(make, make_fork_fail):
    pool = make(1)
    make_fork_fail(10**9)
    result = pool.apply_async(wait_long)
    kill(pool._pool[0])
    assert type(error_of(result)) is WorkerLostError
    error = error_of(pool.apply_async(add, (1,)))
    assert type(error) is WorkerLostError
    assert "the pool is broken: a worker could not be started" in str(error)
    assert isinstance(error.__cause__, BlockingIOError)


def test_last_worker_exits_while_the_pool_retries(make, make_fork_fail):
    pool = make(2)
    fork = make_fork_fail(10**9)
    first, last = list(pool._pool)
    kill(first)
    wait_until(lambda: fork.calls >= 2)
    kill(last)
    error = error_of(pool.apply_async(wait_long))
    assert type(error) is WorkerLostError and isinstance(error.__cause__, BlockingIOError)


@pytest.mark.skipif(sys.version_info < (3, 8), reason="the pool's threads refer to the pool")
@counts_references
def test_pool_is_garbage_while_a_start_fails(monkeypatch):
    """The exception does not end the worker handler."""

    def fail():
        is_failing.set()
        wait_until(lambda: weak_pool() is None)
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    errors, is_failing = [], threading.Event()
    monkeypatch.setattr(threading, "excepthook", errors.append, raising=False)  # since Python 3.8
    pool = create_pool("fork", 2)
    check_pool(pool)
    handler, weak_pool = pool._worker_handler, weakref.ref(pool)
    monkeypatch.setattr(os, "fork", fail)
    kill(pool._pool[0])
    assert is_failing.wait(TIMEOUT)
    del pool
    handler.join(TIMEOUT)
    assert not handler.is_alive() and not errors


@pytest.mark.parametrize("is_idle", [False, True])
@pytest.mark.parametrize("how", ["close", "terminate"])
def test_pool_ends_while_it_retries(make, make_fork_fail, how, is_idle):
    pool = make(2)
    fork = make_fork_fail(10**9)
    kill(pool._pool[0])
    wait_until(lambda: fork.calls >= 2)
    result = None if is_idle else pool.map_async(add, range(4), chunksize=1)
    end_pool(pool, how)
    if how == "close" and not is_idle:
        assert result.get(TIMEOUT) == [40, 41, 42, 43]
    assert not any(worker.is_alive() for worker in list(pool._pool) if worker.pid)


def test_constructor(make_fork_fail):
    """The constructor raises the exception, and stops the workers that it has started."""
    real_fork, calls = os.fork, []
    fork = make_fork_fail(0)

    def fork_once():
        calls.append(None)
        if len(calls) > 1:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return real_fork()

    fork._fork = fork_once
    with pytest.raises(BlockingIOError):
        call_with_timeout(create_pool, "fork", 3)
    assert len(calls) == 2
    wait_until(lambda: not multiprocessing.active_children())


PROGRAM = """
import multiprocessing, os, resource, signal, sys, time
import multiprocessing_initret

def add(item, initret):
    return item + initret

def wait_until(condition):
    deadline = time.monotonic() + 50
    while not condition():
        if time.monotonic() > deadline:
            os._exit(3)
        time.sleep(0.01)

def living():
    return sum(worker.exitcode is None for worker in list(pool._pool) if worker.pid)

def is_any_free():
    try:
        os.close(os.dup(2))
    except OSError:
        return False
    return True

if __name__ == "__main__":
    os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT), 2)
    multiprocessing.log_to_stderr()
    context = multiprocessing.get_context(sys.argv[1])
    pool = multiprocessing_initret.Pool(2, int, (40,), context=context, expect_initret=True)
    pool.map(add, range(4), chunksize=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    held = []
    while is_any_free():
        held.append(os.dup(2))
    for _ in range(int(sys.argv[2])):
        os.close(held.pop())
    killed, other = pool._pool
    os.kill(killed.pid, signal.SIGKILL)
    wait_until(lambda: os.path.getsize("log") or killed not in pool._pool and living() == 2)
    print(pool.map_async(add, range(3), chunksize=1).get(50), other.exitcode, flush=True)
    print(living(), flush=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_until(lambda: living() == 2)
    print(pool.map_async(add, range(3), chunksize=1).get(50), flush=True)
    pool.close()
    pool.join()
"""


@pytest.mark.parametrize("free", [0, 2, 3, 4])
def test_no_descriptors(python, tmp_path, start_method, free):
    """The process reaches its limit of open files, and the limit is raised again.

    With a few free descriptors, a fork server would receive an incomplete request, and exit.
    """
    (tmp_path / "program.py").write_text(PROGRAM)
    output = python("program.py", start_method, free)
    first, count, last = output.splitlines()
    assert first == "[40, 41, 42] None" and last == "[40, 41, 42]"
    log = (tmp_path / "log").read_text()
    failures = log.count("a worker could not be started")
    if failures or not free:
        assert failures == 1, log
        assert count == "1" or free
    else:
        assert count == "2"


LARGE_PROCESS = """
import multiprocessing, os
import multiprocessing_initret

class ForOneProcess:
    def __reduce__(self):
        multiprocessing.context.assert_spawning(self)
        return bytes, (bytes(10**6),)

if __name__ == "__mp_main__":
    os._exit(1)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pool = multiprocessing_initret.Pool(
        1, len, (ForOneProcess(),), context=context, expect_initret=True
    )
    try:
        pool.apply_async(int).get(50)
    except multiprocessing_initret.WorkerLostError as error:
        print(error)
    pool.terminate()
"""


def test_worker_exits_before_it_has_read_its_process_object(python, tmp_path):
    """The standard Popen would wait until the worker reads the rest of a large object."""
    (tmp_path / "program.py").write_text(LARGE_PROCESS)
    assert "the pool is broken" in python("program.py")


@pytest.mark.parametrize("step", ["fork", "Process"])
def test_constructor_fails_at_its_second_worker(monkeypatch, step):
    """The workers that have been started are terminated, and no others are started."""
    forked, fork, create = [], os.fork, ProcessSupervisor._create

    def fork_once():
        if forked:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        forked.append(None)
        return fork()

    def create_once(self, *args, **kwds):
        if forked:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        forked.append(None)
        return create(self, *args, **kwds)

    with monkeypatch.context() as patch:
        if step == "fork":
            patch.setattr(os, "fork", fork_once)
        else:
            patch.setattr(ProcessSupervisor, "_create", create_once)
        with pytest.raises(BlockingIOError):
            create_pool("fork", 3)
    assert len(forked) == 1
    assert not multiprocessing.active_children()
