"""The result pipes, and the pipe that wakes the result handler."""

import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import os
import select
import selectors
import sys
import threading
import types
import weakref

import pytest
from conftest import TIMEOUT, WINDOWS, call_with_timeout, linux, posix
from multiprocessing_initret._parent import result_pipes
from multiprocessing_initret._shared import messages
from multiprocessing_initret._shared.messages import RESULT_HEADER, MessageBuffer, TruncatedMessage
from multiprocessing_initret._shared.record import RUNNING, Records


class Worker:
    """What the result pipes use of a worker, and the end of the pipe that the worker has."""

    def __init__(self):
        self.reader, self.writer = multiprocessing.Pipe(duplex=False)
        self.unread = MessageBuffer()


@pytest.fixture
def queue():
    queue = multiprocessing.SimpleQueue()
    yield queue
    queue._reader.close()
    queue._writer.close()


def make_pipes(queue):
    return result_pipes.result_pipes(queue, multiprocessing.connection.wait)


def remove_epoll(monkeypatch):
    """Remove select.epoll(), and make the default selector the simplest one."""
    monkeypatch.delattr(select, "epoll", raising=False)
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)


@pytest.fixture(params=["epoll", "selector"])
def pipes(queue, monkeypatch, request):
    """Result pipes, also where select.epoll() is missing, as with eventlet."""
    if request.param == "selector":
        if WINDOWS:
            pytest.skip("Windows uses neither")
        remove_epoll(monkeypatch)
    pipes = make_pipes(queue)
    yield pipes
    pipes.close()


def test_messages(pipes):
    workers = [Worker(), Worker()]
    for worker in workers:
        pipes.add(worker)
        worker.writer.send_bytes(b"one")
        assert pipes.wait() == [worker]
        assert [bytes(message) for message in pipes.receive(worker)] == [b"one"]
    for worker in workers:
        worker.writer.send_bytes(b"two")
    assert set(pipes.wait()) == set(workers)


def test_wake_up_is_read_while_another_thread_is_waking(pipes):
    """That thread may be waiting for the result handler, if the pool is terminated there."""
    pipes.wake()
    with pipes._wake_lock:
        assert call_with_timeout(pipes.read_wake_up) is False
    pipes.wake()
    assert pipes.wait() == [None]


def test_failed_wake_up(pipes):
    """The next one is sent."""

    class Interrupted(Exception):
        pass

    def send_bytes(data):
        raise Interrupted

    writer, pipes._wake_writer = pipes._wake_writer, types.SimpleNamespace(send_bytes=send_bytes)
    with pytest.raises(Interrupted):
        pipes.wake()
    pipes._wake_writer = writer
    pipes.wake()
    assert pipes.wait() == [None]


def test_end_of_a_pipe(pipes):
    worker = Worker()
    pipes.add(worker)
    worker.writer.close()
    assert pipes.wait() == [worker]
    assert pipes.receive(worker) is None


LARGE = bytes(2 * messages.LARGE)


def send_in_threads(workers, data):
    """Start a thread for each worker that sends a message which does not fit into the pipe."""

    def send(worker):
        with contextlib.suppress(OSError):  # the test has closed the other end
            worker.writer.send_bytes(data)

    for worker in workers:
        threading.Thread(target=send, args=(worker,), daemon=True).start()


def arrived(worker):
    """Return how many bytes of a worker's incomplete message have arrived."""
    message = worker.unread._message
    return len(worker.unread._start) if message is None else message.size - message.missing


@posix
@pytest.mark.parametrize("number", [1, 2])
def test_few_large_messages_at_a_time(pipes, monkeypatch, number):
    """The parent would need memory for a large message of each worker."""
    monkeypatch.setattr(result_pipes, "_MAX_RECEIVED", number * len(LARGE))
    workers = [Worker() for _ in range(4)]
    for worker in workers:
        pipes.add(worker)
    send_in_threads(workers[:3], LARGE)
    found, is_sent = [], False
    while len(found) < 4:
        for worker in pipes.wait():
            found += [(worker, len(message)) for message in pipes.receive(worker)]
        in_part = [worker for worker in workers if arrived(worker) > result_pipes._READ_SIZE]
        assert len(in_part) <= number
        if in_part and not is_sent:
            workers[3].writer.send_bytes(b"small")
            is_sent = True
    assert dict(found) == {workers[3]: 5, **dict.fromkeys(workers[:3], len(LARGE))}
    assert found[-1] != (workers[3], 5)  # it has not waited for all large ones
    for worker in workers:  # all are included in wait() again
        worker.writer.send_bytes(b"one")
    assert set(pipes.wait()) == set(workers)


