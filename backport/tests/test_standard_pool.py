"""Private names of ``multiprocessing.pool``: an interpreter that lacks one is not supported."""

import functools
import gc
import multiprocessing
import multiprocessing.connection
import multiprocessing.pool
import multiprocessing.queues
import types
import weakref

import multiprocessing_initret
import pytest
from conftest import TIMEOUT
from multiprocessing_initret._parent import standard_pool
from multiprocessing_initret._parent.critical_section import CriticalSection
from multiprocessing_initret._shared.initargs import PICKLES_ONCE
from pool_support import add, rename_in


def required():
    """Yield the path of each required object, with None and with each name it must use."""
    tables = [standard_pool._REQUIRED]
    if hasattr(multiprocessing.pool, "_PoolCache"):
        tables.append(standard_pool._REQUIRED_WITH_NOTIFIER)
    if hasattr(multiprocessing.pool.Pool, "_imap"):
        tables.append(standard_pool._REQUIRED_WITH_BUFFERSIZE)
    for table in tables:
        for path, names in table.items():
            if not path.endswith("__init__"):  # a class without its own inherits another
                yield path, None
            for name in names:
                yield path, name


REQUIRED_ELSEWHERE = [
    (multiprocessing.connection, None, "_ForkingPickler"),
    (multiprocessing.queues, multiprocessing.queues.SimpleQueue, "_reader"),
    (multiprocessing.queues, multiprocessing.queues.SimpleQueue, "_writer"),
    (multiprocessing.queues, multiprocessing.queues.SimpleQueue, "_rlock"),
]


@pytest.fixture(autouse=True)
def unchecked():
    """Let the next pool check the interpreter again."""
    standard_pool.check.cache_clear()
    yield
    standard_pool.check.cache_clear()


def find(path):
    """Return the owner of the object at a path in multiprocessing.pool, its name, and itself."""
    obj = multiprocessing.pool
    for name in path.split("."):
        owner, obj = obj, getattr(obj, name)
    return owner, name, obj


@pytest.mark.parametrize("path, name", list(required()))
def test_missing_name(monkeypatch, path, name):
    owner, attribute, obj = find(path)
    if name is not None:
        monkeypatch.setattr(owner, attribute, rename_in(obj, name))
    else:
        monkeypatch.delattr(owner, attribute)
    missing = f"multiprocessing.pool.{path}"
    missing = missing if name is None else f"{name} in {missing}"
    with pytest.raises(RuntimeError) as caught:
        standard_pool.check("multiprocessing")
    text = str(caught.value)
    assert missing in text and "Python 3" in text and "install a newer release" in text


@pytest.mark.parametrize("module, cls, name", REQUIRED_ELSEWHERE)
def test_missing_name_of_another_module(monkeypatch, module, cls, name):
    if cls is None:
        monkeypatch.delattr(module, name)
    else:
        monkeypatch.setattr(cls, "__init__", rename_in(cls.__init__, name))
    with pytest.raises(RuntimeError) as caught:
        standard_pool.check("multiprocessing")
    assert name in str(caught.value) and module.__name__ in str(caught.value)


def test_positions_are_determined_from_the_names(monkeypatch):
    """A later version may pass the arguments in another order, and others among them."""

    class Pool:
        @classmethod
        def _terminate_pool(cls, pool, added, taskqueue):
            pass

        def _map_async(self, iterable, chunksize, func, added=None):
            pass

    def worker(initargs, maxtasks, outqueue, inqueue, added, initializer):
        pass

    pool = Pool()
    monkeypatch.setattr(multiprocessing.pool, "worker", worker)
    monkeypatch.setattr(multiprocessing.pool, "Pool", Pool)
    standard = standard_pool.StandardPool(pool, "multiprocessing", CriticalSection())
    assert standard.split_worker_args("amoixf") == (
        ["i", "o", "f", "a"],
        [None, "m", *[None] * 2, "x", None],
    )
    bound = standard.bind_terminate_args((1, 2, 3))
    assert vars(bound) == {"pool": 1, "added": 2, "taskqueue": 3}
    bound = standard.bind("_map_async", ("i", 9), {"func": "f"})
    assert bound == {"iterable": "i", "chunksize": 9, "func": "f"}


def test_pool_is_not_terminated_while_its_worker_handler_is_woken():
    """terminate() would wait for the lock of the notifier, which this thread holds."""

    class Pool:
        pass

    pools, is_alive = [Pool()], []
    pool = weakref.ref(pools[0])

    def put(_):
        del pools[:]
        gc.collect()
        is_alive.append(pool() is not None)

    standard = standard_pool.StandardPool(pools[0], "multiprocessing", CriticalSection())
    standard.notifier = types.SimpleNamespace(put=put)
    standard.wake_worker_handler()
    gc.collect()
    assert is_alive == [True] and pool() is None


