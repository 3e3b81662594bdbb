"""Workers that are added to a running pool, that exit in the initializer, or that are forked."""

import contextlib
import multiprocessing
import os
import select
import sys
import threading
import time
import types
from concurrent.futures import ProcessPoolExecutor

import multiprocessing_initret
import pytest
from conftest import TIMEOUT, call_with_timeout, linux, posix, wait_until
from multiprocessing_initret._parent.launcher import Launcher
from multiprocessing_initret._parent.reaper import Reaper
from multiprocessing_initret._parent.worker_process import UNKNOWN_EXITCODE, WorkerProcess
from multiprocessing_initret._parent.workforce import Workforce
from multiprocessing_initret._worker import process
from pool_support import (
    KILL,
    add,
    check_pool,
    create_pool,
    end_pool,
    exit_at_three,
    is_lost,
    result_or_exception,
)


def get_pid(item, initret):
    time.sleep(0.01)
    return os.getpid()


def test_more_processes(start_method):
    """A known recipe enlarges a running pool."""
    with create_pool(start_method, 1) as pool:
        check_pool(pool)
        pool._processes = 4
        pool._repopulate_pool()
        assert len(pool._pool) == 4
        assert pool.map_async(add, range(160))._chunksize == 10  # 16 chunks for four workers
        pids = set()
        wait_until(
            lambda: pids.update(pool.map_async(get_pid, range(40), 1).get(TIMEOUT)) or len(pids) > 3
        )
        # Since Python 3.8, the worker handler does not replace this worker.
        assert is_lost(result_or_exception(pool.apply_async(exit_at_three, (3, "_exit"))), "code 3")
        pool.close()
        pool.join()


def test_more_processes_cannot_be_started(start_method, monkeypatch):
    """The caller gets the exception, as in the standard pool."""

    def fail(worker):
        raise LookupError("no luck")

    with create_pool(start_method, 1) as pool:
        check_pool(pool)
        pool._processes = 2
        launcher = pool._repopulate_pool.__self__._starter._launcher
        with monkeypatch.context() as patch:
            patch.setattr(launcher, "launch", fail)
            with pytest.raises(LookupError, match="no luck"):
                pool._repopulate_pool()
        check_pool(pool)
        pool._repopulate_pool()
        wait_until(lambda: len([worker for worker in pool._pool if worker.pid is not None]) == 2)
        check_pool(pool)


def test_initargs_changed(start_method):
    """All workers would silently receive those of the first one."""
    with create_pool(start_method, 1) as pool:
        check_pool(pool)
        pool._processes, pool._initargs = 2, (41,)
        with pytest.raises(RuntimeError, match="all workers .* must have the same initializer"):
            pool._repopulate_pool()
        check_pool(pool)


class Interrupted:
    """A lock whose acquisition is interrupted by Ctrl-C."""

    def __enter__(self):
        raise KeyboardInterrupt

    def __exit__(self, *_):
        pass


def test_interrupt_before_a_worker_is_started(monkeypatch):
    """Another thread is starting a worker."""
    with create_pool(multiprocessing.get_start_method(), 1) as pool:
        check_pool(pool)
        pool._processes = 2
        with monkeypatch.context() as patch:
            patch.setattr(pool._repopulate_pool.__self__._starter, "_lock", Interrupted())
            with pytest.raises(KeyboardInterrupt):
                pool._repopulate_pool()
        check_pool(pool)


@pytest.mark.parametrize(
    "cls, name",
    [(Launcher, "_start_process"), (WorkerProcess, "watch_process"), (Workforce, "add")],
)
def test_interrupt_after_a_worker_was_started(start_method, monkeypatch, cls, name):
    """The worker receives tasks, so its results must be received, and it must be reaped."""
    original = getattr(cls, name)

    def call_and_interrupt(*args):
        original(*args)
        raise KeyboardInterrupt

    with create_pool(start_method, 1) as pool:
        check_pool(pool)
        pool._processes = 2
        workforce = pool._repopulate_pool.__self__._workforce
        with monkeypatch.context() as patch:
            patch.setattr(cls, name, call_and_interrupt)
            with pytest.raises(KeyboardInterrupt):
                pool._repopulate_pool()
        assert len(workforce.workers) == 2
        worker = workforce.workers[-1]
        worker.terminate()
        worker.process.join()
        workforce.reap()
        check_pool(pool)


