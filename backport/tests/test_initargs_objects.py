"""Everything that multiprocessing can pass to a process can be among initargs."""

import collections
import copyreg
import ctypes
import functools
import gc
import multiprocessing
import multiprocessing.managers
import socket

import initargs_support
import pytest
from conftest import TIMEOUT
from initargs_support import (
    MIB,
    Buffers,
    Registered,
    call,
    call_in_pool,
    is_shared,
    pool_of,
    return_one,
    shared_only,
)

transport = initargs_support.transport  # a fixture


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
    array = numpy.asfortranarray(numpy.ones((2, 1000)))
    array[0, 0] = 0
    obj = {"odd": b"1" * 7, "array": array, "part": array[::2], "empty": array[:0]}
    assert call_in_pool(spawning_method, obj, array_facts) == (True, 0, True, 2000.0)
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
    assert "read-only" in call_in_pool(start_method, array, write_to_array)


def frame_facts(item, initret):
    column = initret["one"].to_numpy()
    column.flags.writeable = True  # pandas returns read-only views
    return dict(initret.sum()), is_shared(column)


@shared_only
def test_pandas(spawning_method):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"one": [1, 2], "two": [0.5, 1.0]})
    assert call_in_pool(spawning_method, frame, frame_facts) == ({"one": 3, "two": 1.5}, True)


def table_facts(item, initret):
    import pyarrow

    return initret.to_pydict(), pyarrow.total_allocated_bytes()


@shared_only
def test_arrow(spawning_method):
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"one": [1, None, 3], "two": ["a", "b", "c"]}
    table = pyarrow.table(columns)
    assert call_in_pool(spawning_method, table, table_facts) == (columns, 0)


#
# Objects that only one process may receive
#

# make() of each class creates an object and changes it in the parent; use() returns what the
# worker observes (seen).  If done is not None, the parent then compares now() with it.


class Argument:
    """An object to pass to a worker, and the effects expected there and in the parent."""

    seen = True
    done = None
    is_leaf = True  # refers to no other object, so that objects beside it are shared

    def __init__(self, context):
        self.context = context
        self.obj = self.make()

    def close(self):
        pass


class Lock(Argument):
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


class Event(Argument):
    def make(self):
        event = self.context.Event()
        event.set()
        return event

    @staticmethod
    def use(event):
        return event.is_set()


class Barrier(Argument):
    def make(self):
        barrier = self.context.Barrier(3)
        barrier.abort()
        return barrier

    @staticmethod
    def use(barrier):
        return barrier.parties == 3 and barrier.broken


class Queue(Argument):
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


class SimpleQueue(Argument):
    seen = "put"

    def make(self):
        queue = self.context.SimpleQueue()
        queue.put("put")
        return queue

    @staticmethod
    def use(queue):
        return queue.get()


class Connection(Argument):
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


class Value(Argument):
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


class RegisteredArgument(Argument):
    is_leaf = False

    def make(self):
        self.seen = "registered"
        if self.context.get_start_method() != "fork":
            self.seen += ", for a process: True"
        return Registered("registered")

    @staticmethod
    def use(obj):
        return obj.name


class Method(Event):
    """A bound method of an object that is pickled for each process."""

    def make(self):
        return super().make().is_set

    @staticmethod
    def use(is_set):
        return is_set()


class Partial(Method):
    def make(self):
        return functools.partial(super().make())


ARGUMENTS = [
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
    RegisteredArgument,
    Method,
    Partial,
]


def use_argument(cls, initret):
    """Use an argument, and return whether the large object beside it is shared."""
    arguments, large = initret
    (argument,) = arguments["nested"] if isinstance(arguments, dict) else (arguments,)
    return cls.use(argument), large is None or is_shared(large.buffers[0])


def arrange(obj, position):
    large = None if position == "alone" else Buffers(bytearray(MIB))
    return {"nested": [obj]} if position == "nested" else obj, large


def return_with_large(obj, large=None):
    return obj, large


@pytest.mark.parametrize("position", ["alone", "nested", "beside an array"])
@pytest.mark.parametrize("cls", ARGUMENTS)
def test_each_kind_of_argument(start_method, cls, position):
    context = multiprocessing.get_context(start_method)
    argument = cls(context)
    initargs = arrange(argument.obj, position)
    try:
        with pool_of(start_method, 1, return_with_large, initargs) as pool:
            seen, shared = call(pool, use_argument, cls)
        assert seen == argument.seen
        assert shared or start_method == "fork" or not argument.is_leaf
        assert argument.done is None or argument.now() == argument.done
    finally:
        argument.close()


def buffer_of_partial(item, initret):
    return bytes(initret.args[0].buffers[0]), is_shared(initret.args[0].buffers[0])


