"""Executors share large initargs between workers, and release them at shutdown."""

import functools
import gc
import logging
import multiprocessing
import os
import pickle
import sys
import threading
import weakref

import futures_support
import pytest
from conftest import (
    START_METHODS,
    TIMEOUT,
    Counted,
    Unpicklable,
    counts_references,
    linux,
    wait_until,
)
from futures_support import (
    INTERPRETERS,
    add,
    fail,
    identity,
    join_other_threads,
    make,
    with_initializers,
)

kind = futures_support.kind  # a fixture

shares = pytest.mark.skipif(pickle.HIGHEST_PROTOCOL < 5, reason="no out-of-band buffers")
closes_pipes = pytest.mark.skipif(
    sys.version_info < (3, 9), reason="the standard shutdown() closes no pipes"
)

#
# Sharing
#


class Array:
    """An object with a buffer, like a NumPy array."""

    def __init__(self, data):
        self.data = memoryview(data)

    def __reduce_ex__(self, protocol):
        return Array, (pickle.PickleBuffer(self.data),)


def all_of(*args):
    return args


def type_of(value):
    return type(value)


def fail_with_argument(value):
    raise LookupError("no luck")


def write_to_array(number, initret):
    """Write to this worker's array while the other worker writes to its own."""
    array, barrier, lock = initret
    barrier.wait(TIMEOUT)
    with lock:
        before = bytes(array.data[:6])
        array.data[0] = number
    barrier.wait(TIMEOUT)
    with open("/proc/self/maps") as maps:
        files = {line.split()[4] for line in maps if "multiprocessing_initret (deleted)" in line}
    return os.getpid(), type(array.data.obj).__name__, files, before, bytes(array.data[:6])


@shares
@linux
def test_arrays_are_shared_until_written_to(spawning_method):
    context = multiprocessing.get_context(spawning_method)
    array = Array(bytearray(b"parent" + bytes(10000)))
    initargs = array, context.Barrier(2), context.Lock()
    with make(spawning_method, 2, all_of, initargs) as executor:
        for _ in range(2):
            submitted = [executor.submit(write_to_array, ord(letter)) for letter in "PQ"]
            results = [future.result(TIMEOUT) for future in submitted]
            pids, types, files, _, after = zip(*results)
            assert len(set(pids)) == 2 and "bytearray" not in types
            assert files[0] == files[1] and len(files[0]) == 1
            assert after == (b"Parent", b"Qarent")
    assert bytes(array.data[:6]) == b"parent"


@shares
def test_initargs_are_pickled_once(spawning_method):
    counted = Counted()
    kwds = {"max_tasks_per_child": 1} if sys.version_info >= (3, 11) else {}
    with make(spawning_method, 2, type_of, (counted,), **kwds) as executor:
        for submitted in [executor.submit(dict) for _ in range(4)]:
            assert submitted.result(TIMEOUT) == {"initret": Counted}
    assert counted.pickled == 1


@with_initializers
def test_initargs_cannot_be_pickled(spawning_method, no_other_children):
    with make(spawning_method, 1, all_of, (Unpicklable(),)) as executor:
        for _ in range(2):
            with pytest.raises(LookupError, match="not to be pickled"):
                executor.submit(dict)
    assert multiprocessing.active_children() == []


@pytest.mark.skipif("fork" not in START_METHODS, reason="other start methods pickle them")
@with_initializers
def test_inherited_initargs_are_not_pickled():
    with make("fork", 1, type_of, (Unpicklable(),)) as executor:
        assert executor.submit(dict).result(TIMEOUT) == {"initret": Unpicklable}


@pytest.mark.skipif(
    sys.version_info < (3, 14, 10) or (3, 15) <= sys.version_info < (3, 15, 2),
    reason="no worker is replaced then (gh-119592)",
)
def test_replacements_after_shutdown_receive_initargs():
    with make("spawn", 1, identity, (40,), max_tasks_per_child=1) as executor:
        submitted = [executor.submit(add, i) for i in range(4)]
        executor.shutdown(wait=False)
    assert [future.result(TIMEOUT) for future in submitted] == [40, 41, 42, 43]


