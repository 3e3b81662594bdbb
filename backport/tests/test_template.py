"""Under forkserver, a large object without buffers is unpickled once, in a template."""

import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import multiprocessing.util
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time

import multiprocessing_initret
import pytest
from conftest import TIMEOUT, linux, wait_until
from multiprocessing_initret import WorkerLostError
from multiprocessing_initret._parent import template as template_module
from multiprocessing_initret._parent import workforce
from multiprocessing_initret._shared import initargs

pytestmark = [
    pytest.mark.skipif(
        "forkserver" not in multiprocessing.get_all_start_methods(), reason="no fork server here"
    ),
    pytest.mark.skipif(not initargs.PICKLES_ONCE, reason="this Python sends a copy to each worker"),
]


@pytest.fixture
def always(monkeypatch):
    """Let each object be large enough."""
    monkeypatch.setattr(template_module, "WORTH_IT", 0)


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch, short_folder, tmp_path):
    multiprocessing.forkserver.ensure_running()  # it has a folder too, which stays
    monkeypatch.setattr(tempfile, "tempdir", short_folder)
    folder = multiprocessing.util.get_temp_dir()
    before = os.listdir(folder)
    yield
    wait_until(lambda: multiprocessing.active_children() == [], TIMEOUT / 4)
    assert os.listdir(short_folder) == []
    assert os.listdir(folder) == before


CONTEXT = "forkserver" in multiprocessing.get_all_start_methods() and multiprocessing.get_context(
    "forkserver"
)


def give(*args):
    return args


def pool_of(*initargs, processes=2, initializer=give, **kwds):
    return multiprocessing_initret.Pool(
        processes, initializer, initargs, context=CONTEXT, expect_initret=True, **kwds
    )


def outcome(pool, func, *args):
    return pool.apply_async(func, args).get(TIMEOUT)


def outcomes(pool, func, items):
    return pool.map_async(func, items, chunksize=1).get(TIMEOUT)


def get(initret):
    return initret


def parent(initret):
    return os.getppid()


def worker(initret):
    return os.getpid()


def is_from_template(pool):
    return outcome(pool, parent) != multiprocessing.forkserver._forkserver._forkserver_pid


