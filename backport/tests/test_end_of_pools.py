"""Pools that end while something blocks, and pools that a forked child uses."""

import multiprocessing
import os
import queue
import signal
import sys
import types

import multiprocessing_initret
import pytest
from conftest import TIMEOUT, call_with_timeout, join_in_time, linux, posix, wait_until
from multiprocessing_initret._parent import terminator, workforce
from multiprocessing_initret._parent.collector import Collector
from multiprocessing_initret._parent.reaper import Reaper
from multiprocessing_initret._parent.worker_process import UNKNOWN_EXITCODE, WorkerProcess
from multiprocessing_initret._shared.record import RUNNING
from pool_support import (
    FORK_SERVER_REPORTS_SIGNALS,
    add,
    check_pool,
    create_pool,
    is_lost,
    result_or_exception,
    wait_for_initret,
)

#
# An iterable blocks
#


@pytest.fixture(params=["Pool", "ThreadPool"])
def pool(request):
    pool = getattr(multiprocessing_initret, request.param)(2, int, (40,), expect_initret=True)
    yield pool
    pool.terminate()


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_terminate_while_an_iterable_blocks(pool, monkeypatch, method):
    monkeypatch.setattr(terminator, "_ITERABLE_TIMEOUT", 0.1)
    items = queue.Queue()
    items.put(1)
    iterator = getattr(pool, method)(add, iter(items.get, None))
    assert iterator.next(TIMEOUT) == 41
    later = pool.apply_async(add, (2,))  # the task handler does not get to this call
    task_handler = pool._task_handler
    call_with_timeout(pool.terminate)
    assert task_handler.is_alive()
    assert is_lost(result_or_exception(later), "terminated")
    with pytest.raises(multiprocessing_initret.WorkerLostError, match="terminated"):
        iterator.next(TIMEOUT)
    items.put(None)  # the iterable returns, and so does its thread
    task_handler.join(TIMEOUT)
    assert not task_handler.is_alive()


#
# Workers that do not exit by themselves
#


def ignore_sigterm(event):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return event


def is_busy(worker):
    """Return whether a worker has received a task; number 0 is that of no message."""
    state, number = worker.record.read()
    return state == RUNNING and number > 0


def busy_pool(start_method):
    """Return a pool whose two workers ignore SIGTERM and run long tasks."""
    context = multiprocessing.get_context(start_method)
    pool = create_pool(start_method, 2, ignore_sigterm, (context.Event(),))
    results = [pool.apply_async(wait_for_initret) for _ in range(2)]
    workers = list(pool._pool)
    wait_until(lambda: all(map(is_busy, workers)))
    return pool, workers, results


@posix
def test_worker_that_ignores_sigterm(monkeypatch, start_method):
    monkeypatch.setattr(workforce, "TERMINATION_TIMEOUT", 0.2)
    pool, workers, results = busy_pool(start_method)
    call_with_timeout(pool.terminate)
    assert all(is_lost(result_or_exception(result), "terminated") for result in results)
    is_known = FORK_SERVER_REPORTS_SIGNALS or start_method != "forkserver"
    code = -signal.SIGKILL if is_known else UNKNOWN_EXITCODE
    assert [worker.exitcode for worker in workers] == [code] * 2


@posix
def test_worker_of_a_broken_pool_that_ignores_sigterm(monkeypatch):
    """It is killed even if the program does not end the pool."""
    monkeypatch.setattr(workforce, "TERMINATION_TIMEOUT", 0.2)
    pool, workers, results = busy_pool("fork")

    def fail(*args):
        raise LookupError("unexpected")

    with monkeypatch.context() as patch:
        patch.setattr(Reaper, "reap", fail)
        os.kill(workers[0].pid, signal.SIGKILL)
        assert all(is_lost(result_or_exception(result), "unexpected") for result in results)
    wait_until(lambda: workers[1].exitcode == -signal.SIGKILL)
    pool.close()
    join_in_time(pool)


DAEMON = """
import atexit, os, sys, threading, time

# Called after the exit handler of multiprocessing, which is registered later.  Without it, the
# interpreter would often exit before the thread can print anything.
atexit.register(lambda: thread.join(0.5))

import multiprocessing
import multiprocessing_initret

os.dup2(1, 2)

def wait(item, initret):
    initret.wait(60)

def return_first(item, initret):
    return item == 1 or initret.wait(60)

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    event = context.Event()
    pool = multiprocessing_initret.Pool(
        1, lambda event: event, (event,), context=context, expect_initret=True
    )
    started = threading.Event()

    def use_pool(how):
        if how == "for":
            for item in pool.imap(return_first, [1, 2]):
                started.set()
                time.sleep(0.1)
        result = pool.imap(wait, [1]) if "next" in how else pool.map_async(wait, [1])
        started.set()
        while how == "poll":
            try:
                return result.get(0.01)
            except multiprocessing.TimeoutError:
                pass
        while how == "poll next":
            try:
                return result.next(0.01)
            except multiprocessing.TimeoutError:
                pass
        while how == "ready" and not result.ready():
            time.sleep(0.01)
        result.next() if how == "next" else result.get()

    thread = threading.Thread(target=use_pool, args=(sys.argv[1],), daemon=True)
    thread.start()
    started.wait()
"""


SLOW_EXIT = """
import multiprocessing, os, signal, time
import multiprocessing_initret
from multiprocessing_initret._parent import terminator

def exit_slowly(*_):
    print("terminated", flush=True)
    time.sleep(0.5)
    os._exit(0)

def initialize():
    signal.signal(signal.SIGTERM, exit_slowly)
    has_handler.set()
    for _ in range(6000):  # a signal that arrives just before time.sleep() does not interrupt it
        time.sleep(0.01)

if __name__ == "__main__":
    terminator._GARBAGE_TIMEOUT = 0.01
    context = multiprocessing.get_context("fork")
    has_handler = context.Event()
    pool = multiprocessing_initret.Pool(1, initialize, context=context, expect_initret=True)
    assert has_handler.wait(60)
    del pool
"""