@pytest.fixture
def senders(pipes, monkeypatch):
    """Three workers, for messages above 10 bytes that are large, and 100 bytes at a time."""
    for module in messages, result_pipes:
        monkeypatch.setattr(module, "LARGE", 10)
    monkeypatch.setattr(result_pipes, "_MAX_RECEIVED", 100)
    workers = [Worker() for _ in range(3)]
    for worker in workers:
        pipes.add(worker)
    return workers


def send_and_receive(pipes, worker, data):
    """Send bytes, and return the sizes of the messages that are complete then."""
    os.write(worker.writer.fileno(), data)
    assert pipes.wait() == [worker]
    return [len(message) for message in pipes.receive(worker)]


def large_message(size):
    """Return the bytes of a message, as a connection sends it, in two parts."""
    data = messages.header(size) + bytes(size)
    return data[: size // 2], data[size // 2 :]


@posix
def test_large_messages_are_received_in_turn(pipes, senders):
    """Otherwise one that needs all the room would wait as long as there are others."""
    one, two, three = senders
    (first, rest), (first_of_two, rest_of_two) = large_message(40), large_message(90)
    for worker, part in [(one, first), (two, first_of_two), (three, first)]:
        assert not send_and_receive(pipes, worker, part)
    assert (list(pipes._large), pipes._waiting) == ([one], [two, three])
    assert send_and_receive(pipes, one, rest) == [40]
    assert (list(pipes._large), pipes._waiting) == ([two], [three])
    assert send_and_receive(pipes, two, rest_of_two) == [90]
    assert (list(pipes._large), pipes._waiting) == ([three], [])
    assert send_and_receive(pipes, three, rest) == [40]
    assert not pipes._large


@posix
def test_next_large_message_waits_for_its_turn(pipes, senders):
    """Its beginning arrives together with the end of the one before."""
    one, two, _ = senders
    first, rest = large_message(60)
    assert not send_and_receive(pipes, one, first)
    assert not send_and_receive(pipes, two, first)
    assert send_and_receive(pipes, one, rest + first) == [60]
    assert (list(pipes._large), pipes._waiting) == ([two], [one])
    assert send_and_receive(pipes, two, rest) == [60]
    assert send_and_receive(pipes, one, rest) == [60]


@posix
def test_large_message_after_a_small_one(pipes, senders):
    """Its beginning arrives together with the small one."""
    one, two, three = senders
    small, (first, rest) = messages.header(1) + b"1", large_message(60)
    for worker in senders:
        assert send_and_receive(pipes, worker, small + first) == [1]
    assert (list(pipes._large), pipes._waiting) == ([one], [two, three])
    for worker in senders:
        assert send_and_receive(pipes, worker, rest) == [60]


@posix
def test_worker_is_removed_while_it_sends_a_large_message(pipes, monkeypatch):
    monkeypatch.setattr(result_pipes, "_MAX_RECEIVED", len(LARGE))
    workers = [Worker() for _ in range(3)]
    for worker in workers:
        pipes.add(worker)
    send_in_threads(workers, LARGE)
    while [arrived(worker) > 0 for worker in workers] != [True] * 3:
        for worker in pipes.wait():
            if not arrived(worker):
                assert not pipes.receive(worker)
    (sender,), waiting = pipes._large, pipes._waiting[0]
    for worker in waiting, sender:
        pipes.remove(worker)
        worker.reader.close()
    (last,) = set(workers) - {sender, waiting}
    found = []
    while not found:
        assert pipes.wait() == [last]
        found = pipes.receive(last)
    assert [len(message) for message in found] == [len(LARGE)]


def test_empty_pipe(pipes):
    """Nothing waits for a message that does not come."""
    worker = Worker()
    pipes.add(worker)
    if WINDOWS:
        assert not pipes.has_data(worker)
        worker.writer.send_bytes(b"one")
    else:
        with pytest.raises(BlockingIOError):
            pipes.receive(worker)
        worker.writer.send_bytes(b"one")
    assert pipes.has_data(worker)
    assert [bytes(message) for message in pipes.receive(worker)] == [b"one"]


def test_wake_up(pipes):
    """Many calls of wake() write one message; otherwise they would fill the pipe."""
    for _ in range(100):
        pipes.wake()
    assert pipes.wait() == [None] and not pipes.read_wake_up()
    assert not pipes._wake_reader.poll()
    pipes.wake()
    assert pipes.wait() == [None] and not pipes.read_wake_up()


def test_sentinel(pipes, queue):
    pipes.wake()
    queue.put(None)
    assert not pipes.read_wake_up()
    assert pipes.wait() == [None] and pipes.read_wake_up()


def test_wake_up_that_failed(pipes, monkeypatch):
    """The next one is written nevertheless."""
    with monkeypatch.context() as patch:
        patch.setattr(pipes, "_wake_writer", None)
        with pytest.raises(AttributeError):
            pipes.wake()
    pipes.wake()
    assert pipes.wait() == [None]


def test_wake_ups_of_many_threads(pipes):
    """No call of wake() goes unnoticed by wait()."""
    calls, seen, count = [], [], 4

    def call():
        for i in range(500):
            calls.append(i)
            pipes.wake()

    threads = [threading.Thread(target=call, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    while len(seen) < 500 * count:
        assert pipes.wait() == [None] and not pipes.read_wake_up()
        while calls:
            seen.append(calls.pop())
    for thread in threads:
        thread.join(TIMEOUT)


def test_removed_worker(pipes):
    """wait() does not report a pipe that was closed, even if a child has inherited it."""
    worker, other = Worker(), Worker()
    for each in worker, other:
        pipes.add(each)
    inherited = None if WINDOWS else os.dup(worker.reader.fileno())
    worker.writer.send_bytes(b"one")
    pipes.remove(worker)
    pipes.remove(worker)
    worker.reader.close()
    other.writer.send_bytes(b"two")
    assert pipes.wait() == [other]
    if inherited is not None:
        os.close(inherited)


@linux
def test_close(queue, no_collector):
    worker = Worker()
    worker.writer.close()
    before = len(os.listdir("/proc/self/fd"))
    pipes = make_pipes(queue)
    pipes.add(worker)
    pipes.close()
    assert worker.reader.closed
    assert len(os.listdir("/proc/self/fd")) == before - 1


@linux
def test_epoll_is_used(queue):
    """Its cost does not depend on the number of workers."""
    pipes = make_pipes(queue)
    assert isinstance(pipes._poller, select.epoll)
    pipes.close()


@pytest.mark.parametrize("has_epoll", [True, False])
def test_no_cyclic_garbage(queue, no_collector, monkeypatch, has_epoll):
    if not has_epoll:
        remove_epoll(monkeypatch)
    pipes, worker = make_pipes(queue), Worker()
    pipes.add(worker)
    pipes.wake()
    pipes.close()
    references = [weakref.ref(pipes), weakref.ref(worker)]
    del pipes, worker
    if not hasattr(sys, "getrefcount"):
        gc.collect()  # PyPy
    assert [reference() for reference in references] == [None, None]


@pytest.mark.skipif(not WINDOWS, reason="only Windows reads a message as a whole")
def test_no_memory_for_a_message(pipes, monkeypatch):
    worker = Worker()
    worker.record = Records("multiprocessing", 1).acquire()
    worker.record.set(RUNNING, 7)
    pipes.add(worker)

    def send():
        worker.writer.send_bytes(bytes(10**6))
        worker.writer.send_bytes(b"next")

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    assert pipes.wait() == [worker]

    def fail(*args):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(type(worker.reader), "_get_more_data", fail)
        [message] = pipes.receive(worker)
    assert type(message) is TruncatedMessage
    assert RESULT_HEADER.unpack(message) == (7, 0)
    assert [bytes(message) for message in pipes.receive(worker)] == [b"next"]
    thread.join(TIMEOUT)
