"""The executors of concurrent.futures, with the keyword and without."""

import concurrent.futures
import contextlib
import functools
import gc
import inspect
import mmap
import multiprocessing
import os
import pickle
import platform
import select
import shutil
import sys
import tempfile
import threading
import weakref

import pytest
from conftest import TIMEOUT, linux, wait_until
from multiprocessing_initret import _executor, futures

START_METHODS = multiprocessing.get_all_start_methods()
INTERPRETERS = ["interpreters"] if hasattr(concurrent.futures, "InterpreterPoolExecutor") else []
KINDS = START_METHODS + ["threads"] + INTERPRETERS
NAMES = [name for name in dir(concurrent.futures) if name.endswith("PoolExecutor")]

with_initializers = pytest.mark.skipif(
    sys.version_info < (3, 7), reason="executors have no initializer"
)
collected_at_once = pytest.mark.skipif(
    platform.python_implementation() != "CPython", reason="no reference counts"
)


@pytest.fixture(params=KINDS)
def kind(request):
    yield request.param
    if request.param == "interpreters":
        # When a process that has several forks, the child crashes (gh-139759).
        gc.collect()
        wait_until(lambda: len(concurrent.interpreters.list_all()) == 1)


def make(kind, workers, initializer, initargs=(), stock=False, **kwds):
    module = concurrent.futures if stock else futures
    if not stock:
        kwds.setdefault("expect_initret", True)
    if kind in START_METHODS:
        kwds["mp_context"] = multiprocessing.get_context(kind)
        executor = module.ProcessPoolExecutor
    elif kind == "threads":
        executor = module.ThreadPoolExecutor
    else:
        executor = module.InterpreterPoolExecutor
    return executor(workers, initializer=initializer, initargs=initargs, **kwds)


# An interpreter does not find this module. It is sent the code of a function
# where that is all there is to it: no global, no closure.


def give(value):
    return value


def give_lock():
    import threading

    return threading.Lock()


def add(item, initret):
    return item + initret


def add_both(item, other, initret):
    return item + other + initret


def check_lock(item, initret):
    with initret:
        return item


def without(item):
    return item


def which(item, initret):
    import os

    return os.getpid(), id(initret)


def meet(initret):
    """Return which value this is, when as many workers have come as there are."""
    import os

    initret["wait"](60)
    return os.getpid(), id(initret)


def fail():
    raise LookupError("no luck")


def fail_saying(text):
    raise LookupError(text)


def fail_unpicklably():
    class Strange(Exception):
        def __init__(self, one, other):
            super().__init__(one)
            self.other = lambda: other

    raise Strange("no luck", 1)


def leave():
    raise SystemExit("no luck")


@with_initializers
def test_submit(kind):
    with make(kind, 2, give, (40,)) as executor:
        assert executor.submit(add, 1).result(TIMEOUT) == 41
        assert executor.submit(add, item=1).result(TIMEOUT) == 41
        assert executor.submit(add_both, 1, other=2).result(TIMEOUT) == 43


@with_initializers
def test_names_of_arguments(kind):
    with make(kind, 1, give, (40,)) as executor:
        names = dict.fromkeys(["self", "fn", "args", "kwargs", "keeper"], 1)
        result = executor.submit(dict, **names).result(TIMEOUT)
        assert result == dict(names, initret=40)
        with pytest.raises(TypeError):
            executor.submit()


@with_initializers
@pytest.mark.parametrize("chunksize", [1, 2])
def test_map(kind, chunksize):
    with make(kind, 2, give, (40,)) as executor:

        def mapped(*args):
            return list(executor.map(*args, timeout=TIMEOUT, chunksize=chunksize))

        assert mapped(add, range(5)) == [40, 41, 42, 43, 44]
        assert mapped(add_both, range(5), [1, 2, 3]) == [41, 43, 45]
        assert mapped(add, []) == []


@with_initializers
def test_partial(kind):
    with make(kind, 1, give, (40,)) as executor:
        partial = functools.partial(dict, other=1)
        expected = {"item": 2, "other": 1, "initret": 40}
        assert executor.submit(partial, item=2).result(TIMEOUT) == expected
        for chunksize in 1, 2:
            mapped = executor.map(partial, [[("item", 2)]], chunksize=chunksize, timeout=TIMEOUT)
            assert list(mapped) == [expected]


