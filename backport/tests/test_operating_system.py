"""What differs between operating systems: descriptors, signals, memory."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import types

import pytest
from conftest import TIMEOUT, ends, wait_until
from multiprocessing_initret._parent import task_pipe
from pool_support import (
    KILLED,
    TELLS,
    WINDOWS,
    add,
    check,
    is_lost,
    kill_itself,
    leave_at_three,
    needs_signals,
    outcome,
    pid_said,
    say_and_wait,
)


@needs_signals
def test_where_the_system_tells_less_of_a_worker(make, monkeypatch):
    def refuse(*args):
        raise PermissionError

    # As of a worker that has another user, and as before Linux 5.3.
    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    pool = make()
    assert is_lost(outcome(pool.apply_async(leave_at_three, (3, "_exit"))), "exited with code 3")
    check(pool)


@pytest.mark.skipif(not WINDOWS, reason="writes as much as there is room for")
def test_message_that_cannot_be_written(make, monkeypatch):
    """As of 2 GiB: it is an error of its own task, and those that come later are not mixed up."""

    def fail(*args, **kwds):
        raise OSError(22, "The parameter is incorrect", None, 87)

    pool = make(1)
    check(pool)
    with monkeypatch.context() as patch:
        patch.setattr(task_pipe, "_winapi", types.SimpleNamespace(WriteFile=fail))
        result = pool.apply_async(add, (1,))
        assert getattr(outcome(result), "winerror", None) == 87
    check(pool)


def parent_pid(path, initret):
    if path:
        say_and_wait(path, initret)
    return os.getppid()


@pytest.mark.parametrize(
    "start_method", set(multiprocessing.get_all_start_methods()) & {"forkserver"}
)
@pytest.mark.skipif(not TELLS, reason="such workers are still known to be alive")
def test_killed_fork_server(make, tmp_path, start_method):
    pool = make(2)
    server = pool.apply_async(parent_pid, ("",)).get(TIMEOUT)
    assert server != os.getpid()
    path = str(tmp_path / "inside")
    inside = pool.apply_async(parent_pid, (path,))
    pid = pid_said(path)
    os.kill(server, signal.SIGKILL)
    assert is_lost(outcome(inside), "exited with code 255")
    check(pool)
    assert pool.apply_async(parent_pid, ("",)).get(TIMEOUT) != server
    # It was alive, and would have gone on beside its replacement.
    wait_until(lambda: not is_running(pid))


NOT_TOLD = """
import contextlib, multiprocessing, os, signal, sys
import multiprocessing_initret

def leave(item, initret):
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item + initret

if __name__ == "__main__":
    multiprocessing_initret.install()
    if sys.argv[2] == "ignored":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    else:
        import resource
    for end in sys.argv[3:]:
        context = multiprocessing.get_context(sys.argv[1])
        pool = context.Pool(2, int, (40,), expect_initret=True)
        assert pool.apply(leave, (1,)) == 41
        taken = []
        if sys.argv[2] == "no descriptors":
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, most))
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
        found = []
        for result in [pool.apply_async(leave, (item,)) for item in range(5)]:
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


@needs_signals
def test_sigchld_is_ignored(python, tmp_path, start_method):
    (tmp_path / "program.py").write_text(NOT_TOLD)
    output = python("program.py", start_method, "ignored", "close", "terminate").splitlines()
    assert len(output) == 10
    assert output[:3] == output[5:8] == ["40", "41", "42"] and output[4] == output[9] == "44"
    how = KILLED if start_method == "forkserver" and TELLS else "exited with code 255"
    assert how in output[3] and how in output[8]


@needs_signals
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_no_descriptor_for_a_replacement(python, tmp_path, start_method, end):
    # One pool a process: a fork server that could not be sent all leaves, a little later.
    (tmp_path / "program.py").write_text(NOT_TOLD)
    output = python("program.py", start_method, "no descriptors", end).splitlines()
    assert len(output) == 5
    how = KILLED if start_method != "forkserver" or TELLS else "exited with code 255"
    assert how in output.pop(3)
    for line in output:
        assert line in ("40", "41", "42", "44") or "a worker could not be started" in line, line


def leave_a_child(path, initret):
    if not os.fork():
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        os.rename(path, path + ".pid")
        time.sleep(TIMEOUT)
        os._exit(0)
    pid_said(path)
    kill_itself()


@needs_signals
def test_child_of_a_lost_worker(make, tmp_path, start_method):
    if start_method == "forkserver":
        is_told = TELLS
    else:
        is_told = sys.version_info < (3, 8) or hasattr(os, "pidfd_open")
    if not is_told:
        pytest.skip("its child has the pipe by which a worker is known to have left")
    path = str(tmp_path / "child")
    pool = make()
    result = pool.apply_async(leave_a_child, (path,))
    child = pid_said(path)
    try:
        assert is_lost(outcome(result), KILLED)
        check(pool)
        pool.close()
        ends(pool)
    finally:
        os.kill(child, signal.SIGKILL)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return True


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
                print(result.get(60))
            except Exception as error:
                print(type(error).__name__, error)
"""


@pytest.fixture
def memory_cgroup():
    """The folder of a new cgroup whose processes may have 400 MB."""
    if WINDOWS:
        pytest.skip("none there, and Wine shows those of Linux")
    name = f"multiprocessing-initret-{os.getpid()}"
    for root, limits in (
        ("/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]),
        ("/sys/fs/cgroup", ["memory.max", "memory.swap.max"]),
    ):
        folder = os.path.join(root, name)
        try:
            os.mkdir(folder)
        except OSError:
            continue
        try:
            if os.path.exists(os.path.join(folder, limits[0])):
                for limit, size in zip(limits, [400 << 20, 400 << 20]):
                    if os.path.exists(os.path.join(folder, limit)):
                        with open(os.path.join(folder, limit), "w") as file:
                            file.write(str(size))
                yield folder
                return
        finally:
            wait_until(lambda folder=folder: removed(folder))
    pytest.skip("no memory cgroup can be made")


def removed(folder):
    try:
        os.rmdir(folder)
    except OSError:  # a process that is leaving
        return False
    return True


def test_out_of_memory(python, tmp_path, start_method, memory_cgroup):
    (tmp_path / "program.py").write_text(OUT_OF_MEMORY)
    lines = python("program.py", start_method, memory_cgroup).splitlines()
    lost = lines.pop(2)
    assert lost.startswith("WorkerLostError worker ")
    if start_method != "forkserver" or TELLS:
        assert "was killed by SIGKILL (possibly by the kernel's out-of-memory killer)" in lost
    assert lines == ["41", "42", "43", "44", "45"]