def buffer_of_method(item, initret):
    return initret()[0], is_shared(initret.__self__.buffers[0])


def test_large_buffer_in_a_partial(start_method, transport):
    obj = functools.partial(return_one, Buffers(bytearray(b"1" * MIB)))
    content, shared = call_in_pool(start_method, obj, buffer_of_partial)
    assert content == b"1" * MIB
    assert shared or start_method == "fork" or transport == "copy"


def test_large_buffer_in_a_method(start_method, transport):
    obj = Buffers(bytearray(b"1" * MIB)).contents
    content, shared = call_in_pool(start_method, obj, buffer_of_method)
    assert content == b"1" * MIB
    assert shared or start_method == "fork" or transport == "copy"


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
        assert call(pool, is_shared_here) == (b"1" * MIB, True)


#
# Objects that occur more than once
#


class History(collections.deque):
    """A deque with a reduction that is not that of its base class."""


class Node:
    """An object that contains itself, and counts how often its state is set."""

    def __init__(self):
        self.itself = self
        self.count = 0

    def __getstate__(self):
        return dict(vars(self))

    def __setstate__(self, state):
        vars(self).update(state, count=vars(self).get("count", 0) + 1)


def look_at_twice(item, initret):
    (history, same), node, same_node = initret
    return list(history), history is same, node is same_node, node.itself is node, node.count


def return_all(*args):
    return args


def test_object_that_occurs_twice(start_method):
    history, node = History([1, 2]), Node()
    with pool_of(start_method, 1, return_all, ([history, history], node, node)) as pool:
        seen = call(pool, look_at_twice, None)
    assert seen == ([1, 2], True, True, True, int(start_method != "fork"))


class OnlyForProcesses:
    """An object that can be pickled only while a process is being started."""

    def __init__(self, data):
        self.data = data

    def __getstate__(self):
        multiprocessing.context.assert_spawning(self)
        return dict(vars(self))


class Structure(ctypes.Structure):
    def __init__(self, data):
        super().__init__()
        self.data = data

    def __reduce__(self):
        multiprocessing.context.assert_spawning(self)
        return Structure, (self.data,)


class NewArguments:
    def __new__(cls, data):
        self = super().__new__(cls)
        self.data = data
        return self

    def __getnewargs__(self):
        multiprocessing.context.assert_spawning(self)
        return (self.data,)


class InCopyreg:
    def __init__(self, data):
        self.data = data


def reduce_in_copyreg(obj):
    multiprocessing.context.assert_spawning(obj)
    return InCopyreg, (obj.data,)


copyreg.pickle(InCopyreg, reduce_in_copyreg)


def is_one_object(item, initret):
    data, other = initret
    return other.data is data


@pytest.mark.parametrize("cls", [OnlyForProcesses, Structure, NewArguments, InCopyreg])
def test_object_only_for_processes_refers_to_another(start_method, cls):
    data = ["data"]
    with pool_of(start_method, 1, return_all, (data, cls(data))) as pool:
        assert call(pool, is_one_object, None)


class OwnLock:
    """A lock of a program.  It also serves as the action of a barrier."""

    def __init__(self, context):
        self._lock = context.RLock()

    def acquire(self, *args):
        return self._lock.acquire(*args)

    def release(self):
        self._lock.release()

    __call__ = release


def have_the_lock(item, initret):
    lock, value, condition, barrier = initret
    return value.get_lock() is condition._lock is barrier._action is lock


def test_own_lock_of_shared_objects(start_method):
    context = multiprocessing.get_context(start_method)
    lock = OwnLock(context)
    objects = context.Value("i", lock=lock), context.Condition(lock), context.Barrier(1, lock)
    with pool_of(start_method, 1, return_all, (lock, *objects)) as pool:
        assert call(pool, have_the_lock, None)


#
# A manager that has ended
#


def length_of_data(item, initret):
    return len(initret[0])


def test_manager_has_ended_when_a_worker_starts(start_method):
    """A worker that does not use the proxy needs no manager."""
    manager = multiprocessing.Manager()
    initargs = "data", manager.list()
    with pool_of(start_method, 1, return_all, initargs, maxtasksperchild=1) as pool:
        assert call(pool, length_of_data, None) == 4
        manager.shutdown()
        for _ in range(3):
            assert call(pool, length_of_data, None) == 4


def append(item, initret):
    initret.append(item)


def test_worker_counts_its_reference_to_a_proxy(spawning_method):
    """The manager keeps the object, although the parent has released its proxy."""
    with multiprocessing.Manager() as manager:
        proxy = manager.list()
        with pool_of(spawning_method, 1, return_one, (proxy,)) as pool:
            call(pool, append, 1)
            pool._quick_put.__self__._initargs.close()
            del proxy
            gc.collect()
            call(pool, append, 2)