@with_initializers
@pytest.mark.parametrize("value", [None, ()])
def test_falsy_values(kind, value):
    with make(kind, 1, give, (value,)) as executor:
        assert executor.submit(dict).result(TIMEOUT) == {"initret": value}


@with_initializers
def test_a_value_that_cannot_be_pickled(kind):
    with make(kind, 1, give_lock) as executor:
        assert executor.submit(check_lock, 1).result(TIMEOUT) == 1
        mapped = executor.map(check_lock, range(3), timeout=TIMEOUT, chunksize=2)
        assert list(mapped) == [0, 1, 2]


def own(wait):
    return {"wait": wait}


def own_of_interpreter(come, go):
    import os

    def wait(timeout):
        os.write(come, b".")
        os.read(go, 1)

    return {"wait": wait}


@with_initializers
def test_each_worker_its_own_value(kind):
    if kind in INTERPRETERS:
        (coming, come), (go, going) = os.pipe(), os.pipe()
        initializer, initargs = own_of_interpreter, (come, go)
    else:
        of = threading if kind == "threads" else multiprocessing.get_context(kind)
        initializer, initargs = own, (of.Barrier(2).wait,)
    with make(kind, 2, initializer, initargs) as executor:
        met = [executor.submit(meet) for _ in range(2)]
        if kind in INTERPRETERS:
            for _ in met:
                assert select.select([coming], [], [], TIMEOUT)[0]
                os.read(coming, 1)
            os.write(going, b"..")
        values = {future.result(TIMEOUT) for future in met}
        assert len(values) == 2
        assert set(executor.map(which, range(20), timeout=TIMEOUT)) <= values
        assert set(executor.map(which, range(20), timeout=TIMEOUT, chunksize=3)) <= values
    if kind in INTERPRETERS:
        for end in (coming, come, go, going):
            os.close(end)


def values_of_threads(initret):
    one, other = (make("threads", 1, give, (value,)) for value in (1, 2))
    with one, other:
        return [executor.submit(add, 10).result(TIMEOUT) for executor in (one, other) * 2], initret


def value_of_child(method, initret):
    with make(method, 1, give, (3,)) as executor:
        return executor.submit(add, 10).result(TIMEOUT), initret


@with_initializers
@pytest.mark.parametrize("kind", START_METHODS + ["threads"])
def test_values_do_not_mix(kind):
    with make(kind, 1, give, (4,)) as executor:
        assert executor.submit(values_of_threads).result(TIMEOUT) == ([11, 12, 11, 12], 4)
        # What serves other processes that start is of no use to a fork of its own.
        method = "fork" if kind == "fork" else "spawn"
        assert executor.submit(value_of_child, method).result(TIMEOUT) == (13, 4)
        assert executor.submit(add, 10).result(TIMEOUT) == 14


@with_initializers
def test_threads_of_two_executors():
    with make("threads", 1, give, (1,)) as one, make("threads", 1, give, (2,)) as other:
        submitted = [executor.submit(add, 10) for executor in (one, other) * 5]
        assert [future.result(TIMEOUT) for future in submitted] == [11, 12] * 5


@with_initializers
def test_type_errors_are_pythons_own(kind):
    with make(kind, 1, give, (40,)) as executor:
        with pytest.raises(TypeError, match="multiple values.*initret"):
            executor.submit(add, 1, initret=2).result(TIMEOUT)
        for chunksize in 1, 2:
            with pytest.raises(TypeError, match="keyword"):
                list(executor.map(abs, [1, 2], chunksize=chunksize, timeout=TIMEOUT))
        assert executor.submit(add, 1).result(TIMEOUT) == 41


@with_initializers
@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments(name):
    executor = getattr(futures, name)
    with pytest.raises(ValueError, match="expect_initret requires an initializer"):
        executor(2, expect_initret=True)
    with pytest.raises(TypeError, match="initializer"):
        executor(2, initializer=1, expect_initret=True)
    with pytest.raises(TypeError, match="no_such_argument"):
        executor(2, initializer=give, no_such_argument=1, expect_initret=True)
    with pytest.raises(ValueError, match="max_workers"):
        executor(0, initializer=give, expect_initret=True)


#
# Initializers that fail
#