#
# Release
#


def object_for(kind):
    """Return an object that workers of this kind can receive, and that has weak references."""
    if kind in INTERPRETERS:
        return functools.partial(int)
    return multiprocessing.get_context(kind).Lock() if kind in START_METHODS else set()


@with_initializers
@counts_references
@pytest.mark.parametrize("wait", [True, False])
def test_shutdown_releases_initargs(kind, wait, no_collector):
    if not wait and kind in START_METHODS and sys.version_info < (3, 9):
        pytest.skip("the standard shutdown(wait=False) closes a pipe that is in use")
    initarg = object_for(kind)
    reference = weakref.ref(initarg)
    executor = make(kind, 1, type_of, (initarg,))
    del initarg
    executor.submit(dict).result(TIMEOUT)
    executor.shutdown(wait)
    # After shutdown(wait=False) a thread releases them when it ends.
    wait_until(lambda: reference() is None)
    assert executor is not None


@with_initializers
@counts_references
@pytest.mark.parametrize("initializer", [type_of, fail_with_argument])
def test_initargs_are_released_with_the_executor(kind, initializer, no_collector, monkeypatch):
    if kind in INTERPRETERS and initializer is fail_with_argument:
        pytest.skip("the standard class leaves a cycle: an exception, and the frame that raised it")
    # pytest would keep the record, whose traceback refers to initargs.
    monkeypatch.setattr(logging.getLogger("concurrent.futures"), "propagate", False)
    initarg = object_for(kind)
    reference = weakref.ref(initarg)
    executor = make(kind, 1, initializer, (initarg,))
    del initarg
    executor.submit(dict).exception(TIMEOUT)
    del executor
    wait_until(lambda: reference() is None)


@with_initializers
@counts_references
def test_no_cyclic_garbage(kind, no_collector):
    def use():
        with make(kind, 2, type_of, (object_for(kind),)) as executor:
            assert len(list(executor.map(dict, [[]] * 4, timeout=TIMEOUT))) == 4
            executor.submit(dict).result(TIMEOUT)

    use()
    gc.collect()
    use()
    assert gc.collect() == 0


@with_initializers
@counts_references
def test_executor_is_released_when_dropped(kind, no_collector):
    threads = set(threading.enumerate())
    executor = make(kind, 1, identity, (40,))
    assert executor.submit(add, 1).result(TIMEOUT) == 41
    failed = executor.submit(add, "1")  # its exception refers to frames of the worker thread
    assert isinstance(failed.exception(TIMEOUT), TypeError)
    reference = weakref.ref(executor)
    del executor
    # A worker thread refers to the executor for a moment to see whether it was shut down.
    wait_until(lambda: reference() is None)
    join_other_threads(threads)  # a later test counts open files


def count_files():
    return len(os.listdir("/proc/self/fd"))


@closes_pipes
@counts_references
@linux
@pytest.mark.parametrize("initializer", [dict, fail])
def test_shutdown_closes_all_pipes(start_method, initializer, no_collector):
    def use():
        executor = make(start_method, 1, initializer)
        executor.submit(dict).exception(TIMEOUT)
        executor.shutdown()
        kept.append(executor)
        return count_files()

    kept = []
    use()  # starts what outlives the executor, a fork server for instance
    assert use() == use()


@closes_pipes
@counts_references
@linux
def test_shutdown_without_waiting_closes_all_pipes(start_method, no_collector):
    def use():
        threads = set(threading.enumerate())
        executor = make(start_method, 1, identity, (40,))
        assert executor.submit(add, 1).result(TIMEOUT) == 41
        executor.shutdown(wait=False)
        join_other_threads(threads)
        kept.append(executor)

    kept = []
    use()  # starts what outlives the executor, a fork server for instance
    before = count_files()
    for _ in range(4):
        use()
    wait_until(lambda: count_files() <= before)  # another thread may close the last
