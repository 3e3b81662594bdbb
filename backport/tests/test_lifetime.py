"""A pool that has ended keeps nothing alive, and a worker needs few descriptors."""

import contextlib
import errno
import gc
import multiprocessing
import os
import sys
import threading
import weakref

import multiprocessing_initret
import pytest
from conftest import (
    START_METHODS,
    TIMEOUT,
    counts_references,
    linux,
    posix,
    wait_until,
)
from multiprocessing_initret._parent import process_supervisor
from multiprocessing_initret._parent.process_supervisor import ProcessSupervisor
from multiprocessing_initret._parent.reaper import Reaper
from pool_support import (
    KILL,
    add,
    block,
    create_pool,
    end_pool,
    error_of,
    unblock,
    wait_for_pid,
    write_pid_and_wait,
)


def garbage():
    """Collect cyclic garbage, and return it."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return list(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def identity(value, initret=None):
    return value


class Resource:
    """Stands for a lock, a connection or a tensor among initargs."""


def get_first(number, resource):
    return number


def use(pool, end):
    with pool:
        assert pool.map_async(add, range(4)).get(TIMEOUT) == [40, 41, 42, 43]
        assert list(pool.imap(add, range(3))) == [40, 41, 42]
        assert pool.apply_async(add, (1,)).get(TIMEOUT) == 41
        if end == "close":
            pool.close()
            pool.join()


def make(kind, resource):
    initargs = 40, resource
    if kind == "threads":
        return multiprocessing_initret.ThreadPool(2, get_first, initargs, expect_initret=True)
    return create_pool(kind, 2, get_first, initargs)


@counts_references
@pytest.mark.parametrize("end", ["close", "terminate"])
@pytest.mark.parametrize("kind", ["threads", *START_METHODS])
def test_nothing_is_garbage(kind, end, no_collector):
    use(make(kind, Resource()), end)  # what is made once for all pools
    gc.collect()
    resource = Resource()
    reference = weakref.ref(resource)
    pool = make(kind, resource)
    del resource
    use(pool, end)
    del pool
    assert reference() is None
    assert garbage() == []


@counts_references
@pytest.mark.skipif(sys.version_info < (3, 8), reason="the pool's threads refer to the pool")
@pytest.mark.parametrize("kind", ["threads", *START_METHODS])
def test_nothing_is_garbage_if_the_pool_ends_in_its_result_handler(kind, no_collector, tmp_path):
    """The result handler drops the last reference to the pool, with that to the result."""
    path = str(tmp_path / "inside")
    threads = threading.active_count()
    for is_first in True, False:
        gc.collect()
        resource = Resource()
        reference = weakref.ref(resource)
        pool = make(kind, resource)
        del resource
        result = pool.apply_async(block, (path,))
        wait_until(lambda: os.path.exists(path))
        del pool
        unblock(path)
        assert result.get(TIMEOUT) is None
        wait_until(lambda: threading.active_count() <= threads)
        if not is_first:  # the first pool makes what is made once for all pools
            assert reference() is None
            assert garbage() == []


def raise_unexpected(*args):
    raise ZeroDivisionError("unexpected")


@counts_references
@pytest.mark.parametrize("kind", START_METHODS)
def test_result_of_a_broken_pool(kind, no_collector, tmp_path, monkeypatch):
    """A program may keep it, and with it the exception that broke the pool."""
    resource, path = Resource(), str(tmp_path / "inside")
    reference = weakref.ref(resource)
    pool = make(kind, resource)
    del resource
    result = pool.apply_async(write_pid_and_wait, (path,))
    pid = wait_for_pid(path)
    with monkeypatch.context() as context:
        context.setattr(Reaper, "reap", raise_unexpected)
        os.kill(pid, KILL)
        assert "unexpected" in str(error_of(result))
    end_pool(pool)
    del pool
    assert reference() is None


class UnpicklableInTheParent:
    def __reduce__(self):
        return int, ("text",)


def return_unpicklable(item, initret):
    return UnpicklableInTheParent()


class FailingItems:
    def __len__(self):
        return 2

    def __iter__(self):
        yield 1
        raise LookupError("no more items")


def exit_thread(item, initret):
    sys.exit()


FAILURES = {
    "unpicklable": (START_METHODS[0], return_unpicklable, [1]),
    "items": (START_METHODS[0], identity, FailingItems()),
    "items of threads": ("threads", identity, FailingItems()),
    "SystemExit": ("threads", exit_thread, [1]),
}


def fail(name):
    """Use a pool until a map() has failed; return the result and a reference to the supervisor."""
    kind, function, items = FAILURES[name]
    pool = make(kind, Resource())
    supervisor = weakref.ref(pool._map_async.__self__)
    result = pool.map_async(function, items)
    result.wait(TIMEOUT)  # get() would add frames to the traceback
    assert not result.successful()
    end_pool(pool, "close")
    return result, supervisor


@counts_references
@pytest.mark.parametrize("name", FAILURES)
def test_failed_result_is_no_garbage(name, no_collector):
    """The exception is not in a reference cycle with its traceback."""
    fail(name)  # also creates objects that all pools share
    gc.collect()
    result, supervisor = fail(name)
    del result
    wait_until(lambda: supervisor() is None)
    assert garbage() == []


@counts_references
@pytest.mark.skipif(
    sys.version_info[:2] in [(3, 12), (3, 13)],
    reason="the frame of a generator refers to that of its caller, the task handler",
)
@pytest.mark.parametrize("name", ["items", "items of threads"])
def test_exception_of_an_iterable_does_not_keep_the_pool(name, no_collector):
    result, supervisor = fail(name)
    wait_until(lambda: supervisor() is None)
    assert not result.successful()


@posix
@counts_references
def test_constructor_that_fails_keeps_nothing(no_collector, monkeypatch):
    fork, forks = os.fork, []

    def fail_second():
        forks.append(None)
        if len(forks) == 2:
            raise BlockingIOError(errno.EAGAIN, "no more processes")
        return fork()

    monkeypatch.setattr(os, "fork", fail_second)
    supervisors, init = [], ProcessSupervisor.__init__

    def record(self, *args):
        init(self, *args)
        supervisors.append(weakref.ref(self))

    monkeypatch.setattr(ProcessSupervisor, "__init__", record)
    with contextlib.suppress(BlockingIOError):
        make("fork", Resource())
    assert len(forks) == 2
    wait_until(lambda: supervisors[0]() is None)


@linux
@pytest.mark.parametrize("start_method", START_METHODS)
def test_descriptors_of_a_kept_pool(monkeypatch, start_method, no_collector):
    """A closed pool has one more descriptor than in the standard pool: its records are mapped."""
    monkeypatch.setattr(process_supervisor, "_RESULT_HANDLER_TIMEOUT", TIMEOUT)
    pools, numbers = [], []
    for kwds in {}, {"expect_initret": True}, {}, {"expect_initret": True}:
        before = len(os.listdir("/proc/self/fd"))
        context = multiprocessing.get_context(start_method)
        pools.append(multiprocessing_initret.Pool(2, dict, context=context, **kwds))
        assert pools[-1].map_async(identity, range(3)).get(TIMEOUT) == [0, 1, 2]
        end_pool(pools[-1], "close")
        numbers.append(len(os.listdir("/proc/self/fd")) - before)
    assert numbers[3] <= numbers[2] + 1


@linux
@counts_references
def test_descriptors_of_a_kept_result(no_collector):
    """A kept result keeps no more descriptors than in the standard pool."""

    def count(**kwds):
        context = multiprocessing.get_context("fork")
        before = len(os.listdir("/proc/self/fd"))
        pool = multiprocessing_initret.Pool(1, dict, context=context, **kwds)
        result = pool.map_async(identity, range(3))
        assert result.get(TIMEOUT) == [0, 1, 2]
        end_pool(pool, "close")
        del pool
        return len(os.listdir("/proc/self/fd")) - before, result

    for _ in range(2):  # the first pools make what is made once for all pools
        gc.collect()
        ours, kept = count(expect_initret=True)
        standard, kept = count()
    assert ours <= standard


@pytest.mark.parametrize("kind", START_METHODS)
def test_connection_among_initargs_is_closed(kind):
    context = multiprocessing.get_context(kind)
    reader, writer = context.Pipe(duplex=False)
    pool = make(kind, writer)
    del writer
    use(pool, "close")
    del pool

    def is_closed():
        gc.collect()  # PyPy
        try:
            return reader.poll() and reader.recv() is None
        except (EOFError, BrokenPipeError):  # the second is that of Windows
            return True

    wait_until(is_closed)


DESCRIPTORS = """
import gc, multiprocessing, os, resource, sys
import multiprocessing_initret