def check_broken(executor, submitted, text):
    """Check what a broken executor says: in its futures, and instead of more."""
    for future in submitted:
        error = future.exception(TIMEOUT)
        assert isinstance(error, concurrent.futures.BrokenExecutor)
        assert type(error).__name__ == "Broken" + type(executor).__name__[: -len("Executor")]
        assert text in str(error) and "Traceback" in str(error)
    for _ in range(2):
        with pytest.raises(type(error)) as raised:
            executor.submit(add, 1)
        assert text in str(raised.value) and "Traceback" in str(raised.value)
    with pytest.raises(type(error)):
        list(executor.map(add, [1], timeout=TIMEOUT))


def submit_many(executor, fn, *args):
    """Submit tasks as long as the executor takes them, which it does at first."""
    submitted = [executor.submit(fn, *args)]
    with contextlib.suppress(concurrent.futures.BrokenExecutor):
        for _ in range(20):
            submitted.append(executor.submit(fn, *args))
    return submitted


@with_initializers
@pytest.mark.parametrize("initializer", [fail, fail_unpicklably, leave])
def test_failing_initializer(kind, initializer):
    with make(kind, 2, initializer) as executor:
        check_broken(executor, submit_many(executor, add, 1), "no luck")


class SlowPending(dict):
    """The tasks of an executor, with time for it to break while one is added."""

    def __init__(self):
        self.listed = threading.Event()

    def __setitem__(self, number, item):
        if number:
            self.listed.wait(0.5)
        super().__setitem__(number, item)

    def __iter__(self):
        self.listed.set()
        return super().__iter__()

    def items(self):
        self.listed.set()
        return super().items()


def exit_at_once(*args, **kwds):
    os._exit(1)


@with_initializers
@pytest.mark.skipif("fork" not in START_METHODS, reason="others break later than that")
@pytest.mark.parametrize("initializer, text", [(fail, "no luck"), (exit_at_once, "terminated")])
def test_no_task_is_added_while_it_breaks(initializer, text):
    with make("fork", 1, initializer) as executor:
        executor._pending_work_items = SlowPending()
        for future in submit_many(executor, add, 1):
            error = future.exception(TIMEOUT)
            assert isinstance(error, concurrent.futures.BrokenExecutor) and text in str(error)


def fail_later(path):
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.01)
    raise LookupError("no luck")


@with_initializers
def test_only_the_future_is_kept(kind, tmp_path):
    path = tmp_path / "now"
    submitted = submit_many(make(kind, 2, fail_later, (str(path),)), add, 1)
    gc.collect()
    path.touch()
    for future in submitted:
        error = future.exception(TIMEOUT)
        assert isinstance(error, concurrent.futures.BrokenExecutor)
        assert "LookupError: no luck" in str(error)


@with_initializers
def test_failing_initializer_with_much_to_say(kind):
    # More than a pipe holds, from several workers at once.
    text = "no luck " * 2**17
    with make(kind, 4, fail_saying, (text,)) as executor:
        check_broken(executor, submit_many(executor, add, 1), text)


@with_initializers
def test_failing_initializer_without_tasks(kind):
    with make(kind, 2, fail):
        pass


@pytest.mark.skipif(sys.version_info < (3, 9), reason="such tasks are lost")
def test_failing_initializer_after_shutdown(kind):
    executor = make(kind, 2, fail)
    submitted = submit_many(executor, add, 1)
    executor.shutdown(wait=False)
    for future in submitted:
        with pytest.raises(concurrent.futures.BrokenExecutor, match="no luck"):
            future.result(TIMEOUT)
    executor.shutdown()


@with_initializers
def test_failing_initializer_with_cancelled_tasks(start_method):
    executor = make(start_method, 1, fail)
    submitted = submit_many(executor, add, 1)
    for future in submitted[::2]:
        future.cancel()
    if sys.version_info >= (3, 9):
        executor.shutdown(wait=False, cancel_futures=True)
    for future in submitted:
        if not future.cancelled():
            with pytest.raises(concurrent.futures.BrokenExecutor, match="no luck"):
                future.result(TIMEOUT)
    executor.shutdown()


@with_initializers
def test_who_waits_hears_of_cancelled_tasks(kind, tmp_path):
    path = tmp_path / "now"
    with make(kind, 1, fail_later, (str(path),)) as executor:
        submitted = submit_many(executor, add, 1)
        cancelled = [future.cancel() for future in submitted[::2]]
        assert any(cancelled)
        path.touch()
        done, waiting = concurrent.futures.wait(submitted, TIMEOUT)
        assert not waiting
        for future in done:
            assert future.cancelled() or "no luck" in str(future.exception())


