"""The executors of concurrent.futures, with the keyword and without."""

import concurrent.futures
import contextlib
import functools
import gc
import inspect
import multiprocessing
import os
import platform
import select
import sys
import threading
import weakref

import pytest
from conftest import TIMEOUT
from multiprocessing_initret import futures

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
    return request.param


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
    broken = {
        futures.ProcessPoolExecutor: "BrokenProcessPool",
        futures.ThreadPoolExecutor: "BrokenThreadPool",
    }
    expected = [name for cls, name in broken.items() if isinstance(executor, cls)]
    for future in submitted:
        error = future.exception(TIMEOUT)
        assert isinstance(error, concurrent.futures.BrokenExecutor)
        assert [type(error).__name__] == (expected or ["BrokenInterpreterPool"])
        assert text in str(error) and "Traceback" in str(error)
    for _ in range(2):
        with pytest.raises(type(error)) as raised:
            executor.submit(add, 1)
        assert text in str(raised.value) and "Traceback" in str(raised.value)
    with pytest.raises(type(error)):
        list(executor.map(add, [1], timeout=TIMEOUT))


def submit_many(executor):
    """Submit tasks as long as the executor takes them, which it does at first."""
    submitted = [executor.submit(add, 1)]
    with contextlib.suppress(concurrent.futures.BrokenExecutor):
        for item in range(20):
            submitted.append(executor.submit(add, item))
    return submitted


@with_initializers
@pytest.mark.parametrize("initializer", [fail, fail_unpicklably, leave])
def test_failing_initializer(kind, initializer):
    with make(kind, 2, initializer) as executor:
        check_broken(executor, submit_many(executor), "no luck")


class SlowPending(dict):
    """The tasks of an executor, with time for it to break while one is added."""

    def __init__(self):
        self.listed = threading.Event()

    def __setitem__(self, number, item):
        if number:
            self.listed.wait(0.5)
        super().__setitem__(number, item)

    def values(self):
        self.listed.set()
        return super().values()


@with_initializers
@pytest.mark.skipif("fork" not in START_METHODS, reason="others break later than that")
def test_no_task_is_added_while_it_breaks():
    with make("fork", 1, fail) as executor:
        executor._pending_work_items = SlowPending()
        check_broken(executor, submit_many(executor), "no luck")


@with_initializers
def test_failing_initializer_with_much_to_say(kind):
    # More than a pipe holds, from several workers at once.
    text = "no luck " * 2**17
    with make(kind, 4, fail_saying, (text,)) as executor:
        check_broken(executor, submit_many(executor), text)


@with_initializers
def test_failing_initializer_without_tasks(kind):
    with make(kind, 2, fail):
        pass


@pytest.mark.skipif(sys.version_info < (3, 9), reason="such tasks are lost")
def test_failing_initializer_after_shutdown(kind):
    executor = make(kind, 2, fail)
    submitted = submit_many(executor)
    executor.shutdown(wait=False)
    for future in submitted:
        with pytest.raises(concurrent.futures.BrokenExecutor, match="no luck"):
            future.result(TIMEOUT)
    executor.shutdown()


@with_initializers
def test_failing_initializer_with_cancelled_tasks(start_method):
    executor = make(start_method, 1, fail)
    submitted = submit_many(executor)
    for future in submitted[::2]:
        future.cancel()
    if sys.version_info >= (3, 9):
        executor.shutdown(wait=False, cancel_futures=True)
    for future in submitted:
        if not future.cancelled():
            with pytest.raises(concurrent.futures.BrokenExecutor, match="no luck"):
                future.result(TIMEOUT)
    executor.shutdown()


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
        submitted = [executor.submit(wait_for) for _ in range(2)]
        check_broken(executor, submitted, "no luck")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no max_tasks_per_child")
@pytest.mark.parametrize("method", [method for method in START_METHODS if method != "fork"])
def test_max_tasks_per_child(method):
    initargs = multiprocessing.get_context(method).Semaphore(2), 40
    with make(method, 1, give_once, initargs, max_tasks_per_child=1) as executor:
        for item in range(2):
            assert executor.submit(add, item).result(TIMEOUT) == 40 + item
        with pytest.raises(concurrent.futures.BrokenExecutor, match="no luck"):
            executor.submit(add, 1).result(TIMEOUT)


def exit_at_once(initret):
    os._exit(1)


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
# With the keyword off
#


@pytest.mark.parametrize("name", NAMES)
def test_off(name):
    ours, stock = getattr(futures, name), getattr(concurrent.futures, name)
    with ours(2) as executor, stock(2) as other:
        assert type(executor) is ours and ours.__bases__ == (stock,)
        # What there is of ours is the constructor.
        assert [each for each in vars(ours) if not each.startswith("__")] == []
        assert ours.submit is stock.submit and ours.map is stock.map
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
    assert list(parameters.values()) == list(stock.parameters.values())


@with_initializers
def test_signatures_of_methods(kind):
    with make(kind, 1, give, (40,), expect_initret=False) as off, make(kind, 1, give, (1,)) as on:
        for name in "submit", "map", "shutdown":
            assert inspect.signature(getattr(on, name)) == inspect.signature(getattr(off, name))


def test_public_names():
    assert sorted(futures.__all__) == NAMES
    assert all(hasattr(futures, name) for name in NAMES)


#
# As the stock executors are, in other ways
#


class Doubling(futures.ThreadPoolExecutor):
    """One that others have derived."""

    def __init__(self, value, **kwds):
        super().__init__(1, initializer=give, initargs=(value,), **kwds)
        self.count = 0

    def submit(self, fn, *args, **kwargs):
        self.count += 1
        return super().submit(fn, *args, **kwargs)


@with_initializers
def test_subclass():
    with Doubling(40, expect_initret=True) as executor:
        assert isinstance(executor, Doubling)
        assert executor.submit(add, 1).result(TIMEOUT) == 41
        assert list(executor.map(add, [1, 2], timeout=TIMEOUT)) == [41, 42]
        assert executor.count == 3
        assert type(executor).__name__ in repr(executor)
    with Doubling(40) as executor:
        assert type(executor) is Doubling
        assert executor.submit(without, 1).result(TIMEOUT) == 1


@with_initializers
@collected_at_once
def test_collected_when_dropped(kind):
    executor = make(kind, 1, give, (40,))
    assert executor.submit(add, 1).result(TIMEOUT) == 41
    reference = weakref.ref(executor)
    gc.disable()
    try:
        del executor
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.skipif(sys.version_info < (3, 9), reason="shutdown() closes none, collection does")
@collected_at_once
@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="no list of open files")
@pytest.mark.parametrize("initializer", [dict, fail])
def test_shutdown_closes_all_pipes(start_method, initializer):
    def open_files():
        executor = make(start_method, 1, initializer)
        executor.submit(dict).exception(TIMEOUT)
        executor.shutdown()
        kept.append(executor)
        return len(os.listdir("/proc/self/fd"))

    kept = []
    open_files()  # The first starts what outlives it, a server for instance.
    assert open_files() == open_files()


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
