"""broadcast(): one copy of an object for all workers, in every kind of pool."""

import concurrent.futures
import copy
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading

import multiprocessing_initret
import pytest
from conftest import TIMEOUT
from multiprocessing_initret import _broadcast, broadcast

SHARES = _broadcast._SHARES_MEMORY

shared_only = pytest.mark.skipif(not SHARES, reason="this Python sends a copy to each worker")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


class Buffers:
    """An object with buffers, as a NumPy array or a data frame has, and no others."""

    def __init__(self, *buffers):
        self.buffers = buffers

    def __reduce_ex__(self, protocol):
        wrap = pickle.PickleBuffer if protocol >= 5 else bytes
        return Buffers, tuple(wrap(buffer) for buffer in self.buffers)

    def contents(self):
        return [bytes(buffer) for buffer in self.buffers]


class Counted:
    """An object that counts how often it is pickled."""

    def __init__(self):
        self.pickled = 0

    def __reduce__(self):
        self.pickled += 1
        return Counted, ()


class Unpicklable:
    def __reduce__(self):
        raise LookupError("not to be pickled")


class Trap:
    """An object that can be pickled, and not unpickled."""

    def __reduce__(self):
        return fail, ()


def fail():
    raise LookupError("not to be unpickled")


def identity(value):
    return value


def value_of(shared):
    return shared.value


def is_same(item, initret):
    return initret.value is initret.value


def equals(item, initret):
    return item == initret


def has_references(item, initret):
    return initret[0] is initret[1] and initret[2] is initret


def contents(item, initret):
    return [obj.contents() for obj in initret]


def worker(item, initret):
    return os.getpid()


def keep_slice(shared):
    return shared.value.buffers[0][1:3]


def keep_nothing_else(item, initret):
    gc.collect()
    return bytes(initret)


def write(number, initret):
    """Try to write, and tell what was raised and what is there now."""
    try:
        initret.buffers[0][0] = number
    except TypeError as error:
        return str(error), bytes(initret.buffers[0])


def mapped_broadcasts(item, initret):
    with open("/proc/self/maps") as maps:
        return {line.split()[4] for line in maps if "memfd:broadcast" in line}


def is_inheritable(item, initret):
    return os.get_inheritable(initret._shared.fd)


def pool_of(start_method, *args, **kwds):
    context = multiprocessing.get_context(start_method)
    return multiprocessing_initret.Pool(*args, context=context, expect_initret=True, **kwds)


def outcome(pool, func, item=None):
    return pool.apply_async(func, (item,)).get(TIMEOUT)


def shared_outcome(start_method, obj, func, item=None, initializer=value_of):
    with pool_of(start_method, 1, initializer, (broadcast(obj),)) as pool:
        return outcome(pool, func, item)


