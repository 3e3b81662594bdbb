"""The classes that leave multiprocessing alone, and the classes of others."""

import multiprocessing
import multiprocessing.pool
import os
import signal
import sys

import multiprocessing_initret
import pytest
from conftest import HAS_EXPECT_INITRET, TIMEOUT
from multiprocessing_initret import WorkerLostError, is_installed


def give(value):
    return value


def add(item, initret):
    return item + initret


def without(item):
    return item, is_installed()


def which(item, initret):
    return os.getpid(), initret, is_installed()


def fail():
    raise LookupError("no luck")


def check(pool):
    with pool:
        assert pool.map_async(add, range(5), chunksize=2).get(TIMEOUT) == [40, 41, 42, 43, 44]
        assert pool.starmap_async(add, [(1,)]).get(TIMEOUT) == [41]
        assert pool.apply_async(add, (1,)).get(TIMEOUT) == 41
        assert pool.imap(add, [1]).next(TIMEOUT) == 41
    pool.join()


def test_pool(start_method):
    context = multiprocessing.get_context(start_method)
    check(multiprocessing_initret.Pool(2, give, (40,), context=context, expect_initret=True))
    check(multiprocessing_initret.Pool(2, give, (40,), None, context, expect_initret=True))


def test_default_start_method():
    check(multiprocessing_initret.Pool(2, give, (40,), expect_initret=True))


def test_thread_pool():
    check(multiprocessing_initret.ThreadPool(2, give, (40,), expect_initret=True))


def test_multiprocessing_is_left_alone(start_method):
    context = multiprocessing.get_context(start_method)
    with multiprocessing_initret.Pool(1, os.getpid, context=context, expect_initret=True) as pool:
        pid, initret, patched = pool.apply_async(which, (1,)).get(TIMEOUT)
    assert pid == initret != os.getpid()
    assert not patched
    assert not is_installed()
    if not HAS_EXPECT_INITRET:
        with pytest.raises(TypeError, match="expect_initret"):
            multiprocessing.Pool(1, give, (1,), expect_initret=True)


def test_with_install_too(installed):
    check(multiprocessing_initret.Pool(2, give, (40,), expect_initret=True))
    check(multiprocessing_initret.ThreadPool(2, give, (40,), expect_initret=True))


@pytest.mark.parametrize("name", ["Pool", "ThreadPool"])
def test_off(name):
    with getattr(multiprocessing_initret, name)(2, give, (40,)) as pool:
        assert pool.map_async(without, range(2)).get(TIMEOUT) == [(0, False), (1, False)]
        assert "Process" not in vars(pool)


@pytest.mark.parametrize("name", ["Pool", "ThreadPool"])
def test_no_initializer(name):
    with pytest.raises(ValueError, match="initializer"):
        getattr(multiprocessing_initret, name)(2, expect_initret=True)


@pytest.mark.parametrize("name", ["Pool", "ThreadPool"])
def test_wrong_number_of_processes(name):
    with pytest.raises(ValueError, match="[Nn]umber of processes"):
        getattr(multiprocessing_initret, name)(0, give, (40,), expect_initret=True)


@pytest.mark.parametrize("name", ["Pool", "ThreadPool"])
def test_missing_initializer_is_reported_before_wrong_number_of_processes(name):
    with pytest.raises(ValueError, match="initializer"):
        getattr(multiprocessing_initret, name)(0, expect_initret=True)


@pytest.mark.skipif(
    os.name == "posix" or sys.version_info >= (3, 13), reason="any number of processes will do"
)
def test_too_many_processes_for_windows():
    with pytest.raises(ValueError, match="at most 61"):
        multiprocessing_initret.Pool(62, give, (40,), expect_initret=True)


def test_too_many_processes(monkeypatch):
    monkeypatch.setattr("multiprocessing_initret._parent.process_supervisor.MAX_WORKERS", 2)
    with pytest.raises(ValueError, match="at most 2"):
        multiprocessing_initret.Pool(3, give, (40,), expect_initret=True)
    assert not multiprocessing.active_children()
    check(multiprocessing_initret.Pool(2, give, (40,), expect_initret=True))
    check(multiprocessing_initret.ThreadPool(3, give, (40,), expect_initret=True))


