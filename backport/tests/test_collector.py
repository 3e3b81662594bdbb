"""The collector: each task has one result, whatever arrives and in whatever order."""

import gc
import multiprocessing
import multiprocessing.connection
import multiprocessing.pool
import pickle
import sys
import threading
import weakref
from multiprocessing.reduction import ForkingPickler

import pytest
from conftest import TIMEOUT, linux, posix
from multiprocessing_initret import WorkerLostError
from multiprocessing_initret._parent import collector
from multiprocessing_initret._parent.collector import Collector
from multiprocessing_initret._parent.critical_section import CriticalSection
from multiprocessing_initret._parent.result_pipes import result_pipes
from multiprocessing_initret._shared.messages import RESULT_HEADER, MessageBuffer, TruncatedMessage


class TaskPipe:
    """The messages of a task pipe: number 7 is task 70 of job 700, and so on."""

    def __init__(self):
        self.messages = list(range(1, 10))

    def pop(self, number):
        if number not in self.messages:
            return None
        self.messages.remove(number)
        return 100 * number, 10 * number

    def in_flight(self):
        return list(self.messages)


class Worker:
    """A worker as the collector sees it, with the worker's own end of the result pipe."""

    def __init__(self):
        self.reader, self.writer = multiprocessing.Pipe(duplex=False)
        self.unread = MessageBuffer()
        self.is_watched = True
        self.error = WorkerLostError("killed")

    def lost_error(self):
        return self.error

    def send(self, number, value, succeeded=True, description=b""):
        head = RESULT_HEADER.pack(number, len(description))
        self.writer.send_bytes(head + pickle.dumps((succeeded, value)) + description)


class Parts:
    """A collector with one worker, and the objects passed to its constructor."""

    def __init__(self):
        self.queue = multiprocessing.SimpleQueue()
        self.pipes = result_pipes(self.queue, multiprocessing.connection.wait)
        self.tasks = TaskPipe()
        self.section = CriticalSection()
        self.log, self.failures, self.checks = [], [], []
        self.collector = Collector(
            self.pipes,
            self.tasks,
            multiprocessing.pool,
            ForkingPickler,
            self.section,
            self.log.append,
            lambda *args: self.on_failure(*args),
            lambda: self.checks.append(len(self.tasks.messages)),
        )
        self.worker = Worker()
        self.collector.add_worker(self.worker, True)

    def on_failure(self, error):
        self.failures.append(error)
        self.collector.fail_all(WorkerLostError("broken"))

    def get(self):
        """Return the next result, with a limit."""
        found = []

        def run():
            try:
                found.append(self.collector.get())
            except BaseException as error:
                found.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(TIMEOUT)
        return found[0]


@pytest.fixture
def parts():
    parts = Parts()
    yield parts
    parts.collector.close()
    parts.queue._reader.close()
    parts.queue._writer.close()


def test_results(parts):
    parts.worker.send(2, "two")
    parts.worker.send(1, LookupError("one"), False, b"LookupError('one')\0")
    assert parts.get() == (200, 20, (True, "two"))
    job, index, (succeeded, error) = parts.get()
    assert (job, index, succeeded, type(error)) == (100, 10, False, LookupError)
    assert error.args == ("one",)


def test_second_message_of_a_task(parts):
    for number in 1, 1, 2:
        parts.worker.send(number, number)
    assert parts.get() == (100, 10, (True, 1))
    assert parts.get() == (200, 20, (True, 2))


def test_worker_that_is_added_later(parts):
    worker = Worker()
    worker.send(3, 3)
    parts.collector.add_worker(worker, False)
    assert parts.get() == (300, 30, (True, 3))


