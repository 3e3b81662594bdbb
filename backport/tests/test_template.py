"""Templates: under forkserver, plain data is unpickled once, and other objects in each worker."""

import errno
import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import os
import sys
import tempfile
import weakref

import multiprocessing_initret
import pytest
import template_support
from conftest import (
    TIMEOUT,
    Unpicklable,
    counts_references,
    linux,
    python_path,
    wait_until,
)
from initargs_support import Buffers, Releasable, call_each, return_all
from multiprocessing_initret._parent import standard_forkserver
from multiprocessing_initret._parent import template as template_module
from pool_support import is_running
from template_support import (
    CONTEXT,
    call,
    get,
    make_table,
    parent,
    pool_of,
    preloaded_tables,
    uses_template,
)

pytestmark = [*template_support.marks, pytest.mark.usefixtures("nothing_left")]
nothing_left = template_support.nothing_left  # a fixture
any_size = template_support.any_size  # a fixture

cpython = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="calls gc.get_freeze_count()"
)


#
# A template is used where it is worthwhile
#


def test_size_of_plain_data_decides(monkeypatch):
    monkeypatch.setattr(template_module, "MINIMUM_SIZE", 10**5)
    with pool_of(list(range(10**5))) as pool:
        assert uses_template(pool)
    with pool_of(list(range(10**3))) as pool:
        assert not uses_template(pool)
    with pool_of(bytearray(10**5), Buffers(bytearray(10**6))) as pool:
        assert uses_template(pool)
    with pool_of(Buffers(bytearray(10**6))) as pool:
        assert not uses_template(pool)


def test_minimum_size_is_some_mebibytes():
    with pool_of(list(range(10**5))) as pool:
        assert not uses_template(pool)
    with pool_of(list(map(str, range(2 * 10**6))), processes=1) as pool:
        assert uses_template(pool)


def return_identity(initret):
    return multiprocessing.current_process()._identity, multiprocessing.current_process().name


def test_template_is_not_counted(any_size):
    """Programs derive numbers from the identities of workers, and count their children."""
    before = CONTEXT.Process()._identity[-1]
    with pool_of(["table"], processes=3) as pool:
        assert uses_template(pool)
        assert len(multiprocessing.active_children()) == 3
        names = {worker.name for worker in pool._pool}
        assert names == {f"ForkServerPoolWorker-{before + 1 + i}" for i in range(3)}
        identity, name = call(pool, return_identity)
        assert name in names and name.endswith(f"-{identity[-1]}")


def count_handlers(initret):
    return len(multiprocessing.get_logger().handlers)


def test_workers_log_each_line_once(any_size):
    logger = multiprocessing.log_to_stderr()
    try:
        with pool_of(["table"]) as pool:
            assert uses_template(pool) and call(pool, count_handlers) == 1
    finally:
        logger.handlers.clear()
        multiprocessing.util._log_to_stderr = False


@cpython
def test_table_is_loaded_once(any_size):
    with pool_of(make_table(), maxtasksperchild=1) as pool:
        seen = {(call(pool, preloaded_tables), call(pool, parent)) for _ in range(3)}
    ((tables, _),) = seen
    assert tables == 1


def write_and_wait(number, initret):
    """Write to the table; return its previous and present contents, and the process ids."""
    table, barrier = initret
    before = dict(table)
    table["key"] = number
    barrier.wait(TIMEOUT)
    return before, table, os.getpid(), os.getppid()


def test_worker_does_not_see_what_another_writes(any_size):
    table = {"key": 0}
    with pool_of(table, CONTEXT.Barrier(2), maxtasksperchild=1) as pool:
        seen = [call_each(pool, write_and_wait, [1, 2]) for _ in range(2)]
    for one, other in seen:
        assert one[:2] == ({"key": 0}, {"key": 1})
        assert other[:2] == ({"key": 0}, {"key": 2})
    assert table == {"key": 0}
    assert len({pid for pair in seen for _, _, pid, _ in pair}) == 4
    assert len({ppid for pair in seen for _, _, _, ppid in pair}) == 1


