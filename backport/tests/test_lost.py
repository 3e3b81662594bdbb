"""No task waits for ever: rows 13 to 23 of the design, under real kills."""

import contextlib
import ctypes
import gc
import glob
import itertools
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import random
import signal
import sys
import threading
import time
import types

import multiprocessing_initret
import pytest
from conftest import TIMEOUT, linux, wait_until
from multiprocessing_initret import WorkerLostError, install, uninstall
from multiprocessing_initret._parent import reaper, task_pipe

# On Windows, os.kill() with a signal ends the process, and the signal is its exit code.
WINDOWS = os.name != "posix"
KILL = signal.SIGTERM if WINDOWS else signal.SIGKILL
KILLED = "left with exit code 15" if WINDOWS else "was killed by SIGKILL"

needs_signals = pytest.mark.skipif(WINDOWS, reason="Windows has no signals")
needs_pipes = pytest.mark.skipif(WINDOWS, reason="moves a message through its pipes as a whole")
# A fork server of Python 3.6 does not tell how a process was killed.
TELLS = sys.version_info >= (3, 7)
main_rows = pytest.mark.parametrize("package", ["multiprocessing", "multiprocess"])


@pytest.fixture
def package():
    return "multiprocessing"


@pytest.fixture
def make(start_method, package):
    """Make pools of processes; after a test they, and all that was theirs, are gone."""
    pools, threads = [], threading.active_count()
    if package == "multiprocess":
        for name in "multiprocess", "multiprocess.pool":
            pytest.importorskip(name)
    module = __import__(package)
    context = module.get_context(start_method)
    if package == "multiprocess":
        install(package)

    def make_pool(processes=2, initializer=int, initargs=(40,), **kwds):
        if package == "multiprocess":
            args = processes, initializer, initargs
            pool = context.Pool(*args, expect_initret=True, **kwds)
        else:
            pool = multiprocessing_initret.Pool(
                processes, initializer, initargs, context=context, expect_initret=True, **kwds
            )
        pools.append(pool)
        return pool

    yield make_pool
    if package == "multiprocess":
        uninstall(package)
    for pool in pools:
        pool.terminate()
        ends(pool)
    pools.clear()
    # Fewer, where one that an earlier test has left has ended since.
    assert threading.active_count() <= threads
    assert not module.active_children()


