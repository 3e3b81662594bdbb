"""Every worker receives the initializer and initargs, under each start method."""

import multiprocessing
import multiprocessing.context
import multiprocessing.managers
import multiprocessing.queues
import os
import pickle
import signal
import sys
import threading
import weakref
from multiprocessing import reduction

import initargs_support
import multiprocessing_initret
import pytest
from conftest import TIMEOUT, Counted, Unpicklable, counts_references
from initargs_support import (
    Buffers,
    Registered,
    Releasable,
    call,
    call_each,
    call_in_pool,
    contents,
    equals,
    get,
    pool_of,
    return_all,
    return_one,
    shared_only,
    worker,
)
from multiprocessing_initret._shared import initargs, memory

transport = initargs_support.transport  # a fixture


class FailsToUnpickle:
    """An object that cannot be unpickled, or only after a number of attempts."""

    def __init__(self, file="", attempts=sys.maxsize, apart=False):
        self.args = str(file), attempts
        self.apart = apart

    def __reduce__(self):
        if self.apart:
            multiprocessing.context.assert_spawning(self)
        return fail_to_unpickle, self.args


def fail_to_unpickle(file, attempts):
    if file:
        with open(file, "a") as log:
            log.write("x")
        if os.path.getsize(file) > attempts:
            return "unpickled"
    raise LookupError("not to be unpickled")


#
# Workers receive initargs
#

OBJECTS = [
    None,
    0,
    "text",
    {"key": (1, 2.5, b"bytes")},
    bytearray(b"12345"),
    list(range(10**5)),
]


def test_objects(start_method, transport):
    assert call_in_pool(start_method, OBJECTS, equals, OBJECTS) is True


def has_references(item, initret):
    (one, same, itself), again = initret
    return one is same is again and itself is initret[0]


def test_references(start_method, transport):
    one = ["one"]
    obj = [one, one]
    obj.append(obj)
    with pool_of(start_method, 1, return_all, (obj, one)) as pool:
        assert call(pool, has_references) is True


BUFFERS = [
    [],
    [b"one"],
    [b""],
    [b"", b"one", b""],
    [b"1" * 63, b"2" * 64, b"3" * 65, b"4"],
    [b"1" * 4095, b"2" * 4096, b"3" * 4097, b"4" * 4160, b"5" * 10**4, b"6"],
    [bytearray(10**6), b"\1" * 10**6],
    [b"%d" % number for number in range(1000)],
]


def test_buffers(start_method, transport):
    obj = [Buffers(*buffers) for buffers in BUFFERS]
    assert call_in_pool(start_method, obj, contents) == BUFFERS


def id_of(item, initret):
    return id(initret)


def test_inherited_object_is_itself():
    obj = Unpicklable()
    number = id(obj)  # PyPy assigns an id on the first call, so call id() before the fork
    with multiprocessing_initret.ThreadPool(1, return_one, (obj,), expect_initret=True) as pool:
        assert call(pool, get) is obj
    if "fork" in multiprocessing.get_all_start_methods():
        assert call_in_pool("fork", obj, id_of) == number


@pytest.mark.parametrize("name", ["Pool", "pool.Pool"])
def test_installed_pools(installed, start_method, transport, name):
    context = multiprocessing.get_context(start_method)
    kwds = {} if name == "Pool" else {"context": context}
    make = context.Pool if name == "Pool" else multiprocessing.pool.Pool
    with make(2, return_one, (OBJECTS,), expect_initret=True, **kwds) as pool:
        assert call(pool, equals, OBJECTS)


def use_pool(start_method, obj, queue):
    queue.put(call_in_pool(start_method, obj, equals, obj))


def test_pool_in_a_child(start_method, transport):
    context = multiprocessing.get_context(start_method)
    queue = context.Queue()
    process = context.Process(target=use_pool, args=(start_method, OBJECTS, queue))
    process.start()
    assert queue.get(timeout=TIMEOUT) is True
    process.join(TIMEOUT)
    assert process.exitcode == 0


#
# Initargs are pickled once
#


