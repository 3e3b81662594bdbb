"""What the parent gives its workers in plain initargs reaches all of them once."""

import ctypes
import functools
import gc
import multiprocessing
import multiprocessing.context
import multiprocessing.managers
import multiprocessing.sharedctypes
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from multiprocessing import reduction

import multiprocessing_initret
import pytest
from conftest import TIMEOUT, Counted, linux
from multiprocessing_initret._shared import initargs, memory

SHARES = initargs.PICKLES_ONCE

shared_only = pytest.mark.skipif(not SHARES, reason="this Python sends a copy to each worker")


class Buffers:
    """An object with buffers, as a NumPy array or a data frame has, and no others."""

    def __init__(self, *buffers):
        self.buffers = buffers

    def __reduce_ex__(self, protocol):
        buffers = self.buffers
        return Buffers, tuple(map(pickle.PickleBuffer, buffers)) if protocol >= 5 else buffers

    def contents(self):
        return [bytes(buffer) for buffer in self.buffers]


class Unpicklable:
    def __reduce__(self):
        raise LookupError("not to be pickled")


class Trap:
    """An object that cannot be unpickled, or only after so many attempts."""

    def __init__(self, file="", attempts=sys.maxsize, beside=False):
        self.args = str(file), attempts
        self.beside = beside

    def __reduce__(self):
        if self.beside:
            multiprocessing.context.assert_spawning(self)
        return spring, self.args


def spring(file, attempts):
    if file:
        with open(file, "a") as log:
            log.write("x")
        if os.path.getsize(file) > attempts:
            return "unpickled"
    raise LookupError("not to be unpickled")


class Registered:
    """An object that is pickled in a way of its own where a process is being started."""

    def __init__(self, name):
        self.name = name


def reduce_registered(obj):
    spawning = multiprocessing.context.get_spawning_popen() is not None
    return Registered, (f"{obj.name}, for a process: {spawning}",)


reduction.register(Registered, reduce_registered)


def identity(value):
    return value


def give_all(*args):
    return args


def get(item, initret):
    return initret


def equals(item, initret):
    return item == initret


def contents(item, initret):
    return [obj.contents() for obj in initret]


def worker(item, initret):
    return os.getpid()


def pool_of(start_method, *args, **kwds):
    context = multiprocessing.get_context(start_method)
    return multiprocessing_initret.Pool(*args, context=context, expect_initret=True, **kwds)


def outcome(pool, func, item=None):
    return pool.apply_async(func, (item,)).get(TIMEOUT)


def outcomes(pool, func, items):
    return pool.map_async(func, items, chunksize=1).get(TIMEOUT)


def shared_outcome(start_method, obj, func, item=None, initializer=identity):
    with pool_of(start_method, 1, initializer, (obj,)) as pool:
        return outcome(pool, func, item)


