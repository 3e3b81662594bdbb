"""The task pipe, and its recovery after a worker has died at any step."""

import contextlib
import multiprocessing
import os
import pickle
import threading
import types

import pytest
from conftest import TIMEOUT, posix, wait_until
from multiprocessing_initret._parent import process_supervisor, task_pipe
from multiprocessing_initret._parent.critical_section import CriticalSection
from multiprocessing_initret._parent.reaper import Reaper
from multiprocessing_initret._shared.record import (
    HOLDING,
    INITIALIZING,
    READING,
    RUNNING,
    STARTING,
    STOPPING,
    WAITING,
    Records,
)
from multiprocessing_initret._worker.process import RecordedTasks


class Death(BaseException):
    """Raised in a worker of these tests at the step at which it dies."""


class Steps:
    """Counts the steps of a worker, and makes it die at one of them.

    :param last: the number of steps that the worker survives
    """

    def __init__(self, last=float("inf")):
        self.last = last
        self.count = 0

    def __call__(self):
        if self.count == self.last:
            raise Death
        self.count += 1

    def around(self, function):
        """Return a function with a step before it and one after it."""

        def stepping(*args):
            self()
            result = function(*args)
            self()
            return result

        return stepping


class SteppingIntegers:
    def __init__(self, integers, steps):
        self._integers = integers
        self._set = steps.around(integers.__setitem__)

    def __getitem__(self, index):
        return self._integers[index]

    def __setitem__(self, index, value):
        self._set(index, value)