class PoolWithOtherParameters(multiprocessing_initret.ThreadPool):
    """Its method has other names of parameters, and more of them."""

    def _map_async(self, function, *args, tag=None, **kwds):
        self.tag = args[4:] or tag
        return super()._map_async(function, *args[:4], **kwds)


@pytest.mark.parametrize("tag", [{}, {"tag": "by name"}])
def test_subclass_with_other_parameters(tag):
    with PoolWithOtherParameters(2, int, (40,), expect_initret=True) as pool:
        assert pool.map(add, (number for number in range(3))) == [40, 41, 42]
        mapper = multiprocessing.pool.mapstar
        assert pool._map_async(add, range(3), mapper, 1, None, **tag).get(TIMEOUT) == [40, 41, 42]
        assert pool.tag == tag.get("tag")


def decorated(function):
    """Decorate a function as tracers do."""

    @functools.wraps(function)
    def wrapper(*args, **kwds):
        return function(*args, **kwds)

    return wrapper


def decorate(monkeypatch, owner, name):
    value = vars(owner)[name]
    kind = type(value)
    is_method = kind in (staticmethod, classmethod)
    function = decorated(value.__func__ if is_method else value)
    monkeypatch.setattr(owner, name, kind(function) if is_method else function)


def test_decorated_functions(monkeypatch, make_pool):
    """A program or a tracer may have decorated the functions of multiprocessing."""
    for path in {path for path, name in required() if name is not None}:
        owner, name, _ = find(path)
        decorate(monkeypatch, owner, name)
    if "forkserver" in multiprocessing.get_all_start_methods():
        from multiprocessing import popen_forkserver

        decorate(monkeypatch, popen_forkserver.Popen, "_launch")
    decorate(monkeypatch, multiprocessing.context.BaseContext, "Pool")
    assert make_pool(1, int, (40,)).map_async(add, range(3)).get(TIMEOUT) == [40, 41, 42]
    multiprocessing_initret.install()
    try:
        with multiprocessing.Pool(1, int, (40,), expect_initret=True) as pool:
            assert pool.map_async(add, range(3)).get(TIMEOUT) == [40, 41, 42]
    finally:
        multiprocessing_initret.uninstall()


def test_constructor_checks_the_interpreter(monkeypatch):
    monkeypatch.delattr(multiprocessing.pool, "starmapstar")
    for cls in (multiprocessing_initret.Pool, multiprocessing_initret.ThreadPool):
        with pytest.raises(RuntimeError, match="no multiprocessing.pool.starmapstar"):
            cls(1, int, (40,), expect_initret=True)
        cls(1).terminate()  # without expect_initret nothing is checked
    monkeypatch.undo()
    with multiprocessing_initret.Pool(1, int, (40,), expect_initret=True) as pool:
        assert pool.map_async(add, range(3)).get(TIMEOUT) == [40, 41, 42]


def test_check_accepts_installed_constructors(installed):
    standard_pool.check("multiprocessing")


def test_missing_name_of_queues(monkeypatch):
    queue = multiprocessing.queues.SimpleQueue
    monkeypatch.setattr(queue, "__init__", rename_in(queue.__init__, "_rlock"))
    with pytest.raises(RuntimeError, match="no _rlock in multiprocessing.queues.SimpleQueue"):
        standard_pool.check("multiprocessing")


def test_missing_name_of_the_fork_server(monkeypatch):
    if not PICKLES_ONCE or "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("there are no templates")
    from multiprocessing import forkserver

    monkeypatch.delattr(forkserver, "main")
    context = multiprocessing.get_context("forkserver")
    with pytest.raises(RuntimeError, match="no multiprocessing.forkserver.main"):
        multiprocessing_initret.Pool(1, int, (40,), context=context, expect_initret=True)


def test_unknown_queues(monkeypatch):
    class OtherQueue(multiprocessing.queues.SimpleQueue):
        pass

    monkeypatch.setattr(
        multiprocessing.context.BaseContext, "SimpleQueue", lambda ctx: OtherQueue(ctx=ctx)
    )
    with pytest.raises(RuntimeError, match="no queues of a known type"):
        multiprocessing_initret.Pool(1, int, (40,), expect_initret=True)


def test_a_failed_constructor_reports_one_exception(capfd):
    with pytest.raises(ValueError, match="requires an initializer"):
        multiprocessing_initret.Pool(1, expect_initret=True)
    with pytest.raises(TypeError, match="initargs must be an iterable of arguments, not int"):
        multiprocessing_initret.Pool(1, int, 40, expect_initret=True)
    assert capfd.readouterr().err == ""
