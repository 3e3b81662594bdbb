"""The executors pass initret to the functions of submit() and map()."""

import concurrent.futures
import functools
import inspect
import multiprocessing
import os
import select
import shutil
import sys
import tempfile
import threading
import weakref

import futures_support
import pytest
from conftest import START_METHODS, TIMEOUT, counts_references
from futures_support import (
    INTERPRETERS,
    add,
    identity,
    make,
    with_initializers,
)
from multiprocessing_initret import futures

kind = futures_support.kind  # a fixture

HAS_BUFFERSIZE = "buffersize" in inspect.signature(concurrent.futures.Executor.map).parameters

#
# submit() and map()
#


def add_both(item, other, initret):
    return item + other + initret


@with_initializers
def test_submit(kind):
    with make(kind, 2, identity, (40,)) as executor:
        assert executor.submit(add, 1).result(TIMEOUT) == 41
        assert executor.submit(add, item=1).result(TIMEOUT) == 41
        assert executor.submit(add_both, 1, other=2).result(TIMEOUT) == 43


@with_initializers
def test_keyword_arguments_of_any_name(kind):
    with make(kind, 1, identity, (40,)) as executor:
        names = dict.fromkeys(["self", "fn", "args", "kwargs", "executor"], 1)
        result = executor.submit(dict, **names).result(TIMEOUT)
        assert result == dict(names, initret=40)
        with pytest.raises(TypeError):
            executor.submit()


@with_initializers
def test_function_as_a_keyword_argument(kind):
    """This is deprecated since Python 3.8, and an error since 3.9."""
    with make(kind, 1, identity, (40,)) as executor:
        if sys.version_info < (3, 9):
            assert executor.submit(fn=add, item=1).result(TIMEOUT) == 41
        else:
            with pytest.raises(TypeError, match="positional argument"):
                executor.submit(fn=add, item=1)


@with_initializers
@pytest.mark.parametrize("chunksize", [1, 2])
def test_map(kind, chunksize):
    with make(kind, 2, identity, (40,)) as executor:

        def results_of_map(*args):
            return list(executor.map(*args, timeout=TIMEOUT, chunksize=chunksize))

        assert results_of_map(add, range(5)) == [40, 41, 42, 43, 44]
        assert results_of_map(add_both, range(5), [1, 2, 3]) == [41, 43, 45]
        assert results_of_map(add, []) == []


@pytest.mark.skipif(not HAS_BUFFERSIZE, reason="Executor.map() has no buffersize")
@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_with_buffersize(kind, chunksize):
    consumed = []

    def items():
        for item in range(20):
            consumed.append(item)
            yield item

    with make(kind, 2, identity, (40,)) as executor:
        results = executor.map(add, items(), buffersize=3, chunksize=chunksize, timeout=TIMEOUT)
        assert next(results) == 40
        assert len(consumed) <= 4 * chunksize
        assert list(results) == list(range(41, 60))


def divide(item, initret):
    return initret // item


def divide_40(item):
    return 40 // item


@with_initializers
@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_after_an_exception(kind, chunksize):
    """Since Python 3.16 an exception ends neither the iterator nor the results of its chunk."""

    def results_of(executor, fn):
        iterator = executor.map(fn, [1, 0, 2], chunksize=chunksize, timeout=TIMEOUT)
        results = []
        while True:
            try:
                results.append(next(iterator))
            except ZeroDivisionError as error:
                results.append(str(error))
            except StopIteration:
                return results

    with make(kind, 1, identity, (40,), standard=True) as executor:
        expected = results_of(executor, divide_40)
    with make(kind, 1, identity, (40,)) as executor:
        assert results_of(executor, divide) == expected


@with_initializers
@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_with_an_object_that_is_not_callable(kind, chunksize):
    with make(kind, 1, identity, (40,)) as executor:
        with pytest.raises(TypeError, match="not callable"):
            list(executor.map(5, [1, 2], chunksize=chunksize, timeout=TIMEOUT))
        assert executor.submit(add, 1).result(TIMEOUT) == 41