@posix
def test_exception_after_a_worker_was_started(start_method, monkeypatch):
    """The worker handler does not start it again."""
    workers = []

    def fail(worker):
        workers.append(worker)
        raise OSError

    with create_pool(start_method, 1) as pool:
        check_pool(pool)
        lost = pool._pool[0].pid
        with monkeypatch.context() as patch:
            patch.setattr(WorkerProcess, "watch_process", fail)
            os.kill(lost, KILL)
            wait_until(lambda: workers)
            assert pool.apply_async(get_pid, (1,)).get(TIMEOUT) != lost
            check_pool(pool)
        workforce = pool._repopulate_pool.__self__._workforce
        wait_until(lambda: pool._pool == workforce.workers == workers)
        assert len(workers) == 1


def test_two_threads_start_workers(monkeypatch):
    """They start one worker after the other: two workers must not receive the same record."""
    barrier = threading.Barrier(2)

    def launch_together(workers):
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(0.5)
            together.append(workers)
        return launch(workers)

    together = []
    with create_pool(multiprocessing.get_start_method(), 1) as pool:
        check_pool(pool)
        pool._processes = 3
        launcher = pool._repopulate_pool.__self__._starter._launcher
        launch = launcher.launch
        monkeypatch.setattr(launcher, "launch", launch_together)
        thread = threading.Thread(target=pool._repopulate_pool)
        thread.start()
        pool._repopulate_pool()
        thread.join(TIMEOUT)
        assert not together
        check_pool(pool)


def test_no_processes(start_method):
    """A known recipe stops the replacement of workers."""
    with create_pool(start_method, 2) as pool:
        pool._processes = 0
        assert pool.map_async(add, range(3)).get(TIMEOUT) == [40, 41, 42]


def test_list_of_workers(start_method):
    """Programs compare it with the list of all children."""
    with create_pool(start_method, 2) as pool:
        children = set(multiprocessing.active_children())
        assert all(child in pool._pool for child in children)
        assert set(pool._pool) == children
        assert sorted(map(repr, pool._pool)) == sorted(map(repr, children))


def exit_while_file_exists(path, log):
    with open(log, "a") as file:
        file.write("called\n")
    if os.path.exists(path):
        os._exit(3)
    return 40


def test_initializer_that_exits_until_a_file_is_removed(tmp_path):
    """Replacements are lazy at first, and call the initializer at their start afterwards."""
    path, log = tmp_path / "file", tmp_path / "log"
    path.write_text("")
    pool = multiprocessing_initret.Pool(
        1,
        exit_while_file_exists,
        (str(path), str(log)),
        maxtasksperchild=1,
        context=multiprocessing.get_context("fork") if os.name == "posix" else None,
        expect_initret=True,
    )

    def calls():
        return log.read_text().count("called")

    with pool:
        assert is_lost(result_or_exception(pool.apply_async(add, (1,))), "exited with code 3")
        before = calls()
        assert is_lost(result_or_exception(pool.apply_async(add, (1,))), "exited with code 3")
        assert calls() == before + 1  # for the task, and not for the idle replacement
        path.unlink()
        assert pool.apply_async(add, (1,)).get(TIMEOUT) == 41
        # The worker is replaced after one task, and the replacement calls it without a task.
        wait_until(lambda: calls() == before + 3)


class SlowToUnpickle:
    """A result whose unpickling waits."""

    unpickled, may_continue = threading.Event(), threading.Event()

    def __reduce__(self):
        return unpickle_slowly, ()


