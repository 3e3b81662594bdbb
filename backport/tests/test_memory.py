"""The memory of initargs, which all workers of a pool map, and which is released at the end."""

import contextlib
import errno
import gc
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile

import initargs_support
import pytest
from conftest import TIMEOUT, linux, wait_until
from initargs_support import (
    MIB,
    Buffers,
    call,
    call_each,
    call_in_pool,
    get,
    mapping,
    pool_of,
    return_all,
    shared_only,
)
from multiprocessing_initret._shared.memory import Memory

transport = initargs_support.transport  # a fixture


#
# All workers map one file, until one writes to it
#


def mapping_before_and_after_write(item, initret):
    obj, barrier = initret
    (buffer,) = obj.buffers
    assert sum(buffer[::512]) == 0  # read every page
    before = mapping(buffer)
    barrier.wait(TIMEOUT)
    buffer[0] = 1
    after = mapping(buffer)
    barrier.wait(TIMEOUT)
    return before, after


@shared_only
@linux
def test_workers_map_one_file(spawning_method, transport):
    if transport == "copy":
        pytest.skip("it has no file")
    barrier = multiprocessing.get_context(spawning_method).Barrier(2)
    with pool_of(spawning_method, 2, return_all, (Buffers(bytearray(4 * MIB)), barrier)) as pool:
        (one, one_after), (other, _) = call_each(pool, mapping_before_and_after_write, range(2))
    assert one["file"] == other["file"] == one_after["file"]
    assert one["file"][1] != "0"
    assert one["access"] == other["access"] == "rw-p"
    assert one["Rss"] >= 4096
    assert one["Anonymous"] == other["Anonymous"] == 0
    # The worker has copied only the page that it wrote to.  A huge page has 2 MiB.
    assert 0 < one_after["Anonymous"] <= 2048


@linux
def test_full_file_system(monkeypatch):
    """A store to a page that has no place in the file system would kill the process."""

    def fail(fd, offset, length):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError, match="no space"):
        Memory("multiprocessing", [], 4096)


@linux
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_preallocation(monkeypatch, code):
    def fail(fd, offset, length):
        raise OSError(code, "not supported")

    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(os, "posix_fallocate", fail)
    memory = Memory("multiprocessing", [(1, b"2")], 3)
    assert memory.map(mmap.ACCESS_COPY)[:] == b"\x002\x00"


@linux
def test_read_only_file_system(monkeypatch):
    def fail():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", fail)
    memory = Memory("multiprocessing", [(1, b"2")], 3)
    assert memory.map(mmap.ACCESS_COPY)[:] == b"\x002\x00"


@linux
def test_file_is_closed_if_it_cannot_be_enlarged(monkeypatch):
    files = []

    def fail(fd, length):
        files.append(fd)
        raise OSError(errno.EFBIG, "too large")

    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(OSError, match="too large"):
        Memory("multiprocessing", [], 4096)
    gc.collect()
    (fd,) = files
    with pytest.raises(OSError) as info:
        os.fstat(fd)
    assert info.value.errno == errno.EBADF


# Small buffers stay in the stream.
sizes = pytest.mark.parametrize("size", [3, 10**5])


def write(number, initret):
    obj, barrier = initret
    before = obj.buffers[0][0]
    obj.buffers[0][0] = number
    barrier.wait(TIMEOUT)
    return before, obj.buffers[0][0]


@sizes
def test_worker_does_not_see_what_another_writes(start_method, transport, size):
    barrier = multiprocessing.get_context(start_method).Barrier(2)
    obj = Buffers(bytearray(size))
    with pool_of(start_method, 2, return_all, (obj, barrier), maxtasksperchild=1) as pool:
        # Each task waits for the other, so two workers run them, and then two replacements.
        for _ in range(2):
            assert call_each(pool, write, [1, 2]) == [(0, 1), (0, 2)]
    assert obj.contents() == [bytes(size)]


def try_to_write(item, initret):
    try:
        initret.buffers[0][0] = 65
    except TypeError:
        return bytes(initret.buffers[0])


@sizes
def test_read_only_buffer_stays_read_only(start_method, transport, size):
    assert call_in_pool(start_method, Buffers(bytes(size)), try_to_write) == bytes(size)


def keep_slice(obj):
    return memoryview(obj.buffers[0])[1:3]


def get_slice(item, initret):
    gc.collect()
    return bytes(initret)