@pytest.fixture(params=["memory", "temporary file", "copy"])
def means(request, monkeypatch, tmp_path):
    """Each means by which the objects can reach a process that does not inherit them."""
    if request.param == "copy":
        monkeypatch.setattr(initargs, "PICKLES_ONCE", False)
    elif not SHARES:
        pytest.skip("this Python sends a copy to each worker")
    elif os.name == "nt":
        if request.param == "temporary file":
            pytest.skip("its mappings have names")
    elif request.param == "temporary file":
        monkeypatch.delattr(os, "memfd_create", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    elif not hasattr(os, "memfd_create"):
        pytest.skip("this system has no anonymous memory")
    yield request.param
    # The fork server has its socket there.
    assert [name for name in os.listdir(str(tmp_path)) if not name.startswith("pymp-")] == []


@pytest.fixture
def spawning_method(start_method):
    if start_method == "fork":
        pytest.skip("a forked process inherits the objects")
    return start_method


#
# They arrive
#

OBJECTS = [
    None,
    0,
    "text",
    {"key": (1, 2.5, b"bytes")},
    bytearray(b"12345"),
    list(range(10**5)),
]


def test_objects(start_method, means):
    assert shared_outcome(start_method, OBJECTS, equals, OBJECTS) is True


def has_references(item, initret):
    (one, same, itself), again = initret
    return one is same is again and itself is initret[0]


def test_references(start_method, means):
    one = ["one"]
    obj = [one, one]
    obj.append(obj)
    with pool_of(start_method, 1, give_all, (obj, one)) as pool:
        assert outcome(pool, has_references) is True


BUFFERS = [
    [],
    [b"one"],
    [b""],
    [b"", b"one", b""],
    [b"1" * 63, b"2" * 64, b"3" * 65, b"4"],
    [bytearray(10**6), b"\1" * 10**6],
    [b"%d" % number for number in range(1000)],
]


def test_buffers(start_method, means):
    obj = [Buffers(*buffers) for buffers in BUFFERS]
    assert shared_outcome(start_method, obj, contents) == BUFFERS


def id_of(item, initret):
    return id(initret)


def test_inherited_object_is_itself():
    obj = Unpicklable()
    number = id(obj)  # PyPy makes it when it is asked for, which is before the fork.
    with multiprocessing_initret.ThreadPool(1, identity, (obj,), expect_initret=True) as pool:
        assert outcome(pool, get) is obj
    if "fork" in multiprocessing.get_all_start_methods():
        assert shared_outcome("fork", obj, id_of) == number


@pytest.mark.parametrize("name", ["Pool", "pool.Pool"])
def test_installed_pools(installed, start_method, means, name):
    context = multiprocessing.get_context(start_method)
    kwds = {} if name == "Pool" else {"context": context}
    make = context.Pool if name == "Pool" else multiprocessing.pool.Pool
    with make(2, identity, (OBJECTS,), expect_initret=True, **kwds) as pool:
        assert outcome(pool, equals, OBJECTS)


def use_pool(start_method, obj, queue):
    queue.put(shared_outcome(start_method, obj, equals, obj))


def test_pool_in_a_child(start_method, means):
    context = multiprocessing.get_context(start_method)
    queue = context.Queue()
    process = context.Process(target=use_pool, args=(start_method, OBJECTS, queue))
    process.start()
    assert queue.get(timeout=TIMEOUT) is True
    process.join(TIMEOUT)
    assert process.exitcode == 0


#
# Once
#


@shared_only
def test_pickled_once(spawning_method):
    obj = Counted()
    with pool_of(spawning_method, 2, identity, (obj,), maxtasksperchild=1) as pool:
        assert obj.pickled == 1  # by the constructor
        workers = [outcome(pool, worker) for _ in range(4)]
    assert len(set(workers)) == 4
    assert obj.pickled == 1


@shared_only
def test_replacement_gets_what_the_constructor_got(spawning_method):
    obj = {"key": 1}
    with pool_of(spawning_method, 1, identity, (obj,), maxtasksperchild=1) as pool:
        obj["key"] = 2
        assert [outcome(pool, get) for _ in range(2)] == [{"key": 1}] * 2


@pytest.mark.parametrize("beside_lock", [False, True])
def test_what_cannot_be_pickled(spawning_method, means, beside_lock, alone):
    initargs = (Unpicklable(),)
    if beside_lock:
        initargs += (multiprocessing.get_context(spawning_method).Lock(), [Unpicklable()])
    for _ in range(2):
        with pytest.raises(LookupError, match="not to be pickled"):
            pool_of(spawning_method, 2, give_all, initargs)
        assert multiprocessing.active_children() == []


def test_initializer_that_cannot_be_pickled(spawning_method, means, alone):
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pool_of(spawning_method, 2, lambda: None)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("cls", [initargs.Shared, memory.Memory])
def test_only_a_starting_process_receives_it(cls):
    obj = cls(()) if cls is initargs.Shared else cls("multiprocessing", [(0, b"abc")], 3)
    with pytest.raises(RuntimeError, match="shared between processes through inheritance"):
        pickle.dumps(obj)


#
# One memory for all, until somebody writes
#


def mapping(buffer):
    """Return what Linux says of the mapping in which a writable buffer is."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    found = {}
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            name, *values = line.split()
            if not name.endswith(":"):
                start, end = (int(number, 16) for number in name.split("-"))
                if found:
                    break
                if start <= address < end:
                    found.update(access=values[0], file=(values[2], values[3]))
            elif found and values[-1:] == ["kB"]:
                found[name[:-1]] = int(values[0])
    return found


def is_shared(buffer):
    """Tell whether a buffer is in memory that this process does not have alone."""
    if not SHARES or not sys.platform.startswith("linux"):
        return True  # nobody can tell
    found = mapping(buffer)
    return found["file"][1] != "0" and found["Anonymous"] == 0


MIB = 2**20


def map_with(item, initret):
    obj, barrier = initret
    (buffer,) = obj.buffers
    assert sum(buffer[::512]) == 0  # all of it is there
    before = mapping(buffer)
    barrier.wait(TIMEOUT)
    buffer[0] = 1
    after = mapping(buffer)
    barrier.wait(TIMEOUT)
    return before, after


@shared_only
@linux
def test_workers_map_one_file(spawning_method, means):
    if means == "copy":
        pytest.skip("it has no file")
    barrier = multiprocessing.get_context(spawning_method).Barrier(2)
    with pool_of(spawning_method, 2, give_all, (Buffers(bytearray(4 * MIB)), barrier)) as pool:
        (one, one_after), (other, _) = outcomes(pool, map_with, range(2))
    assert one["file"] == other["file"] == one_after["file"]
    assert one["file"][1] != "0"
    assert one["access"] == other["access"] == "rw-p"
    assert one["Rss"] >= 4096
    assert one["Anonymous"] == other["Anonymous"] == 0
    # It has copied the page that it wrote to; a page of huge ones is 2 MB.
    assert 0 < one_after["Anonymous"] <= 2048


def write(number, initret):
    obj, barrier = initret
    before = obj.buffers[0][0]
    obj.buffers[0][0] = number
    barrier.wait(TIMEOUT)
    return before, obj.buffers[0][0]


def test_writing_changes_nobody_elses(start_method, means):
    barrier = multiprocessing.get_context(start_method).Barrier(2)
    obj = Buffers(bytearray(3))
    with pool_of(start_method, 2, give_all, (obj, barrier), maxtasksperchild=1) as pool:
        # Each waits for the other, so there are two; then two replacements.
        for _ in range(2):
            assert outcomes(pool, write, [1, 2]) == [(0, 1), (0, 2)]
    assert obj.contents() == [bytes(3)]


def try_to_write(item, initret):
    try:
        initret.buffers[0][0] = 65
    except TypeError:
        return bytes(initret.buffers[0])


def test_read_only_stays_so(start_method, means):
    assert shared_outcome(start_method, Buffers(b"abc"), try_to_write) == b"abc"


def keep_slice(obj):
    return memoryview(obj.buffers[0])[1:3]


def get_slice(item, initret):
    gc.collect()
    return bytes(initret)


def test_part_keeps_the_memory(start_method, means):
    obj = Buffers(b"abcd")
    assert shared_outcome(start_method, obj, get_slice, initializer=keep_slice) == b"bc"


#
# Libraries whose objects have buffers
#


def array_facts(item, initret):
    array = initret["array"]
    shared = is_shared(array.reshape(-1, order="A"))
    array[0, 0] = 1
    return shared, array.ctypes.data % 64, array.flags.f_contiguous, array.sum()


@shared_only
def test_numpy(spawning_method):
    numpy = pytest.importorskip("numpy")
    array = numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3))
    obj = {"odd": b"1" * 7, "array": array, "part": array[::2], "empty": array[:0]}
    assert shared_outcome(spawning_method, obj, array_facts) == (True, 0, True, 16.0)
    assert array[0, 0] == 0


def write_to_array(item, initret):
    try:
        initret[0] = 1
    except ValueError as error:
        return str(error)


def test_read_only_array(start_method):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(10)
    array.flags.writeable = False
    assert "read-only" in shared_outcome(start_method, array, write_to_array)


def frame_facts(item, initret):
    column = initret["one"].to_numpy()
    column.flags.writeable = True  # pandas gives views that are not
    return dict(initret.sum()), is_shared(column)


@shared_only
def test_pandas(spawning_method):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"one": [1, 2], "two": [0.5, 1.0]})
    assert shared_outcome(spawning_method, frame, frame_facts) == ({"one": 3, "two": 1.5}, True)


def table_facts(item, initret):
    import pyarrow

    return initret.to_pydict(), pyarrow.total_allocated_bytes()


@shared_only
def test_arrow(spawning_method):
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"one": [1, None, 3], "two": ["a", "b", "c"]}
    table = pyarrow.table(columns)
    assert shared_outcome(spawning_method, table, table_facts) == (columns, 0)


#
# Everything that initargs may hold
#

# Each makes an object, does something to it in the parent, and is to see that in the
# worker; some look in the parent for what the worker did.


class Thing:
    """Something to give to a worker, with what it is there and here."""

    seen = True
    done = None

    def __init__(self, context):
        self.context = context
        self.obj = self.make()

    def close(self):
        pass


class Lock(Thing):
    def make(self):
        lock = self.context.Lock()
        lock.acquire()
        return lock

    @staticmethod
    def use(lock):
        return not lock.acquire(False)


class RLock(Lock):
    def make(self):
        lock = self.context.RLock()
        lock.acquire()
        return lock


class Condition(Lock):
    def make(self):
        condition = self.context.Condition()
        condition.acquire()
        return condition


class Semaphore(Lock):
    def make(self):
        semaphore = self.context.Semaphore(1)
        semaphore.acquire()
        return semaphore


class Event(Thing):
    def make(self):
        event = self.context.Event()
        event.set()
        return event

    @staticmethod
    def use(event):
        return event.is_set()


class Barrier(Thing):
    def make(self):
        barrier = self.context.Barrier(3)
        barrier.abort()
        return barrier

    @staticmethod
    def use(barrier):
        return barrier.parties == 3 and barrier.broken


class Queue(Thing):
    seen = "put"

    def make(self):
        queue = self.context.Queue()
        queue.put("put")
        return queue

    @staticmethod
    def use(queue):
        return queue.get(timeout=TIMEOUT)

    def close(self):
        self.obj.close()
        self.obj.join_thread()


class JoinableQueue(Queue):
    def make(self):
        queue = self.context.JoinableQueue()
        queue.put("put")
        return queue

    @staticmethod
    def use(queue):
        obj = queue.get(timeout=TIMEOUT)
        queue.task_done()
        return obj

    def close(self):
        self.obj.join()
        super().close()


class SimpleQueue(Thing):
    seen = "put"

    def make(self):
        queue = self.context.SimpleQueue()
        queue.put("put")
        return queue

    @staticmethod
    def use(queue):
        return queue.get()


class Connection(Thing):
    seen = "sent"

    def make(self):
        reader, self.writer = self.context.Pipe()
        self.writer.send("sent")
        return reader

    @staticmethod
    def use(connection):
        assert connection.poll(TIMEOUT)
        return connection.recv()

    def close(self):
        self.obj.close()
        self.writer.close()


class Socket(Connection):
    seen = b"sent"

    def make(self):
        reader, self.writer = socket.socketpair()
        self.writer.sendall(b"sent")
        return reader

    @staticmethod
    def use(connection):
        connection.settimeout(TIMEOUT)
        return connection.recv(4)


class Value(Thing):
    seen = 1
    done = 2

    def make(self):
        return self.context.Value("i", 1)

    @staticmethod
    def use(value):
        before = value.value
        value.value = 2
        return before

    def now(self):
        return self.obj.value


class Array(Value):
    def make(self):
        return self.context.Array("i", [0, 1])

    @staticmethod
    def use(array):
        before = array[1]
        array[1] = 2
        return before

    def now(self):
        return self.obj[1]


class RawArray(Array):
    def make(self):
        return self.context.RawArray("i", [0, 1])


class SharedMemory(Array):
    def make(self):
        shared_memory = pytest.importorskip("multiprocessing.shared_memory")
        memory = shared_memory.SharedMemory(create=True, size=2)
        memory.buf[1] = 1
        return memory

    @staticmethod
    def use(memory):
        return Array.use(memory.buf)

    def now(self):
        return self.obj.buf[1]

    def close(self):
        self.obj.close()
        self.obj.unlink()


class Proxy(Array):
    authkey = None

    def make(self):
        self.manager = multiprocessing.managers.SyncManager(authkey=self.authkey, ctx=self.context)
        self.manager.start()
        return self.manager.list([0, 1])

    def close(self):
        self.manager.shutdown()


class ProxyWithItsKey(Proxy):
    authkey = b"a key of its own"


class RegisteredThing(Thing):
    def make(self):
        self.seen = "registered"
        if self.context.get_start_method() != "fork":
            self.seen += ", for a process: True"
        return Registered("registered")

    @staticmethod
    def use(obj):
        return obj.name


class Method(Event):
    """A bound method of what stands beside."""

    def make(self):
        return super().make().is_set

    @staticmethod
    def use(is_set):
        return is_set()


class Partial(Method):
    def make(self):
        return functools.partial(super().make())


THINGS = [
    Lock,
    RLock,
    Condition,
    Semaphore,
    Event,
    Barrier,
    Queue,
    JoinableQueue,
    SimpleQueue,
    Connection,
    Socket,
    Value,
    Array,
    RawArray,
    SharedMemory,
    Proxy,
    ProxyWithItsKey,
    RegisteredThing,
    Method,
    Partial,
]


def use_thing(cls, initret):
    """Use a thing, and tell whether what stands beside it is shared."""
    things, large = initret
    (thing,) = things["nested"] if isinstance(things, dict) else (things,)
    return cls.use(thing), large is None or is_shared(large.buffers[0])


def arrange(obj, where):
    large = None if where == "alone" else Buffers(bytearray(MIB))
    return {"nested": [obj]} if where == "nested" else obj, large


def give_with_large(obj, large=None):
    return obj, large


@pytest.mark.parametrize("where", ["alone", "nested", "beside an array"])
@pytest.mark.parametrize("cls", THINGS)
def test_everything(start_method, cls, where):
    context = multiprocessing.get_context(start_method)
    thing = cls(context)
    initargs = arrange(thing.obj, where)
    try:
        with pool_of(start_method, 1, give_with_large, initargs) as pool:
            seen, shared = outcome(pool, use_thing, cls)
        assert seen == thing.seen
        assert shared or start_method == "fork"
        assert thing.done is None or thing.now() == thing.done
    finally:
        thing.close()


def buffer_of_partial(item, initret):
    return bytes(initret.args[0].buffers[0]), is_shared(initret.args[0].buffers[0])


def buffer_of_method(item, initret):
    return initret()[0], is_shared(initret.__self__.buffers[0])


def test_large_buffer_in_a_partial(start_method, means):
    obj = functools.partial(identity, Buffers(bytearray(b"1" * MIB)))
    content, shared = shared_outcome(start_method, obj, buffer_of_partial)
    assert content == b"1" * MIB
    assert shared or start_method == "fork" or means == "copy"


def test_large_buffer_in_a_method(start_method, means):
    obj = Buffers(bytearray(b"1" * MIB)).contents
    content, shared = shared_outcome(start_method, obj, buffer_of_method)
    assert content == b"1" * MIB
    assert shared or start_method == "fork" or means == "copy"


class Table:
    def __init__(self, *buffers):
        self.obj = Buffers(*buffers)

    def initialize(self):
        return self.obj.buffers[0]


def is_shared_here(item, initret):
    return bytes(initret), is_shared(initret)


def test_initializer_with_a_large_buffer(spawning_method):
    initializer = Table(bytearray(b"1" * MIB)).initialize
    with pool_of(spawning_method, 1, initializer) as pool:
        assert outcome(pool, is_shared_here) == (b"1" * MIB, True)


def same_objects(item, initret):
    objects, nested = initret
    return [one is other for one, other in zip(objects, nested["again"])]


def test_same_object_twice(start_method, means):
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
        with pool_of(start_method, 1, give_all, (objects, {"again": list(objects)})) as pool:
            assert outcome(pool, same_objects) == [True] * len(objects)


def lock_of_condition(item, initret):
    lock, condition = initret
    return condition._lock is lock


def test_one_within_another(start_method, means):
    context = multiprocessing.get_context(start_method)
    lock = context.Lock()
    with pool_of(start_method, 1, give_all, (lock, context.Condition(lock))) as pool:
        assert outcome(pool, lock_of_condition)


def test_registered_type_is_reduced_for_each(spawning_method):
    with pool_of(spawning_method, 1, identity, (Registered("a"),), maxtasksperchild=1) as pool:
        names = [outcome(pool, name_of) for _ in range(2)]
    assert names == ["a, for a process: True"] * 2


def name_of(item, initret):
    return initret.name


class ForOne:
    """An object of which each process is to receive one of its own."""

    def __init__(self):
        self.number = 0

    def __reduce__(self):
        multiprocessing.context.assert_spawning(self)
        self.number += 1
        return int, (self.number,)


def test_what_asserts_spawning_is_reduced_for_each(spawning_method):
    obj = [ForOne()]
    with pool_of(spawning_method, 1, identity, (obj,), maxtasksperchild=1) as pool:
        (one,), (other,) = [outcome(pool, get) for _ in range(2)]
    assert one != other


#
# What cannot be unpickled is the outcome of each task (row 18)
#


@pytest.mark.parametrize("beside", [False, True])
def test_what_cannot_be_unpickled(spawning_method, means, beside):
    with pool_of(spawning_method, 2, identity, (Trap(beside=beside),)) as pool:
        for _ in range(3):
            with pytest.raises(LookupError, match="not to be unpickled"):
                outcome(pool, worker)
        with pytest.raises(LookupError, match="not to be unpickled"):
            outcomes(pool, worker, range(4))


def with_contents(item, initret):
    first, second, buffers = initret
    return first, second, buffers.contents()


@pytest.mark.parametrize("beside", [False, True])
def test_unpickled_at_last(spawning_method, tmp_path, beside):
    # The worker tries when it starts, and again for each task until it succeeds.
    obj = ["first", Trap(tmp_path / "log", 2, beside), Buffers(bytearray(b"abc"))]
    with pool_of(spawning_method, 1, identity, (obj,)) as pool:
        with pytest.raises(LookupError, match="not to be unpickled"):
            outcome(pool, get)
        for _ in range(2):
            assert outcome(pool, with_contents) == ("first", "unpickled", [b"abc"])
    assert (tmp_path / "log").read_text() == "xxx"


def vanish():
    raise AssertionError("not called")


def test_initializer_that_is_not_there(spawning_method, monkeypatch):
    vanished = type(vanish)(vanish.__code__, globals(), "vanished")
    vanished.__qualname__ = "vanished"
    monkeypatch.setitem(globals(), "vanished", vanished)
    with pool_of(spawning_method, 1, vanished) as pool:
        for _ in range(2):
            with pytest.raises(AttributeError, match="vanished"):
                outcome(pool, worker)


#
# Threads, and the end
#

LATE = """
import atexit, sys
import multiprocessing.util

def late():
    # weakref.finalize came later than this handler, and so runs before it.
    print([pool.apply_async(functions.get, (1,)).get(30) for _ in range(3)])

if __name__ == "__main__":
    atexit.register(late)

import functions
import multiprocessing_initret

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    pool = multiprocessing_initret.Pool(
        1, functions.identity, ({"key": bytearray(3)},), 1, context, expect_initret=True
    )
"""

# Not in the main module, of which Python 3.8 has forgotten the file at its end.
FUNCTIONS = """
def identity(value):
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
    """An object whose pickling takes until it is told to end."""

    def __init__(self):
        self.begun, self.end = threading.Event(), threading.Event()

    def __reduce__(self):
        self.begun.set()
        assert self.end.wait(TIMEOUT)
        return str, ("slow",)


@pytest.mark.skipif(sys.version_info < (3, 8), reason="a child takes its parent's tracker")
def test_fork_while_a_thread_pickles():
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("nothing forks here")
    slow, results = Slow(), []

    def use_pool_in_child(method, obj, queue):
        # Stock waits for its fork server as for a child, and this process has only
        # what it copied from its parent.
        import multiprocessing.forkserver

        multiprocessing.forkserver._forkserver.__init__()
        use_pool(method, obj, queue)

    def use_slow():
        results.append(shared_outcome("spawn", slow, get))

    thread = threading.Thread(target=use_slow)
    thread.start()
    assert slow.begun.wait(TIMEOUT)
    context = multiprocessing.get_context("fork")
    try:
        # A copy of what that thread has locked stays locked in a child for ever.
        assert shared_outcome("fork", ["obj"], get) == ["obj"]
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


#
# Nothing is left
#


def nameless_files(process):
    """Count the files without a name that a process has open, but for its output."""
    command = ["ls", "-l", f"/proc/{process}/fd"]
    listing = subprocess.check_output(command, close_fds=False).decode()
    links = [line.split()[-4:] for line in listing.splitlines() if line.endswith("(deleted)")]
    return sum(int(fd) > 2 for fd, _, _, _ in links)


class Spy:
    """What there is to see while this is unpickled."""

    def __reduce__(self):
        return spy, ()


def spy():
    return nameless_files(os.getpid()), nameless_files("self")


@shared_only
@linux
def test_programs_of_a_worker_do_not_keep_it(spawning_method, means):
    if means == "copy":
        pytest.skip("it has no file")
    worker, program = shared_outcome(spawning_method, Spy(), get)
    assert worker > 0
    assert program == 0


PROGRAM = """
import os, signal, stat, sys
from multiprocessing import current_process, get_context
from multiprocessing_initret import Pool

def identity(value):
    return value

def pid(item, initret):
    return os.getpid()

def die(item, initret):
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    end, place, method, semaphores = sys.argv[1:]
    # What is printed where the exit code is not 0 is what the test looks at.
    os.dup2(*((2, 1) if end == "parent killed" else (1, 2)))
    if place == "temporary file":
        del os.memfd_create
    current_process()._config["semprefix"] = "/" + semaphores
    obj = [number for number in range(10 ** 5)]
    pool = Pool(2, identity, (obj,), context=get_context(method), expect_initret=True)
    pool.apply(pid, (1,))
    files = []
    for name in os.listdir("/proc/self/fd"):
        try:
            file = os.stat("/proc/self/fd/" + name)
        except OSError:
            continue
        if stat.S_ISREG(file.st_mode) and not file.st_nlink:
            files.append("%d-%d" % (file.st_dev, file.st_ino))
    print(*files, flush=True)
    if end == "worker killed":
        pool.apply_async(die, (1,)).wait()
        pool.apply(pid, (1,))
    if end == "parent killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "pool terminated":
        pool.terminate()
    elif end != "pool left open":
        pool.close()
        pool.join()
"""


def files_in_use():
    """Return the device and inode of all files that are open or mapped on this machine."""
    used = set()
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/maps") as maps:
                for _, _, _, device, inode, *_ in map(str.split, maps):
                    major, minor = (int(part, 16) for part in device.split(":"))
                    used.add((os.makedev(major, minor), int(inode)))
            for fd in os.scandir(f"/proc/{process}/fd"):
                used.add(identity_of_file(fd.path))
        except OSError:
            pass  # the process ended meanwhile
    return used


def identity_of_file(path):
    """Return the device and inode of a file, and None if it is gone meanwhile."""
    try:
        file = os.stat(path)
    except FileNotFoundError:
        return None
    return file.st_dev, file.st_ino


@shared_only
@linux
@pytest.mark.parametrize("place", ["memory", "temporary file"])
@pytest.mark.parametrize(
    "end",
    ["pool closed", "pool terminated", "pool left open", "worker killed", "parent killed"],
)
def test_nothing_is_left(python, tmp_path, short_folder, start_method, end, place):
    (tmp_path / "program.py").write_text(PROGRAM)
    semaphores = f"initret-{os.getpid()}"
    # It returns when the last process that holds the pipe of its output has gone.
    printed = python(
        "program.py",
        end,
        place,
        start_method,
        semaphores,
        code=-signal.SIGKILL if end == "parent killed" else 0,
        TMPDIR=short_folder,
    )
    # Multiprocessing's own folder, for the socket of the fork server.
    assert [name for name in os.listdir(short_folder) if not name.startswith("pymp-")] == []
    files, warnings = printed.split("\n", 1)
    files = {tuple(map(int, file.split("-"))) for file in files.split()}
    assert len(files) == (1 if start_method == "fork" else 2)  # the records, and the pickle
    assert not files & files_in_use()
    for entry in os.scandir("/dev/shm"):
        assert identity_of_file(entry.path) not in files and semaphores not in entry.name
    # The pool itself leaves semaphores when it is killed, and they are cleaned up.
    assert warnings == "" or (end == "parent killed" and "semaphore" in warnings)


HUNDRED = """
import gc, os, sys, warnings
from multiprocessing import active_children, get_context
from multiprocessing_initret import Pool

warnings.simplefilter("error")

def identity(*values):
    return values

def get(item, initret):
    return item

def count():
    for _ in range(3):  # PyPy needs more than one
        gc.collect()
    with open("/proc/self/maps") as maps:
        files = [line for line in maps if "deleted" in line or "memfd" in line]
    return len(os.listdir("/proc/self/fd")), len(files), len(active_children())

def use(number, context):
    initargs = [number] * 1000, bytearray(10 ** 5), context.Lock()
    pool = Pool(1, identity, initargs, context=context, expect_initret=True)
    if number % 10:
        pool.terminate()  # while the worker starts
    else:
        assert pool.apply_async(get, (number,)).get(60) == number
        pool.close()
    pool.join()

if __name__ == "__main__":
    context = get_context(sys.argv[1])
    use(0, context)
    before = count()
    for number in range(1, 101):
        use(number, context)
    assert count() == before, (before, count())
"""


@linux
def test_hundred_pools_leave_nothing(python, tmp_path, start_method):
    (tmp_path / "program.py").write_text(HUNDRED)
    python("-W", "error", "program.py", start_method)


IMPORTS = """
import sys
import multiprocessing.pool
before = set(sys.modules)
# As a spawned worker does.
import multiprocessing_initret._shared.initargs, multiprocessing_initret._worker.process
ours = {name for name in sys.modules if name.startswith("multiprocessing_initret")}
print(sorted(set(sys.modules) - before - ours))
"""


def test_import_needs_little(python):
    more = python("-c", IMPORTS)
    for name in ("inspect", "typing", "tempfile", "pathlib", "shutil", "subprocess", "random"):
        assert f"'{name}'" not in more