def identity(item, initret=None):
    return item

if __name__ == "__main__":
    method, size, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    context = multiprocessing.get_context(method)
    for kwds in {}, {"expect_initret": True}:
        if kwds or len(sys.argv) > 4:
            multiprocessing_initret.Pool(1, dict, context=context, **kwds).terminate()
            before = len(os.listdir("/proc/self/fd"))
            with multiprocessing_initret.Pool(size, dict, context=context, **kwds) as pool:
                assert pool.map(identity, range(50), chunksize=1) == list(range(50))
                print(len(os.listdir("/proc/self/fd")) - before)
            del pool  # or its descriptors would count as those before the next pool
            gc.collect()
"""


@linux
def test_descriptors_of_workers(python, tmp_path, start_method):
    """A worker costs at most one descriptor more than in the standard pool."""
    (tmp_path / "program.py").write_text(DESCRIPTORS)

    def counts(size):
        output = python("program.py", start_method, size, 1024, "both")
        return [int(count) for count in output.split()]

    (standard_2, ours_2), (standard_6, ours_6) = counts(2), counts(6)
    assert ours_6 - ours_2 <= standard_6 - standard_2 + 4


@linux
@pytest.mark.slow
@pytest.mark.parametrize("start_method, size, limit", [("fork", 320, 1024), ("spawn", 60, 256)])
def test_many_workers(python, tmp_path, start_method, size, limit):
    if hasattr(os, "sysconf") and os.sysconf("SC_OPEN_MAX") < limit:
        pytest.skip("this system allows fewer descriptors")
    (tmp_path / "program.py").write_text(DESCRIPTORS)
    assert int(python("program.py", start_method, size, limit)) < limit
