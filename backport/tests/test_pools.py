"""The package's own pools, and subclasses of the standard Pool in other packages."""

import multiprocessing
import multiprocessing.pool
import multiprocessing.reduction
import os
import signal
import sys
import types

import multiprocessing_initret
import pytest
from conftest import HAS_EXPECT_INITRET, TIMEOUT, WINDOWS, posix
from multiprocessing_initret import WorkerLostError, is_installed
from pool_support import add, identity, raise_lookup_error, wait_for_initret


def describe_item(item):
    return item, is_installed()


def describe_worker(item, initret):
    return os.getpid(), initret, is_installed()


def check_and_terminate(pool):
    with pool:
        assert pool.map_async(add, range(5), chunksize=2).get(TIMEOUT) == [40, 41, 42, 43, 44]
        assert pool.starmap_async(add, [(1,)]).get(TIMEOUT) == [41]
        assert pool.apply_async(add, (1,)).get(TIMEOUT) == 41
        assert pool.imap(add, [1]).next(TIMEOUT) == 41
    pool.join()


def test_pool(start_method):
    context = multiprocessing.get_context(start_method)
    check_and_terminate(
        multiprocessing_initret.Pool(2, identity, (40,), context=context, expect_initret=True)
    )
    check_and_terminate(
        multiprocessing_initret.Pool(2, identity, (40,), None, context, expect_initret=True)
    )


def test_default_start_method():
    check_and_terminate(multiprocessing_initret.Pool(2, identity, (40,), expect_initret=True))


def test_thread_pool():
    check_and_terminate(multiprocessing_initret.ThreadPool(2, identity, (40,), expect_initret=True))


class Arguments:
    """An iterable that has no __iter__()."""

    def __getitem__(self, index):
        return (40,)[index]


@pytest.mark.parametrize("kind", ["Pool", "ThreadPool"])
def test_initargs_of_any_iterable(kind):
    for initargs in [40], iter([40]), Arguments():
        pool_class = getattr(multiprocessing_initret, kind)
        check_and_terminate(pool_class(2, identity, initargs, expect_initret=True))


def test_multiprocessing_is_unchanged(start_method):
    context = multiprocessing.get_context(start_method)
    with multiprocessing_initret.Pool(1, os.getpid, context=context, expect_initret=True) as pool:
        pid, initret, is_changed = pool.apply_async(describe_worker, (1,)).get(TIMEOUT)
    assert pid == initret != os.getpid()
    assert not is_changed
    assert not is_installed()
    if not HAS_EXPECT_INITRET:
        with pytest.raises(TypeError, match="expect_initret"):
            multiprocessing.Pool(1, identity, (1,), expect_initret=True)


def test_pools_after_install(installed):
    check_and_terminate(multiprocessing_initret.Pool(2, identity, (40,), expect_initret=True))
    check_and_terminate(multiprocessing_initret.ThreadPool(2, identity, (40,), expect_initret=True))


@pytest.mark.parametrize("name", ["Pool", "ThreadPool"])
def test_without_expect_initret(name):
    with getattr(multiprocessing_initret, name)(2, identity, (40,)) as pool:
        assert pool.map_async(describe_item, range(2)).get(TIMEOUT) == [(0, False), (1, False)]
        assert "Process" not in vars(pool)


@pytest.mark.parametrize("name", ["Pool", "ThreadPool"])
def test_no_initializer(name):
    with pytest.raises(ValueError, match="initializer"):
        getattr(multiprocessing_initret, name)(2, expect_initret=True)


@pytest.mark.parametrize("name", ["Pool", "ThreadPool"])
def test_wrong_number_of_processes(name):
    with pytest.raises(ValueError, match="[Nn]umber of processes"):
        getattr(multiprocessing_initret, name)(0, identity, (40,), expect_initret=True)


@pytest.mark.parametrize("name", ["Pool", "ThreadPool"])
def test_missing_initializer_is_reported_before_wrong_number_of_processes(name):
    with pytest.raises(ValueError, match="initializer"):
        getattr(multiprocessing_initret, name)(0, expect_initret=True)


@pytest.mark.skipif(
    not WINDOWS or sys.version_info >= (3, 13), reason="the number of processes is not limited"
)
def test_too_many_processes_for_windows():
    with pytest.raises(ValueError, match="at most 61"):
        multiprocessing_initret.Pool(62, identity, (40,), expect_initret=True)