class SteppingReader:
    """Reads a message in pieces, with a step before each of them.

    As Connection.recv_bytes() does, it reads the header first.
    """

    def __init__(self, reader, steps):
        self._reader = reader
        self.fileno = reader.fileno
        self._steps = steps
        self.count = 0  # bytes of the message that have been read

    def recv_bytes(self):
        if os.name != "posix":
            self._steps()
            message = self._reader.recv_bytes()
            self.count = len(message)
            self._steps()
            return message
        size = int.from_bytes(self._read(4), "big")
        return self._read(size)

    def _read(self, size):
        data = b""
        while len(data) < size:
            self._steps()
            start = len(data)
            end = min(start + max(1, size // 4), size)
            while len(data) < end:
                data += os.read(self._reader.fileno(), end - len(data))
            self.count += end - start
        self._steps()
        return data


class Worker:
    """A worker in this process: receives tasks and sends results, step by step."""

    # Attributes of WorkerProcess that Reaper reads.
    start_method = "fork"
    exitcode = 1

    def __init__(self, queue, record, steps, defers_initializer=True):
        self.record = record
        self._steps = steps
        self.reader = SteppingReader(queue._reader, steps)
        self.results = []  # pairs of the number of a message and the job in it
        lock = types.SimpleNamespace(
            acquire=steps.around(queue._rlock.acquire), release=steps.around(queue._rlock.release)
        )
        stepping_queue = types.SimpleNamespace(_rlock=lock, _reader=self.reader)
        integers = SteppingIntegers(record.records.integers, steps)
        stepping_record = types.SimpleNamespace(
            set=steps.around(record.set), records=types.SimpleNamespace(integers=integers)
        )
        self.channel = types.SimpleNamespace(
            record=stepping_record, defers_initializer=defers_initializer, parent_pid=None
        )
        initargs = types.SimpleNamespace(load=steps.around(lambda: (int,)))
        self._tasks = RecordedTasks("multiprocessing", stepping_queue, initargs, "", self.channel)

    def run(self, count):
        """Run tasks until there were *count* or a message makes the worker exit.

        Return how many there were.
        """
        self._tasks.initialize()
        for i in range(count):
            self.reader.count = 0
            task = self._tasks.get()
            if task is None:
                return i
            self._steps()
            self.results.append((self._tasks.number, task[0]))
            self._steps()
        return count


class LockInSection:
    """A lock that only threads in the section acquire, because terminate() waits for it."""

    def __init__(self, lock, section):
        self._lock, self._section = lock, section

    def __enter__(self):
        assert self._section.is_entered()
        self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()


class Parent:
    """The parent of these workers, with a task pipe and a reaper.  It acts as the collector."""

    def __init__(self, size):
        context = multiprocessing.get_context()
        self.queue = context.SimpleQueue()
        section = CriticalSection()
        self.pipe = process_supervisor.NativeTaskPipe(self.queue, section)
        self.pipe._write_lock = LockInSection(self.pipe._write_lock, section)
        self.records = Records("multiprocessing", 8)
        self.reaper = Reaper(lambda: 8, self.records, self.pipe, self)
        self.workers = self.reaper.workers
        self.done, self.failed = [], []
        self._size = size
        self._sent = 0

    def worker(self, last_step=float("inf"), defers_initializer=True):
        record = self.records.acquire()
        worker = Worker(self.queue, record, Steps(last_step), defers_initializer)
        self.workers.append(worker)
        return worker

    def send(self, count):
        """Send tasks in another thread, as the pool does, and return that thread."""
        jobs = range(self._sent, self._sent + count)
        self._sent += count

        def run():
            for job in jobs:
                task = job, 0, print, (bytes(self._size),), {}
                assert self.pipe.send(job, 0, pickle.dumps(task))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def collect(self, worker):
        for number, job in worker.results:
            task = self.pipe.pop(number)
            if task is not None:
                assert task == (job, 0)
                self.done.append(job)
        worker.results.clear()

    def reap(self, worker):
        """Recover what a dead worker held, as the worker handler does."""
        assert not self.reaper.reap([worker], False)

    def remove_worker(self, worker, number):
        """Collect the results of a dead worker, and fail its task, as the collector does."""
        self.collect(worker)
        task = None if number is None else self.pipe.pop(number)
        if task is not None:
            self.failed.append(task[0])

    def finish(self, thread, worker):
        """Let a healthy worker run all tasks that are left, then one that is sent after them."""
        worker = worker or self.worker()
        for sender in thread, None:
            sender = sender or self.send(1)
            while len(self.done) + len(self.failed) < self._sent:
                worker.run(1)
                self.collect(worker)
            sender.join(TIMEOUT)
        assert not self.queue._reader.poll()
        assert self.queue._rlock.acquire(False)
        self.queue._rlock.release()

    def close(self):
        self.pipe.close()
        self.records.close()
        self.queue._reader.close()
        self.queue._writer.close()


@pytest.fixture
def make_parent(monkeypatch):
    monkeypatch.setattr(task_pipe, "_CLAIM_TIMEOUT", 0.01)
    parents = []

    def make(size=1):
        parents.append(Parent(size))
        return parents[-1]

    yield make
    for parent in parents:
        parent.close()


def step_count(make_parent, size):
    """Return the number of steps of a worker that runs three tasks."""
    parent = make_parent(size)
    thread = parent.send(3)
    steps = Steps()
    Worker(parent.queue, parent.records.acquire(), steps).run(3)
    thread.join(TIMEOUT)
    return steps.count


def expected_failures(worker, size):
    """Return how many tasks must fail, none or one, after a worker has died."""
    state, number = worker.record.read()
    is_done = number in [result[0] for result in worker.results]
    if state in (STARTING, WAITING) or is_done:
        return 0
    # A message of 10,000 bytes is not written again: that might block.
    has_started = worker.reader.count not in ((0, 4) if size == 1 else (0,))
    return int(state != READING or has_started)


@pytest.mark.parametrize("size", [1, 10000, 200000], ids=["small", "larger", "larger than pipe"])
@pytest.mark.parametrize("other", ["is idle", "reads", "has read"])
def test_death_at_each_step(make_parent, size, other):
    """The pipe stays aligned, the lock is released, and each task has one result."""
    if os.name != "posix" and size == 200000:
        pytest.skip("send() would wait for the dead worker to read the message")
    count = step_count(make_parent, size)
    assert count > 30
    for step in range(count):
        parent = make_parent(size)
        worker = parent.worker(step)
        thread = parent.send(4)
        if size == 1 or (os.name == "posix" and size < 65536 // 4):
            thread.join(TIMEOUT)
        with pytest.raises(Death):
            worker.run(3)
        failures = expected_failures(worker, size)
        reader = None
        # Another worker acquires the lock, if it can, before the parent sees the death.
        if other != "is idle" and parent.queue._rlock.acquire(False):
            reader = parent.worker()
            if other == "reads":
                reader.record.set(READING, 0)
                parent.reap(worker)
                assert not parent.queue._rlock.acquire(False), "released another worker's lock"
                parent.queue._rlock.release()
            else:
                parent.queue._rlock.release()
                reader.run(1)
                parent.collect(reader)
        if worker in parent.workers:
            parent.reap(worker)
        parent.finish(thread, reader)
        assert sorted(parent.done + parent.failed) == [0, 1, 2, 3, 4]
        assert len(parent.failed) == failures
        parent.close()


def test_death_at_each_step_of_a_worker_that_initializes(make_parent):
    """If a worker dies in the initializer, later ones call that only when they have a task."""
    in_initializer = 0
    steps = Steps()
    Worker(make_parent().queue, Records("multiprocessing", 1).acquire(), steps, False).run(0)
    for step in range(steps.count):
        parent = make_parent()
        worker = parent.worker(step, defers_initializer=False)
        with pytest.raises(Death):
            worker.run(1)
        state = worker.record.state
        assert state in (STARTING, INITIALIZING, RUNNING)
        parent.reap(worker)
        assert parent.reaper.defers_initializer() == (state == INITIALIZING)
        in_initializer += state == INITIALIZING
        parent.finish(parent.send(2), None)
        assert parent.done == [0, 1, 2] and not parent.failed
        parent.close()
    assert 0 < in_initializer < steps.count


@posix
def test_only_the_header_has_been_read(make_parent):
    """A task that had not started is sent again, after all others."""
    parent = make_parent()
    worker = parent.worker()
    parent.send(3).join(TIMEOUT)
    parent.queue._rlock.acquire()
    worker.record.set(READING, 1)
    os.read(parent.queue._reader.fileno(), 4)
    parent.reap(worker)
    worker = parent.worker()
    worker.run(3)
    parent.collect(worker)
    assert parent.done == [1, 2, 0] and parent.failed == []


def test_pop_returns_a_task_once(make_parent):
    parent = make_parent()
    parent.send(1).join(TIMEOUT)
    assert parent.pipe.in_flight() == [1]
    assert parent.pipe.pop(1) == (0, 0)
    assert parent.pipe.pop(1) is None and parent.pipe.in_flight() == []


#
# The end of a pool
#


def test_stopped_workers_receive_no_task(make_parent):
    parent = make_parent()
    worker, other = parent.worker(), parent.worker()
    parent.send(2).join(TIMEOUT)
    parent.pipe.stop_workers(parent.records)
    assert worker.run(1) == other.run(1) == 0
    assert not parent.pipe.send(9, 0, b"")
    assert parent.queue._rlock.acquire(False)


def test_stopped_worker_that_waits_for_a_task(make_parent):
    parent = make_parent()
    workers = [parent.worker(), parent.worker()]
    counts = []
    threads = [
        threading.Thread(target=lambda worker=worker: counts.append(worker.run(1)), daemon=True)
        for worker in workers
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: sorted(parent.reaper.states()) == [WAITING, READING])
    parent.pipe.stop_workers(parent.records)
    for thread in threads:
        thread.join(TIMEOUT)
    assert counts == [0, 0]


@posix
def test_stopped_worker_that_reads_a_message(make_parent):
    """The message that is being written is completed, and after it the worker exits."""
    parent = make_parent(200000)
    sender = parent.send(1)
    wait_until(lambda: parent.pipe._unread() > 4096)
    parent.pipe.stop_workers(parent.records)
    parent.records.integers[STOPPING] = 0  # as if the worker had checked this earlier
    worker = parent.worker()
    assert worker.run(2) == 1
    sender.join(TIMEOUT)
    assert not sender.is_alive()


@posix
def test_close_while_a_message_is_written(make_parent):
    parent = make_parent(200000)
    sender = parent.send(1)
    wait_until(lambda: parent.pipe._unread() > 4096)
    parent.pipe.close()
    sender.join(TIMEOUT)
    assert not sender.is_alive()
    parent.pipe.drain()
    assert not parent.queue._reader.poll()


@posix
def test_large_message_is_written_in_parts(make_parent, monkeypatch):
    """PyPy would copy all that is left of the message each time that a part is written."""
    parent = make_parent(200000)
    sizes, write_some = [], parent.pipe._write_some
    monkeypatch.setattr(
        parent.pipe, "_write_some", lambda data: sizes.append(len(data)) or write_some(data)
    )
    parent.finish(parent.send(1), None)
    assert max(sizes) <= 65536 < sum(sizes)


@pytest.mark.parametrize("state", [WAITING, RUNNING])
def test_lock_of_a_dead_worker(make_parent, state):
    """The lock is released if no worker that is alive holds it."""
    parent = make_parent()
    parent.worker().record.set(state)
    parent.queue._rlock.acquire()
    parent.pipe.release_lock_of_dead_worker(parent.reaper.states)
    assert parent.queue._rlock.acquire(False)


@pytest.mark.parametrize("state", [READING, HOLDING])
def test_lock_of_a_living_worker(make_parent, state):
    parent = make_parent()
    parent.worker().record.set(state)
    parent.queue._rlock.acquire()
    parent.pipe.release_lock_of_dead_worker(parent.reaper.states)
    assert not parent.queue._rlock.acquire(False)


def test_thread_that_is_sending_is_in_the_section(make_parent, monkeypatch):
    """terminate(), called by the garbage collector, waits for a thread that needs the lock."""
    parent = make_parent()
    pipe, register, seen = parent.pipe, parent.pipe._register, []

    def look_and_register(*args):
        seen.append(pipe._section.is_entered())
        return register(*args)

    monkeypatch.setattr(pipe, "_register", look_and_register)
    thread = parent.send(1)
    thread.join(TIMEOUT)
    assert seen == [True] and not thread.is_alive()
    assert pipe._section.sender is None


def test_two_threads_empty_the_pipe(make_parent, monkeypatch):
    """One of them must not wait for a message that the other has removed."""
    parent = make_parent()
    parent.send(1).join(TIMEOUT)
    pipe, poll, barrier = parent.pipe, parent.queue._reader.poll, threading.Barrier(2)

    def poll_together():
        is_ready = poll()
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(0.1)
        return is_ready

    monkeypatch.setattr(parent.queue._reader, "poll", poll_together)
    threads = [threading.Thread(target=pipe.drain, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in threads)