@shared_only
def test_pickled_once(spawning_method):
    obj = Counted()
    with pool_of(spawning_method, 2, return_one, (obj,), maxtasksperchild=1) as pool:
        assert obj.pickled == 1  # by the constructor
        workers = [call(pool, worker) for _ in range(4)]
    assert len(set(workers)) == 4
    assert obj.pickled == 1


@shared_only
def test_pickled_once_if_there_may_be_a_template():
    obj = Counted()  # not plain
    assert initargs.InitArgs(([obj],)).pickle(minimum=2**22).plain_size == 0
    assert obj.pickled == 1


@shared_only
def test_replacement_receives_the_same_pickle(spawning_method):
    obj = {"key": 1}
    with pool_of(spawning_method, 1, return_one, (obj,), maxtasksperchild=1) as pool:
        obj["key"] = 2
        assert [call(pool, get) for _ in range(2)] == [{"key": 1}] * 2


@pytest.mark.parametrize("with_lock", [False, True])
def test_pickling_error(spawning_method, transport, with_lock, no_other_children):
    initargs = (Unpicklable(),)
    if with_lock:
        initargs += (multiprocessing.get_context(spawning_method).Lock(), [Unpicklable()])
    for _ in range(2):
        with pytest.raises(LookupError, match="not to be pickled"):
            pool_of(spawning_method, 2, return_all, initargs)
        assert multiprocessing.active_children() == []


def test_initializer_with_pickling_error(spawning_method, transport, no_other_children):
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pool_of(spawning_method, 2, lambda: None)
    assert multiprocessing.active_children() == []


class Started(Unpicklable):
    """An unpicklable object that keeps the process that is being started for it."""

    def __reduce__(self):
        multiprocessing.context.assert_spawning(self)
        self.popen = multiprocessing.context.get_spawning_popen()
        super().__reduce__()


@pytest.mark.skipif(os.name == "posix", reason="initargs are pickled before the process starts")
def test_process_is_terminated_after_a_pickling_error(transport):
    # It would read from the pipe of the next process.
    obj = Started()
    with pytest.raises(LookupError, match="not to be pickled"):
        pool_of("spawn", 1, return_one, (obj,))
    assert obj.popen.wait(TIMEOUT) == -signal.SIGTERM


@pytest.mark.parametrize("cls", [initargs.InitArgs, memory.Memory])
def test_only_a_starting_process_receives_it(cls):
    obj = cls(()) if cls is initargs.InitArgs else cls("multiprocessing", [(0, b"abc")], 3)
    with pytest.raises(RuntimeError, match="shared between processes through inheritance"):
        pickle.dumps(obj)


def same_objects(item, initret):
    objects, nested = initret
    return [one is other for one, other in zip(objects, nested["again"])]


def test_same_object_twice(start_method, transport):
    context = multiprocessing.get_context(start_method)
    manager = multiprocessing.managers.SyncManager(ctx=context)
    manager.start()
    with manager:
        lock = context.Lock()
        objects = [
            lock,
            context.Queue(),
            Buffers(bytearray(3)),
            Registered("name"),
            manager.list(),
            {"key": lock},
        ]
        with pool_of(start_method, 1, return_all, (objects, {"again": list(objects)})) as pool:
            assert call(pool, same_objects) == [True] * len(objects)


def lock_of_condition(item, initret):
    lock, condition = initret
    return condition._lock is lock


def test_one_within_another(start_method, transport):
    context = multiprocessing.get_context(start_method)
    lock = context.Lock()
    with pool_of(start_method, 1, return_all, (lock, context.Condition(lock))) as pool:
        assert call(pool, lock_of_condition)


def test_registered_type_is_reduced_for_each_process(spawning_method):
    with pool_of(spawning_method, 1, return_one, (Registered("a"),), maxtasksperchild=1) as pool:
        names = [call(pool, name_of) for _ in range(2)]
    assert names == ["a, for a process: True"] * 2


def name_of(item, initret):
    return initret.name


class PickledForEachProcess:
    """An object that is pickled anew for each process."""

    def __init__(self):
        self.number = 0

    def __reduce__(self):
        multiprocessing.context.assert_spawning(self)
        self.number += 1
        return int, (self.number,)