@pytest.mark.parametrize("name", ["Pool", "ThreadPool"])
def test_failing_initializer(name):
    with getattr(multiprocessing_initret, name)(2, fail, expect_initret=True) as pool:
        result = pool.map_async(add, range(5))
        with pytest.raises(LookupError, match="no luck"):
            result.get(TIMEOUT)


ORPHANS = """
import multiprocessing, os, signal, sys
import multiprocessing_initret

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    pool = multiprocessing_initret.Pool(2, os.getpid, context=context, expect_initret=True)
    pool.apply(dict)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
def test_no_worker_outlives_its_parent(python, tmp_path, start_method):
    (tmp_path / "program.py").write_text(ORPHANS)
    # It returns when the last process that holds the pipe of its output has gone.
    python("program.py", start_method, code=-signal.SIGKILL)


def test_they_are_stock_pools():
    assert issubclass(multiprocessing_initret.Pool, multiprocessing.pool.Pool)
    assert issubclass(multiprocessing_initret.ThreadPool, multiprocessing.pool.ThreadPool)


#
# Subclasses that others have written for the stock Pool
#


def tidy_worker(*args):
    """A worker of one's own, as torch.multiprocessing has."""
    multiprocessing.pool.worker(*args)
    sys.exit(3)  # for its parent to see


class TidyPool(multiprocessing.pool.Pool):
    def _repopulate_pool(self):
        first = (self._ctx,) if sys.version_info >= (3, 8) else ()
        while len(self._pool) < self._processes:
            process = self.Process(
                *first,
                target=tidy_worker,
                args=(
                    self._inqueue,
                    self._outqueue,
                    self._initializer,
                    self._initargs,
                    self._maxtasksperchild,
                    self._wrap_exception,
                ),
            )
            self._pool.append(process)
            process.daemon = True
            process.start()


def test_own_worker(installed, start_method):
    pool = TidyPool(
        2, give, (40,), context=multiprocessing.get_context(start_method), expect_initret=True
    )
    workers = list(pool._pool)
    assert pool.map_async(add, range(5)).get(TIMEOUT) == [40, 41, 42, 43, 44]
    assert all(worker.daemon for worker in workers)
    pool.close()
    pool.join()
    assert [worker.exitcode for worker in workers] == [3, 3]


class NamingPool(multiprocessing.pool.Pool):
    if sys.version_info >= (3, 8):

        @staticmethod
        def Process(ctx, *args, **kwds):
            return ctx.Process(*args, name="own Process", **kwds)

    else:

        def Process(self, *args, **kwds):
            return self._ctx.Process(*args, name="own Process", **kwds)


def name_of_process(initret):
    return multiprocessing.current_process().name


def test_own_process(installed):
    with NamingPool(1, give, (40,), expect_initret=True) as pool:
        assert pool.apply_async(name_of_process).get(TIMEOUT).startswith("own PoolWorker")


class QueuePool(multiprocessing.pool.Pool):
    def _setup_queues(self):
        super()._setup_queues()
        self._quick_put, self._quick_get = self._inqueue.put, self._outqueue.get


def wait(initret):
    initret.wait(TIMEOUT)


def raise_after_one():
    yield 1
    raise LookupError("no luck")


def test_own_queues(installed, start_method):
    context = multiprocessing.get_context(start_method)
    check(QueuePool(2, give, (40,), context=context, expect_initret=True))
    with QueuePool(1, fail, context=context, expect_initret=True) as pool:
        result = pool.apply_async(add, (1,))
        with pytest.raises(LookupError, match="no luck"):
            result.get(TIMEOUT)
    with QueuePool(1, give, (context.Event(),), context=context, expect_initret=True) as pool:
        iterator = pool.imap(without, raise_after_one())
        awaited = pool.apply_async(wait)
        with pytest.raises(TypeError, match="initret"):
            iterator.next(TIMEOUT)
        with pytest.raises(LookupError, match="no luck"):
            iterator.next(TIMEOUT)
    with pytest.raises(WorkerLostError, match="terminated"):
        awaited.get(TIMEOUT)


class FortyPool(multiprocessing.pool.Pool):
    def __init__(self, *args, **kwds):
        super().__init__(*args, initializer=give, initargs=(40,), **kwds)


def test_own_init(installed):
    check(FortyPool(2, expect_initret=True))
