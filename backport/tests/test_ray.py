"""Tests of multiprocessing_initret.ray on a cluster of one node, started by the tests."""

import functools
import gc
import inspect
import multiprocessing
import os
import signal
import sys
import threading

import conftest
import pytest
from conftest import TIMEOUT, wait_until

pytest.importorskip("ray")
pytest.importorskip("numpy")

import numpy  # noqa: E402
import ray  # noqa: E402
import ray.util.multiprocessing  # noqa: E402
from multiprocessing_initret.ray import Pool  # noqa: E402

# Pickle functions of these modules like those of __main__: actors cannot import the modules.
for module in (sys.modules[__name__], conftest):
    ray.cloudpickle.register_pickle_by_value(module)

MB = 10**6
LARGE = 64 * MB


@pytest.fixture(scope="module", autouse=True)
def one_node():
    ray.shutdown()
    ray.init(
        "local",
        num_cpus=4,
        object_store_memory=400 * MB,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def pool(one_node):
    with Pool(2, return_value, (40,), expect_initret=True) as pool:
        yield pool


def return_value(value):
    return value


def add(item, initret):
    return item + initret


def add_all(*items, initret):
    return sum(items) + initret


def add_named(item, initret, **kwargs):
    return item + initret, kwargs


def add_when_path_exists(path, initret):
    wait_until(path.exists)
    return initret


def test_methods(pool):
    assert pool.map(add, range(5)) == [40, 41, 42, 43, 44]
    assert pool.map_async(add, iter([1, 2])).get(TIMEOUT) == [41, 42]
    assert pool.starmap(add_all, [(1, 2), (3,), ()]) == [43, 43, 40]
    assert pool.starmap_async(add_all, [(1, 2), (3,), ()]).get(TIMEOUT) == [43, 43, 40]
    assert list(pool.imap(add, range(5))) == [40, 41, 42, 43, 44]
    assert sorted(pool.imap_unordered(add, range(5))) == [40, 41, 42, 43, 44]
    assert pool.apply(add, (1,)) == 41
    assert pool.apply_async(add_named, (1,), {"func": 2, "self": 3}).get(TIMEOUT) == (
        41,
        {"func": 2, "self": 3},
    )
    assert pool.apply(add, kwargs={"item": 2}) == 42


@pytest.mark.parametrize("chunksize", [1, 2, 5, 7])
def test_chunks(pool, chunksize):
    expected = [40, 41, 42, 43, 44]
    assert pool.map(add, range(5), chunksize) == expected
    assert pool.starmap(add_all, [(item,) for item in range(5)], chunksize) == expected
    assert list(pool.imap(add, iter(range(5)), chunksize)) == expected
    assert sorted(pool.imap_unordered(add, range(5), chunksize)) == expected


def test_empty_iterables(pool):
    assert pool.map(add, []) == []
    assert list(pool.imap(add, [])) == list(pool.imap_unordered(add, iter([]))) == []


def make_lock():
    """Return the process ID, and an object that cannot be pickled."""
    return os.getpid(), threading.Lock()


def identify(item, initret):
    pid, lock = initret
    return os.getpid(), pid, id(lock), lock.locked()


def test_each_actor_has_its_own_initret():
    with Pool(2, make_lock, expect_initret=True) as pool:
        seen = set(pool.map(identify, range(20), 1)) | set(pool.imap(identify, range(4)))
    assert len(seen) == 2
    assert {pid for pid, _, _, _ in seen} == {made_in for _, made_in, _, _ in seen}


def is_none(item, initret):
    return initret is None


def test_initret_may_be_false_or_none():
    with Pool(1, int, ray_remote_args={"num_cpus": 1}, expect_initret=True) as pool:
        assert pool.map(add, [1]) == [1]
    with Pool(1, return_value, [None], expect_initret=True) as pool:
        assert pool.map(is_none, [1, 2]) == [True, True]


def test_callbacks(pool):
    results, errors = [], []
    arrived = threading.Semaphore(0)

    def callback(result):
        results.append(result)
        arrived.release()

    def error_callback(error):
        errors.append(error)
        arrived.release()

    pool.apply_async(add, (1,), callback=callback, error_callback=error_callback)
    assert arrived.acquire(timeout=TIMEOUT)
    pool.map_async(add, [1, 2], callback=callback, error_callback=error_callback)
    assert arrived.acquire(timeout=TIMEOUT)
    # Ray's Pool passes the results to the callback in the order in which chunks finish.
    assert (results[0], sorted(results[1]), errors) == (41, [41, 42], [])
    pool.apply_async(add, ("1",), callback=callback, error_callback=error_callback)
    assert arrived.acquire(timeout=TIMEOUT)
    pool.starmap_async(add, [(1,), ("1",)], callback=callback, error_callback=error_callback)
    assert arrived.acquire(timeout=TIMEOUT)
    assert len(results) == 2 and [type(error) for error in errors] == [TypeError, TypeError]


def test_timeouts(pool, tmp_path):
    path = tmp_path / "created"
    result = pool.apply_async(add_when_path_exists, (path,))
    results = pool.imap(add_when_path_exists, [path])
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.01)
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(0.01)
    path.touch()
    assert result.get(TIMEOUT) == results.next(TIMEOUT) == 40