def test_slice_keeps_the_mapping(start_method, transport):
    obj = Buffers(b"abcd" * 10**5)
    assert call_in_pool(start_method, obj, get_slice, initializer=keep_slice) == b"bc"


#
# Everything is released
#


def nameless_files(process):
    """Return how many deleted files a process has open, without its standard streams."""
    command = ["ls", "-l", f"/proc/{process}/fd"]
    listing = subprocess.check_output(command, close_fds=False).decode()
    links = [line.split()[-4:] for line in listing.splitlines() if line.endswith("(deleted)")]
    return sum(int(fd) > 2 for fd, _, _, _ in links)


def own_nameless_files():
    """Return how many deleted files this process has open, while its threads may close some."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum(link.endswith("(deleted)") for link in links)


class FileCounter:
    """Is unpickled as the numbers of deleted files that the process and a child have open."""

    def __reduce__(self):
        return count_nameless_files, ()


def count_nameless_files():
    return nameless_files(os.getpid()), nameless_files("self")


@shared_only
@linux
@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="mmap() of PyPy returns inheritable descriptors"
)
def test_child_of_a_worker_does_not_inherit_the_file(spawning_method, transport):
    if transport == "copy":
        pytest.skip("it has no file")
    worker, program = call_in_pool(spawning_method, FileCounter(), get)
    assert worker > 0
    assert program == 0


@shared_only
@linux
def test_ended_pool_releases_the_file(spawning_method, transport):
    """It does so even if the program keeps the pool."""
    if transport == "copy":
        pytest.skip("it has no file")
    pool = pool_of(spawning_method, 1, int, (1,))
    with pool:
        call(pool, get)
        files = own_nameless_files()
    assert own_nameless_files() < files


PROGRAM = """
import os, signal, stat, sys
from multiprocessing import current_process, get_context
from multiprocessing_initret import Pool

def return_one(value):
    return value

def pid(item, initret):
    return os.getpid()

def kill_self(item, initret):
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    end, place, method, semaphores = sys.argv[1:]
    # The fixture returns stderr if an exit code is expected, and stdout otherwise.
    os.dup2(*((2, 1) if end == "parent killed" else (1, 2)))
    if place == "temporary file":
        del os.memfd_create
    current_process()._config["semprefix"] = "/" + semaphores
    obj = [number for number in range(10 ** 5)]
    pool = Pool(2, return_one, (obj,), context=get_context(method), expect_initret=True)
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
        pool.apply_async(kill_self, (1,)).wait()
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
            pass  # the process has exited meanwhile
    return used


def identity_of_file(path):
    """Return the device and inode of a file, or None if it has been removed meanwhile."""
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
def test_files_are_released(python, tmp_path, short_tmp_path, start_method, end, place):
    (tmp_path / "program.py").write_text(PROGRAM)
    semaphores = f"initret-{os.getpid()}-"  # the program of another run may have a longer number
    # python() returns when all processes that inherited its stdout have exited.
    printed = python(
        "program.py",
        end,
        place,
        start_method,
        semaphores,
        code=-signal.SIGKILL if end == "parent killed" else 0,
        TMPDIR=short_tmp_path,
    )
    # The directory of multiprocessing contains the socket of the fork server.
    assert [name for name in os.listdir(short_tmp_path) if not name.startswith("pymp-")] == []
    files, warnings = printed.split("\n", 1)
    files = {tuple(map(int, file.split("-"))) for file in files.split()}
    assert len(files) == (1 if start_method == "fork" else 2)  # the records, and the pickle
    # A process closes its stdout before its other files.
    wait_until(lambda: not files & files_in_use())
    for entry in os.scandir("/dev/shm"):
        assert identity_of_file(entry.path) not in files and semaphores not in entry.name
    # The resource tracker removes the semaphores of a killed process, with a warning.
    assert warnings == "" or (end == "parent killed" and "semaphore" in warnings)


HUNDRED = """
import gc, os, sys, warnings
from multiprocessing import active_children, get_context
from multiprocessing_initret import Pool

warnings.simplefilter("error")

def return_one(*values):
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
    pool = Pool(1, return_one, initargs, context=context, expect_initret=True)
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
@pytest.mark.slow
def test_hundred_pools_leak_nothing(python, tmp_path, start_method):
    (tmp_path / "program.py").write_text(HUNDRED)
    python("-W", "error", "program.py", start_method)