def ends(pool):
    """Join a pool that is closed or terminated, with a limit."""
    thread = threading.Thread(target=pool.join, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def add(item, initret):
    return item + initret


def check(pool):
    """See that a pool goes on."""
    assert pool.map_async(add, range(6), chunksize=1).get(TIMEOUT) == list(range(40, 46))


def outcome(result):
    """Return what a result has, the error if it is one."""
    try:
        return result.get(TIMEOUT)
    except multiprocessing.TimeoutError:
        raise
    except Exception as error:
        return error


def outcomes(iterator):
    """Return what is in the result of imap() or imap_unordered(), errors too."""
    found = []
    while True:
        try:
            found.append(iterator.next(TIMEOUT))
        except StopIteration:
            return found
        except multiprocessing.TimeoutError:
            raise
        except Exception as error:
            found.append(error)


def is_lost(error, how=""):
    text = str(error)
    if not TELLS and "ForkServer" in text:
        text = text.replace("left with exit code 255", how)
    return type(error) is WorkerLostError and how in text


#
# How a worker leaves
#


def segfault():
    import faulthandler
    import resource

    faulthandler.disable()  # that of pytest
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.memset(0, 1, 1)


def kill_itself():
    os.kill(os.getpid(), KILL)
    time.sleep(TIMEOUT)


LEAVE = {
    "SIGKILL": (kill_itself, KILLED),
    "_exit": (lambda: os._exit(3), "left with exit code 3"),
    "_exit 0": (lambda: os._exit(0), "left with exit code 0"),
    "sys.exit": (lambda: sys.exit(5), "left with exit code 5"),
    "sys.exit 0": (lambda: sys.exit(0), "left with exit code 0"),
    "SIGTERM": (lambda: os.kill(os.getpid(), signal.SIGTERM), "was killed by SIGTERM"),
    "SIGINT": (lambda: os.kill(os.getpid(), signal.SIGINT), "left with exit code 1"),
    "abort": (os.abort, "was killed by SIGABRT"),
    "segfault": (segfault, "was killed by SIGSEGV"),
}
if hasattr(signal, "SIGRTMIN"):
    NAMELESS = signal.SIGRTMIN + 1
    how = f"was killed by signal {int(NAMELESS)}"
    LEAVE["nameless signal"] = (lambda: os.kill(os.getpid(), NAMELESS), how)
if WINDOWS:
    for signals in "SIGTERM", "SIGINT", "abort", "segfault":
        del LEAVE[signals]

all_ways = pytest.mark.parametrize("way", sorted(LEAVE))
some_ways = pytest.mark.parametrize("way", ["SIGKILL", "_exit", "sys.exit"])


def leave(way):
    LEAVE[way][0]()
    time.sleep(TIMEOUT)  # a signal may come a little later


def leave_at_three(item, way, initret):
    if item == 3:
        leave(way)
    return item + initret


def leave_at_three_or_two(item, way, initret):
    if item in (2, 3):
        leave(way)
    return item + initret


#
# Row 13: a worker leaves inside a task
#


@main_rows
@all_ways
def test_worker_leaves_inside_a_task(make, way):
    pool = make()
    results = [pool.apply_async(leave_at_three, (i, way)) for i in range(6)]
    found = [outcome(result) for result in results]
    assert is_lost(found.pop(3), LEAVE[way][1])
    assert found == [40, 41, 42, 44, 45]
    check(pool)
    pool.close()
    ends(pool)


@needs_signals
def test_where_the_system_tells_less_of_a_worker(make, monkeypatch):
    def refuse(*args):
        raise PermissionError

    # As of a worker that has another user, and as before Linux 5.3.
    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    pool = make()
    assert is_lost(outcome(pool.apply_async(leave_at_three, (3, "_exit"))), "exit code 3")
    check(pool)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@some_ways
def test_each_index_of_an_iterator_has_one_outcome(make, method, way):
    pool = make()
    found = outcomes(getattr(pool, method)(PartialOf(leave_at_three_or_two, way), range(8)))
    lost = [item for item in found if isinstance(item, Exception)]
    assert len(lost) == 2 and all(is_lost(error, LEAVE[way][1]) for error in lost)
    if method == "imap":
        assert found[2:4] == lost
    assert sorted(set(found) - set(lost)) == [40, 41, 44, 45, 46, 47]
    assert len(found) == 8
    check(pool)


class PartialOf:
    """Call a function with one more argument, also where no closure can be pickled."""

    def __init__(self, func, argument):
        self.func, self.argument = func, argument

    def __call__(self, item, initret):
        return self.func(item, self.argument, initret)


@some_ways
def test_chunks(make, way):
    pool, done = make(), []
    for chunksize in 1, 2, 3, 8:
        for method, items in (("map_async", range(8)), ("starmap_async", zip(range(8)))):
            result = getattr(pool, method)(
                PartialOf(leave_at_three, way),
                items,
                chunksize,
                callback=lambda value: done.append("callback"),
                error_callback=lambda error: done.append(error),
            )
            assert is_lost(outcome(result), LEAVE[way][1])
    check(pool)
    assert len(done) == 8 and all(map(is_lost, done))


def test_chunks_of_an_iterator(make):
    pool = make()
    # The iterator of chunks ends at the first that failed, as without the feature.
    iterator = pool.imap(PartialOf(leave_at_three, "SIGKILL"), range(8), 2)
    assert [next(iterator), next(iterator)] == [40, 41]
    with pytest.raises(WorkerLostError) as caught:
        next(iterator)
    assert is_lost(caught.value, KILLED)
    check(pool)


def say_and_wait(path, initret):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    os.rename(path, path + ".pid")
    time.sleep(TIMEOUT)


def pid_said(path):
    wait_until(lambda: os.path.exists(path + ".pid"))
    with open(path + ".pid") as file:
        return int(file.read())


def test_worker_killed_by_hand(make, tmp_path):
    pool = make()
    path = str(tmp_path / "inside")
    done = []
    inside = pool.apply_async(
        say_and_wait, (path,), callback=done.append, error_callback=done.append
    )
    pid = pid_said(path)
    name = next(worker.name for worker in pool._pool if worker.pid == pid)
    check(pool)
    os.kill(pid, KILL)
    error = outcome(inside)
    assert is_lost(error, KILLED) and f"{name} (pid {pid}) " in str(error)
    assert ("out of memory" in str(error)) == ("SIGKILL" in str(error))
    check(pool)
    assert done == [error]


def test_all_workers_killed_at_once(make, tmp_path):
    pool = make(3)
    paths = [str(tmp_path / str(i)) for i in range(3)]
    inside = [pool.apply_async(say_and_wait, (path,)) for path in paths]
    waiting = [pool.apply_async(add, (i,)) for i in range(3)]
    for pid in [pid_said(path) for path in paths]:
        os.kill(pid, KILL)
    assert all(is_lost(outcome(result), KILLED) for result in inside)
    assert [outcome(result) for result in waiting] == [40, 41, 42]
    check(pool)


def test_with_install(start_method, installed):
    context = multiprocessing.get_context(start_method)
    with context.Pool(2, int, (40,), expect_initret=True) as pool:
        found = [outcome(pool.apply_async(leave_at_three, (i, "SIGKILL"))) for i in range(6)]
        assert is_lost(found.pop(3), KILLED)
        assert found == [40, 41, 42, 44, 45]
        check(pool)
    ends(pool)


def test_keyword_in_a_manager(start_method, installed):
    manager = multiprocessing.get_context(start_method).Manager()
    with manager, manager.Pool(1, int, (40,), expect_initret=True) as pool:
        assert is_lost(outcome(pool.apply_async(leave_at_three, (3, "SIGKILL"))), KILLED)
        assert pool.apply_async(leave_at_three, (4, "SIGKILL")).get(TIMEOUT) == 44


def test_maxtasksperchild(start_method, make):
    pool = make(2, maxtasksperchild=1)
    # So often that workers start and leave while their results are read.
    for _ in range(15 if start_method == "fork" else 3):
        found = outcomes(pool.imap(PartialOf(leave_at_three, "SIGKILL"), range(8)))
        assert is_lost(found.pop(3))
        assert found == [40, 41, 42, 44, 45, 46, 47]
    check(pool)
    pool.close()
    ends(pool)


#
# Rows 14 and 17: a worker is killed while it waits for a task, or moves bytes
#


def settled(pool, size):
    """Wait until a pool has its workers, and one of them has the lock of the tasks' pipe."""
    wait_until(lambda: len(pool._pool) == size)
    wait_until(pool._inqueue._rlock._semlock._is_zero)


def wait_until_replaced(pool, workers):
    size = len(workers)
    wait_until(lambda: len(pool._pool) == size and not set(workers) & set(pool._pool))


@main_rows
@pytest.mark.parametrize("size", [1, 3])
def test_idle_workers_killed(make, size):
    pool = make(size)
    for _ in range(3):
        check(pool)
        settled(pool, size)
        workers = list(pool._pool)
        for worker in workers:
            os.kill(worker.pid, KILL)
        # A task that came while they die would be in their hands.
        wait_until_replaced(pool, workers)
        check(pool)
    pool.close()
    ends(pool)


def test_map_while_there_is_no_worker(make):
    """The size of chunks does not depend on how many workers there are just now."""
    pool = make(1)
    for _ in range(3):
        check(pool)
        settled(pool, 1)
        workers = list(pool._pool)
        os.kill(workers[0].pid, KILL)
        results = []
        while not pool._pool or pool._pool == workers:
            results.append(pool.map_async(add, range(6)))
            time.sleep(0.0001)
        # It may have had the first in its hands.
        found = [outcome(result) for result in results]
        wrong = [item for item in found if not is_lost(item) and item != list(range(40, 46))]
        assert not wrong
        assert sum(map(is_lost, found)) <= 1


@needs_signals
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_idle_worker_gets_a_signal(make, name):
    pool = make(1)
    check(pool)
    settled(pool, 1)
    workers = list(pool._pool)
    os.kill(workers[0].pid, getattr(signal, name))
    wait_until_replaced(pool, workers)
    check(pool)


class Moment:
    """An initializer, after which the first worker that gets to some moment is killed there.

    The first after :func:`arm`.
    """

    def __init__(self, name, path):
        self.name, self.path = name, str(path)

    def __call__(self, value):
        lock = sys._getframe(1).f_locals["self"]._inqueue._rlock
        Connection = type(sys._getframe(1).f_locals["self"]._inqueue._reader)

        def first():
            if not os.path.exists(self.path + ".armed"):
                return False
            try:
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return False
            return True

        def dies_around(owner, name, is_it=lambda *args: True, part=None):
            """Replace a function: the first call dies before, after, or in the middle."""
            stock = getattr(owner, name)

            def function(*args):
                if not is_it(*args) or (self.when == "after" and os.path.exists(self.path)):
                    return stock(*args)
                if self.when == "before" and first():
                    kill_itself()
                if self.when == "within" and first():
                    part(*args)
                    kill_itself()
                result = stock(*args)
                if self.when == "after" and first():
                    kill_itself()
                return result

            setattr(owner, name, function)

        def half(connection, data):
            if name == "send":
                os.write(connection.fileno(), data[: len(data) // 2])
            else:
                os.read(connection.fileno(), data // 2)

        self.when, _, name = self.name.partition(" ")
        if name in ("acquire", "release"):
            dies_around(lock, name)
        elif name == "header":
            dies_around(Connection, "_recv", lambda connection, size: size == 4, half)
        elif name == "recv":
            dies_around(Connection, "_recv", lambda connection, size: size > 4, half)
        else:
            dies_around(Connection, "_send", lambda connection, data: len(data) > 4, half)
        return value


def length(data, initret):
    return len(data)


def echo(data, initret):
    return data


def arm(path):
    with open(str(path) + ".armed", "w"):
        pass


# With the number of tasks that are lost then.
MOMENTS = {
    "before acquire": 0,
    "after acquire": 0,
    "before header": 0,
    "within header": 1,
    "after header": 0,
    "within recv": 1,
    "after recv": 1,
    "before release": 1,
    "after release": 1,
    "before send": 1,
    "within send": 1,
    "after send": 0,
}


@needs_pipes
@pytest.mark.parametrize("size", [1, 10**6], ids=["small", "large"])
@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("moment", sorted(MOMENTS))
def test_killed_at_a_moment(make, tmp_path, moment, processes, size):
    path = tmp_path / "killed"
    arm(path)
    pool = make(processes, Moment(moment, path), (40,))
    # Unlike that of imap(), its iterator shows what comes twice.
    found = outcomes(pool.imap_unordered(echo, [bytes(size)] * 6))
    assert path.exists()
    lost = [item for item in found if isinstance(item, Exception)]
    assert all(is_lost(error, KILLED) for error in lost)
    # A message that was not there as a whole does not come back.
    partial = moment == "after header" and size > 65536
    assert len(lost) == MOMENTS[moment] + partial
    assert [item for item in found if item not in lost] == [bytes(size)] * (6 - len(lost))
    check(pool)
    pool.close()
    ends(pool)


@needs_pipes
@pytest.mark.parametrize("moment", ["after acquire", "before release"])
def test_killed_when_it_is_dismissed(make, tmp_path, moment):
    path = tmp_path / "killed"
    pool = make(3, Moment(moment, path), (40,))
    for _ in range(3):
        check(pool)
    settled(pool, 3)
    arm(path)
    pool.close()
    ends(pool)
    assert path.exists()


@needs_pipes
@pytest.mark.parametrize("moment", ["within header", "after header"])
def test_killed_while_the_iterable_waits_for_the_outcome(make, tmp_path, moment):
    path, arrived = tmp_path / "killed", threading.Event()

    def iterable():
        yield 1
        assert arrived.wait(TIMEOUT / 2)
        yield 2

    arm(path)
    iterator = make(1, Moment(moment, path), (40,)).imap(echo, iterable())
    try:
        outcome = iterator.next(TIMEOUT / 4)
    except WorkerLostError:
        outcome = 1
    finally:
        arrived.set()
    assert outcome == 1 and iterator.next(TIMEOUT) == 2


@pytest.mark.parametrize("func", [length, echo])
def test_killed_under_large_messages(make, func):
    """The same without help of the worker, at whatever moment it is."""
    pool = make(2)
    iterator = pool.imap_unordered(func, itertools.repeat(bytes(10**6), 60))
    found = 0
    kills = 0
    broken = False
    for number in range(60):
        try:
            value = iterator.next(TIMEOUT)
        except WorkerLostError as error:
            broken = broken or "the pool is broken" in str(error)
        else:
            found += 1
            assert value == 10**6 or len(value) == 10**6
        if number % 6 == 0:
            # TypeError: the pool is broken and has none.
            with contextlib.suppress(OSError, IndexError, TypeError):
                os.kill(random.choice(pool._pool).pid, KILL)
                kills += 1
    with pytest.raises(StopIteration):
        iterator.next(TIMEOUT)
    assert not broken and found >= 60 - kills


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


#
# Row 15: a worker leaves inside the initializer
#


def note(path):
    with open(path, "a") as file:
        file.write("1\n")


def notes(path):
    with open(path) as file:
        return len(file.readlines())


def note_and_leave(path, way):
    note(path)
    leave(way)


def note_and_leave_thrice(path, way):
    note(path)
    if notes(path) <= 3:
        leave(way)
    return 40


@main_rows
@some_ways
def test_worker_leaves_inside_the_initializer(make, tmp_path, way):
    path = str(tmp_path / "starts")
    size = 2
    pool = make(size, note_and_leave, (path, way))
    for number in range(1, 6):
        assert is_lost(outcome(pool.apply_async(add, (number,))), LEAVE[way][1])
        # Workers run it at first, and then for a task, and never in vain.
        assert number <= notes(path) <= number + size
    assert all(is_lost(error) for error in outcomes(pool.imap(add, range(5))))
    assert notes(path) <= 10 + size
    pool.close()
    ends(pool)
    assert notes(path) <= 10 + size


def test_an_idle_pool_starts_no_worker_in_vain(make, tmp_path):
    path = str(tmp_path / "starts")
    pool = make(2, note_and_leave, (path, "_exit"))

    def is_idle():
        workers = list(pool._pool)
        try:
            sentinels = [worker.sentinel for worker in workers]
        except ValueError:  # one has not started
            return False
        return len(workers) == 2 and not multiprocessing.connection.wait(sentinels, 0.5)

    wait_until(lambda: os.path.exists(path) and is_idle())
    assert notes(path) <= 2


def test_initializer_that_leaves_in_the_beginning(make, tmp_path):
    path = str(tmp_path / "starts")
    pool = make(1, note_and_leave_thrice, (path, "SIGKILL"))
    found = [outcome(pool.apply_async(add, (1,))) for _ in range(4)]
    assert [is_lost(item) for item in found] in ([True, True, False, False],)
    check(pool)


#
# Row 16: workers leave before they run anything of ours
#

WITHOUT_GUARD = """
import multiprocessing, os, sys
import multiprocessing_initret

def give(item, initret):
    return item

os.dup2(1, 2)  # what the workers say too
context = multiprocessing.get_context(sys.argv[1])
try:
    pool = multiprocessing_initret.Pool(2, int, (40,), context=context, expect_initret=True)
except multiprocessing_initret.WorkerLostError as error:
    sys.exit("no pool: {}".format(error))
for call in range(2):
    results = [pool.map_async(give, range(5)), pool.apply_async(give, (1,))]
    for get in [result.get for result in results] + [pool.imap(give, [1]).next]:
        try:
            print(get(60))
        except multiprocessing_initret.WorkerLostError as error:
            print("call", call, error)
pool.END()
pool.join()
print("ended")
"""

RAISES = WITHOUT_GUARD.replace("pool.END", "pool.terminate").replace(
    "os.dup2", "if __name__ != '__main__':\n    raise LookupError('no luck')\nos.dup2"
)
WITHOUT_GUARD = WITHOUT_GUARD.replace("pool.END", "pool.close")


@pytest.mark.parametrize(
    "program, reason",
    [(WITHOUT_GUARD, "bootstrapping phase"), (RAISES, "no luck")],
    ids=["no guard", "raises"],
)
def test_main_module(python, tmp_path, start_method, program, reason):
    if start_method == "fork":
        pytest.skip("imports no main module")
    (tmp_path / "program.py").write_text(program)
    # From 3.13.1 on it is the fork server that imports the main module, and leaves: then
    # it cannot start a worker, and the pool is not made.
    output = python("-c", EITHER, "program.py", start_method)
    assert reason in output
    # Each worker says why it left, and no more workers are started than it takes.
    assert output.count("Traceback (most recent call last)") <= 8
    lines = output.splitlines()
    # Not the last one: Python may warn after it of what the workers have left.
    if start_method == "forkserver" and sys.version_info >= (3, 13) and "ended" not in lines:
        [line] = [line for line in lines if line.startswith("no pool: ")]
        assert "__main__" in line
        return
    assert "ended" in lines
    errors = [line for line in lines if line.startswith("call ")]
    assert len(errors) == 6
    for error in errors:
        assert "the pool is broken" in error and "__main__" in error


# Runs a program, and prints all that it and its children say.
EITHER = """
import subprocess, sys
pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
sys.stdout.buffer.write(subprocess.run([sys.executable] + sys.argv[1:], **pipe).stdout)
"""


#
# Rows 18 to 20: what cannot be unpickled
#


def no_luck(*args):
    raise LookupError("no luck")


class Unloadable:
    """Can be pickled, and then not be unpickled."""

    def __init__(self, func=no_luck, *args):
        self.reduced = func, args

    def __reduce__(self):
        return self.reduced


class Forty:
    def __init__(self, value):
        pass

    def __radd__(self, other):
        return other + 40


@main_rows
def test_initializer_that_cannot_be_unpickled(make, start_method):
    pool = make(2, Forty, (Unloadable(),))
    if start_method == "fork":  # nothing is pickled
        check(pool)
        return
    for _ in range(3):
        with pytest.raises(LookupError, match="no luck") as caught:
            pool.apply_async(add, (1,)).get(TIMEOUT)
        assert "in no_luck" in str(caught.value.__cause__)  # its traceback
    assert len(pool._pool) == 2
    pool.close()
    ends(pool)


def test_initializer_that_leaves_when_unpickled(make, start_method):
    if start_method == "fork":
        pytest.skip("nothing is pickled")
    pool = make(2, Forty, (Unloadable(os._exit, 3),))
    for _ in range(3):
        assert is_lost(outcome(pool.apply_async(add, (1,))), "left with exit code 3")


@main_rows
def test_task_that_cannot_be_unpickled(make):
    pool = make()
    results = [pool.apply_async(echo, (item,)) for item in [1, Unloadable(), 3]]
    assert outcome(results[0]) == 1 and outcome(results[2]) == 3
    with pytest.raises(LookupError, match="no luck") as caught:
        results[1].get(TIMEOUT)
    assert "in no_luck" in str(caught.value.__cause__)
    found = outcomes(pool.imap_unordered(echo, [Unloadable()] * 4))
    assert [type(error) for error in found] == [LookupError] * 4
    result = pool.map_async(echo, [1, 2, Unloadable()], chunksize=2)
    assert isinstance(outcome(result), LookupError)
    check(pool)


def test_task_that_leaves_when_unpickled(make):
    pool = make()
    found = outcomes(pool.imap(echo, [1, Unloadable(os._exit, 3), Unloadable(sys.exit, 4), 2]))
    assert found[0] == 1 and found[3] == 2
    assert is_lost(found[1], "exit code 3") and is_lost(found[2], "exit code 4")
    check(pool)


def unloadable(item, initret):
    return Unloadable()


class TwoArguments(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def raise_two_arguments(item, initret):
    raise TwoArguments(1, 2)


def give_two_arguments(item, initret):
    return TwoArguments(1, 2)


class Unprintable(TwoArguments):
    def __repr__(self):
        raise LookupError("no luck")


def raise_unprintable(item, initret):
    raise Unprintable(1, 2)


@main_rows
def test_result_that_cannot_be_unpickled(make, package):
    MaybeEncodingError = sys.modules[package + ".pool"].MaybeEncodingError
    pool = make()
    with pytest.raises(LookupError, match="no luck"):
        pool.apply_async(unloadable, (1,)).get(TIMEOUT)
    with pytest.raises(TypeError, match="two"):
        pool.apply_async(give_two_arguments, (1,)).get(TIMEOUT)
    for func in raise_two_arguments, raise_unprintable:
        for result in pool.apply_async(func, (1,)), pool.map_async(func, range(4)):
            with pytest.raises(MaybeEncodingError) as caught:
                result.get(TIMEOUT)
            name = "TwoArguments(" if func is raise_two_arguments else "Unprintable object"
            assert name in str(caught.value)
            assert func.__name__ in str(caught.value.__cause__)
    found = outcomes(pool.imap(raise_two_arguments, range(3)))
    assert [type(error) for error in found] == [MaybeEncodingError] * 3
    check(pool)


UNDER_THE_GUARD = """
import multiprocessing, sys
import multiprocessing_initret

if __name__ == "__main__":
    def add(item, initret):
        return item + initret

    class Item:
        def __radd__(self, other):
            return other

    context = multiprocessing.get_context(sys.argv[1])
    with multiprocessing_initret.Pool(2, int, (40,), context=context, expect_initret=True) as pool:
        for result in pool.map_async(add, range(3)), pool.apply_async(sum, ([], Item())):
            try:
                print(result.get(60))
            except AttributeError as error:
                print(error)
"""


def test_defined_under_the_guard(python, tmp_path, start_method):
    (tmp_path / "program.py").write_text(UNDER_THE_GUARD)
    if start_method == "fork":
        pytest.skip("imports no main module")
    for line, name in zip(python("program.py", start_method).splitlines(), ["add", "Item"]):
        assert name in line
        assert_says_what_to_do(line)


def assert_says_what_to_do(text):
    assert "a module of its own" in text
    assert "fork start method" in text
    assert 'install("multiprocess")' in text


SESSION = """
import multiprocessing, os
import multiprocessing_initret

os.dup2(1, 2)

def give(value):
    return value

def add(item, initret):
    return item + initret

def pool_of(initializer):
    context = multiprocessing.get_context("METHOD")
    args = 2, initializer, (40,), None, context
    return multiprocessing_initret.Pool(*args, expect_initret=True)

pool = pool_of(int)
try:
    print(pool.map_async(add, range(3)).get(60))
except Exception as error:
    print(type(error).__name__, error)

pool.terminate()
pool = pool_of(give)
try:
    print(pool.map_async(add, range(3)).get(60))
except Exception as error:
    print(type(error).__name__, error)

pool.close()
pool.join()
print("ended")
"""

DILL_SESSION = """
import multiprocess, multiprocessing_initret
multiprocessing_initret.install("multiprocess")

def give(value):
    return value

def add(item, initret):
    return item + initret

with multiprocess.get_context("METHOD").Pool(2, give, (40,), expect_initret=True) as pool:
    print(pool.map_async(add, range(3)).get(60))

"""


def check_session(output, start_method):
    if start_method == "fork":
        assert output.count("[40, 41, 42]") == 2
    else:
        # One error for each call, nothing else.
        assert output.count("AttributeError") == 2
        assert "Traceback" not in output
        for line in output.splitlines():
            if "AttributeError" in line:
                assert "add" in line
                assert_says_what_to_do(line)
    assert "ended" in output


def test_interactive_session(python, start_method):
    session = SESSION.replace("METHOD", start_method)
    check_session(python("-i", stdin=session), start_method)


def notebook(python, tmp_path, *cells):
    """Run a notebook, and return what it printed."""
    for name in "nbconvert", "ipykernel":
        pytest.importorskip(name)
    cells = [
        {
            "cell_type": "code",
            "execution_count": None,
            "metadata": {},
            "outputs": [],
            "source": cell,
        }
        for cell in cells
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (tmp_path / "notebook.ipynb").write_text(
        json.dumps(
            {
                "cells": cells,
                "metadata": {"kernelspec": kernel},
                "nbformat": 4,
                "nbformat_minor": 4,
            }
        )
    )
    args = ["--to", "notebook", "--execute", "--stdout", "notebook.ipynb"]
    done = json.loads(python("-m", "nbconvert", *args))
    outputs = [output for cell in done["cells"] for output in cell["outputs"]]
    return "".join("".join(output.get("text", ())) for output in outputs)


def test_notebook(python, tmp_path, start_method):
    session = SESSION.replace("METHOD", start_method).replace("os.dup2(1, 2)", "")
    cells = session.split("\n\n")
    check_session(notebook(python, tmp_path, *cells), start_method)


def test_notebook_with_multiprocess(python, tmp_path, start_method):
    pytest.importorskip("multiprocess")
    cells = DILL_SESSION.replace("METHOD", start_method).split("\n\n")
    assert notebook(python, tmp_path, *cells) == "[40, 41, 42]\n"


#
# Row 21: a task or the initializer leaves in a thread
#


def exit_at_three(item, initret):
    if item == 3:
        sys.exit("no luck")
    return item + initret


@pytest.fixture
def thread_pool():
    pools = []

    def make_pool(processes=2, initializer=int, initargs=(40,)):
        pool = multiprocessing_initret.ThreadPool(
            processes, initializer, initargs, expect_initret=True
        )
        pools.append(pool)
        return pool

    yield make_pool
    for pool in pools:
        pool.terminate()
        ends(pool)


def test_task_that_exits_in_a_thread(thread_pool):
    pool = thread_pool()
    workers = [worker.ident for worker in pool._pool]
    for _ in range(4):  # more often than there are threads
        found = outcomes(pool.imap(exit_at_three, range(6)))
        error = found.pop(3)
        assert is_lost(error, "SystemExit('no luck'")
        assert type(error.__cause__) is SystemExit
        assert found == [40, 41, 42, 44, 45]
        assert is_lost(outcome(pool.map_async(exit_at_three, range(6), chunksize=2)))
    check(pool)
    assert [worker.ident for worker in pool._pool] == workers
    assert all(worker.is_alive() for worker in pool._pool)
    pool.close()
    ends(pool)


def test_initializer_that_exits_in_a_thread(thread_pool):
    pool = thread_pool(2, sys.exit, ("no luck",))
    results = [pool.apply_async(add, (i,)) for i in range(5)]
    assert all(is_lost(outcome(result), "SystemExit('no luck'") for result in results)
    pool.close()
    ends(pool)


def test_initializer_that_exits_once_in_a_thread(thread_pool):
    tries = []

    def initializer():
        tries.append(threading.current_thread())
        if len(tries) == 1:
            sys.exit()
        return 40

    pool = thread_pool(1, initializer, ())
    check(pool)
    assert len(tries) == 2 and tries[0] is tries[1]


def test_tasks_that_exit_in_installed_pools(installed):
    from multiprocessing import dummy

    with dummy.Pool(2, int, (40,), expect_initret=True) as pool:
        assert is_lost(outcomes(pool.imap(exit_at_three, range(6)))[3])
        check(pool)


#
# Row 22: terminate() while results are awaited
#


def wait_for(event, initret):
    event.wait(TIMEOUT)


def block(path, initret):
    with open(path, "a") as file:
        file.write("inside\n")
    wait_until(lambda: not os.path.exists(path), 2 * TIMEOUT)


def awaited(pool, func, argument):
    """Start a call of each kind that no worker ends."""
    chunks = pool.imap(func, [argument] * 3, 2)
    return [
        pool.apply_async(func, (argument,)).get,
        pool.map_async(func, [argument] * 3, chunksize=2).get,
        pool.starmap_async(func, [(argument,)] * 3).get,
        pool.imap(func, [argument] * 3).next,
        pool.imap_unordered(func, [argument] * 3).next,
        lambda timeout: next(chunks),
    ]


def check_end(pool, calls, terminate):
    """See that a pool ends all calls that are awaited."""
    found = []

    def wait(get):
        try:
            found.append(get(TIMEOUT))
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=wait, args=(get,), daemon=True) for get in calls]
    for thread in threads:
        thread.start()
    terminate()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert len(found) == len(calls)
    assert all(is_lost(error, "terminated") for error in found), found


@pytest.mark.skipif(sys.version_info < (3, 8), reason="the pool looks elsewhere")
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_end_after_the_pool_has_looked(make, monkeypatch, end):
    """Another thread ends the pool when a call has found it running."""
    pool = make(1)
    check(pool)
    monkeypatch.setattr(pool, "_check_running", getattr(pool, end))
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply_async(add, (1,))
    ends(pool)


@pytest.mark.parametrize("by", ["terminate", "with"])
@main_rows
def test_terminate(make, tmp_path, by):
    pool = make()
    path = str(tmp_path / "inside")
    with contextlib.ExitStack() as stack:
        if by == "with":
            stack.enter_context(pool)
        calls = awaited(pool, block, path)
        wait_until(lambda: os.path.exists(path))
        check_end(pool, calls, stack.close if by == "with" else pool.terminate)
        ends(pool)


@pytest.mark.parametrize("by", ["terminate", "with"])
def test_terminate_threads(thread_pool, by):
    pool = thread_pool()
    event = threading.Event()
    with contextlib.ExitStack() as stack:
        if by == "with":
            stack.enter_context(pool)
        calls = awaited(pool, wait_for, event)
        try:
            check_end(pool, calls, stack.close if by == "with" else pool.terminate)
        finally:
            event.set()


def leave_late(value):
    """Handle SIGTERM in Python, and not while the worker waits for the lock of the pipe."""
    signal.signal(signal.SIGTERM, lambda *args: os._exit(0))
    lock = sys._getframe(1).f_locals["self"]._inqueue._rlock
    acquire = lock.acquire

    def acquire_first():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        acquire()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    lock.acquire = acquire_first
    return value


@needs_signals
def test_terminate_where_workers_handle_the_signal(make):
    # So may any handler in Python be late: it runs when the worker is back from the system.
    pool = make(4, leave_late)
    check(pool)
    settled(pool, 4)
    workers = list(pool._pool)
    thread = threading.Thread(target=pool.terminate, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if thread.is_alive():
        for worker in workers:  # or the pool would not end, nor this test
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
    assert -signal.SIGKILL not in [worker.exitcode for worker in workers]


def test_close_while_a_task_runs(make, thread_pool, tmp_path):
    for pool in make(), thread_pool():
        path = str(tmp_path / "inside")
        result = pool.apply_async(block, (path,))
        wait_until(lambda: os.path.exists(path))  # noqa: B023
        pool.close()
        if hasattr(pool, "_change_notifier"):
            # From Python 3.8: the thread that handles workers has seen that the pool is
            # closed, and waits for the last result.
            wait_until(pool._change_notifier.empty)
        os.remove(path)
        assert outcome(result) is None
        ends(pool)


class Slow:
    """Items whose number is asked for while another thread ends the pool."""

    def __init__(self, end):
        self.end = end

    def __len__(self):
        if self.end:
            thread = threading.Thread(target=self.end)
            self.end = None
            thread.start()
            thread.join(TIMEOUT)
        return 3

    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_pool_ends_while_a_task_is_made(make, thread_pool, end):
    for pool in make(), thread_pool():
        with pytest.raises(ValueError):
            pool.map_async(add, Slow(getattr(pool, end)))
        ends(pool)


@pytest.mark.parametrize("where", ["one has left", "one starts"])
def test_garbage_collector_ends_the_pool(make, monkeypatch, where):
    # In the thread that handles workers.
    pool = make(2)
    check(pool)

    def collect(self, *args):
        monkeypatch.undo()
        if where == "one starts":
            # It runs, and nothing is known of it yet.
            self.start()
            popen, self._popen = self._popen, None
            pool.terminate()
            self._popen = popen
        else:
            pool.terminate()

    if where == "one starts":
        monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", collect)
    else:
        monkeypatch.setattr(reaper.Reaper, "ensure_exit", collect)
    result = pool.apply_async(leave_at_three, (3, "_exit"))
    error = outcome(result)
    assert is_lost(error) and "broken" not in str(error)
    wait_until(lambda: pool._state != multiprocessing.pool.RUN)
    ends(pool)


def test_an_iterator_has_what_came_before_the_end(make, tmp_path):
    pool = make(1)
    path = str(tmp_path / "inside")
    iterator = pool.imap(first_of_pair, [(echo, 1), (echo, 2), (block, path), (echo, 3)])
    wait_until(lambda: os.path.exists(path))
    pool.terminate()
    found = outcomes(iterator)
    assert found[:2] == [1, 2]
    assert is_lost(found[2], "terminated") and len(found) == 3


def first_of_pair(pair, initret):
    func, argument = pair
    return func(argument, initret)


#
# Row 23: an iterable with a length, whose iterator raises early
#


class Short:
    def __init__(self, count, make=int, error=LookupError):
        self.count, self.make, self.error = count, make, error

    def __len__(self):
        return 10

    def __iter__(self):
        yield from map(self.make, range(self.count))
        if self.error is not None:
            raise self.error("no luck")


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("chunksize", [1, 3, 10])
def test_iterator_raises_early(make, thread_pool, count, chunksize):
    for pool in make(), thread_pool():
        done = []
        for method, make_item in ((pool.map_async, int), (pool.starmap_async, lambda i: (i,))):
            iterable = Short(count, make_item)
            result = method(add, iterable, chunksize, done.append, done.append)
            with pytest.raises(LookupError, match="no luck"):
                result.get(TIMEOUT)
        found = outcomes(pool.imap(add, Short(count)))
        assert found[:-1] == list(range(40, 40 + count))
        assert type(found[-1]) is LookupError
        check(pool)
        assert list(map(type, done)) == [LookupError, LookupError]
        pool.close()
        ends(pool)


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("chunksize", [1, 2, 3, 10])
def test_iterator_ends_early(make, thread_pool, count, chunksize):
    for pool in make(), thread_pool():
        result = pool.map_async(add, Short(count, error=None), chunksize)
        if count and chunksize == 10:
            assert result.get(TIMEOUT) == list(range(40, 40 + count))
        else:
            with pytest.raises(ValueError, match="fewer items"):
                result.get(TIMEOUT)
        assert outcomes(pool.imap(add, Short(count, error=None))) == list(range(40, 40 + count))
        check(pool)


class Leaves(BaseException):
    pass


class LeavesWhenPickled:
    def __reduce__(self):
        raise Leaves


def test_what_is_no_exception_is_raised_where_tasks_are_made(make, thread_pool):
    pool = make()
    for error, result in (
        (Leaves, pool.map_async(add, Short(5, error=Leaves), 1)),
        (GeneratorExit, pool.map_async(add, Short(5, error=GeneratorExit), 1)),
        (Leaves, pool.apply_async(add, (LeavesWhenPickled(),))),
    ):
        with pytest.raises(error):
            result.get(TIMEOUT)
    check(pool)
    pool = thread_pool()
    assert type(outcome(pool.map_async(add, Short(5, error=Leaves), 1)).__cause__) is Leaves
    check(pool)


@pytest.mark.parametrize("end", ["close", "terminate"])
@pytest.mark.parametrize("chunksize", [None, 1])
def test_pool_ends_while_an_iterable_is_read(make, thread_pool, chunksize, end):
    for pool in make(), thread_pool():

        def items():
            yield 1
            getattr(pool, end)()  # noqa: B023
            wait_until(lambda: not pool._worker_handler.is_alive())  # noqa: B023

        with pytest.raises(ValueError):
            pool.map_async(add, items(), chunksize)
        with pytest.raises(ValueError):
            pool.map_async(add, (1 / 0 for _ in range(1)), chunksize)
        pool.close()
        ends(pool)


#
# Callbacks
#


@pytest.mark.parametrize("error", [LookupError, KeyError, Leaves, SystemExit])
def test_callback_that_raises(make, thread_pool, monkeypatch, error):
    said = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: said.append(args[0]))

    def callback(value):
        raise error

    for pool in make(), thread_pool():
        args = {"callback": callback, "error_callback": callback}
        assert pool.apply_async(add, (1,), **args).get(TIMEOUT) == 41
        assert pool.map_async(add, range(3), **args).get(TIMEOUT) == [40, 41, 42]
        for result in pool.apply_async(add, ("",), **args), pool.map_async(add, [""], **args):
            with pytest.raises(TypeError):
                result.get(TIMEOUT)
        check(pool)
        assert said == [error] * 4
        said.clear()


@pytest.mark.parametrize("method", ["apply", "map"])
def test_callback_that_terminates(make, thread_pool, tmp_path, method):
    for pool in make(), thread_pool():
        path = str(tmp_path / type(pool).__name__)
        inside = pool.apply_async(block, (path,))
        wait_until(lambda: os.path.exists(path))  # noqa: B023
        called = []

        def callback(value):
            os.unlink(path)  # noqa: B023  # a thread cannot be terminated
            pool.terminate()  # noqa: B023
            called.append(value)  # noqa: B023

        callbacks = {"callback": callback, "error_callback": callback}
        if method == "apply":
            result, expected = pool.apply_async(add, (1,), **callbacks), 41
        else:
            result, expected = pool.map_async(add, range(2), 1, **callbacks), [40, 41]
        assert result.get(TIMEOUT) == expected
        assert called == [expected]
        ends(pool)
        assert outcome(inside) is None or is_lost(outcome(inside), "terminated")


#
# Exactly once
#


def note_and_add(item, path, initret):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{item}\n".encode())
    os.close(fd)
    end = time.perf_counter() + 0.001
    while time.perf_counter() < end:
        pass
    return item + initret


class Killer:
    """Kills a worker of a pool every now and then, some times in all.

    Where workers are killed faster than they start, a pool would get nowhere.
    """

    def __init__(self, pool, times=10):
        self.pool, self.times, self.kills = pool, times, 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while self.kills < self.times and not self.stop.wait(0.05):
            # IndexError: there is none; OSError: it is gone; TypeError: it has not started.
            with contextlib.suppress(IndexError, OSError, TypeError):
                os.kill(random.choice(self.pool._pool).pid, KILL)
                self.kills += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.stop.set()
        self.thread.join()


@pytest.mark.skipif(WINDOWS, reason="a worker killed while it starts left as without a guard")
@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "apply"])
def test_exactly_once(make, tmp_path, method):
    path, done, count = str(tmp_path / "notes"), [], 600
    func = PartialOf(note_and_add, path)
    pool = make(3)
    with Killer(pool) as killer:
        if method == "map":
            # Of its chunks, by their numbers, all that a callback could count.
            results = [
                pool.map_async(func, range(i, i + 10), 3, done.append, done.append)
                for i in range(0, count, 10)
            ]
            found = [outcome(result) for result in results]
        elif method == "apply":
            results = [
                pool.apply_async(func, (i,), {}, done.append, done.append) for i in range(count)
            ]
            found = [outcome(result) for result in results]
        else:
            found = outcomes(getattr(pool, method)(func, range(count)))
            assert len(found) == count
        wait_until(lambda: killer.kills > 3)
    lost = [item for item in found if isinstance(item, Exception)]
    assert all(map(is_lost, lost))
    answers = [item for item in found if not isinstance(item, Exception)]
    with open(path) as file:
        ran = sorted(int(line) for line in file)
    assert len(ran) == len(set(ran))  # nothing is tried again
    if method == "map":
        assert all(answer == list(range(answer[0], answer[0] + 10)) for answer in answers)
    else:
        assert len(answers) == len(set(answers))
        assert {answer - 40 for answer in answers} <= set(ran)
        for i, item in enumerate(found):
            assert method == "imap_unordered" or item in lost or item == i + 40
    check(pool)
    if done:
        assert len(done) == len(found)
        assert {id(item) for item in done} == {id(item) for item in found}
    pool.close()
    ends(pool)


#
# Chaos
#


def spin(microseconds, initret):
    end = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < end:
        pass
    return microseconds


def megabyte(item, initret):
    return bytes([item]) * 10**6


@pytest.mark.parametrize("load", ["20 us", "2 ms", "results of 1 MB", "arguments of 1 MB"])
def test_chaos(make, load):
    func, arguments, answers = {
        "20 us": (spin, range(20, 40), range(20, 40)),
        "2 ms": (spin, range(2000, 2020), range(2000, 2020)),
        "results of 1 MB": (megabyte, range(20), [bytes([i]) * 10**6 for i in range(20)]),
        "arguments of 1 MB": (
            length,
            [bytes(i) for i in range(10**6, 10**6 + 20)],
            range(10**6, 10**6 + 20),
        ),
    }[load]
    deadline = time.monotonic() + 3
    for end in itertools.cycle(["close", "terminate"]):
        pool = make(4)
        with Killer(pool):
            found = outcomes(pool.imap(func, arguments))
            assert len(found) == 20
            assert all(is_lost(item) or item == answers[i] for i, item in enumerate(found))
            found = outcomes(pool.imap_unordered(func, arguments))
            assert len(found) == 20
            assert all(is_lost(item) or item in answers for item in found)
            found = outcome(pool.map_async(func, arguments, 7))
            assert is_lost(found) or found == list(answers)
            getattr(pool, end)()
            ends(pool)
        if time.monotonic() > deadline:
            break


@pytest.mark.parametrize("processes", [1, 3])
def test_killed_while_the_pool_closes(make, tmp_path, processes):
    pool = make(processes)
    path = str(tmp_path / "inside")
    inside = pool.apply_async(say_and_wait, (path,))
    waiting = pool.map_async(add, range(4), chunksize=1)
    pid = pid_said(path)
    pool.close()
    os.kill(pid, KILL)
    ends(pool)
    assert is_lost(outcome(inside), KILLED)
    assert outcome(waiting) == [40, 41, 42, 43]


@pytest.mark.parametrize("end", ["close", "terminate"])
@pytest.mark.parametrize("processes", [1, 3])
def test_idle_workers_killed_while_the_pool_ends(make, processes, end):
    for order in "kill first", "end first":
        pool = make(processes)
        check(pool)
        settled(pool, processes)
        workers = list(pool._pool)
        if order == "end first":
            getattr(pool, end)()
        for worker in workers:
            with contextlib.suppress(OSError):
                os.kill(worker.pid, KILL)
        getattr(pool, end)()
        ends(pool)


def test_terminate_right_after_a_kill(make, tmp_path):
    pool = make(2)
    path = str(tmp_path / "inside")
    inside = pool.apply_async(say_and_wait, (path,))
    waiting = pool.apply_async(block, (path + ".other",))
    pid = pid_said(path)
    os.kill(pid, KILL)
    pool.terminate()
    ends(pool)
    assert is_lost(outcome(inside)) and is_lost(outcome(waiting))


def test_close_with_nothing_left_but_lost_tasks(make):
    pool = make(2)
    results = [pool.apply_async(leave_at_three, (3, "_exit")) for _ in range(5)]
    pool.close()
    ends(pool)
    assert all(is_lost(outcome(result)) for result in results)


#
# WorkerLostError, and what the log says
#


def test_error():
    error = WorkerLostError("no luck")
    assert isinstance(error, multiprocessing.ProcessError)
    assert WorkerLostError.__module__ == "multiprocessing_initret"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is WorkerLostError and copy.args == error.args == ("no luck",)


def lose_one_in_a_pool_of_its_own(path, initret):
    pool = multiprocessing_initret.ThreadPool(1, int, expect_initret=True)
    pool.apply(exit_at_three, (3,))


def test_error_crosses_processes(make):
    pool = make(1)
    with pytest.raises(WorkerLostError, match="SystemExit"):
        pool.apply_async(lose_one_in_a_pool_of_its_own, (1,)).get(TIMEOUT)


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, record.getMessage()))