@posix
def test_interpreter_exits_while_another_thread_terminates_a_pool(python, tmp_path):
    """The interpreter would terminate a worker that has not exited yet, too."""
    (tmp_path / "program.py").write_text(SLOW_EXIT)
    assert python("program.py") == "terminated\n"


@linux
@pytest.mark.parametrize("how", ["get", "next", "for", "poll", "poll next", "ready"])
def test_daemon_thread_prints_nothing_when_the_interpreter_exits(python, tmp_path, how):
    """The thread blocks until the result is there, or polls."""
    (tmp_path / "program.py").write_text(DAEMON)
    assert python("-W", "ignore", "program.py", how) == ""


NOT_A_DAEMON = """
import multiprocessing, sys, threading, time
import multiprocessing_initret

def wait(item, initret):
    initret.wait(60)

def use_pool(how, pool, started):
    result = pool.map_async(wait, [1])
    started.set()
    while how == "ready" and not result.ready():
        time.sleep(0.01)
    try:
        result.get()
    except multiprocessing_initret.WorkerLostError as error:
        print(error, flush=True)

def use_pool_in_thread(how, context):
    global pool
    event = context.Event()
    pool = multiprocessing_initret.Pool(
        1, lambda event: event, (event,), context=context, expect_initret=True
    )
    started = threading.Event()
    threading.Thread(target=use_pool, args=(how, pool, started)).start()
    started.wait()

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    process = context.Process(target=use_pool_in_thread, args=(sys.argv[1], context))
    process.start()
    process.join()
"""


@linux
@pytest.mark.skipif(sys.version_info < (3, 7), reason="such threads are not waited for")
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="such threads are waited for first")
@pytest.mark.parametrize("how", ["get", "ready"])
def test_other_thread_receives_the_exception_when_a_process_exits(python, tmp_path, how):
    """A child process terminates its pools before it waits for threads that are no daemons."""
    (tmp_path / "program.py").write_text(NOT_A_DAEMON)
    assert python("program.py", how).startswith("the pool was terminated before")


GET_AT_EXIT = """
import atexit

def get():
    try:
        result.get(60)
    except Exception as error:
        print(type(error).__name__, error)

# Called after the exit handler of multiprocessing, which is registered later.
atexit.register(get)

import multiprocessing
import multiprocessing_initret

def wait(item, initret):
    initret.wait(60)

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    event = context.Event()
    pool = multiprocessing_initret.Pool(
        1, lambda event: event, (event,), context=context, expect_initret=True
    )
    result = pool.apply_async(wait, (1,))
"""


@linux
def test_exit_handler_gets_a_result(python, tmp_path):
    (tmp_path / "program.py").write_text(GET_AT_EXIT)
    assert python("program.py").startswith("WorkerLostError the pool was terminated")


#
# A pool in a forked child
#


METHODS = [
    *("apply", "apply_async", "map", "map_async", "starmap", "starmap_async"),
    *("imap", "imap_unordered"),
]


def use_in_child(pool, name):
    """Call a method of the parent's pool; return its exception as text."""
    try:
        getattr(pool, name)(add, [1])
    except RuntimeError as error:
        return str(error)
    return "no exception"


@posix
@pytest.mark.parametrize("by", ["os.fork", "Process"])
def test_pool_in_a_forked_child(pool, by):
    check_pool(pool)
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)

    def run():
        with pool:
            writer.send([use_in_child(pool, name) for name in METHODS])
            pool.close()
            try:
                pool.join()
            except RuntimeError as error:
                writer.send(str(error))
            else:
                writer.send("")
        own = multiprocessing_initret.ThreadPool(1, int, (40,), expect_initret=True)
        writer.send(own.map_async(add, range(6), chunksize=1).get(TIMEOUT))

    if by == "Process":
        process = context.Process(target=run, daemon=True)
        process.start()
    else:
        pid = os.fork()
        if not pid:
            signal.alarm(2 * TIMEOUT)
            try:
                run()
            finally:
                os._exit(0)
    assert reader.poll(TIMEOUT)
    for text in reader.recv():
        assert text.startswith(f"a pool of process {os.getpid()} was used in process "), text
    assert reader.poll(TIMEOUT)
    # A ThreadPool has no worker processes, so its join() returns.
    is_thread_pool = isinstance(pool, multiprocessing_initret.ThreadPool)
    assert ("was used in process" in reader.recv()) != is_thread_pool
    assert reader.poll(TIMEOUT) and reader.recv() == list(range(40, 46))
    if by == "Process":
        process.join(TIMEOUT)
    else:
        os.waitpid(pid, 0)
    check_pool(pool)


# In a child that another thread forks, the pipes of these workers are closed.  If a pipe has just
# been closed in the parent, its number may belong to another file there.


def test_pipes_are_closed_when_the_pool_has_no_workers(start_method, monkeypatch):
    close, workers = Collector.close, []

    def note_and_close(collector):
        workers.append(list(workforce.workers))
        close(collector)

    with create_pool(start_method) as pool:
        check_pool(pool)
        workforce = pool._repopulate_pool.__self__._workforce
        monkeypatch.setattr(Collector, "close", note_and_close)
    assert workers == [[]]


def test_pipe_of_a_worker_that_is_not_started_is_closed_when_it_is_not_known():
    readers = []
    worker = types.SimpleNamespace()
    worker.reader = types.SimpleNamespace(close=lambda: readers.append(worker.reader))
    WorkerProcess.close_reader(worker)
    assert readers == [None]