def name_when_path_exists(path, initret):
    wait_until(path.exists)
    return path.name


def test_order_of_results(pool, tmp_path):
    late, early = tmp_path / "late", tmp_path / "early"
    early.touch()
    ordered = pool.imap(name_when_path_exists, [late, early])
    with pytest.raises(multiprocessing.TimeoutError):
        ordered.next(0.01)
    late.touch()
    assert list(ordered) == ["late", "early"]

    late.unlink()
    unordered = pool.imap_unordered(name_when_path_exists, [late, early])
    assert unordered.next(TIMEOUT) == "early"
    late.touch()
    assert unordered.next(TIMEOUT) == "late"


def test_maxtasksperchild():
    with Pool(1, make_lock, maxtasksperchild=2, expect_initret=True) as pool:
        seen = [pool.apply(identify, (item,)) for item in range(5)]
    pids = [pid for pid, _, _, _ in seen]
    assert pids == [made_in for _, made_in, _, _ in seen]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
    assert len(set(pids)) == 3


def test_close_and_join(tmp_path):
    path = tmp_path / "created"
    pool = Pool(1, return_value, (40,), expect_initret=True)
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    result = pool.apply_async(add_when_path_exists, (path,))
    pool.close()
    for method in (pool.map, pool.starmap, pool.imap, pool.imap_unordered, pool.apply):
        with pytest.raises(ValueError, match="not running"):
            method(add, [1])
    path.touch()
    pool.join()
    assert result.get(TIMEOUT) == 40


def test_terminate(tmp_path):
    with Pool(1, return_value, (40,), expect_initret=True) as pool:
        result = pool.apply_async(add_when_path_exists, (tmp_path / "never",))
    with pytest.raises(ValueError, match="not running"):
        pool.map(add, [1])
    pool.join()
    with pytest.raises(ray.exceptions.RayActorError):
        result.get(TIMEOUT)


def test_class_and_signature():
    """The class is derived from Ray's own, and has one parameter more."""
    assert issubclass(Pool, ray.util.multiprocessing.Pool)
    rays_own = inspect.signature(ray.util.multiprocessing.Pool).parameters.values()
    *ours, last = inspect.signature(Pool).parameters.values()
    assert [(p.name, p.kind, p.default) for p in ours] == [
        (p.name, p.kind, p.default) for p in rays_own
    ]
    assert (last.name, last.kind, last.default) == ("expect_initret", last.KEYWORD_ONLY, False)


def double(item):
    return item * 2