def test_object_that_asserts_spawning_is_reduced_for_each_process(spawning_method):
    obj = [PickledForEachProcess()]
    with pool_of(spawning_method, 1, return_one, (obj,), maxtasksperchild=1) as pool:
        (one,), (other,) = [call(pool, get) for _ in range(2)]
    assert one != other


#
# An unpickling error fails each task
#


@pytest.mark.parametrize("apart", [False, True])
def test_unpickling_error(spawning_method, transport, apart):
    with pool_of(spawning_method, 2, return_one, (FailsToUnpickle(apart=apart),)) as pool:
        for _ in range(3):
            with pytest.raises(LookupError, match="not to be unpickled"):
                call(pool, worker)
        with pytest.raises(LookupError, match="not to be unpickled"):
            call_each(pool, worker, range(4))


def with_contents(item, initret):
    first, second, buffers = initret
    return first, second, buffers.contents()


@pytest.mark.parametrize("apart", [False, True])
def test_unpickling_succeeds_later(spawning_method, tmp_path, apart):
    # The worker unpickles when it starts, and again for each task until that succeeds.
    obj = ["first", FailsToUnpickle(tmp_path / "log", 2, apart), Buffers(bytearray(b"abc"))]
    with pool_of(spawning_method, 1, return_one, (obj,)) as pool:
        with pytest.raises(LookupError, match="not to be unpickled"):
            call(pool, get)
        for _ in range(2):
            assert call(pool, with_contents) == ("first", "unpickled", [b"abc"])
    assert (tmp_path / "log").read_text() == "xxx"


def disappear():
    raise AssertionError("not called")


def test_missing_initializer(spawning_method, monkeypatch):
    disappeared = type(disappear)(disappear.__code__, globals(), "disappeared")
    disappeared.__qualname__ = "disappeared"
    monkeypatch.setitem(globals(), "disappeared", disappeared)
    with pool_of(spawning_method, 1, disappeared) as pool:
        for _ in range(2):
            with pytest.raises(AttributeError, match="disappeared"):
                call(pool, worker)


#
# Threads, and the exit of the interpreter
#

LATE = """
import atexit, sys
import multiprocessing.util

def late():
    # Handlers of weakref.finalize were registered after this one, and so run before it.
    results = [pool.apply_async(functions.get, (1,)).get(30) for _ in range(3)]
    pool.close()
    pool.join()  # a worker that is being forked would print the text, too
    print(results)

if __name__ == "__main__":
    atexit.register(late)

import functions
import multiprocessing_initret

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    pool = multiprocessing_initret.Pool(
        1, functions.return_one, ({"key": bytearray(3)},), 1, context, expect_initret=True
    )
"""

# Not in the main module: Python 3.8 cannot import it any more at exit.
FUNCTIONS = """
def return_one(value):
    return value

def get(item, initret):
    return initret
"""


def test_worker_that_starts_at_exit(python, tmp_path, start_method):
    if start_method == "fork" and sys.version_info[:2] == (3, 12):
        pytest.skip("nothing may fork at exit")
    (tmp_path / "program.py").write_text(LATE)
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    assert python("program.py", start_method) == f"{[{'key': bytearray(3)}] * 3}\n"


class Slow:
    """An object whose pickling takes until an event is set."""

    def __init__(self):
        self.begun, self.end = threading.Event(), threading.Event()

    def __reduce__(self):
        self.begun.set()
        assert self.end.wait(TIMEOUT)
        return str, ("slow",)


@pytest.mark.skipif(sys.version_info < (3, 8), reason="a child uses its parent's tracker")
def test_fork_while_a_thread_pickles():
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("nothing forks here")
    slow, results = Slow(), []

    def use_pool_in_child(method, obj, queue):
        # multiprocessing would call waitpid() for the fork server, which is a child of
        # this process's parent.
        import multiprocessing.forkserver

        multiprocessing.forkserver._forkserver.__init__()
        use_pool(method, obj, queue)

    def use_slow():
        results.append(call_in_pool("spawn", slow, get))

    thread = threading.Thread(target=use_slow)
    thread.start()
    assert slow.begun.wait(TIMEOUT)
    context = multiprocessing.get_context("fork")
    try:
        # A lock that the other thread holds during the fork stays locked in the child.
        assert call_in_pool("fork", ["obj"], get) == ["obj"]
        for method in multiprocessing.get_all_start_methods():
            queue = context.Queue()
            process = context.Process(target=use_pool_in_child, args=(method, OBJECTS, queue))
            process.start()
            assert queue.get(timeout=TIMEOUT) is True
            process.join(TIMEOUT)
    finally:
        slow.end.set()
        thread.join(TIMEOUT)
    assert results == ["slow"]


