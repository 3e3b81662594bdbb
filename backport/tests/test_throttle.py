"""The argument *buffersize* of imap() and imap_unordered(), new in Python 3.16."""

import inspect
import multiprocessing.pool

import multiprocessing_initret
import pytest
from conftest import TIMEOUT, call_with_timeout, wait_until
from multiprocessing_initret._parent.throttle import Throttle
from pool_support import add


def next_of(iterator):
    """Return the next item of an iterator, or of a generator over its chunks."""
    return iterator.next(TIMEOUT) if hasattr(iterator, "next") else next(iterator)


has_buffersize = "buffersize" in inspect.signature(multiprocessing.pool.Pool.imap).parameters
needs_buffersize = pytest.mark.skipif(not has_buffersize, reason="imap() has no buffersize")


@pytest.fixture(params=["Pool", "ThreadPool"])
def pool(request):
    with getattr(multiprocessing_initret, request.param)(
        2, int, (40,), expect_initret=True
    ) as pool:
        yield pool


@needs_buffersize
@pytest.mark.parametrize("buffersize", [1, 2, 5, 100])
@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_all_results(pool, method, chunksize, buffersize):
    iterator = getattr(pool, method)(add, range(10), chunksize, buffersize=buffersize)
    assert sorted(iterator) == list(range(40, 50))


@needs_buffersize
def test_no_more_tasks_than_the_buffer_has_room_for(pool):
    read = []
    iterator = pool.imap(add, (read.append(item) or item for item in range(10)), buffersize=3)
    assert next_of(iterator) == 40
    wait_until(lambda: len(read) == 4)
    assert pool.apply_async(add, (1,)).get(TIMEOUT) == 41
    assert len(read) == 4


@needs_buffersize
def test_an_iterator_that_is_not_consumed_does_not_block_other_calls(pool):
    iterators = [pool.imap(add, range(10), buffersize=1) for _ in range(3)]
    for item in range(10):
        assert pool.apply_async(add, (item,)).get(TIMEOUT) == 40 + item
        assert [next_of(iterator) for iterator in iterators] == [40 + item] * 3


@needs_buffersize
def test_close_completes_all_tasks(pool):
    iterators = [pool.imap(add, range(20), buffersize=2) for _ in range(2)]
    chunks = pool.imap(add, range(20), 3, buffersize=1)
    next_of(iterators[0])
    pool.close()
    pool.join()
    assert list(iterators[0]) == list(range(41, 60))
    assert list(iterators[1]) == list(chunks) == list(range(40, 60))


@needs_buffersize
def test_terminate_fails_the_rest(pool):
    iterator = pool.imap(add, range(20), buffersize=2)
    assert next_of(iterator) == 40
    pool.terminate()
    with pytest.raises(multiprocessing_initret.WorkerLostError, match="terminated"):
        for _ in range(20):
            next_of(iterator)


@needs_buffersize
def test_an_iterable_that_raises(pool):
    def items():
        yield 0
        yield 1
        raise LookupError("no more items")

    iterator = pool.imap(add, items(), buffersize=1)
    assert [next_of(iterator), next_of(iterator)] == [40, 41]
    with pytest.raises(LookupError, match="no more items"):
        next_of(iterator)
    with pytest.raises(StopIteration):
        next_of(iterator)


def test_a_throttle_suspends_and_resumes_its_tasks():
    calls, lengths, running = [], [], [True]
    throttle = Throttle(lambda: running[0], calls.append, lengths.append, 2, iter("abcde"))
    assert list(throttle.send_some()) == ["a", "b"]
    assert not calls
    throttle.release()
    (call,) = calls
    assert call[1] is None and list(call[0]) == ["c"]
    running[0] = False
    throttle.release()
    assert list(calls[1][0]) == ["d", "e"] and lengths == [5]


def test_room_is_made_while_room_is_made():
    """The garbage collector terminates the pool, and so releases the throttle, at any point."""
    throttle = Throttle(lambda: True, print, print, 0, iter("a"))

    def release():
        with throttle._lock:
            throttle.release()

    call_with_timeout(release)
    assert list(throttle.send_some()) == ["a"]