@with_initializers
def test_a_callback_that_submits(kind):
    raised = []

    def submit(future):
        try:
            executor.submit(add, 1)
        except concurrent.futures.BrokenExecutor as error:
            raised.append(error)

    with make(kind, 1, fail) as executor:
        future = executor.submit(add, 1)
        future.add_done_callback(submit)
        check_broken(executor, [future], "no luck")
        wait_until(lambda: raised)


def give_or_wait(permits, event):
    if not permits.acquire(False):
        event.wait(TIMEOUT)
        raise LookupError("no luck")


@with_initializers
def test_one_thread_fails_after_shutdown_while_another_works():
    fail_now, work = threading.Event(), threading.Event()
    initargs = threading.Semaphore(1), fail_now
    executor = make("threads", 2, give_or_wait, initargs)
    working = executor.submit(lambda initret: work.wait(TIMEOUT))
    wait_until(working.running)
    executor.submit(without, 1)  # starts the other
    executor.shutdown(wait=False)
    fail_now.set()
    wait_until(lambda: sum(thread.is_alive() for thread in executor._threads) == 1)
    work.set()
    for thread in executor._threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def give_once(permits, value):
    if not permits.acquire(False):
        raise LookupError("no luck")
    return value


def wait_for(initret):
    return initret.wait(TIMEOUT)


@with_initializers
def test_one_worker_fails_while_another_works(start_method):
    context = multiprocessing.get_context(start_method)
    initargs = context.Semaphore(1), context.Event()
    with make(start_method, 2, give_once, initargs) as executor:
        check_broken(executor, submit_many(executor, wait_for), "no luck")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no max_tasks_per_child")
@pytest.mark.parametrize("method", [method for method in START_METHODS if method != "fork"])
def test_max_tasks_per_child(method):
    initargs = multiprocessing.get_context(method).Semaphore(2), 40
    with make(method, 1, give_once, initargs, max_tasks_per_child=1) as executor:
        for item in range(2):
            assert executor.submit(add, item).result(TIMEOUT) == 40 + item
        with pytest.raises(concurrent.futures.BrokenExecutor, match="no luck"):
            executor.submit(add, 1).result(TIMEOUT)


@with_initializers
def test_a_worker_that_dies(start_method):
    with make(start_method, 1, give, (40,)) as executor:
        with pytest.raises(concurrent.futures.BrokenExecutor) as raised:
            executor.submit(exit_at_once).result(TIMEOUT)
        assert "initializer" not in str(raised.value)
        with pytest.raises(concurrent.futures.BrokenExecutor) as raised:
            executor.submit(add, 1)
        assert "initializer" not in str(raised.value)


#
# What the parent made reaches all workers once
#

spawning = pytest.mark.parametrize("method", [name for name in START_METHODS if name != "fork"])
shares = pytest.mark.skipif(pickle.HIGHEST_PROTOCOL < 5, reason="no buffers beside a pickle")


class Array:
    """An object with a buffer, as a NumPy array has."""

    def __init__(self, data):
        self.data = memoryview(data)

    def __reduce_ex__(self, protocol):
        return Array, (pickle.PickleBuffer(self.data),)


class Counted:
    pickled = 0

    def __reduce__(self):
        Counted.pickled += 1
        return Counted, ()


class NotPickled:
    def __reduce__(self):
        raise LookupError("not to be pickled")


class NotUnpickled:
    """What can be pickled, and called, and not unpickled."""

    def __reduce__(self):
        return fail_saying, ("not to be unpickled",)

    def __call__(self):
        pass


def all_of(*args):
    return args


def tell_type(value):
    return type(value)


def write(number, initret):
    """Write to this worker's array, once the other has come to write to its own."""
    array, barrier, lock = initret
    barrier.wait(TIMEOUT)
    with lock:
        before = bytes(array.data)
        array.data[0] = number
    barrier.wait(TIMEOUT)
    with open("/proc/self/maps") as maps:
        files = {line.split()[4] for line in maps if "multiprocessing_initret (deleted)" in line}
    return os.getpid(), type(array.data.obj), files, before, bytes(array.data)


