"""Tests of install("multiprocess"), a derivative of multiprocessing that pickles with dill."""

import inspect
import multiprocessing.dummy
import multiprocessing.pool

import pytest
from conftest import HAS_EXPECT_INITRET, TIMEOUT, Counted
from multiprocessing_initret import install, is_installed, uninstall
from multiprocessing_initret._shared.initargs import PICKLES_ONCE
from pool_support import add, identity

multiprocess = pytest.importorskip("multiprocess")
pytest.importorskip("multiprocess.dummy")
pytest.importorskip("multiprocess.pool")


@pytest.fixture
def installed():
    install("multiprocess")
    yield
    uninstall("multiprocess")


def state(package):
    """Return everything that install() changes in a package, in its current state."""
    functions = package.Pool.__func__, package.dummy.Pool
    return [
        package.pool.Pool.__init__,
        package.pool.ThreadPool.__init__,
        [(function.__code__, function.__kwdefaults__) for function in functions],
        "multiprocessing_initret" in package.current_process()._config,
    ]


def accepts_initret(package):
    """Return whether the pools of a package accept expect_initret: all of them or none."""
    if package is multiprocessing and HAS_EXPECT_INITRET:
        return is_installed()
    pools = package.Pool, package.pool.Pool, package.pool.ThreadPool, package.dummy.Pool
    answers = {"expect_initret" in inspect.signature(pool).parameters for pool in pools}
    assert answers == {is_installed(package.__name__)}
    return answers.pop()


def check(pool):
    with pool:
        assert pool.map_async(add, range(3)).get(TIMEOUT) == [40, 41, 42]


def test_packages_are_installed_separately():
    original = state(multiprocessing), state(multiprocess)
    for one, other in (multiprocessing, multiprocess), (multiprocess, multiprocessing):
        install(one.__name__)
        assert accepts_initret(one) and not accepts_initret(other)
        install(other.__name__)
        for package in one, other:
            assert accepts_initret(package)
            check(package.Pool(1, identity, (40,), expect_initret=True))
            check(package.dummy.Pool(1, identity, (40,), expect_initret=True))
        uninstall(one.__name__)
        assert accepts_initret(other) and not accepts_initret(one)
        check(other.Pool(1, identity, (40,), expect_initret=True))
        uninstall(other.__name__)
        assert (state(multiprocessing), state(multiprocess)) == original


def test_multiprocess_is_not_imported_without_install(python):
    python("-c", "import multiprocessing_initret, sys; assert 'multiprocess' not in sys.modules")


def nested(queue):
    """Use expect_initret in a process that has not called install() itself."""
    with multiprocess.Pool(1, identity, (40,), expect_initret=True) as pool:
        result = pool.map_async(add, range(3)).get(TIMEOUT)
    queue.put((result, accepts_initret(multiprocessing)))


def nested_twice(method, queue):
    process = multiprocess.get_context(method).Process(target=nested, args=(queue,))
    process.start()
    process.join(TIMEOUT)


def test_children_accept_expect_initret(installed, start_method):
    context = multiprocess.get_context(start_method)
    queue = context.Queue()
    for target, args in ((nested, (queue,)), (nested_twice, (start_method, queue))):
        process = context.Process(target=target, args=args)
        process.start()
        assert queue.get(timeout=TIMEOUT) == ([40, 41, 42], False)
        process.join(TIMEOUT)
        assert process.exitcode == 0


def test_lambdas(installed, start_method):
    make = multiprocess.get_context(start_method).Pool
    with make(2, lambda value: lambda: value, (40,), expect_initret=True) as pool:
        result = pool.map_async(lambda item, initret: item + initret(), range(3))
        assert result.get(TIMEOUT) == [40, 41, 42]
        result = pool.starmap_async(lambda *items, initret: sum(items) + initret(), [(1, 2)])
        assert result.get(TIMEOUT) == [43]
        result = pool.apply_async(lambda **kwds: kwds["initret"]() + kwds["one"], (), {"one": 1})
        assert result.get(TIMEOUT) == 41
        result = pool.imap(lambda item, initret: item + initret(), range(3))
        assert [result.next(TIMEOUT) for _ in range(3)] == [40, 41, 42]


def test_lambdas_in_a_manager(installed, start_method):
    context = multiprocess.get_context(start_method)
    with context.Manager() as manager, manager.Pool(1, lambda: 40, expect_initret=True) as pool:
        result = pool.map_async(lambda item, initret: item + initret, range(3))
        assert result.get(TIMEOUT) == [40, 41, 42]


def test_failing_lambda(installed, start_method):
    make = multiprocess.get_context(start_method).Pool
    with make(2, lambda: {}["no luck"], expect_initret=True) as pool:
        result = pool.map_async(lambda item, initret: item, range(3))
        with pytest.raises(KeyError, match="no luck"):
            result.get(TIMEOUT)


# Spawned workers cannot import the functions of a session: they are in no file.
SESSION = """
import multiprocess, multiprocessing_initret
multiprocessing_initret.install("multiprocess")

def return_value(value):
    return value

def add(item, initret):
    return item + initret

def use_pool(*initializer):
    with multiprocess.get_context("{}").Pool(2, *initializer, expect_initret=True) as pool:
        print(pool.map_async(add, range(3)).get(30))

use_pool(return_value, (40,))

# By default dill does not pickle the globals of the session that its functions use.
import dill
dill.settings["recurse"] = True
forty = 40

def return_global():
    return return_value(forty)

use_pool(return_global)
"""


def test_interactive_session(python, start_method):
    assert python("-i", stdin=SESSION.format(start_method)) == "[40, 41, 42]\n" * 2


def use(initret):
    function, _, lock, same = initret
    return function(), lock.acquire(False), same is lock


def test_initargs(installed, start_method):
    context = multiprocess.get_context(start_method)
    counted, lock = Counted(), context.Lock()
    initargs = lambda: 40, counted, lock, lock
    with lock, context.Pool(2, lambda *args: args, initargs, 1, expect_initret=True) as pool:
        for _ in range(3):
            assert pool.apply_async(use).get(TIMEOUT) == (40, False, True)
    if start_method == "fork":
        assert counted.pickled == 0
    elif PICKLES_ONCE:
        assert counted.pickled == 1