@pytest.mark.parametrize("is_watched", [True, False])
def test_check_for_exited_workers(parts, monkeypatch, is_watched):
    """The result handler checks again and again, although results arrive all the time."""
    monkeypatch.setattr(collector, "_CHECK_INTERVAL", 0)
    worker = Worker()
    worker.is_watched = is_watched
    parts.collector.add_worker(worker, True)
    for number in 1, 2, 3:
        worker.send(number, number)
        assert parts.get() == (100 * number, 10 * number, (True, number))
    assert set(parts.checks) == (set() if is_watched else {9, 8, 7})


def test_wake_up_is_in_the_section(parts, monkeypatch):
    """terminate(), called by the garbage collector, might write in the middle of the wake-up."""
    is_inside = []
    monkeypatch.setattr(parts.pipes, "wake", lambda: is_inside.append(parts.section.is_entered()))
    parts.collector.call_soon(print)
    assert is_inside == [True] and not parts.section.is_entered()


def test_removed_worker(parts):
    """The results of a removed worker are delivered before its unfinished task fails."""
    parts.worker.send(1, 1)
    parts.worker.writer.close()
    parts.collector.remove_worker(parts.worker, 2)
    assert parts.get() == (100, 10, (True, 1))
    assert parts.get() == (200, 20, (False, parts.worker.error))
    assert parts.log == ["killed"] and parts.worker.reader.closed


def test_removed_worker_that_had_finished_its_task(parts):
    parts.worker.send(1, 1)
    parts.worker.writer.close()
    parts.collector.remove_worker(parts.worker, 1)
    assert parts.get() == (100, 10, (True, 1))
    parts.collector.fail(5, 6, LookupError)
    assert parts.get() == (5, 6, (False, LookupError))
    assert parts.log == []


def test_removed_worker_whose_pipe_is_open(parts):
    """A child that the worker has forked has the pipe open, so that there is no end of the pipe."""
    parts.worker.send(1, 1)
    parts.collector.remove_worker(parts.worker, 2)
    assert parts.get() == (100, 10, (True, 1))
    assert parts.get() == (200, 20, (False, parts.worker.error))


@posix
def test_removed_worker_with_half_a_message(parts):
    parts.worker.writer._send(b"\0\0\1\0half")
    parts.worker.writer.close()
    parts.collector.remove_worker(parts.worker, 2)
    assert parts.get() == (200, 20, (False, parts.worker.error))


def test_fail_all(parts):
    """A result that arrives later is ignored."""
    error = WorkerLostError("broken")
    parts.collector.fail_all(error)
    found = [parts.get() for _ in range(9)]
    assert found == [(100 * i, 10 * i, (False, error)) for i in range(1, 10)]
    parts.worker.send(3, 3)
    parts.queue.put(None)
    while parts.get() is not None:
        pytest.fail("a second result")


def test_sentinel(parts):
    parts.queue.put(None)
    assert parts.get() is None
    # The pool calls get() until all pending results have arrived.
    parts.worker.send(4, 4)
    assert parts.get() == (400, 40, (True, 4))


def test_call_after_the_sentinel(parts):
    """The result handler checks whether results are pending, and calls get() again if there are."""
    parts.queue.put(None)
    assert parts.get() is None
    parts.collector.call_soon(lambda: None)
    assert parts.get() is None


#
# Results that cannot be unpickled
#


def fail_to_unpickle(error):
    raise error


class Unpicklable:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return fail_to_unpickle, (self.error,)


class BadRepr(Exception):
    def __repr__(self):
        raise LookupError("no repr")


@pytest.mark.parametrize("error", [MemoryError, LookupError, BadRepr])
def test_result_that_cannot_be_unpickled(parts, error):
    parts.worker.send(1, Unpicklable(error()))
    parts.worker.send(2, 2)
    assert type(parts.get()[2][1]) is error
    assert parts.get() == (200, 20, (True, 2))


@pytest.mark.parametrize("reason", [LookupError, BadRepr, SystemExit])
def test_exception_that_cannot_be_unpickled(parts, reason):
    parts.worker.send(1, Unpicklable(reason()), False, b"the error\0the traceback")
    _, _, (succeeded, error) = parts.get()
    assert not succeeded and type(error) is multiprocessing.pool.MaybeEncodingError
    assert error.value == "the error" and "the traceback" in str(error.__cause__)