def test_without_expect_initret():
    initargs = (40,)
    with Pool(1, return_value, initargs) as pool, ray.util.multiprocessing.Pool(1) as rays_own:
        assert pool.map(double, range(3)) == [0, 2, 4]
        for each in (pool, rays_own):
            [(actor, _)] = each._actor_pool
            assert repr(actor).startswith("Actor(PoolActor,")
        assert pool._initargs is initargs
        for method in ("imap", "imap_unordered"):
            ours, theirs = getattr(pool, method)(add, [1]), getattr(rays_own, method)(add, [1])
            assert type(ours) is type(theirs)
            assert isinstance(next(ours), ray.util.multiprocessing.pool.PoolTaskError)


def test_no_initializer(python, tmp_path):
    (tmp_path / "program.py").write_text(
        "import ray\n"
        "from multiprocessing_initret.ray import Pool\n"
        "try:\n"
        "    Pool(2, expect_initret=True)\n"
        "except ValueError as error:\n"
        "    print(error, ray.is_initialized())\n"
    )
    assert python("program.py") == "expect_initret requires an initializer False\n"


def test_without_ray(python, tmp_path):
    (tmp_path / "program.py").write_text(
        "import sys; sys.modules['ray'] = None\n"
        "import multiprocessing_initret\n"
        "import multiprocessing_initret.ray\n"
    )
    assert "python -m pip install ray" in python("program.py", code=1)


#
# Failures
#


def raised_by(pool, func, items):
    """Yield the exception that each method of the pool raises for these items."""
    calls = [
        lambda: pool.map(func, items),
        lambda: pool.map_async(func, items, 2).get(TIMEOUT),
        lambda: pool.starmap(func, [(item,) for item in items]),
        lambda: pool.starmap_async(func, [(item,) for item in items]).get(TIMEOUT),
        lambda: pool.apply(func, (items[0],)),
        lambda: pool.apply_async(func, (items[0],)).get(TIMEOUT),
        lambda: pool.imap(func, items).next(TIMEOUT),
        lambda: pool.imap_unordered(func, items, 2).next(TIMEOUT),
    ]
    for call in calls:
        with pytest.raises(Exception) as info:
            call()
        yield info.value


def fail(item, initret):
    raise LookupError("no luck with", item)


def test_failing_task(pool):
    for error in raised_by(pool, fail, [7, 7, 7]):
        assert type(error) is LookupError and error.args == ("no luck with", 7)
        assert "in fail\n" in str(error.__cause__)


def fail_at_one(item, initret):
    if item == 1:
        raise LookupError("no luck")
    return item


def count_failures(results, expected):
    """Consume an iterator of imap(), and return how many tasks raised the expected exception."""
    count = 0
    while True:
        try:
            results.next(TIMEOUT)
        except StopIteration:
            return count
        except expected:
            count += 1


def test_one_failing_task_of_several(pool):
    for method in (pool.imap, pool.imap_unordered):
        for chunksize in (1, 3):
            assert count_failures(method(fail_at_one, range(3), chunksize), LookupError) == 1
            results = method(fail_at_one, [0, 2, 1], chunksize)
            assert sorted([results.next(TIMEOUT), results.next(TIMEOUT)]) == [0, 2]


def return_error(item, initret):
    try:
        raise LookupError(item) from OSError()
    except LookupError as error:
        return error


def test_a_returned_exception_is_a_result_of_imap(pool):
    assert [type(result) for result in pool.imap(return_error, [1, 2])] == [LookupError] * 2


def test_type_errors_are_pythons_own(pool):
    for error in raised_by(pool, double, [1, 2]):
        assert type(error) is TypeError and "initret" in str(error)
    with pytest.raises(TypeError, match="multiple values for keyword argument 'initret'"):
        pool.apply(add, (1,), {"initret": 2})


class Awkward(Exception):
    """An exception that can be pickled but not unpickled."""

    def __init__(self, one, two):
        super().__init__(one)


def raise_awkward(item, initret):
    raise Awkward(1, 2)


def raise_lock(item, initret):
    raise LookupError(threading.Lock())