@counts_references
def test_arguments_are_released(any_size, no_collector):
    obj = Releasable()
    reference = weakref.ref(obj)
    with pool_of(["table"], obj) as pool:
        assert uses_template(pool)
        pool.close()
        pool.join()
    del obj, pool
    assert reference() is None


#
# Plain data together with other objects
#


@cpython
@pytest.mark.parametrize("step", [1, -1])
def test_lock_beside_a_table(any_size, step):
    lock, table = CONTEXT.Lock(), make_table()
    with lock, pool_of(*(table, [table, lock], Buffers(bytearray(b"abc")))[::step]) as pool:
        assert call(pool, use_lock, step) == (True, True, b"abc")
        assert uses_template(pool) and call(pool, preloaded_tables) == 1


def use_lock(step, initret):
    table, (again, lock), buffers = initret[::step]
    return again is table, not lock.acquire(False), bytes(buffers.buffers[0])


def test_lock_in_a_table(any_size):
    lock = CONTEXT.Lock()
    with lock, pool_of({"lock": lock, "table": [1, 2]}) as pool:
        assert call(pool, use_inner_lock) == (True, [1, 2])
        assert not uses_template(pool)


def use_inner_lock(initret):
    (table,) = initret
    return not table["lock"].acquire(False), table["table"]


class FailsToUnpickle:
    """An object that cannot be unpickled.

    :param is_apart: whether it is pickled anew for each process
    """

    def __init__(self, is_apart):
        self.is_apart = is_apart

    def __reduce__(self):
        if self.is_apart:
            multiprocessing.context.assert_spawning(self)
        return fail, ()


def fail():
    raise LookupError("not to be unpickled")


@pytest.mark.parametrize("is_apart", [False, True])
def test_unpickling_error_fails_each_task(any_size, capfd, is_apart):
    with pool_of(["table"], FailsToUnpickle(is_apart), CONTEXT.Lock()) as pool:
        # If it is pickled apart, so is the table, to which it might refer.
        assert type(pool._pool[0]._popen).__module__.endswith("standard_forkserver") != is_apart
        for _ in range(3):
            with pytest.raises(LookupError, match="not to be unpickled"):
                call(pool, get)
    assert capfd.readouterr().err == ""


def test_pickling_error(any_size, no_other_children):
    with pytest.raises(LookupError, match="not to be pickled"):
        pool_of(["table"], Unpicklable())
    assert multiprocessing.active_children() == []


def test_multiprocess(any_size, monkeypatch):
    multiprocess = pytest.importorskip("multiprocess")
    pytest.importorskip("multiprocess.forkserver")
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", None)
        multiprocess.forkserver.ensure_running()
    multiprocessing_initret.install("multiprocess")
    try:
        context = multiprocess.get_context("forkserver")
        lock, table = context.Lock(), make_table()
        args = {"double": lambda number: 2 * number}, lock, table
        with lock, context.Pool(2, return_all, args, expect_initret=True) as pool:
            result = pool.apply_async(
                lambda initret: (initret[0]["double"](21), initret[1].acquire(False))
            )
            assert result.get(TIMEOUT) == (42, False)
            template = pool.apply_async(parent).get(TIMEOUT)
            assert template != multiprocess.forkserver._forkserver._forkserver_pid
            if sys.implementation.name == "cpython":
                assert pool.apply_async(preloaded_tables).get(TIMEOUT) == 1
        pool.join()
        wait_until(lambda: not is_running(template))
    finally:
        multiprocessing_initret.uninstall("multiprocess")


#
# No user code runs in a template
#

# The fork server imports this module, so that a template could load objects of these classes.
HOOKS = """
import copyreg, os, socket

class Plain:
    def __init__(self, value=None):
        self.value = value
        self.rows = [[number] for number in range(10**5)]

class SetState(Plain):
    def __setstate__(self, state):
        vars(self).update(state)

class GetState(Plain):
    def __getstate__(self):
        return vars(self)

class Reduce(Plain):
    def __reduce__(self):
        return Plain, (), vars(self)

class New(Plain):
    def __new__(cls, *args):
        return super().__new__(cls)

class Registered(Plain):
    pass

copyreg.pickle(Registered, lambda obj: (Plain, (), vars(obj)))

class Key(Plain):
    def __hash__(self):
        return 1

class File(Plain):
    def open(self, path):
        self.path, self.file = path, open(path, "rb")
        return self

    def __getstate__(self):
        return self.path, self.rows

    def __setstate__(self, state):
        path, self.rows = state
        self.open(path)

class Client(Plain):
    def __getstate__(self):
        return self.address, self.rows

    def __setstate__(self, state):
        self.address, self.rows = state
        self.socket = socket.create_connection(self.address)
"""