def is_running(pid):
    """Tell whether there is a process, and it is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Buffers:
    """An object with buffers, as a NumPy array has."""

    def __init__(self, *buffers):
        self.buffers = buffers

    def __reduce_ex__(self, protocol):
        assert protocol >= 5
        return Buffers, tuple(map(pickle.PickleBuffer, self.buffers))


class Where:
    """Unpickled, it is the id of the process that did it."""

    def __reduce__(self):
        return os.getpid, ()


class Call:
    """Unpickled, it is what a function returns."""

    def __init__(self, func, *args):
        self.call = func, args

    def __reduce__(self):
        return self.call


#
# Where it pays
#


def test_it_is_used_where_it_pays(monkeypatch):
    monkeypatch.setattr(template_module, "WORTH_IT", 10**5)
    with pool_of(list(range(10**5))) as pool:
        assert is_from_template(pool)
    with pool_of(list(range(10**3))) as pool:
        assert not is_from_template(pool)
    with pool_of(Buffers(bytearray(10**6))) as pool:
        assert not is_from_template(pool)


def test_mebibytes_are_worth_it():
    with pool_of(list(range(10**5))) as pool:
        assert not is_from_template(pool)
    with pool_of(list(map(str, range(2 * 10**6))), processes=1) as pool:
        assert is_from_template(pool)


def test_unpickled_once(always):
    with pool_of(Where(), maxtasksperchild=1) as pool:
        places = [(outcome(pool, get), outcome(pool, parent)) for _ in range(3)]
    assert set(places) == {((places[0][1],), places[0][1])}


def wait_for_other(number, initret):
    """Write to the object, and tell what was there and who this is."""
    table, barrier = initret
    before = dict(table)
    table["key"] = number
    barrier.wait(TIMEOUT)
    return before, table, os.getpid(), os.getppid()


def test_writing_changes_nobody_elses(always):
    table = {"key": 0}
    with pool_of(table, CONTEXT.Barrier(2), maxtasksperchild=1) as pool:
        seen = [outcomes(pool, wait_for_other, [1, 2]) for _ in range(2)]
    for one, other in seen:
        assert one[:2] == ({"key": 0}, {"key": 1})
        assert other[:2] == ({"key": 0}, {"key": 2})
    assert table == {"key": 0}
    assert len({pid for pair in seen for _, _, pid, _ in pair}) == 4
    assert len({ppid for pair in seen for _, _, _, ppid in pair}) == 1


#
# What comes along
#


def use(initret):
    table, (again, lock), numbers = initret
    return (
        table["where"] == os.getppid(),
        again is table,
        not lock.acquire(False),
        bytes(numbers.buffers[0]),
    )


def test_beside_a_lock_and_buffers(always):
    lock = CONTEXT.Lock()
    table = {"where": Where()}
    with lock, pool_of(table, [table, lock], Buffers(bytearray(b"abc"))) as pool:
        assert outcome(pool, use) == (True, True, True, b"abc")


@pytest.mark.parametrize("turn", [1, -1])
def test_a_lock_before_or_behind(always, turn):
    lock = CONTEXT.Lock()
    with lock, pool_of(*(Where(), lock)[::turn]) as pool:
        assert outcome(pool, use_lock, turn) == (True, True)


def use_lock(turn, initret):
    where, lock = initret[::turn]
    return where == os.getppid(), not lock.acquire(False)


def test_a_lock_within(always):
    lock = CONTEXT.Lock()
    with lock, pool_of({"lock": lock, "table": [1, 2]}) as pool:
        assert outcome(pool, use_inner_lock) == (True, [1, 2])


def use_inner_lock(initret):
    (table,) = initret
    return not table["lock"].acquire(False), table["table"]


MAIN = """
import os, sys
import multiprocessing, multiprocessing.forkserver
from multiprocessing_initret import Pool
from multiprocessing_initret._parent import template as template_module

print("main runs in", "main" if __name__ == "__main__" else "another", flush=True)

class Node:
    def __init__(self, name, *children):
        self.name, self.children = name, children

def count(node):
    return 1 + sum(map(count, node.children))

def initialize(node):
    return node

def use(item, initret):
    assert type(initret) is Node
    preloaded = sys.modules.get("preloaded")
    return count(initret), initret.name == os.getppid(), preloaded and preloaded.pid != os.getpid()

class Where:
    def __reduce__(self):
        return os.getpid, ()

if __name__ == "__main__":
    template_module.WORTH_IT = 0
    context = multiprocessing.get_context("forkserver")
    if "preload" in sys.argv:
        context.set_forkserver_preload(["preloaded"])
    node = Node(Where(), *(Node(Where(), Node(number)) for number in range(1000)))
    with Pool(2, initialize, (node,), context=context, expect_initret=True) as pool:
        print(set(pool.map(use, range(10))))
