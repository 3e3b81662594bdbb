"""A template runs as long as its pool, also if processes are killed meanwhile."""

import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import time

import pytest
import template_support
from conftest import TIMEOUT, join_in_time, linux, python_path, wait_until
from multiprocessing_initret import WorkerLostError
from pool_support import is_running
from template_support import call, get, pool_of

pytestmark = [*template_support.marks, pytest.mark.usefixtures("nothing_left")]
nothing_left = template_support.nothing_left  # a fixture
any_size = template_support.any_size  # a fixture


def with_parent(*args):
    """Initializer: return the arguments, and the pid of the process that forked the worker."""
    return args, os.getppid()


def current_parent(initret):
    """Return the pid of the worker's parent, and whether that process forked the worker."""
    return os.getppid(), os.getppid() == initret[1]


def retry(pool, func):
    """Return the result of a task, which is sent again while it fails with WorkerLostError."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return call(pool, func)
        except WorkerLostError:
            assert time.monotonic() < deadline


def running_template(pool):
    """Return the pid of a template that is running and has a worker in the pool."""
    server = multiprocessing.forkserver._forkserver._forkserver_pid
    deadline = time.monotonic() + TIMEOUT
    while True:
        parent, has_forked_worker = retry(pool, current_parent)
        # A worker whose template was killed before it called the initializer is a child of
        # process 1, and runs tasks until it is reaped.
        if has_forked_worker and parent not in (1, server):
            return parent
        assert time.monotonic() < deadline


@linux
@pytest.mark.parametrize("when", ["idle", "running"])
def test_template_is_killed(any_size, when):
    templates = []
    with pool_of({"key": 1}, initializer=with_parent) as pool:
        for _ in range(5):
            template = running_template(pool)
            assert template not in templates
            templates.append(template)
            if when == "idle":
                os.kill(template, signal.SIGKILL)
            else:
                with pytest.raises(WorkerLostError):
                    call(pool, kill_template, template)
            # Until the template has exited, its workers may receive a task and return its pid.
            wait_until(lambda: not is_running(template))  # noqa: B023
        running_template(pool)
        pids = [process.pid for process in pool._pool]
    for pid in templates + pids:
        wait_until(lambda: not is_running(pid))  # noqa: B023


def kill_template(template, initret):
    os.kill(template, signal.SIGKILL)
    time.sleep(TIMEOUT)


def fork_a_child(initret):
    child = os.fork()
    if not child:
        time.sleep(TIMEOUT / 2)
        os._exit(0)
    return child


@linux
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_child_of_a_worker_is_not_waited_for(any_size, end):
    pool = pool_of({"key": 1}, initializer=with_parent)
    running_template(pool)
    child = call(pool, fork_a_child)
    getattr(pool, end)()
    join_in_time(pool)
    assert is_running(child)
    os.kill(child, signal.SIGKILL)


@linux
@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="nothing runs in the child")
def test_child_of_the_parent_does_not_keep_the_template(any_size):
    """The template exits when no process has the other end of its pipe open."""
    with pool_of({"key": 1}, initializer=with_parent) as pool:
        running_template(pool)
        template = pool._repopulate_pool.__self__._template
        child = os.fork()
        if not child:
            os._exit(0 if template._alive.closed else 1)
        assert os.waitpid(child, 0)[1] == 0


# The fork server imports this module, which kills the first template just before it sends the
# pid of its first worker.
KILLED = """
import os, signal
import multiprocessing.forkserver as forkserver
import multiprocessing_initret._worker.template_process as template

original, write_signed = template.preload, forkserver.write_signed