# The fork server does not import this module, so that no worker inherits its seed.
SEEDED = """
import os
seed = os.urandom(8)

class Model:
    pass
"""

PROGRAM = """
import gc, hooks, multiprocessing, os, socket, sys
from multiprocessing_initret import Pool
from multiprocessing_initret._parent import template

TIMEOUT = 60

def return_all(*args):
    return args

def tables(item, initret):
    return os.getppid(), gc.get_freeze_count() // 10**5

def read(item, initret):
    _, file, barrier = initret
    offset = file.file.tell()
    file.file.seek(5)
    barrier.wait(TIMEOUT)
    return offset

def address(item, initret):
    _, client, barrier = initret
    barrier.wait(TIMEOUT)
    return client.socket.getsockname()

def draw(item, initret):
    import seeded
    initret[2].wait(TIMEOUT)
    return seeded.seed

def run(obj, func=tables):
    barrier = context.Barrier(2)
    table = [[number] for number in range(10**5)]
    args = table, obj, barrier
    with Pool(2, return_all, args, context=context, expect_initret=True) as pool:
        (template_pid, count), = set(pool.map(tables, [0, 1]))
        assert template_pid != multiprocessing.forkserver._forkserver._forkserver_pid
        return count, pool.map(func, [0, 1], 1)

if __name__ == "__main__":
    template.MINIMUM_SIZE = 1
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hooks"])
    kind = sys.argv[1]
    if kind == "file":
        print(run(hooks.File().open(__file__), read))
    elif kind == "connection":
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = hooks.Client()
            client.address = server.getsockname()
            count, addresses = run(client, address)
            print((count, len(set(addresses))))
    elif kind == "seed":
        import seeded
        count, seeds = run([seeded.Model()], draw)
        print((count, len(set(seeds))))
    else:
        print(run(getattr(hooks, kind)())[0])
"""


@pytest.fixture
def run_program(python, tmp_path):
    """Run PROGRAM, with modules that its fork server and workers can import."""

    def run(*args):
        for name, text in ("hooks", HOOKS), ("seeded", SEEDED), ("program", PROGRAM):
            (tmp_path / f"{name}.py").write_text(text)
        return python("program.py", *args, PYTHONPATH=python_path(tmp_path)).strip()

    return run


@cpython
@pytest.mark.parametrize(
    "name", ["SetState", "GetState", "Reduce", "New", "Registered", "Key", "Plain"]
)
def test_class_with_a_hook_beside_a_table(run_program, name):
    """The template loads the table; it loads the other object only if its class has no hook."""
    assert run_program(name) == ("2" if name == "Plain" else "1")


@cpython
def test_each_worker_has_its_own_file_offset(run_program):
    assert run_program("file") == "(1, [0, 0])"


@cpython
def test_each_worker_has_its_own_connection(run_program):
    assert run_program("connection") == "(1, 2)"


@cpython
def test_each_worker_has_its_own_seed(run_program):
    assert run_program("seed") == "(1, 2)"