"""


def test_classes_of_main(python, tmp_path):
    (tmp_path / "program.py").write_text(MAIN)
    # In the template alone, and not again in the workers.
    printed = python("-W", "error", "program.py").splitlines()
    assert printed[-1] == "{(2001, True, None)}"
    assert printed.count("main runs in main") == 1
    assert printed.count("main runs in another") <= 2  # the fork server may do so too


def test_what_the_fork_server_preloads(python, tmp_path):
    (tmp_path / "program.py").write_text(MAIN)
    (tmp_path / "preloaded.py").write_text("import os\npid = os.getpid()\n")
    printed = python("program.py", "preload", PYTHONPATH=path_with(tmp_path)).splitlines()
    assert printed[-1] == "{(2001, True, True)}"


def path_with(folder):
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def test_multiprocess(always, monkeypatch):
    multiprocess = pytest.importorskip("multiprocess")
    pytest.importorskip("multiprocess.forkserver")
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", None)
        multiprocess.forkserver.ensure_running()
    multiprocessing_initret.install("multiprocess")
    try:
        context = multiprocess.get_context("forkserver")
        double = {"where": Where(), "double": lambda number: 2 * number}
        lock = context.Lock()
        with lock, context.Pool(2, give, (double, lock), expect_initret=True) as pool:
            result = pool.apply_async(
                lambda initret: (
                    initret[0]["where"] == os.getppid(),
                    initret[0]["double"](21),
                    initret[1].acquire(False),
                )
            )
            assert result.get(TIMEOUT) == (True, 42, False)
            template = pool.apply_async(parent).get(TIMEOUT)
            assert template != multiprocess.forkserver._forkserver._forkserver_pid
        pool.join()
        wait_until(lambda: not is_running(template))
    finally:
        multiprocessing_initret.uninstall("multiprocess")


#
# Where it is not safe, the plain way
#


def start_thread(daemon):
    threading.Thread(target=threading.Event().wait, daemon=daemon).start()
    return os.getpid()


def start_thread_that_ends():
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    event.set()
    thread.join()
    # The system's thread ends a moment later.
    wait_until(template_module._is_alone)
    return os.getpid()


def leave_template(worker, file):
    """Leave a template, and be there in a worker."""
    log(file)
    if not multiprocessing.current_process().name.startswith("ForkServerPoolWorker"):
        worker(3)
    return os.getpid()


def log(file):
    with open(file, "a") as pids:
        pids.write(f"{os.getpid()}\n")


def fail_in_template(file):
    log(file)
    if not multiprocessing.current_process().name.startswith("ForkServerPoolWorker"):
        raise LookupError("not to be unpickled")
    return os.getpid()


def check_plain(pool):
    assert not is_from_template(pool)
    ((where,), pid) = outcome(pool, get_with_pid)
    assert where == pid


def get_with_pid(initret):
    return initret, os.getpid()


def test_thread(always):
    with pool_of(Call(start_thread, True), processes=1) as pool:
        check_plain(pool)


def kill_self(code):
    os.kill(os.getpid(), signal.SIGKILL)


def test_thread_that_never_ends(always):
    # The template waits for it when it ends, as any process does, and so would its pool.
    made = []

    def make():
        made.append(pool_of(Call(start_thread, False), processes=1))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    thread.join(TIMEOUT / 4)
    waits = thread.is_alive()
    if waits:
        for process in multiprocessing.active_children():
            process.kill()
        thread.join(TIMEOUT)
    with made[0] as pool:
        assert not waits
        check_plain(pool)


def test_thread_that_has_ended(always):
    with pool_of(Call(start_thread_that_ends)) as pool:
        assert is_from_template(pool)


@pytest.mark.parametrize("how", [os._exit, sys.exit, kill_self])
def test_unpickling_leaves(always, tmp_path_factory, how):
    file = tmp_path_factory.mktemp("log") / "pids"
    with pool_of(Call(leave_template, how, str(file)), processes=1) as pool:
        check_plain(pool)
        assert len(file.read_text().split()) == 2  # it has tried


def test_unpickling_raises(always, tmp_path_factory, capfd):
    file = tmp_path_factory.mktemp("log") / "pids"
    with pool_of(Call(fail_in_template, str(file)), processes=1) as pool:
        check_plain(pool)
        assert len(file.read_text().split()) == 2
    assert capfd.readouterr().err == ""


def fail():
    raise LookupError("not to be unpickled")


def test_unpickling_raises_everywhere(always, capfd):
    with pool_of(["table"], Call(fail), CONTEXT.Lock()) as pool:
        for _ in range(3):
            with pytest.raises(LookupError, match="not to be unpickled"):
                outcome(pool, get)
    assert capfd.readouterr().err == ""


class TrapBeside:
    def __reduce__(self):
        multiprocessing.context.assert_spawning(self)
        return fail, ()


def test_unpickling_raises_beside(always):
    with pool_of(["table"], TrapBeside()) as pool:
        assert is_from_template_by_record(pool)
        for _ in range(3):
            with pytest.raises(LookupError, match="not to be unpickled"):
                outcome(pool, get)


def is_from_template_by_record(pool):
    return pool._pool[0]._popen.__class__.__module__.endswith("template")


class Unpicklable:
    def __reduce__(self):
        raise LookupError("not to be pickled")


def test_pickling_raises(always, alone):
    with pytest.raises(LookupError, match="not to be pickled"):
        pool_of(["table"], Unpicklable())
    assert multiprocessing.active_children() == []


#
# It goes with its pool, and not before
#


def outcome_at_last(pool, func):
    """Return what a task yields when those have left that its pool has lost."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return outcome(pool, func)
        except WorkerLostError:
            assert time.monotonic() < deadline