@spawning
@shares
@linux
def test_arrays_are_shared_until_written_to(method):
    context = multiprocessing.get_context(method)
    array = Array(bytearray(b"parent"))
    initargs = array, context.Barrier(2), context.Lock()
    with make(method, 2, all_of, initargs) as executor:
        for _ in range(2):
            written = [executor.submit(write, ord(letter)) for letter in "PQ"]
            seen = [future.result(TIMEOUT) for future in written]
            pids, kinds, files, _, after = zip(*seen)
            assert len(set(pids)) == 2 and set(kinds) == {mmap.mmap}
            assert files[0] == files[1] and len(files[0]) == 1
            assert after == (b"Parent", b"Qarent")
    assert bytes(array.data) == b"parent"


@spawning
@shares
def test_pickled_once(method, monkeypatch):
    monkeypatch.setattr(Counted, "pickled", 0)
    kwds = {"max_tasks_per_child": 1} if sys.version_info >= (3, 11) else {}
    with make(method, 2, tell_type, (Counted(),), **kwds) as executor:
        for submitted in [executor.submit(dict) for _ in range(4)]:
            assert submitted.result(TIMEOUT) == {"initret": Counted}
    assert Counted.pickled == 1


@spawning
@with_initializers
@pytest.mark.parametrize(
    "initializer, initargs", [(all_of, ([NotUnpickled()],)), (NotUnpickled(), ())]
)
def test_what_cannot_be_unpickled(method, initializer, initargs):
    with make(method, 2, initializer, initargs) as executor:
        check_broken(executor, submit_many(executor, add, 1), "LookupError: not to be unpickled")


@spawning
@with_initializers
def test_initargs_that_cannot_be_pickled(method, alone):
    with make(method, 1, all_of, (NotPickled(),)) as executor:
        for _ in range(2):
            with pytest.raises(LookupError, match="not to be pickled"):
                executor.submit(dict)
    assert multiprocessing.active_children() == []


@pytest.mark.skipif("fork" not in START_METHODS, reason="others pickle it")
@with_initializers
def test_inherited_initargs_are_not_pickled():
    with make("fork", 1, tell_type, (NotPickled(),)) as executor:
        assert executor.submit(dict).result(TIMEOUT) == {"initret": NotPickled}


#
# With the keyword off
#


@pytest.mark.parametrize("name", NAMES)
def test_off(name):
    ours, stock = getattr(futures, name), getattr(concurrent.futures, name)
    with ours(2) as executor, stock(2) as other:
        assert type(executor) is ours and issubclass(ours, stock)
        assert ours.map is stock.map
        assert sorted(vars(executor)) == sorted(vars(other))
        assert executor.submit(without, 1).result(TIMEOUT) == 1
        assert list(executor.map(without, range(3), timeout=TIMEOUT)) == [0, 1, 2]


@with_initializers
def test_off_with_an_initializer(kind):
    with make(kind, 1, give, (40,), expect_initret=False) as executor:
        assert executor.submit(without, 1).result(TIMEOUT) == 1
        with pytest.raises(TypeError, match="initret"):
            executor.submit(add, 1).result(TIMEOUT)
    said = []
    for stock in {"stock": True}, {"expect_initret": False}:
        with make(kind, 1, fail, **stock) as executor:
            error = executor.submit(without, 1).exception(TIMEOUT)
            said.append((type(error), str(error)))
    assert said[0] == said[1]


@pytest.mark.skipif(sys.version_info >= (3, 7), reason="executors have initializers")
@pytest.mark.parametrize("name", NAMES)
def test_too_old(name):
    with pytest.raises(NotImplementedError, match="3.7"):
        getattr(futures, name)(2, expect_initret=True)


@pytest.mark.parametrize("name", NAMES)
def test_signature(name):
    stock = inspect.signature(getattr(concurrent.futures, name))
    ours = inspect.signature(getattr(futures, name))
    parameters = dict(ours.parameters)
    keyword = parameters.pop("expect_initret")
    assert keyword.kind is keyword.KEYWORD_ONLY and keyword.default is False
    # Some are younger than this Python's own executor.
    common = [parameter for name, parameter in parameters.items() if name in stock.parameters]
    assert common == list(stock.parameters.values())