MAIN = """
import os, sys
import multiprocessing, multiprocessing.forkserver
from multiprocessing_initret import Pool
from multiprocessing_initret._parent import template

SEED = os.urandom(8)
with open("log", "a") as log:
    print(os.getpid(), file=log)

class Node:
    def __init__(self, *children):
        self.children = children

def count(node):
    return 1 + sum(map(count, node.children))

def return_all(*args):
    return args

def use(item, initret):
    table, node, barrier = initret
    assert type(node) is Node
    barrier.wait(60)
    return count(node), os.getppid(), os.getpid(), SEED

if __name__ == "__main__":
    template.MINIMUM_SIZE = 1
    context = multiprocessing.get_context("forkserver")
    node = Node(*(Node(Node()) for number in range(1000)))
    args = {"a": 1}, node, context.Barrier(2)
    with Pool(2, return_all, args, context=context, expect_initret=True) as pool:
        counts, parents, workers, seeds = map(set, zip(*pool.map(use, range(2), 1)))
    assert counts == {2001}
    template_pid, = parents
    server_pid = multiprocessing.forkserver._forkserver._forkserver_pid
    assert template_pid != server_pid
    with open("log") as log:
        importers = {int(line) for line in log}
    assert template_pid not in importers
    if server_pid not in importers:
        # as in the standard pool, each worker imports the main module
        assert workers < importers and len(seeds) == 2
"""


@pytest.mark.parametrize("arguments", [["program.py"], ["-m", "program"]])
def test_template_does_not_import_the_main_module(python, tmp_path, arguments):
    (tmp_path / "program.py").write_text(MAIN)
    python("-W", "error", *arguments)


#
# A template that cannot be used
#

# The fork server imports this module, which changes what a template does when it starts.
BROKEN = """
import os, signal, sys, threading, time
import multiprocessing_initret._worker.template_process as template

original = template.preload

def preload(*args):
    with open("log", "a") as log:
        print(os.getpid(), file=log)
    how = os.environ["HOW"]
    if how == "thread":
        threading.Thread(target=threading.Event().wait).start()
    if how == "exit":
        os._exit(3)
    if how == "sys.exit":
        sys.exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "raise":
        raise LookupError
    if how == "refuse":
        return False
    if how == "thread that ends":
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        while not template._is_single_threaded():
            time.sleep(0.01)
    return original(*args)

template.preload = preload
"""

USE = """
import multiprocessing, multiprocessing.forkserver, os
from multiprocessing_initret import Pool
from multiprocessing_initret._parent import template

def return_one(table):
    return table

def use(item, initret):
    return initret, os.getppid()

if __name__ == "__main__":
    template.MINIMUM_SIZE = 1
    if os.environ["HOW"] == "stop":
        template._START_TIMEOUT = 1
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["broken"])
    with Pool(2, return_one, (["table"],), 1, context=context, expect_initret=True) as pool:
        results = [pool.apply_async(use, (1,)).get(60) for _ in range(4)]
    ((table, parent),) = {(tuple(table), pid) for table, pid in results}
    assert table == ("table",)
    with open("log") as log:
        tried, = {int(line) for line in log}  # one attempt to start a template
    try:
        os.kill(tried, 0)
    except ProcessLookupError:
        pass
    else:
        raise AssertionError("the template is running")
    assert parent in (tried, multiprocessing.forkserver._forkserver._forkserver_pid)
    print(parent == tried)
"""


@linux
@pytest.mark.parametrize(
    "how, is_used",
    [
        ("work", True),
        ("thread that ends", True),
        ("thread", False),
        ("exit", False),
        ("sys.exit", False),
        ("kill", False),
        ("stop", False),
        ("raise", False),
        ("refuse", False),
    ],
)
def test_unusable_template(python, tmp_path, how, is_used):
    """If a template fails or is not ready in time, the fork server forks the workers."""
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "program.py").write_text(USE)
    printed = python("-W", "error", "program.py", HOW=how, PYTHONPATH=python_path(tmp_path))
    assert printed == f"{is_used}\n"


def raise_interrupt(*args):
    raise KeyboardInterrupt


def test_start_of_a_template_is_interrupted(any_size, monkeypatch):
    monkeypatch.setattr(template_module.socket, "socket", raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool_of({"key": 1})


def raise_no_space(*args, **kwds):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "owner, name", [(tempfile, "mkdtemp"), (standard_forkserver, "start_template")]
)
def test_template_cannot_be_started(any_size, monkeypatch, owner, name):
    """The fork server forks the workers, for example if the file system is full."""
    monkeypatch.setattr(owner, name, raise_no_space)
    with pool_of({"key": 1}) as pool:
        monkeypatch.undo()
        assert call(pool, get) == ({"key": 1},)
        assert not uses_template(pool)