def kill(*args):
    try:
        os.close(os.open("killed", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        write_signed(*args)
    else:
        os.kill(os.getpid(), signal.SIGKILL)

def preload(*args):
    forkserver.write_signed = kill
    return original(*args)

template.preload = preload
"""

PIDS = """
import multiprocessing, os
from multiprocessing_initret import Pool
from multiprocessing_initret._parent import template

def record_pid(table):
    open("%d.pid" % os.getpid(), "w").close()

def do_nothing(item, initret):
    pass

if __name__ == "__main__":
    template.MINIMUM_SIZE = 1
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed"])
    with Pool(2, record_pid, (["table"],), context=context, expect_initret=True) as pool:
        pool.map(do_nothing, range(10), 1)
        known = {"%d.pid" % process.pid for process in pool._pool}
    assert os.path.exists("killed")
    # A worker whose pid was never sent must not run anything.
    assert {name for name in os.listdir(".") if name.endswith(".pid")} <= known
"""


@linux
def test_template_is_killed_before_it_sends_a_pid(python, tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    (tmp_path / "program.py").write_text(PIDS)
    python("-W", "error", "program.py", PYTHONPATH=python_path(tmp_path))


@linux
def test_fork_server_is_killed(any_size):
    with pool_of({"key": 1}, initializer=with_parent) as pool:
        template = running_template(pool)
        os.kill(multiprocessing.forkserver._forkserver._forkserver_pid, signal.SIGKILL)
        assert retry(pool, get)[0] == ({"key": 1},)
    wait_until(lambda: not is_running(template))


@linux
def test_template_is_killed_and_the_pool_terminated(any_size, monkeypatch, tmp_path):
    pool = pool_of(["table"], tmp_path / "began")
    pool.apply_async(write_pids)
    wait_until((tmp_path / "began").exists)
    # Do not let the pool reap its workers, which seem to have exited, before it is terminated.
    monkeypatch.setattr(type(pool), "_maintain_pool", staticmethod(lambda *args: None))
    template, worker = map(int, (tmp_path / "began").read_text().split())
    os.kill(template, signal.SIGKILL)
    wait_until(lambda: not is_running(template))
    pool.terminate()
    wait_until(lambda: not is_running(worker))


def write_pids(initret):
    path = initret[1]
    path.with_suffix(".new").write_text(f"{os.getppid()} {os.getpid()}")
    path.with_suffix(".new").rename(path)
    time.sleep(TIMEOUT)


#
# Nothing is left of a template
#

ENDS = """
import gc, os, signal, sys, warnings
from multiprocessing import current_process, get_context
from multiprocessing_initret import Pool
from multiprocessing_initret._parent import template

def return_all(*args):
    return args

def pids(item, initret):
    return os.getpid(), os.getppid()

def slow(item, initret):
    import time
    time.sleep(60)

if __name__ == "__main__":
    end, semaphores = sys.argv[1:]
    if end in ("garbage", "left open"):
        warnings.simplefilter("ignore", ResourceWarning)  # the standard pool's own
    # The fixture returns stderr if an exit code is expected, and stdout otherwise.
    os.dup2(*((2, 1) if end == "parent killed" else (1, 2)))
    current_process()._config["semprefix"] = "/" + semaphores
    template.MINIMUM_SIZE = 1
    context = get_context("forkserver")
    pool = Pool(2, return_all, ({"key": 1}, bytearray(3)), context=context, expect_initret=True)
    here = set(pool.map(pids, range(100), 1))
    print(*{pid for pair in here for pid in pair}, flush=True)
    if end == "parent killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif end == "closed":
        pool.close()
        pool.join()
    elif end == "terminated":
        pool.terminate()
        pool.join()
    elif end == "terminated at work":
        pool.map_async(slow, range(4))
        pool.terminate()
        pool.join()
    elif end == "garbage":
        del pool
        for _ in range(3):
            gc.collect()
    if end in ("closed", "terminated", "terminated at work"):
        for pid in {pid for pair in here for pid in pair}:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                continue
            with open("/proc/%d/stat" % pid) as stat:
                assert stat.read().rpartition(")")[2].split()[0] == "Z", pid
"""


@linux
@pytest.mark.parametrize(
    "end",
    ["closed", "terminated", "terminated at work", "garbage", "left open", "parent killed"],
)
def test_processes_and_files_are_released(python, tmp_path, short_tmp_path, end):
    (tmp_path / "program.py").write_text(ENDS)
    semaphores = f"initret-{os.getpid()}"
    killed = end == "parent killed"
    # python() returns when all processes that inherited its stdout have exited.
    printed = python(
        "-W",
        "error",
        "program.py",
        end,
        semaphores,
        code=-signal.SIGKILL if killed else 0,
        TMPDIR=short_tmp_path,
    )
    pids, warnings = printed.split("\n", 1)
    for pid in map(int, pids.split()):
        wait_until(lambda: not is_running(pid))  # noqa: B023
    left = os.listdir(short_tmp_path)
    if killed:
        # A killed process leaves its temporary directory, and semaphores, which the
        # resource tracker removes with a warning.
        assert len(left) <= 1
        assert warnings == "" or "semaphore" in warnings
        shutil.rmtree(os.path.join(short_tmp_path, *left))
        os.makedirs(short_tmp_path, exist_ok=True)
    else:
        assert left == []
        assert warnings == ""
    assert not [name for name in os.listdir("/dev/shm") if semaphores in name]


HUNDRED = """
import gc, os, tempfile, warnings
from multiprocessing import active_children, get_context
from multiprocessing_initret import Pool
from multiprocessing_initret._parent import template

warnings.simplefilter("error")

def return_all(*args):
    return args

def parent(item, initret):
    return os.getppid()

def count():
    for _ in range(3):  # PyPy needs more than one
        gc.collect()
    with open("/proc/self/maps") as maps:
        files = [line for line in maps if "deleted" in line or "memfd" in line]
    return (
        len(os.listdir("/proc/self/fd")),
        len(files),
        len(active_children()),
        len(os.listdir(tempfile.gettempdir())),
    )

def use(number, context):
    initargs = [number] * 1000, bytearray(10 ** 5), context.Lock()
    pool = Pool(1, return_all, initargs, context=context, expect_initret=True)
    if number % 5:
        pool.terminate()
    else:
        pid = pool.apply_async(parent, (number,)).get(60)
        pool.close()
        pool.join()
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            pass
        else:
            raise AssertionError("the template is running")
    pool.join()

if __name__ == "__main__":
    template.MINIMUM_SIZE = 1
    context = get_context("forkserver")
    use(0, context)
    before = count()
    for number in range(1, 101):
        use(number, context)
    assert count() == before, (before, count())
"""


@linux
def test_hundred_pools_leak_nothing(python, tmp_path, short_tmp_path):
    (tmp_path / "program.py").write_text(HUNDRED)
    python("-W", "error", "program.py", TMPDIR=short_tmp_path)