@linux
@pytest.mark.parametrize("when", ["idle", "running"])
def test_template_is_killed(always, when):
    templates = []
    with pool_of({"where": Where()}) as pool:
        for _ in range(5):
            template = template_at_last(pool)
            assert template not in templates
            templates.append(template)
            if when == "idle":
                os.kill(template, signal.SIGKILL)
            else:
                # A worker of the last one may take it, for a moment.
                with pytest.raises(WorkerLostError):
                    outcome(pool, die_with_template, template)
            # Until then its workers may take a task, and call it their parent.
            wait_until(lambda: not is_running(template))  # noqa: B023
        template_at_last(pool)
        pids = [process.pid for process in pool._pool]
    for pid in templates + pids:
        wait_until(lambda: not is_running(pid))  # noqa: B023


def fork_a_child(initret):
    child = os.fork()
    if not child:
        time.sleep(TIMEOUT)
        os._exit(0)
    return child


@linux
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_child_of_a_worker_lives_on(always, end):
    pool = pool_of({"where": Where()})
    template_at_last(pool)
    child = outcome(pool, fork_a_child)
    getattr(pool, end)()
    thread = threading.Thread(target=pool.join, daemon=True)
    thread.start()
    thread.join(TIMEOUT / 2)
    assert not thread.is_alive() and is_running(child)
    os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_template_cannot_be_started(always, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(template_module.socket, "socket", fail)
    with pytest.raises(error):
        pool_of({"where": Where()})


def template_at_last(pool):
    """Return the template of a worker that has one."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        ((table,), template) = outcome_at_last(pool, get_with_parent)
        if table["where"] == template:
            return template
        assert time.monotonic() < deadline


def get_with_parent(initret):
    return initret, os.getppid()


def die_with_template(template, initret):
    os.kill(template, signal.SIGKILL)
    time.sleep(TIMEOUT)


@linux
def test_template_is_killed_before_it_tells_a_pid(always, tmp_path):
    with pool_of(tmp_path, Call(die_once, tmp_path / "died"), initializer=note_pid) as pool:
        outcome(pool, parent)
        known = {f"{process.pid}.pid" for process in pool._pool}
    assert (tmp_path / "died").exists()
    # What was forked and never told of runs nothing.
    assert {path.name for path in tmp_path.glob("*.pid")} <= known


def die_once(path):
    """Let this process, a template, be killed when it is to tell the first pid."""
    write_signed = multiprocessing.forkserver.write_signed

    def die(*args):
        if path.exists():
            write_signed(*args)
        else:
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    multiprocessing.forkserver.write_signed = die


def note_pid(folder, _):
    (folder / f"{os.getpid()}.pid").touch()


@linux
def test_fork_server_is_killed(always):
    with pool_of({"key": 1}) as pool:
        template = outcome(pool, parent)
        os.kill(multiprocessing.forkserver._forkserver._forkserver_pid, signal.SIGKILL)
        assert outcome_at_last(pool, get) == ({"key": 1},)
    wait_until(lambda: not is_running(template))


@linux
def test_template_is_killed_and_the_pool_terminated(always, monkeypatch, tmp_path):
    pool = pool_of(tmp_path / "began")
    pool.apply_async(begin)
    wait_until((tmp_path / "began").exists)
    # Nobody is to see that the workers are gone, as it seems, before the pool ends.
    monkeypatch.setattr(workforce.Workforce, "settle", lambda _: True)
    template, worker = map(int, (tmp_path / "began").read_text().split())
    os.kill(template, signal.SIGKILL)
    wait_until(lambda: not is_running(template))
    pool.terminate()
    wait_until(lambda: not is_running(worker))


def begin(initret):
    (path,) = initret
    path.with_suffix(".new").write_text(f"{os.getppid()} {os.getpid()}")
    path.with_suffix(".new").rename(path)
    time.sleep(TIMEOUT)


ENDS = """
import gc, os, signal, sys, warnings
from multiprocessing import current_process, get_context
from multiprocessing_initret import Pool
from multiprocessing_initret._parent import template as template_module

def give(*args):
    return args

def pids(item, initret):
    return os.getpid(), os.getppid()

def slow(item, initret):
    import time
    time.sleep(60)

if __name__ == "__main__":
    end, semaphores = sys.argv[1:]
    if end in ("garbage", "left open"):
        warnings.simplefilter("ignore", ResourceWarning)  # the stock pool's own
    # What is printed where the exit code is not 0 is what the test looks at.
    os.dup2(*((2, 1) if end == "parent killed" else (1, 2)))
    current_process()._config["semprefix"] = "/" + semaphores
    template_module.WORTH_IT = 0
    context = get_context("forkserver")
    pool = Pool(2, give, ({"key": 1}, bytearray(3)), context=context, expect_initret=True)
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
def test_nothing_is_left(python, tmp_path, short_folder, end):
    (tmp_path / "program.py").write_text(ENDS)
    semaphores = f"initret-{os.getpid()}"
    killed = end == "parent killed"
    # It returns when the last process that holds the pipe of its output has gone.
    printed = python(
        "-W",
        "error",
        "program.py",
        end,
        semaphores,
        code=-signal.SIGKILL if killed else 0,
        TMPDIR=short_folder,
    )
    pids, warnings = printed.split("\n", 1)
    for pid in map(int, pids.split()):
        wait_until(lambda: not is_running(pid))  # noqa: B023
    left = os.listdir(short_folder)
    if killed:
        # What multiprocessing itself leaves then: a folder, and semaphores, which its
        # tracker cleans up and tells of.
        assert len(left) <= 1
        assert warnings == "" or "semaphore" in warnings
        shutil.rmtree(os.path.join(short_folder, *left))
        os.makedirs(short_folder, exist_ok=True)
    else:
        assert left == []
        assert warnings == ""
    assert not [name for name in os.listdir("/dev/shm") if semaphores in name]


HUNDRED = """
import gc, os, tempfile, warnings
from multiprocessing import active_children, get_context
from multiprocessing_initret import Pool
from multiprocessing_initret._parent import template as template_module

warnings.simplefilter("error")

def give(*args):
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
    pool = Pool(1, give, initargs, context=context, expect_initret=True)
    if number % 5:
        pool.terminate()
    else:
        template = pool.apply_async(parent, (number,)).get(60)
        pool.close()
        pool.join()
        try:
            os.kill(template, 0)
        except ProcessLookupError:
            pass
        else:
            raise AssertionError("the template is there")
    pool.join()

if __name__ == "__main__":
    template_module.WORTH_IT = 0
    context = get_context("forkserver")
    use(0, context)
    before = count()
    for number in range(1, 101):
        use(number, context)
    assert count() == before, (before, count())
"""


@linux
def test_hundred_pools_leave_nothing(python, tmp_path, short_folder):
    (tmp_path / "program.py").write_text(HUNDRED)
    python("-W", "error", "program.py", TMPDIR=short_folder)