@pytest.mark.parametrize("function, word", [(raise_lock, "lock"), (raise_awkward, "Awkward")])
def test_exception_that_cannot_be_pickled(pool, function, word):
    for error in raised_by(pool, function, [1]):
        assert type(error) is multiprocessing.pool.MaybeEncodingError
        assert word in str(error) and function.__name__ in str(error.__cause__)


def broken_iterable():
    yield 1
    yield 2
    raise OSError("no more") from LookupError()


class BrokenSequence:
    def __len__(self):
        return 3

    def __iter__(self):
        return broken_iterable()


@pytest.mark.parametrize("make", [broken_iterable, BrokenSequence])
def test_iterable_raises(pool, make):
    for method in (pool.map, pool.map_async):
        with pytest.raises(OSError, match="no more"):
            method(add, make())
    for method in (pool.imap, pool.imap_unordered):
        results = method(add, make(), 1)
        assert sorted([results.next(TIMEOUT), results.next(TIMEOUT)]) == [41, 42]
        with pytest.raises(OSError, match="no more") as info:
            results.next(TIMEOUT)
        assert type(info.value.__cause__) is LookupError
        for _ in range(2):
            with pytest.raises(StopIteration):
                results.next(TIMEOUT)
    assert pool.map(add, [1]) == [41]


def connect(database, runs):
    with open(str(runs), "a") as file:
        file.write(f"{os.getpid()}\n")
    if not database.exists():
        raise ConnectionRefusedError("the database is down")
    return 40


def test_failing_initializer(tmp_path):
    database, runs = tmp_path / "database", tmp_path / "runs"
    with Pool(2, connect, (database, runs), expect_initret=True) as pool:
        assert len(set(runs.read_text().split())) == 2
        for error in raised_by(pool, add, [1, 2, 3, 4]):
            assert type(error) is ConnectionRefusedError
            assert error.args == ("the database is down",)
            assert "in connect\n" in str(error.__cause__)

        assert count_failures(pool.imap(add, range(4), 2), ConnectionRefusedError) == 4

        before = len(runs.read_text().split())
        with pytest.raises(ConnectionRefusedError):
            pool.map(add, range(40), chunksize=20)
        assert len(runs.read_text().split()) == before + 2  # a chunk is one task

        database.touch()
        assert pool.map(add, range(40), chunksize=2) == list(range(40, 80))
        assert len(runs.read_text().split()) == before + 4
        database.unlink()
        assert pool.map(add, range(40)) == list(range(40, 80))


def test_a_transient_failure_costs_no_task(tmp_path):
    database, runs = tmp_path / "database", tmp_path / "runs"
    with Pool(2, connect, (database, runs), expect_initret=True) as pool:
        assert len(runs.read_text().split()) == 2
        database.touch()
        assert list(pool.imap(add, range(8))) == list(range(40, 48))
        assert len(runs.read_text().split()) == 4


def get_pid(item, initret):
    return os.getpid()


def exit_actor(item, initret):
    os._exit(1)


def test_actor_that_exits():
    with Pool(2, return_value, (40,), expect_initret=True) as pool:
        with pytest.raises(ray.exceptions.RayActorError):
            pool.apply_async(exit_actor, (1,)).get(TIMEOUT)
        # Ray's Pool does not replace the actor, and keeps sending it every second task.
        results = []
        for _ in range(4):
            try:
                results.append(pool.apply_async(add, (1,)).get(TIMEOUT))
            except ray.exceptions.RayActorError:
                results.append(None)
        assert results in ([41, None] * 2, [None, 41] * 2)
        with pytest.raises(ray.exceptions.RayActorError):
            pool.map_async(add, range(4)).get(TIMEOUT)
        with pytest.raises(ray.exceptions.RayActorError):
            for _ in pool.imap(add, range(4)):
                pass


def test_actor_killed_while_idle():
    with Pool(1, return_value, (40,), expect_initret=True) as pool:
        os.kill(pool.apply(get_pid, (1,)), signal.SIGKILL)
        with pytest.raises(ray.exceptions.RayActorError):
            pool.apply_async(add, (1,)).get(TIMEOUT)