def forward(fn, *args, **kwds):
    return fn(*args, **kwds)


@with_initializers
@pytest.mark.parametrize("chunksize", [1, 2])
def test_submit_wraps_the_function(kind, chunksize):
    """A subclass may pass another function to submit(), which map() calls."""
    if kind == "interpreters":
        pytest.skip("an interpreter cannot import this module")
    with make(kind, 1, identity, (40,)) as executor:
        executor.submit = functools.partial(executor.submit, forward)
        assert executor.submit(add, 1).result(TIMEOUT) == 41
        results = executor.map(add, range(3), chunksize=chunksize, timeout=TIMEOUT)
        assert list(results) == [40, 41, 42]


@with_initializers
def test_partial(kind):
    with make(kind, 1, identity, (40,)) as executor:
        partial = functools.partial(dict, other=1)
        expected = {"item": 2, "other": 1, "initret": 40}
        assert executor.submit(partial, item=2).result(TIMEOUT) == expected
        for chunksize in 1, 2:
            results = executor.map(partial, [[("item", 2)]], chunksize=chunksize, timeout=TIMEOUT)
            assert list(results) == [expected]


@with_initializers
def test_type_errors_are_pythons_own(kind):
    with make(kind, 1, identity, (40,)) as executor:
        with pytest.raises(TypeError, match="multiple values.*initret"):
            executor.submit(add, 1, initret=2).result(TIMEOUT)
        for chunksize in 1, 2:
            with pytest.raises(TypeError, match="keyword"):
                list(executor.map(abs, [1, 2], chunksize=chunksize, timeout=TIMEOUT))
        assert executor.submit(add, 1).result(TIMEOUT) == 41


class RecordingExecutor(futures.ThreadPoolExecutor):
    """A subclass such as a user may write, which overrides submit()."""

    def __init__(self, value, **kwds):
        super().__init__(1, initializer=identity, initargs=(value,), **kwds)
        self.submitted = []

    def submit(self, fn, *args, **kwargs):
        self.submitted.append(fn)
        return super().submit(fn, *args, **kwargs)


@with_initializers
def test_subclass():
    with RecordingExecutor(40, expect_initret=True) as executor:
        assert executor.submit(add, 1).result(TIMEOUT) == 41
        assert list(executor.map(add, [1, 2], timeout=TIMEOUT)) == [41, 42]
        assert executor.submitted == [add] * 3
    with RecordingExecutor(40) as executor:
        assert executor.submit(identity, 1).result(TIMEOUT) == 1


#
# initret
#


def make_lock():
    import threading

    return threading.Lock()


def use_lock(item, initret):
    with initret:
        return item


@with_initializers
@pytest.mark.parametrize("value", [None, ()])
def test_initret_is_false(kind, value):
    with make(kind, 1, identity, (value,)) as executor:
        assert executor.submit(dict).result(TIMEOUT) == {"initret": value}


@with_initializers
def test_initret_cannot_be_pickled(kind):
    with make(kind, 1, make_lock) as executor:
        assert executor.submit(use_lock, 1).result(TIMEOUT) == 1
        results = executor.map(use_lock, range(3), timeout=TIMEOUT, chunksize=2)
        assert list(results) == [0, 1, 2]


def dict_with(wait):
    return {"wait": wait}


def dict_with_pipes(arrived, proceed):
    import os

    def wait(timeout):
        os.write(arrived, b".")
        os.read(proceed, 1)

    return {"wait": wait}


def wait_for_all_workers(initret):
    import os

    initret["wait"](60)
    return os.getpid(), id(initret)


def identify(item, initret):
    import os

    return os.getpid(), id(initret)