@pytest.fixture
def log():
    logger, handler = multiprocessing.get_logger(), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_log_of_a_lost_worker(make, log):
    pool = make(1)
    with pytest.raises(WorkerLostError) as caught:
        pool.apply_async(leave_at_three, (3, "SIGKILL")).get(TIMEOUT)
    check(pool)
    assert log == [("WARNING", str(caught.value))]


LOG = (
    """
import multiprocessing, sys
multiprocessing.log_to_stderr()
"""
    + RAISES
)


def test_log_of_a_broken_pool(python, tmp_path, start_method):
    if start_method == "fork":
        pytest.skip("imports no main module")
    (tmp_path / "program.py").write_text(LOG)
    output = python("-c", EITHER, "program.py", start_method)
    assert "[WARNING/MainProcess] the pool is broken: " in output or "no pool: " in output


#
# What a pool leaves behind
#


def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def files():
    return set(glob.glob("/dev/shm/*")) | set(glob.glob("/tmp/pymp-*"))


@pytest.mark.parametrize("end", ["close", "terminate"])
@linux
def test_nothing_is_left_behind(make, start_method, end):
    def use():
        pool = multiprocessing_initret.Pool(
            2, int, (40,), context=multiprocessing.get_context(start_method), expect_initret=True
        )
        found = outcomes(pool.imap(PartialOf(leave_at_three, "SIGKILL"), range(6)))
        assert is_lost(found[3])
        getattr(pool, end)()
        ends(pool)

    use()
    before = descriptors(), threading.active_count()
    for _ in range(8):
        use()
    wait_until(lambda: descriptors() <= before[0])
    assert threading.active_count() <= before[1]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("end", ["close", "terminate"])