def unpickle_slowly():
    SlowToUnpickle.unpickled.set()
    assert SlowToUnpickle.may_continue.wait(TIMEOUT)
    return 40


def return_slow(initret):
    return SlowToUnpickle()


@linux
def test_no_worker_is_forked_while_a_result_is_unpickled(monkeypatch):
    """It would inherit the locks of modules that the unpickling imports."""
    forks, fork = [], os.fork

    def recording_fork():
        is_unpickling = not SlowToUnpickle.may_continue.is_set()
        forks.append((is_unpickling, collector.unpickling_lock.locked()))
        return fork()

    context = multiprocessing.get_context("fork")
    with multiprocessing_initret.Pool(2, int, (40,), context=context, expect_initret=True) as pool:
        check_pool(pool)
        collector = pool._quick_get.__self__
        monkeypatch.setattr(os, "fork", recording_fork)
        result = pool.apply_async(return_slow)
        assert SlowToUnpickle.unpickled.wait(TIMEOUT)
        worker = pool._pool[0]
        worker.terminate()
        wait_until(lambda: worker.exitcode is not None and worker not in pool._pool)
        # The replacement is about to be forked, and waits.
        assert not forks
        SlowToUnpickle.may_continue.set()
        assert result_or_exception(result) == 40
        wait_until(lambda: len(forks) == 1)
    # The result handler waits for this lock before it unpickles a result.
    assert forks == [(False, True)]


def test_no_worker_is_forked_after_the_pool_has_ended():
    """Deadlock: the thread that terminates the pool may be importing what unpickling waits for."""
    lock = threading.Lock()
    launcher = Launcher.__new__(Launcher)
    launcher._unpickling_lock = lock
    launcher._standard = types.SimpleNamespace(maintains_workers=lambda: False)
    process = types.SimpleNamespace(start=lambda: pytest.fail("a worker is forked"))
    with lock:
        call_with_timeout(launcher._fork, process)


FORK_WHILE_PRINTING = """
import fcntl, multiprocessing, os, sys, termios, threading, time
import multiprocessing_initret
from multiprocessing_initret import futures

reader, writer = os.pipe()
fork = os.fork

def read_everything():
    while os.read(reader, 65536):
        pass

def fork_while_printing():
    os.fork = fork
    text = "x" * 1000000  # does not fit into the pipe
    threading.Thread(target=print, args=(text,), daemon=True).start()
    while not int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), sys.byteorder):
        time.sleep(0.001)
    pid = fork()
    if pid:
        threading.Thread(target=read_everything, daemon=True).start()
    return pid

def work(item, initret):
    if item == 3:
        os._exit(3)
    print(item, flush=True)
    return item + initret

if __name__ == "__main__":
    sys.stdout = os.fdopen(writer, "w")
    context = multiprocessing.get_context("fork")
    kwds = {"initializer": int, "initargs": (40,), "expect_initret": True}
    if sys.argv[1] == "pool":
        pool = multiprocessing_initret.Pool(1, context=context, **kwds)
        os.fork = fork_while_printing
        results = [pool.apply_async(work, (item,)) for item in range(5)]
        found = [result.get(60) for result in results if result is not results[3]]
        pool.close()
        pool.join()
    else:
        os.fork = fork_while_printing
        with futures.ProcessPoolExecutor(1, mp_context=context, **kwds) as executor:
            found = list(executor.map(work, [0, 1, 2, 4], timeout=60))
    print(found, os.fork is fork, file=sys.__stdout__)
"""


@linux
@pytest.mark.parametrize("kind", ["pool", "executor"])
def test_worker_is_forked_while_a_thread_prints(python, tmp_path, kind):
    """The lock of stdout, which the thread holds, is forked with it."""
    if kind == "executor" and sys.version_info < (3, 7):
        pytest.skip("executors have no initializers")
    (tmp_path / "program.py").write_text(FORK_WHILE_PRINTING)
    assert python("program.py", kind) == "[40, 41, 42, 44] True\n"