@with_initializers
def test_each_worker_has_its_own_initret(kind):
    if kind in INTERPRETERS:
        (arrived_r, arrived_w), (proceed_r, proceed_w) = os.pipe(), os.pipe()
        initializer, initargs = dict_with_pipes, (arrived_w, proceed_r)
    else:
        module = threading if kind == "threads" else multiprocessing.get_context(kind)
        initializer, initargs = dict_with, (module.Barrier(2).wait,)
    with make(kind, 2, initializer, initargs) as executor:
        submitted = [executor.submit(wait_for_all_workers) for _ in range(2)]
        if kind in INTERPRETERS:
            for _ in submitted:
                assert select.select([arrived_r], [], [], TIMEOUT)[0]
                os.read(arrived_r, 1)
            os.write(proceed_w, b"..")
        workers = {future.result(TIMEOUT) for future in submitted}
        assert len(workers) == 2
        assert set(executor.map(identify, range(20), timeout=TIMEOUT)) <= workers
        assert set(executor.map(identify, range(20), timeout=TIMEOUT, chunksize=3)) <= workers
    if kind in INTERPRETERS:
        for fd in (arrived_r, arrived_w, proceed_r, proceed_w):
            os.close(fd)


def use_threads(initret):
    one, other = (make("threads", 1, identity, (value,)) for value in (1, 2))
    with one, other:
        return [executor.submit(add, 10).result(TIMEOUT) for executor in (one, other) * 2], initret


def use_process(method, initret):
    with make(method, 1, identity, (3,)) as executor:
        return executor.submit(add, 10).result(TIMEOUT), initret


@with_initializers
@pytest.mark.parametrize("kind", START_METHODS + ["threads"])
def test_nested_executors_have_their_own_initret(kind):
    with make(kind, 1, identity, (4,)) as executor:
        assert executor.submit(use_threads).result(TIMEOUT) == ([11, 12, 11, 12], 4)
        # A forked worker cannot use the fork server and the resource tracker of its parent.
        method = "fork" if kind == "fork" else "spawn"
        assert executor.submit(use_process, method).result(TIMEOUT) == (13, 4)
        assert executor.submit(add, 10).result(TIMEOUT) == 14


@with_initializers
def test_two_executors_of_threads_have_their_own_initret():
    with make("threads", 1, identity, (1,)) as one, make("threads", 1, identity, (2,)) as other:
        submitted = [executor.submit(add, 10) for executor in (one, other) * 5]
        assert [future.result(TIMEOUT) for future in submitted] == [11, 12] * 5


class TemporaryDirectory:
    """An object whose finalizer has an effect that another process can observe."""

    def __init__(self, parent):
        self.path = tempfile.mkdtemp(dir=parent)
        weakref.finalize(self, shutil.rmtree, self.path)


def write_file(number, initret):
    with open(os.path.join(initret.path, str(number)), "w") as file:
        return file.write("x" * number)


@with_initializers
@counts_references
def test_initret_is_finalized_when_its_worker_exits(kind):
    if kind == "interpreters":
        pytest.skip("an interpreter cannot import this module")
    # The parent directory has a finalizer as well, which a forked worker must not run.
    with tempfile.TemporaryDirectory() as parent:
        with make(kind, 2, TemporaryDirectory, (parent,)) as executor:
            assert list(executor.map(write_file, range(5), timeout=TIMEOUT)) == list(range(5))
        assert os.listdir(parent) == []


#
# Programs
#

PROGRAM = """
import concurrent.futures, multiprocessing, os, sys
from multiprocessing_initret import futures

class Value:
    number = 40
    def __reduce__(self):
        raise TypeError("this must not be pickled")

def construct(cls):
    return cls()

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
    with cls(2, initializer=construct, initargs=(Value,), expect_initret=True) as executor:
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


PROGRAM_THAT_LISTS_IMPORTS = """
import multiprocessing, sys
from {} import ProcessPoolExecutor

def large_modules(initret=None):
    return {{"inspect", "tempfile", "typing"}} & set(sys.modules)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, int{}) as executor:
        print(sorted(executor.submit(large_modules).result(60)))
"""


@with_initializers
def test_a_worker_imports_no_large_module(python, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM_THAT_LISTS_IMPORTS.format("concurrent.futures", ""))
    standard = python(program)
    program.write_text(
        PROGRAM_THAT_LISTS_IMPORTS.format(
            "multiprocessing_initret.futures", ", expect_initret=True"
        )
    )
    assert python(program) == standard