@pytest.mark.parametrize("name", NAMES)
def test_signatures_of_methods(name):
    ours, stock = getattr(futures, name), getattr(concurrent.futures, name)
    for method in "submit", "map", "shutdown":
        assert inspect.signature(getattr(ours, method)) == inspect.signature(getattr(stock, method))


def test_public_names():
    assert sorted(futures.__all__) == NAMES
    assert all(hasattr(futures, name) for name in NAMES)


#
# As the stock executors are, in other ways
#


class Noting(futures.ThreadPoolExecutor):
    """One that others have derived."""

    def __init__(self, value, **kwds):
        super().__init__(1, initializer=give, initargs=(value,), **kwds)
        self.submitted = []

    def submit(self, fn, *args, **kwargs):
        self.submitted.append(fn)
        return super().submit(fn, *args, **kwargs)


@with_initializers
def test_subclass():
    with Noting(40, expect_initret=True) as executor:
        assert type(executor) is Noting
        assert executor.submit(add, 1).result(TIMEOUT) == 41
        assert list(executor.map(add, [1, 2], timeout=TIMEOUT)) == [41, 42]
        assert executor.submitted == [add] * 3
    with Noting(40) as executor:
        assert type(executor) is Noting
        assert executor.submit(without, 1).result(TIMEOUT) == 1


class Scratch:
    def __init__(self, parent):
        self.path = tempfile.mkdtemp(dir=parent)
        weakref.finalize(self, shutil.rmtree, self.path)


def write_file(number, initret):
    with open(os.path.join(initret.path, str(number)), "w") as file:
        return file.write("x" * number)


@with_initializers
@collected_at_once
def test_value_is_dropped_when_a_worker_leaves(kind):
    if kind == "interpreters":
        pytest.skip("does not find this module")
    # That of the parent, too, is a finalizer.
    with tempfile.TemporaryDirectory() as parent:
        with make(kind, 2, Scratch, (parent,)) as executor:
            assert list(executor.map(write_file, range(5), timeout=TIMEOUT)) == list(range(5))
        assert os.listdir(parent) == []


@with_initializers
def test_no_class_is_left(kind):
    executors = [make(kind, 1, give, (40,)) for _ in range(3)]
    assert {type(executor) for executor in executors} <= {getattr(futures, name) for name in NAMES}


@with_initializers
@collected_at_once
def test_collected_when_dropped(kind, no_collector):
    executor = make(kind, 1, give, (40,))
    assert executor.submit(add, 1).result(TIMEOUT) == 41
    failed = executor.submit(add, "1")  # its exception has frames of the thread
    assert isinstance(failed.exception(TIMEOUT), TypeError)
    reference = weakref.ref(executor)
    del executor
    # A thread that looks whether it is there has it for a moment.
    wait_until(lambda: reference() is None)


@pytest.mark.skipif(sys.version_info < (3, 9), reason="shutdown() closes none, collection does")
@collected_at_once
@linux
@pytest.mark.parametrize("initializer", [dict, fail])
def test_shutdown_closes_all_pipes(start_method, initializer, no_collector):
    def open_files():
        executor = make(start_method, 1, initializer)
        executor.submit(dict).exception(TIMEOUT)
        executor.shutdown()
        kept.append(executor)
        return len(os.listdir("/proc/self/fd"))

    kept = []
    open_files()  # The first starts what outlives it, a server for instance.
    assert open_files() == open_files()


@pytest.mark.skipif(sys.version_info < (3, 9), reason="shutdown() closes none, collection does")
@collected_at_once
@linux
def test_shutdown_without_waiting_closes_all_pipes(start_method, no_collector):
    def use():
        executor = make(start_method, 1, give, (40,))
        assert executor.submit(add, 1).result(TIMEOUT) == 41
        manager = executor._executor_manager_thread
        executor.shutdown(wait=False)
        manager.join(TIMEOUT)
        kept.append(executor)

    def count():
        return len(os.listdir("/proc/self/fd"))

    kept = []
    use()  # The first starts what outlives it, a server for instance.
    before = count()
    for _ in range(4):
        use()
    wait_until(lambda: count() <= before)  # another thread may close the last