def test_killed_actor_that_ray_restarts():
    options = {"max_restarts": 1, "max_task_retries": 1}
    with Pool(1, make_lock, ray_remote_args=options, expect_initret=True) as pool:
        killed = pool.apply(get_pid, (1,))
        os.kill(killed, signal.SIGKILL)
        pid, made_in, _, _ = pool.apply_async(identify, (1,)).get(TIMEOUT)
    assert pid == made_in != killed


def exit_initializer():
    sys.exit(1)


def test_initializer_that_exits():
    with pytest.raises(ray.exceptions.RayActorError):
        Pool(1, exit_initializer, expect_initret=True)


#
# The object store
#


def used_memory():
    gc.collect()
    return (
        ray.cluster_resources()["object_store_memory"]
        - ray.available_resources()["object_store_memory"]
    )


def describe(item, initret):
    return os.getpid(), (float(initret.sum()), initret.flags.owndata, initret.flags.writeable)


def first_of(values):
    return values[0]


@pytest.mark.parametrize("nested", [False, True])
def test_initargs_are_stored_once(nested):
    wait_until(lambda: used_memory() < MB)
    array = numpy.ones(LARGE // 8)
    initializer, initargs = (first_of, ([array],)) if nested else (return_value, (array,))
    with Pool(4, initializer, initargs, expect_initret=True) as pool:
        seen = pool.map(describe, range(4), 1)
        # When this array is reported as stored, everything that the actors stored is too.
        marker = ray.put(numpy.ones(LARGE // 8))
        wait_until(lambda: used_memory() >= 2 * LARGE)
        assert used_memory() < 2 * LARGE + MB
        del marker
    assert len({pid for pid, _ in seen}) == 4
    assert {array for _, array in seen} == {(LARGE / 8, False, False)}
    del pool
    wait_until(lambda: used_memory() < MB)


def test_data_of_the_initializer_are_stored_once():
    initializer = functools.partial(first_of, [numpy.arange(3)])
    with Pool(1, initializer, expect_initret=True) as pool:
        assert pool.apply(describe, (1,))[1] == (3, False, False)


#
# Functions of __main__
#

PROGRAM = """
import sys
from multiprocessing_initret.ray import Pool

def set_global(value):
    global number
    number = value

def add_global(item):
    return item + number

def return_value(value):
    return value

def add(item, initret):
    return item + initret

if __name__ == "__main__":
    with Pool(2, return_value, (40,), ray_address=sys.argv[1], expect_initret=True) as pool:
        print(pool.map(add, range(3)))
    with Pool(2, set_global, (40,), ray_address=sys.argv[1]) as pool:
        print(pool.map(add_global, range(3)))
"""


def test_globals_are_not_visible(python, tmp_path):
    """On Ray, functions do not see a global that the initializer sets; they receive initret."""
    (tmp_path / "program.py").write_text(PROGRAM)
    address = ray.get_runtime_context().gcs_address
    assert "NameError: name 'number' is not defined" in python("program.py", address, code=1)
    (tmp_path / "program.py").write_text("".join(PROGRAM.splitlines(True)[:-2]))
    assert "[40, 41, 42]\n" in python("program.py", address)  # among Ray's messages


MOVED = """
from {} import Pool
import numpy

def total(table, factor):
    return table.sum() * factor

def add(item, initret):
    return float(item + initret)

if __name__ == "__main__":
    with Pool(2, total, (numpy.arange(5), 4), expect_initret=True) as pool:
        print(pool.map(add, range(3)))
"""


@pytest.mark.parametrize("module", ["multiprocessing_initret", "multiprocessing_initret.ray"])
def test_a_script_moves_by_one_import(python, tmp_path, module):
    (tmp_path / "program.py").write_text(MOVED.format(module))
    address = ray.get_runtime_context().gcs_address
    assert "[40.0, 41.0, 42.0]\n" in python("program.py", RAY_ADDRESS=address)
