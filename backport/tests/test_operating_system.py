"""Pools under conditions of the operating system: signals, permissions, descriptors, memory."""

import multiprocessing
import os
import signal
import types
import weakref

import pytest
from conftest import (
    START_METHODS,
    TIMEOUT,
    WINDOWS,
    counts_references,
    join_in_time,
    posix,
    wait_until,
)
from multiprocessing_initret._parent import task_pipe, worker_process
from pool_support import (
    FORK_SERVER_REPORTS_SIGNALS,
    KILLED,
    add,
    check_pool,
    exit_at_three,
    is_lost,
    is_running,
    kill_itself,
    result_or_exception,
    wait_for_pid,
    wait_until_replaced,
    write_pid_and_wait,
)


def refuse(*args):
    raise PermissionError


@posix
def test_exit_without_pidfd_or_permission(make_pool, monkeypatch):
    # As if the worker belonged to another user, and as on macOS and before Linux 5.3.
    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(worker_process, "_pidfd_open", refuse)
    pool = make_pool()
    assert is_lost(
        result_or_exception(pool.apply_async(exit_at_three, (3, "_exit"))), "exited with code 3"
    )
    check_pool(pool)


@pytest.mark.skipif(not WINDOWS, reason="a message is written piece by piece")
def test_message_that_cannot_be_written(make_pool, monkeypatch):
    """A message of 2 GiB fails its own task; the messages that follow are not affected."""

    from multiprocessing_initret._parent import windows_task_pipe

    def fail(*args, **kwds):
        raise OSError(22, "The parameter is incorrect", None, 87)

    pool = make_pool(1)
    check_pool(pool)
    with monkeypatch.context() as patch:
        patch.setattr(windows_task_pipe, "_winapi", types.SimpleNamespace(WriteFile=fail))
        result = pool.apply_async(add, (1,))
        assert getattr(result_or_exception(result), "winerror", None) == 87
    check_pool(pool)


@counts_references
def test_message_that_could_not_be_sent_is_released(make_pool, monkeypatch):
    """A program may keep the exception, and the message may have gigabytes."""
    messages = []

    def fail(self, job, index, message):
        messages.append(weakref.ref(message))
        raise MemoryError

    pool = make_pool(1)
    check_pool(pool)
    with monkeypatch.context() as patch:
        patch.setattr(task_pipe.TaskPipe, "send", fail)
        error = result_or_exception(pool.apply_async(add, (1,)))
    check_pool(pool)  # the task handler does not refer to the message any more
    assert isinstance(error, MemoryError)
    assert [message() for message in messages] == [None]


def return_parent_pid(initret):
    return os.getppid()


@pytest.mark.parametrize(
    "start_method", set(multiprocessing.get_all_start_methods()) & {"forkserver"}
)
@pytest.mark.skipif(
    not FORK_SERVER_REPORTS_SIGNALS, reason="its workers are not reported to have exited"
)
def test_killed_fork_server(make_pool, tmp_path, start_method):
    pool = make_pool(2)
    server = pool.apply_async(return_parent_pid).get(TIMEOUT)
    assert server != os.getpid()
    path = str(tmp_path / "inside")
    inside = pool.apply_async(write_pid_and_wait, (path,))
    pid = wait_for_pid(path)
    workers = list(pool._pool)
    os.kill(server, signal.SIGKILL)
    assert is_lost(result_or_exception(inside), "exited with code 255")
    # Race: the killed server closes the sentinels one by one.  Until the second one is closed, its
    # worker may receive a task, which would be lost, too.
    wait_until_replaced(pool, workers)
    check_pool(pool)
    # Race: the killed server closes its files first, and its children get another parent later.
    wait_until(lambda: pool.apply_async(return_parent_pid).get(TIMEOUT) != server)
    # The worker was still running; it must not continue while its replacement runs.
    wait_until(lambda: not is_running(pid))