@pytest.fixture(params=["memory", "temporary file", "copy"])
def means(request, monkeypatch, tmp_path):
    """Each means by which the object can reach a process that does not inherit it."""
    if request.param == "copy":
        monkeypatch.setattr(_broadcast, "_SHARES_MEMORY", False)
    elif not SHARES:
        pytest.skip("this Python sends a copy to each worker")
    elif request.param == "temporary file":
        monkeypatch.delattr(os, "memfd_create", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    elif not hasattr(os, "memfd_create"):
        pytest.skip("this system has no anonymous memory")
    yield request.param
    assert os.listdir(str(tmp_path)) == []


@pytest.fixture
def spawning_method(start_method):
    if start_method == "fork":
        pytest.skip("a forked process inherits the object")
    return start_method


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


def test_references(start_method, means):
    one = ["one"]
    obj = [one, one]
    obj.append(obj)
    assert shared_outcome(start_method, obj, has_references) is True


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


def test_inherited_object_is_itself():
    obj = Unpicklable()
    shared = broadcast(obj)
    assert shared.value is obj
    with multiprocessing_initret.ThreadPool(1, value_of, (shared,), expect_initret=True) as pool:
        assert pool.apply_async(identity_of).get(TIMEOUT) is obj
    if "fork" in multiprocessing.get_all_start_methods():
        with pool_of("fork", 1, value_of, (shared,)) as pool:
            assert pool.apply_async(id_of).get(TIMEOUT) == id(obj)


def identity_of(initret):
    return initret


def id_of(initret):
    return id(initret)


def test_value_is_made_once(start_method, means):
    assert shared_outcome(start_method, ["value"], is_same, initializer=identity) is True


@shared_only
def test_pickled_once(spawning_method):
    obj = Counted()
    shared = broadcast(obj)
    assert obj.pickled == 0
    with pool_of(spawning_method, 2, value_of, (shared,), maxtasksperchild=1) as pool:
        workers = [outcome(pool, worker) for _ in range(4)]
    assert len(set(workers)) == 4
    with pool_of(spawning_method, 1, value_of, (shared,)) as pool:
        outcome(pool, worker)
    assert obj.pickled == 1


@shared_only
def test_pickled_once_for_two_threads(spawning_method):
    obj = Counted()
    shared = broadcast(obj)
    start = threading.Barrier(2, timeout=TIMEOUT)

    def use():
        start.wait()
        with pool_of(spawning_method, 1, value_of, (shared,)) as pool:
            outcome(pool, worker)

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert obj.pickled == 1


@shared_only
def test_buffers_are_read_only(spawning_method):
    message, now = shared_outcome(spawning_method, Buffers(bytearray(b"abc")), write, 65)
    assert "read-only" in message
    assert now == b"abc"


@shared_only
@linux
def test_workers_map_one_file(spawning_method):
    barrier = multiprocessing.get_context(spawning_method).Barrier(2, timeout=TIMEOUT)
    shared = broadcast(Buffers(b"abc"))
    with pool_of(spawning_method, 2, wait_with, (shared, barrier)) as pool:
        files = pool.map_async(mapped_broadcasts, range(2), chunksize=1).get(TIMEOUT)
    # Each waited for the other, so there are two, and the file is one.
    assert len(set.union(*files)) == len(files[0]) == 1


def wait_with(shared, barrier):
    value = shared.value
    barrier.wait()
    return value


@shared_only
def test_views_outlive_the_handle(spawning_method):
    obj = Buffers(b"abcd")
    assert shared_outcome(spawning_method, obj, keep_nothing_else, initializer=keep_slice) == b"bc"


@shared_only
def test_programs_of_a_worker_do_not_keep_it(spawning_method):
    assert shared_outcome(spawning_method, 1, is_inheritable, initializer=identity) is False


@shared_only
def test_descriptor_is_closed(spawning_method):
    shared = broadcast(1)
    with pool_of(spawning_method, 1, value_of, (shared,)) as pool:
        outcome(pool, worker)
    pool.join()
    fd = shared._shared.fd
    os.fstat(fd)
    del pool, shared
    for _ in range(3):  # PyPy needs more than one
        gc.collect()
    with pytest.raises(OSError):
        os.fstat(fd)


#
# Libraries whose objects have buffers
#


def array_facts(item, initret):
    array = initret["array"]
    try:
        array[0, 0] = 1
    except ValueError as error:
        return str(error), array.ctypes.data % 64, array.flags.f_contiguous, array.sum()


@shared_only
def test_numpy(spawning_method):
    numpy = pytest.importorskip("numpy")
    array = numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3))
    obj = {"odd": b"1" * 7, "array": array, "part": array[::2], "empty": array[:0]}
    error, alignment, fortran, total = shared_outcome(spawning_method, obj, array_facts)
    assert "read-only" in error
    assert (alignment, fortran, total) == (0, True, 15.0)


def frame_facts(item, initret):
    return dict(initret.sum()), mapped_broadcasts(item, initret) != set()


@shared_only
@linux
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
# Each way to start a process
#


@pytest.mark.parametrize("name", ["Pool", "pool.Pool"])
def test_installed_pools(installed, start_method, means, name):
    context = multiprocessing.get_context(start_method)
    kwds = {} if name == "Pool" else {"context": context}
    make = context.Pool if name == "Pool" else multiprocessing.pool.Pool
    shared = broadcast(OBJECTS)
    with make(2, value_of, (shared,), expect_initret=True, **kwds) as pool:
        assert outcome(pool, equals, OBJECTS)


def set_global(shared, others):
    global published
    published = shared.value, others["other"].value


def get_global():
    return published


def test_without_initret(start_method, means):
    context = multiprocessing.get_context(start_method)
    others = {"other": broadcast([2])}
    with context.Pool(1, set_global, (broadcast([1]), others)) as pool:
        assert pool.apply_async(get_global).get(TIMEOUT) == ([1], [2])


def put_value(queue, shared):
    queue.put(shared.value)


def test_process(start_method, means):
    context = multiprocessing.get_context(start_method)
    queue = context.Queue()
    process = context.Process(target=put_value, args=(queue, broadcast(OBJECTS)))
    process.start()
    assert queue.get(timeout=TIMEOUT) == OBJECTS
    process.join(TIMEOUT)


def put_value_of_child(start_method, queue, shared):
    context = multiprocessing.get_context(start_method)
    process = context.Process(target=put_value, args=(queue, shared))
    process.start()
    process.join(TIMEOUT)