FORK_AFTER_PRINTING = """
import multiprocessing, os, sys
import multiprocessing_initret

fork = os.fork

def print_and_fork():
    os.fork = fork
    print("once")  # as another thread may do after start() has flushed the streams
    return fork()

if __name__ == "__main__":
    os.fork = print_and_fork
    context = multiprocessing.get_context("fork")
    pool = multiprocessing_initret.Pool(1, print, ("worker",), context=context, expect_initret=True)
    pool.close()
    pool.join()
"""


@posix
def test_worker_does_not_print_what_its_parent_has_printed(python, tmp_path):
    (tmp_path / "program.py").write_text(FORK_AFTER_PRINTING)
    assert python("program.py", PYTHONUNBUFFERED="") == "worker\nonce\n"


@posix
@pytest.mark.skipif(sys.version_info < (3, 14), reason="an executor is woken without a lock")
def test_worker_is_forked_while_an_executor_is_woken():
    """When a worker exits, the standard library wakes the executors of its parent."""
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        assert executor.submit(abs, -1).result(TIMEOUT) == 1
        with executor._executor_manager_thread_wakeup._lock:
            pool = create_pool("fork")
        check_pool(pool)
        end_pool(pool, "close")


WITHOUT_POLL = """
import select
for name in "poll", "epoll", "devpoll", "kqueue":
    if hasattr(select, name):
        delattr(select, name)
import multiprocessing, os, sys
import multiprocessing_initret

def work(item, initret):
    if item == b"..3":
        os._exit(3)
    return len(item) + initret

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    # The last item does not fit into the pipe.
    items = [b"", b".", b"..", b"..3", b"....", bytes(1000000)]
    with multiprocessing_initret.Pool(2, int, (40,), context=context, expect_initret=True) as pool:
        for result in [pool.apply_async(work, (item,)) for item in items]:
            try:
                print(result.get(60), flush=True)
            except multiprocessing_initret.WorkerLostError as error:
                print(error.exitcode, flush=True)
        pool.close()
        pool.join()
"""


def test_exit_is_not_checked_without_poll(monkeypatch):
    """Neither the parent nor a worker can find out then whether a pipe is hung up."""
    monkeypatch.delattr(select, "poll", raising=False)
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader:
        writer.close()
        assert not process._is_hung_up(reader)
        worker = types.SimpleNamespace(
            start_method="forkserver", exitcode=UNKNOWN_EXITCODE, reader=reader
        )
        Reaper(None, None, None, None).ensure_exit(worker)


@linux
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_without_poll(python, tmp_path, method):
    """eventlet removes these functions from the module select."""
    (tmp_path / "program.py").write_text(WITHOUT_POLL)
    assert python("program.py", method).split() == ["40", "41", "42", "3", "44", "1000040"]


def test_constructor_that_fails_leaves_nothing(no_collector):
    with pytest.raises(TypeError, match="callable"):
        multiprocessing_initret.Pool(2, 1, expect_initret=True)
    assert not multiprocessing.active_children()


class WatchingPool(multiprocessing_initret.Pool):
    """Expects, as programs may, that workers run when this method has returned."""

    def _repopulate_pool(self):
        super()._repopulate_pool()
        self.pids = [worker.pid for worker in self._pool]


def test_subclass_uses_the_first_workers(start_method):
    context = multiprocessing.get_context(start_method)
    pool = WatchingPool(2, int, (40,), context=context, expect_initret=True)
    assert None not in pool.pids
    check_pool(pool)
    end_pool(pool)


def test_worker_is_added_to_a_closed_pool(make_pool):
    """The pool has released what the worker would need."""
    pool = make_pool(1)
    check_pool(pool)
    end_pool(pool, "close")
    pool._processes = len(pool._pool) + 1
    pool._repopulate_pool()
    assert pool._pool[-1].pid is None