# The arguments are the start method, how the system prevents the parent from receiving exit
# codes or descriptors, and for each pool the method that ends it.
UNREPORTED_EXIT = """
import contextlib, multiprocessing, os, signal, sys
import multiprocessing_initret._parent.worker_process

def add(item, initret):
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item + initret

if __name__ == "__main__":
    multiprocessing_initret.install()
    if sys.argv[2] == "ignored":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        # Nothing waits for an exit code that the system does not report.
        multiprocessing_initret._parent.worker_process._EXITCODE_TIMEOUT = 1000
    else:
        import resource
    for end in sys.argv[3:]:
        context = multiprocessing.get_context(sys.argv[1])
        pool = context.Pool(2, int, (40,), expect_initret=True)
        assert pool.apply(add, (1,)) == 41
        taken = []
        if sys.argv[2] == "no descriptors":
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
        found = []
        for result in [pool.apply_async(add, (item,)) for item in range(5)]:
            try:
                found.append(result.get(60))
            except multiprocessing_initret.WorkerLostError as error:
                found.append(error)
        for descriptor in taken:
            os.close(descriptor)
        getattr(pool, end)()
        pool.join()
        print(*found, sep="\\n")
"""


@posix
def test_sigchld_is_ignored(python, tmp_path, start_method):
    (tmp_path / "program.py").write_text(UNREPORTED_EXIT)
    output = python("program.py", start_method, "ignored", "close", "terminate").splitlines()
    assert len(output) == 10
    assert output[:3] == output[5:8] == ["40", "41", "42"] and output[4] == output[9] == "44"
    message = (
        KILLED
        if start_method == "forkserver" and FORK_SERVER_REPORTS_SIGNALS
        else "exited with code 255"
    )
    assert message in output[3] and message in output[8]


@posix
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_no_descriptor_for_a_replacement(python, tmp_path, start_method, end):
    # One pool in each process, because a fork server that has received an incomplete request
    # exits a little later.
    (tmp_path / "program.py").write_text(UNREPORTED_EXIT)
    output = python("program.py", start_method, "no descriptors", end).splitlines()
    assert len(output) == 5
    message = (
        KILLED
        if start_method != "forkserver" or FORK_SERVER_REPORTS_SIGNALS
        else "exited with code 255"
    )
    assert message in output.pop(3)
    for line in output:
        assert line in ("40", "41", "42", "44") or "a worker could not be started" in line, line


def fork_child_and_die(path, initret):
    if not os.fork():
        write_pid_and_wait(path)
        os._exit(0)
    wait_for_pid(path)
    kill_itself()


@posix
@pytest.mark.parametrize("has_pidfd", [True, False])
def test_child_of_a_lost_worker(make_pool, tmp_path, monkeypatch, start_method, has_pidfd):
    """The child has inherited the pipe that reports the exit of the worker."""
    if start_method == "forkserver" and not FORK_SERVER_REPORTS_SIGNALS:
        pytest.skip("the fork server does not report the exit of the worker")
    if not has_pidfd:
        monkeypatch.setattr(worker_process, "_pidfd_open", refuse)
    path = str(tmp_path / "child")
    pool = make_pool()
    result = pool.apply_async(fork_child_and_die, (path,))
    child = wait_for_pid(path)
    try:
        assert is_lost(result_or_exception(result), KILLED)
        check_pool(pool)
        pool.close()
        join_in_time(pool)
    finally:
        os.kill(child, signal.SIGKILL)


def fork_child_and_exit(path, initret):
    if not os.fork():
        write_pid_and_wait(path)
        os._exit(0)
    wait_for_pid(path)
    os._exit(255)


@posix
@pytest.mark.parametrize("start_method", {"forkserver"} & set(START_METHODS))
@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="the child has the result pipe")
def test_child_of_a_worker_that_exits_with_code_255(make_pool, tmp_path, monkeypatch):
    """Nothing is killed: the process identifier of the worker may belong to another process."""
    path, kill, killed = str(tmp_path / "child"), os.kill, []
    monkeypatch.setattr(os, "kill", lambda *args: killed.append(args))
    pool = make_pool()
    result = pool.apply_async(fork_child_and_exit, (path,))
    child = wait_for_pid(path)
    try:
        assert is_lost(result_or_exception(result), "code 255")
        check_pool(pool)
    finally:
        monkeypatch.undo()
        kill(child, signal.SIGKILL)
    assert killed == []