def test_grandchild(start_method, means):
    context = multiprocessing.get_context(start_method)
    queue = context.Queue()
    args = start_method, queue, broadcast(OBJECTS)
    process = context.Process(target=put_value_of_child, args=args)
    process.start()
    assert queue.get(timeout=TIMEOUT) == OBJECTS
    process.join(TIMEOUT)


@pytest.mark.skipif(sys.version_info < (3, 7), reason="its executors have no initializer")
def test_executor(start_method, means):
    with concurrent.futures.ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context(start_method),
        initializer=set_global,
        initargs=(broadcast([1]), {"other": broadcast([2])}),
    ) as executor:
        assert executor.submit(get_global).result(TIMEOUT) == ([1], [2])


#
# Where it cannot work
#


def save_by_pickle(shared, context):
    pickle.dumps(shared)


def save_by_copy(shared, context):
    copy.deepcopy(shared)


def save_by_queue(shared, context):
    context.SimpleQueue().put(shared)


def save_by_task(shared, context):
    with context.Pool(1) as pool:
        pool.apply_async(identity, (shared,)).get(TIMEOUT)


def save_by_result(shared, context):
    with context.Pool(1, set_global, (shared, {"other": shared})) as pool:
        try:
            pool.apply_async(return_broadcast).get(TIMEOUT)
        except multiprocessing.pool.MaybeEncodingError as error:
            raise RuntimeError(error) from error


def return_broadcast():
    return broadcast(1)


@pytest.mark.parametrize(
    "save", [save_by_pickle, save_by_copy, save_by_queue, save_by_task, save_by_result]
)
def test_only_for_a_starting_process(start_method, save):
    with pytest.raises(RuntimeError, match="a Broadcast can only be given to a process that is"):
        save(broadcast(1), multiprocessing.get_context(start_method))


@shared_only
def test_broadcast_of_a_broadcast(spawning_method):
    obj = []
    shared = broadcast(obj)
    obj.append(shared)
    with pytest.raises(RuntimeError, match="a Broadcast can only be given"):
        pool_of(spawning_method, 1, identity, (shared,))


@shared_only
def test_broadcast_of_what_one_child_receives(spawning_method):
    context = multiprocessing.get_context(spawning_method)
    with pytest.raises(RuntimeError, match="shared between processes through inheritance"):
        pool_of(spawning_method, 1, identity, (broadcast(context.Lock()),))


def test_object_that_cannot_be_pickled(spawning_method, means):
    shared = broadcast(Unpicklable())
    for _ in range(2):
        with pytest.raises(LookupError, match="not to be pickled"):
            pool_of(spawning_method, 2, value_of, (shared,))
        assert multiprocessing.active_children() == []


@shared_only
def test_object_that_cannot_be_unpickled(spawning_method):
    with pool_of(spawning_method, 2, value_of, (broadcast(Trap()),)) as pool:
        for _ in range(3):
            with pytest.raises(LookupError, match="not to be unpickled"):
                outcome(pool, worker)


#
# Nothing is left
#

PROGRAM = """
import os, signal, sys
from multiprocessing import current_process, get_context
from multiprocessing_initret import Pool, broadcast

def value_of(shared):
    return shared.value

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
    shared = broadcast(obj)
    pool = Pool(2, value_of, (shared,), context=get_context(method), expect_initret=True)
    pool.apply(pid, (1,))
    file = os.fstat(shared._shared.fd)
    print(file.st_dev, file.st_ino, flush=True)
    if end == "worker killed":
        pool.apply_async(die, (1,))
        pool.apply(pid, (1,))
        pool.terminate()  # close() would wait for the task that was killed
    if end == "parent killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if end != "pool left open":
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
@pytest.mark.parametrize("end", ["pool closed", "pool left open", "worker killed", "parent killed"])
def test_nothing_is_left(python, tmp_path, spawning_method, end, place):
    (tmp_path / "program.py").write_text(PROGRAM)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    semaphores = f"initret-{os.getpid()}"
    # It returns when the last process that holds the pipe of its output has gone.
    printed = python(
        "program.py",
        end,
        place,
        spawning_method,
        semaphores,
        code=-signal.SIGKILL if end == "parent killed" else 0,
        TMPDIR=str(temporary),
    )
    # Multiprocessing's own folder, for the socket of the fork server.
    left = [path.name for path in temporary.iterdir() if not path.name.startswith("pymp-")]
    assert left == []
    identity, warnings = printed.split("\n", 1)
    identity = tuple(map(int, identity.split()))
    assert identity not in files_in_use()
    for entry in os.scandir("/dev/shm"):
        assert identity_of_file(entry.path) != identity and semaphores not in entry.name
    # The pool itself leaves semaphores when it is killed, and they are cleaned up.
    assert "semaphore" in warnings if end == "parent killed" else warnings == ""