def test_no_memory_for_a_message(parts, monkeypatch):
    message = TruncatedMessage(RESULT_HEADER.pack(3, 50))
    parts.worker.send(1, 1)
    monkeypatch.setattr(parts.pipes, "receive", lambda worker: [message])
    job, index, (succeeded, error) = parts.get()
    assert (job, index, succeeded) == (300, 30, False) and type(error) is MemoryError


LIMITED_MEMORY = """
import multiprocessing, resource, sys
import multiprocessing_initret

def megabytes(count, initret):
    return bytes(count << 20)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with multiprocessing_initret.Pool(2, int, context=context, expect_initret=True) as pool:
        assert pool.map(megabytes, [0, 0]) == [b"", b""]
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (150 << 20),) * 2)
        for result in [pool.apply_async(megabytes, (count,)) for count in (1, 300, 2, 3)]:
            try:
                print(len(result.get(60)) >> 20)
            except MemoryError:
                print("MemoryError")
"""


@linux
def test_limited_memory(python, tmp_path, start_method):
    (tmp_path / "program.py").write_text(LIMITED_MEMORY)
    assert python("program.py", start_method).split() == ["1", "MemoryError", "2", "3"]


#
# While a result is unpickled, no worker is forked and the pool does not end
#


class Calls:
    """Calls a function where it is unpickled."""

    function = None

    def __reduce__(self):
        return Calls.call, ()

    @staticmethod
    def call():
        return Calls.function()


def test_lock(parts):
    Calls.function = parts.collector.unpickling_lock.locked
    parts.worker.send(1, Calls())
    assert parts.get() == (100, 10, (True, True))
    assert not parts.collector.unpickling_lock.locked()


#
# The last line of defence
#


def raise_(error):
    raise error


@pytest.mark.parametrize("failing", ["wait", "receive", "a call"])
def test_unexpected_exception(parts, monkeypatch, failing):
    """The pool breaks, and all its tasks fail."""
    error = LookupError("unexpected")
    parts.worker.send(1, 1)
    if failing == "a call":
        parts.collector.call_soon(raise_, error)
    else:
        monkeypatch.setattr(parts.pipes, failing, lambda *args: raise_(error))
    found = [parts.get() for _ in range(9)]
    assert parts.failures == [error]
    assert sorted(result[0] for result in found) == list(range(100, 1000, 100))
    assert [str(result[2][1]) for result in found].count("broken") >= 8
    parts.queue.put(None)
    assert parts.get() is None


def test_second_unexpected_exception(parts, monkeypatch):
    """get() raises an exception, and does not call on_failure() once more."""
    first, second = LookupError("first"), LookupError("second")
    monkeypatch.setattr(parts.pipes, "wait", lambda *args: raise_(first))
    monkeypatch.setattr(parts.pipes, "read_wake_up", lambda: raise_(second))
    error = parts.get()
    assert type(error) is RuntimeError and error.__cause__ is second
    assert parts.failures == [first]


#
# The end
#


def test_nothing_is_kept(parts, no_collector):
    """A collector that is closed is no cyclic garbage, and keeps nothing alive."""

    class Releasable:
        pass

    obj = Releasable()
    references = [weakref.ref(obj)]
    parts.collector.call_soon(lambda obj: None, obj)
    parts.collector.close()
    del obj
    if not hasattr(sys, "getrefcount"):
        gc.collect()  # PyPy
    assert references[0]() is None
    assert parts.worker.reader.closed
    references.append(weakref.ref(parts.collector))
    closed, parts.collector = parts.collector, Parts().collector
    del closed
    if not hasattr(sys, "getrefcount"):
        gc.collect()
    assert references[1]() is None