@counts_references
def test_arguments_are_released(start_method, no_collector):
    obj = Releasable()
    reference = weakref.ref(obj)
    with pool_of(start_method, 1, return_one, ([obj],)) as pool:
        call(pool, worker)
        pool.close()
        pool.join()
    del obj, pool
    assert reference() is None


@shared_only
@counts_references
def test_closed_arguments_are_released(no_collector):
    objects = Releasable(), Releasable()
    references = [weakref.ref(obj) for obj in objects]
    args = initargs.InitArgs(objects)
    file = weakref.ref(args.pickle().memory)
    args.close()
    del objects
    assert [reference() for reference in [*references, file]] == [None] * 3


IMPORTS = """
import sys
import multiprocessing.pool
before = set(sys.modules)
# a spawned worker imports these
import multiprocessing_initret._shared.initargs, multiprocessing_initret._worker.process
ours = {name for name in sys.modules if name.startswith("multiprocessing_initret")}
print(sorted(set(sys.modules) - before - ours))
"""


def test_worker_imports_little(python):
    more = python("-c", IMPORTS)
    for name in ("inspect", "typing", "tempfile", "pathlib", "shutil", "subprocess", "random"):
        assert f"'{name}'" not in more


class OwnBytes(bytearray):
    """Bytes that use the ``obj`` of their buffer, as an example in the documentation of pickle."""

    def __reduce_ex__(self, protocol):
        if protocol < 5:
            return OwnBytes, (bytes(self),)
        return OwnBytes.of_buffer, (pickle.PickleBuffer(self),)

    @staticmethod
    def of_buffer(buffer):
        return OwnBytes(memoryview(buffer).obj)


@pytest.mark.parametrize("size", [3, 10000])
def test_object_that_a_buffer_is_a_view_of(start_method, size):
    obj = OwnBytes(i % 256 for i in range(size))
    assert call_in_pool(start_method, obj, equals, bytes(obj))


class Descriptor:
    """Holder of a descriptor, with a pickle for one process if no process is being started."""

    def __init__(self, fd):
        self.fd = fd

    def __reduce__(self):
        return Descriptor.receive, (reduction.DupFd(self.fd),)

    @staticmethod
    def receive(received):
        return Descriptor(received.detach())


def write(item, initret):
    return os.write(initret.fd, item)


@pytest.mark.skipif(os.name != "posix", reason="reduction.DupFd() exists only on POSIX")
def test_descriptor_of_an_object_of_the_program(start_method):
    """Each worker receives the descriptor, and no copy of it stays open."""
    reader, writer = os.pipe()
    with open(reader, "rb") as file:
        with pool_of(
            start_method, 1, return_one, (Descriptor(writer),), maxtasksperchild=1
        ) as pool:
            assert call_each(pool, write, [b"1", b"2", b"3"]) == [1, 1, 1]
            pool.close()
            pool.join()
        os.close(writer)
        assert sorted(file.read()) == sorted(b"123")


class QueueWithOptions(multiprocessing.queues.SimpleQueue):
    def __init__(self, options, context):
        super().__init__(ctx=context)
        self.options = options

    def __getstate__(self):
        return super().__getstate__(), self.options

    def __setstate__(self, state):
        super().__setstate__(state[0])
        self.options = state[1]


def are_same(item, initret):
    queue, options = initret
    return queue.options is options


def test_subclass_of_a_queue_that_refers_to_another_argument(start_method):
    options = {"debug": True}
    queue = QueueWithOptions(options, multiprocessing.get_context(start_method))
    with pool_of(start_method, 1, return_all, (queue, options)) as pool:
        assert call(pool, are_same)