@linux
@pytest.mark.skipif(not hasattr(sys, "getrefcount"), reason="all waits for it on PyPy")
def test_nothing_waits_for_the_garbage_collector(start_method, end, no_collector):
    def use():
        pool = multiprocessing_initret.Pool(
            2, int, (40,), context=multiprocessing.get_context(start_method), expect_initret=True
        )
        check(pool)
        getattr(pool, end)()
        ends(pool)
        del pool
        return len(os.listdir("/proc/self/fd"))

    before = use()
    assert [use() for _ in range(4)] == [before] * 4


#
# A killed fork server
#


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
    assert is_lost(outcome(inside), "left with exit code 255")
    check(pool)
    assert pool.apply_async(parent_pid, ("",)).get(TIMEOUT) != server
    # It was alive, and would have gone on beside its replacement.
    wait_until(lambda: not is_running(pid))


#
# How a process is told that a worker has left
#

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
    how = KILLED if start_method == "forkserver" and TELLS else "left with exit code 255"
    assert how in output[3] and how in output[8]


@needs_signals
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_no_descriptor_for_a_replacement(python, tmp_path, start_method, end):
    # One pool a process: a fork server that could not be sent all leaves, a little later.
    (tmp_path / "program.py").write_text(NOT_TOLD)
    output = python("program.py", start_method, "no descriptors", end).splitlines()
    assert len(output) == 5
    how = KILLED if start_method != "forkserver" or TELLS else "left with exit code 255"
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


#
# Out of memory
#

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
        assert "was killed by SIGKILL (by the system, if it was out of memory)" in lost
    assert lines == ["41", "42", "43", "44", "45"]