OUT_OF_MEMORY = """
import multiprocessing, sys
import multiprocessing_initret

def take(megabytes, initret):
    memory = bytearray(megabytes << 20)
    for page in range(0, len(memory), 4096):
        memory[page] = 1
    return megabytes + initret

if __name__ == "__main__":
    with open(sys.argv[2] + "/cgroup.procs", "w") as file:
        file.write("0")
    context = multiprocessing.get_context(sys.argv[1])
    with multiprocessing_initret.Pool(2, int, (40,), context=context, expect_initret=True) as pool:
        for result in [pool.apply_async(take, (n,)) for n in (1, 2, 2048, 3, 4, 5)]:
            try:
                print(result.get(60), flush=True)
            except Exception as error:
                print(type(error).__name__, error, flush=True)
"""


@pytest.fixture
def memory_cgroup():
    """Return the directory of a new cgroup whose processes may use 400 MB."""
    if WINDOWS:
        pytest.skip("Windows has no cgroups; Wine shows those of Linux")
    name = f"multiprocessing-initret-{os.getpid()}"
    for root, limits in (
        ("/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]),
        ("/sys/fs/cgroup", ["memory.max", "memory.swap.max"]),
    ):
        directory = os.path.join(root, name)
        try:
            os.mkdir(directory)
        except OSError:
            continue
        try:
            if os.path.exists(os.path.join(directory, limits[0])):
                for limit, size in zip(limits, [400 << 20, 400 << 20]):
                    if os.path.exists(os.path.join(directory, limit)):
                        with open(os.path.join(directory, limit), "w") as file:
                            file.write(str(size))
                yield directory
                return
        finally:
            wait_until(lambda directory=directory: remove_directory(directory))
    pytest.skip("no memory cgroup can be made")


def remove_directory(directory):
    """Remove the directory of a cgroup, and return whether that succeeded."""
    try:
        os.rmdir(directory)
    except OSError:  # race: one of its processes is exiting
        return False
    return True


def test_out_of_memory(python, tmp_path, start_method, memory_cgroup):
    (tmp_path / "program.py").write_text(OUT_OF_MEMORY)
    lines = python("program.py", start_method, memory_cgroup).splitlines()
    lost = lines.pop(2)
    assert lost.startswith("WorkerLostError worker ")
    if start_method != "forkserver" or FORK_SERVER_REPORTS_SIGNALS:
        assert "was killed by SIGKILL (possibly by the kernel's out-of-memory killer)" in lost
    assert lines == ["41", "42", "43", "44", "45"]


LIMITED_FILES = """
import multiprocessing, resource, sys
import multiprocessing_initret

def length(number, initret):
    return len(initret)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
    pool = multiprocessing_initret.Pool
    initargs = (bytearray(2 * 10**6),)
    with pool(1, bytearray, initargs, context=context, expect_initret=True) as pool:
        print(pool.map_async(length, [1]).get(50))
"""


@posix
def test_size_of_files_is_limited(python, tmp_path, start_method):
    """On Linux the limit applies to shared memory; then each worker gets a copy."""
    (tmp_path / "program.py").write_text(LIMITED_FILES)
    assert python("program.py", start_method) == "[2000000]\n"


def replace_descriptor(fd, initret):
    file = os.open(os.devnull, os.O_RDONLY)
    os.dup2(file, fd)
    os.close(file)


def return_start_and_size(data, initret):
    return data[:3], len(data)


@posix
@pytest.mark.parametrize("start_method", {"fork"} & set(START_METHODS))
def test_task_replaces_the_descriptor_of_the_task_pipe(make_pool):
    """Its worker reads the end of a file, and exits.  Other workers are reading at that time."""
    pool = make_pool(3)
    check_pool(pool)
    fd = pool._inqueue._reader.fileno()
    tasks = [b"%03d" % number * 20000 for number in range(200)]
    for _ in range(3):
        pool.apply_async(replace_descriptor, (fd,))
        results = pool.map_async(return_start_and_size, tasks, chunksize=1).get(TIMEOUT)
        assert results == [(task[:3], 60000) for task in tasks]