def test_too_many_processes(monkeypatch):
    monkeypatch.setattr("multiprocessing_initret._parent.process_supervisor.MAX_WORKERS", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    with pytest.raises(ValueError, match="at most 2"):
        multiprocessing_initret.Pool(3, identity, (40,), expect_initret=True)
    assert not multiprocessing.active_children()
    for processes in (2, None):
        pool = multiprocessing_initret.Pool(processes, identity, (40,), expect_initret=True)
        assert pool._processes == 2
        check_and_terminate(pool)
    check_and_terminate(multiprocessing_initret.ThreadPool(3, identity, (40,), expect_initret=True))


@pytest.mark.parametrize("name", ["Pool", "ThreadPool"])
def test_failing_initializer(name):
    with getattr(multiprocessing_initret, name)(2, raise_lookup_error, expect_initret=True) as pool:
        result = pool.map_async(add, range(5))
        with pytest.raises(LookupError, match="no luck"):
            result.get(TIMEOUT)


ORPHANS = """
import multiprocessing, os, signal, sys
import multiprocessing_initret

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    pool = multiprocessing_initret.Pool(2, os.getpid, context=context, expect_initret=True)
    pool.apply(dict)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@posix
def test_workers_exit_with_their_parent(python, tmp_path, start_method):
    (tmp_path / "program.py").write_text(ORPHANS)
    # python() returns when every process that holds the pipe of its output has exited.
    python("program.py", start_method, code=-signal.SIGKILL)


def test_classes_are_subclasses_of_the_standard_pools():
    assert issubclass(multiprocessing_initret.Pool, multiprocessing.pool.Pool)
    assert issubclass(multiprocessing_initret.ThreadPool, multiprocessing.pool.ThreadPool)


#
# Subclasses of the standard Pool, as other packages define them
#


def own_worker(*args):
    """Replace the standard worker, as torch.multiprocessing does."""
    multiprocessing.pool.worker(*args)
    sys.exit(3)  # the exit code shows that this function ran


class OwnWorkerPool(multiprocessing.pool.Pool):
    def _repopulate_pool(self):
        first = (self._ctx,) if sys.version_info >= (3, 8) else ()
        while len(self._pool) < self._processes:
            process = self.Process(
                *first,
                target=own_worker,
                args=(
                    self._inqueue,
                    self._outqueue,
                    self._initializer,
                    self._initargs,
                    self._maxtasksperchild,
                    self._wrap_exception,
                ),
            )
            self._pool.append(process)
            process.daemon = True
            process.start()


def test_subclass_with_own_worker(installed, start_method):
    pool = OwnWorkerPool(
        2, identity, (40,), context=multiprocessing.get_context(start_method), expect_initret=True
    )
    workers = list(pool._pool)
    assert pool.map_async(add, range(5)).get(TIMEOUT) == [40, 41, 42, 43, 44]
    assert all(worker.daemon for worker in workers)
    pool.close()
    pool.join()
    assert [worker.exitcode for worker in workers] == [3, 3]


class OwnProcessPool(multiprocessing.pool.Pool):
    if sys.version_info >= (3, 8):

        @staticmethod
        def Process(ctx, *args, **kwds):
            return ctx.Process(*args, name="own Process", **kwds)

    else:

        def Process(self, *args, **kwds):
            return self._ctx.Process(*args, name="own Process", **kwds)


def name_of_process(initret):
    return multiprocessing.current_process().name


def test_subclass_with_own_process(installed):
    with OwnProcessPool(1, identity, (40,), expect_initret=True) as pool:
        assert pool.apply_async(name_of_process).get(TIMEOUT).startswith("own PoolWorker")


class OwnQueuesPool(multiprocessing.pool.Pool):
    def _setup_queues(self):
        super()._setup_queues()
        self._quick_put, self._quick_get = self._inqueue.put, self._outqueue.get


def raise_after_one():
    yield 1
    raise LookupError("no luck")


def test_subclass_with_own_queues(installed, start_method):
    context = multiprocessing.get_context(start_method)
    check_and_terminate(OwnQueuesPool(2, identity, (40,), context=context, expect_initret=True))
    with OwnQueuesPool(1, raise_lookup_error, context=context, expect_initret=True) as pool:
        result = pool.apply_async(add, (1,))
        with pytest.raises(LookupError, match="no luck"):
            result.get(TIMEOUT)
    with OwnQueuesPool(
        1, identity, (context.Event(),), context=context, expect_initret=True
    ) as pool:
        iterator = pool.imap(describe_item, raise_after_one())
        pending = pool.apply_async(wait_for_initret)
        with pytest.raises(TypeError, match="initret"):
            iterator.next(TIMEOUT)
        with pytest.raises(LookupError, match="no luck"):
            iterator.next(TIMEOUT)
    with pytest.raises(WorkerLostError, match="terminated"):
        pending.get(TIMEOUT)


class OwnContext:
    """Context with no attributes but the two that the standard pool needs."""

    def __init__(self, context):
        self.SimpleQueue, self.Process = context.SimpleQueue, context.Process


def test_own_context(installed, start_method):
    context = OwnContext(multiprocessing.get_context(start_method))
    check_and_terminate(
        multiprocessing.pool.Pool(2, identity, (40,), context=context, expect_initret=True)
    )


class OwnInitPool(multiprocessing.pool.Pool):
    def __init__(self, *args, **kwds):
        super().__init__(*args, initializer=identity, initargs=(40,), **kwds)


def test_subclass_with_own_init(installed):
    check_and_terminate(OwnInitPool(2, expect_initret=True))


REPLACED_PICKLER = """
import copyreg, io, multiprocessing, pickle, sys
from multiprocessing import connection, queues, reduction

class Pickler(pickle._Pickler):
    registered = reduction.ForkingPickler._extra_reducers
    uses = 0

    def __init__(self, *args):
        super().__init__(*args)
        Pickler.uses += 1
        self.dispatch_table = {**copyreg.dispatch_table, **self.registered}

    @classmethod
    def dumps(cls, obj, protocol=None):
        file = io.BytesIO()
        cls(file, protocol).dump(obj)
        return file.getbuffer()

    loads = pickle.loads

if sys.argv[2] == "for processes":
    reduction.ForkingPickler = Pickler
else:
    connection._ForkingPickler = queues._ForkingPickler = Pickler

import multiprocessing_initret

def has_pickled(number, initret):
    return initret, Pickler.uses > 0

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    pool = multiprocessing_initret.Pool
    with pool(1, int, (40,), context=context, expect_initret=True) as pool:
        pool.map(has_pickled, [1])
        before = Pickler.uses
        print(pool.map(has_pickled, [1]), Pickler.uses > before)
"""


CHANGED_PICKLER = """
import multiprocessing, sys, types
from multiprocessing import reduction

class Special:
    def __reduce__(self):
        raise LookupError("only the pickler of the program can pickle it")

def override(self, obj):
    return (int, (40,)) if type(obj) is Special else NotImplemented

original = reduction.ForkingPickler.__init__

def init(self, *args):
    original(self, *args)
    self.dispatch_table[Special] = lambda obj: (int, (40,))

class Pickler(reduction.ForkingPickler):
    __init__ = init

def dump(obj, file, protocol=None):
    Pickler(file, protocol).dump(obj)

method, change = sys.argv[1:]
context = multiprocessing.get_context(method)
if change == "method":
    reduction.ForkingPickler.reducer_override = override
elif change == "constructor":
    reduction.ForkingPickler.__init__ = init
elif change == "dump":
    reduction.dump = dump
else:
    context.reducer = types.ModuleType("reducer")
    vars(context.reducer).update(vars(reduction), dump=dump)

import multiprocessing_initret

def take(obj):
    return obj

def add(item, initret):
    return item + (initret if isinstance(initret, int) else 40)  # a forked worker inherits it

if __name__ == "__main__":
    with multiprocessing_initret.Pool(
        1, take, (Special(),), context=context, expect_initret=True
    ) as pool:
        print(pool.map_async(add, [1, 2]).get(60))
"""


@pytest.mark.parametrize("change", ["method", "constructor", "dump", "reducer of the context"])
def test_changed_pickler(python, tmp_path, start_method, change):
    """A program may change how process objects are pickled, for example to pickle lambdas."""
    if change == "method" and sys.version_info < (3, 8):
        pytest.skip("picklers have no reducer_override()")
    (tmp_path / "program.py").write_text(CHANGED_PICKLER)
    assert python("program.py", start_method, change) == "[41, 42]\n"


@posix
def test_reducer_without_dump():
    """A forked process needs no dump()."""
    context = multiprocessing.get_context("fork")
    context.reducer = types.SimpleNamespace(ForkingPickler=multiprocessing.reduction.ForkingPickler)
    try:
        check_and_terminate(
            multiprocessing_initret.Pool(1, identity, (40,), context=context, expect_initret=True)
        )
    finally:
        context.reducer = multiprocessing.reduction


@pytest.mark.parametrize("use", ["for processes", "for tasks"])
def test_replaced_pickler(python, tmp_path, start_method, use):
    """A program may replace the pickler of multiprocessing, for example by that of dill."""
    (tmp_path / "program.py").write_text(REPLACED_PICKLER)
    for_tasks = use == "for tasks"
    assert python("program.py", start_method, use) == f"[(40, {for_tasks})] {for_tasks}\n"