@pytest.mark.skipif(
    sys.version_info < (3, 14, 10) or (3, 15) <= sys.version_info < (3, 15, 2),
    reason="no worker is replaced then (gh-119592)",
)
def test_replaced_after_shutdown():
    with make("spawn", 1, give, (40,), max_tasks_per_child=1) as executor:
        results = [executor.submit(add, i) for i in range(4)]
        executor.shutdown(wait=False)
    assert [result.result(TIMEOUT) for result in results] == [40, 41, 42, 43]


class Messages(list):
    put = list.append


def test_a_traceback_is_sent_in_pieces():
    """Each is in a pipe whole, or the parent might wait for the rest of one."""
    messages = Messages()
    _executor._send(messages, os.getpid(), "\U0001f40d" * 10000)
    assert len(messages) > 10
    for message in messages:
        assert len(multiprocessing.reduction.ForkingPickler.dumps(message)) < 4000


def fail_second(first, begun):
    if not first.acquire(False):
        assert begun.wait(TIMEOUT)
        raise LookupError("no luck")


@linux
@pytest.mark.skipif(sys.version_info < (3, 13), reason="the stock class waits (gh-105829)")
def test_fails_while_submit_waits():
    """The pipe that wakes the thread of the results is full, and a submit() has the lock."""
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    results = []

    def callback(_):
        begun.set()
        wait_until(lambda: len(results) >= 65536 // 4)

    def submit():
        with contextlib.suppress(futures._process.BrokenProcessPool):
            while len(results) < 20000:
                results.append(executor.submit(without, 1))

    executor = make("fork", 2, fail_second, (context.Semaphore(1), begun))
    executor.submit(add, "1").add_done_callback(callback)
    assert begun.wait(TIMEOUT)
    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert {type(result.exception(TIMEOUT)) for result in results}
    executor.shutdown()


@linux
@pytest.mark.skipif(sys.version_info < (3, 13), reason="the stock class waits (gh-105829)")
def test_fails_while_that_pipe_is_filled():
    executor = make("fork", 1, give, (40,))
    assert executor.submit(add, 1).result(TIMEOUT) == 41

    def wake():
        with executor._shutdown_lock:  # as submit() does
            _executor._send(executor._result_queue, 0, "no luck")
            for _ in range(60000):
                executor._executor_manager_thread_wakeup.wakeup()

    thread = threading.Thread(target=wake, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    executor._executor_manager_thread.join(TIMEOUT)
    with pytest.raises(futures._process.BrokenProcessPool, match="no luck"):
        executor.submit(add, 1)
    executor.shutdown()


PROGRAM = """
import concurrent.futures, multiprocessing, os, sys
from multiprocessing_initret import futures

class Value:
    number = 40
    def __reduce__(self):
        raise TypeError("this must not be pickled")

def give(value):
    return value()

def add(item, initret):
    return item + initret.number, isinstance(initret, Value)

def fail():
    raise LookupError("no luck")

if __name__ == "__main__":
    kind = sys.argv[1]
    if kind in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method(kind)
        cls = futures.ProcessPoolExecutor
    elif kind == "threads":
        cls = futures.ThreadPoolExecutor
    else:
        cls = futures.InterpreterPoolExecutor
    with cls(2, initializer=give, initargs=(Value,), expect_initret=True) as executor:
        print(executor.submit(add, 1).result(60))
        print(list(executor.map(add, range(2), chunksize=2, timeout=60)))
    with cls(2, initializer=fail, expect_initret=True) as executor:
        try:
            executor.submit(add, 1).result(60)
        except concurrent.futures.BrokenExecutor as error:
            print("LookupError: no luck" in str(error))
"""


@with_initializers
def test_functions_of_main(python, tmp_path, kind):
    (tmp_path / "program.py").write_text(PROGRAM)
    printed = python("program.py", kind)
    assert printed == "(41, True)\n[(40, True), (41, True)]\nTrue\n"


IMPORTS = """
import multiprocessing, sys
from {} import ProcessPoolExecutor

def heavy(initret=None):
    return {{"inspect", "tempfile", "typing"}} & set(sys.modules)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, int{}) as executor:
        print(sorted(executor.submit(heavy).result(60)))
"""


@with_initializers
def test_a_worker_imports_nothing_heavy_that_stock_does_not(python, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(IMPORTS.format("concurrent.futures", ""))
    stock = python(program)
    program.write_text(IMPORTS.format("multiprocessing_initret.futures", ", expect_initret=True"))
    assert python(program) == stock
