"""install() and uninstall(), and what they change in multiprocessing."""

import inspect
import multiprocessing
import multiprocessing.context
import multiprocessing.dummy
import multiprocessing.pool
import os
import pathlib
import shutil
import sys
import threading

import multiprocessing_initret
import pytest
from conftest import HAS_EXPECT_INITRET, TIMEOUT, python_path
from multiprocessing_initret import _install, install, is_installed, uninstall
from pool_support import add, identity

OVERLAY = pathlib.Path(__file__).resolve().parent.parent.parent / "tools" / "overlay.py"


def current_state():
    """Return the attributes and settings that install() changes."""
    pool, context_pool = multiprocessing.pool, multiprocessing.context.BaseContext.Pool
    return [
        pool.Pool.__init__,
        pool.ThreadPool.__init__,
        context_pool,
        context_pool.__code__,
        context_pool.__defaults__,
        context_pool.__kwdefaults__,
        multiprocessing.dummy.Pool,
        multiprocessing.dummy.Pool.__code__,
        multiprocessing.dummy.Pool.__defaults__,
        multiprocessing.dummy.Pool.__kwdefaults__,
        "multiprocessing_initret" in multiprocessing.current_process()._config,
    ]


STANDARD_STATE = current_state()


def all_pools():
    yield multiprocessing.Pool
    yield multiprocessing.pool.Pool
    yield multiprocessing.pool.ThreadPool
    yield multiprocessing.dummy.Pool
    for method in multiprocessing.get_all_start_methods():
        yield multiprocessing.get_context(method).Pool


def check_uninstalled():
    assert not is_installed()
    for current, standard in zip(current_state(), STANDARD_STATE):
        assert current is standard or current == standard
    if HAS_EXPECT_INITRET:
        return
    for pool in all_pools():
        assert "expect_initret" not in inspect.signature(pool).parameters
        # The __del__() of a class would fail, because __init__() has set no attributes.
        if not isinstance(pool, type):
            with pytest.raises(TypeError, match="expect_initret"):
                pool(1, identity, (1,), expect_initret=True)


def check_installed():
    assert is_installed()
    for pool in all_pools():
        assert "expect_initret" in inspect.signature(pool).parameters
        with pool(1, identity, (1,), expect_initret=True) as one_worker:
            assert one_worker.map_async(add, [1, 2]).get(TIMEOUT) == [2, 3]


def test_install_and_uninstall():
    check_uninstalled()
    for _ in range(2):
        install()
        check_installed()
        uninstall()
        check_uninstalled()


def test_second_install_does_nothing():
    install()
    once = current_state()
    install()
    assert current_state() == once
    uninstall()
    check_uninstalled()
    uninstall()
    check_uninstalled()


def test_install_from_several_threads(monkeypatch):
    replacements = _install._replacements
    one, other = threading.Event(), threading.Event()

    def detect_second_thread(package):
        if one.is_set():
            other.set()
        one.set()
        other.wait(0.2)
        return replacements(package)

    monkeypatch.setattr(_install, "_replacements", detect_second_thread)
    threads = [threading.Thread(target=install) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not other.is_set(), "two threads were installing at once"
    check_installed()
    uninstall()
    check_uninstalled()


def test_interrupted_install(monkeypatch):
    replacements = _install._replacements

    def interrupted_replacements(package):
        yield from list(replacements(package))[:-1]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_install, "_replacements", interrupted_replacements)
        with pytest.raises(KeyboardInterrupt):
            install()
    check_uninstalled()
    install()
    check_installed()
    uninstall()
    check_uninstalled()


def test_pools_are_made_during_install(monkeypatch):
    replacements = _install._replacements

    def replacements_one_by_one(package):
        for replacement in replacements(package):
            yield replacement
            for pool in all_pools():
                pool(1).terminate()

    monkeypatch.setattr(_install, "_replacements", replacements_one_by_one)
    install()
    check_installed()
    uninstall()
    check_uninstalled()


def test_constructor_is_wrapped_after_install(monkeypatch):
    install()
    init = multiprocessing.pool.Pool.__init__
    monkeypatch.setattr(
        multiprocessing.pool.Pool, "__init__", lambda self, *args, **kwds: init(self, *args, **kwds)
    )
    wrapped = current_state()
    install()
    assert is_installed() and current_state() == wrapped
    monkeypatch.undo()
    uninstall()
    check_uninstalled()


def test_constructor_is_wrapped_before_install(monkeypatch):
    wrapped, init = [], multiprocessing.pool.Pool.__init__

    def wrapper(self, *args, **kwds):
        wrapped.append(args)
        init(self, *args, **kwds)

    monkeypatch.setattr(multiprocessing.pool.Pool, "__init__", wrapper)
    install()
    check_installed()
    assert wrapped
    uninstall()
    assert multiprocessing.pool.Pool.__init__ is wrapper
    monkeypatch.undo()
    check_uninstalled()


def test_pools_outlive_uninstall(start_method):
    install()
    pool = multiprocessing.get_context(start_method).Pool(1, identity, (1,), 1, expect_initret=True)
    with pool:
        uninstall()
        results = [pool.apply_async(add, (number,)) for number in range(3)]
        assert [result.get(TIMEOUT) for result in results] == [1, 2, 3]
    check_uninstalled()


def use_pool(queue):
    """Use expect_initret in a process that has not called install() itself."""
    try:
        with multiprocessing.Pool(1, identity, (1,), expect_initret=True) as pool:
            queue.put((is_installed(), pool.map_async(add, [1]).get(TIMEOUT)))
    except TypeError as error:
        queue.put((is_installed(), str(error)))


def use_pool_in_grandchild(method, queue):
    process = multiprocessing.get_context(method).Process(target=use_pool, args=(queue,))
    process.start()
    process.join(TIMEOUT)


def test_children_accept_expect_initret(installed, start_method):
    context = multiprocessing.get_context(start_method)
    queue = context.Queue()
    for target, args in ((use_pool, (queue,)), (use_pool_in_grandchild, (start_method, queue))):
        process = context.Process(target=target, args=args)
        process.start()
        assert queue.get(timeout=TIMEOUT) == (True, [2])
        process.join(TIMEOUT)
        assert process.exitcode == 0


def test_children_after_uninstall(start_method):
    install()
    uninstall()
    context = multiprocessing.get_context(start_method)
    queue = context.Queue()
    process = context.Process(target=use_pool, args=(queue,))
    process.start()
    is_installed_in_child, answer = queue.get(timeout=TIMEOUT)
    assert not is_installed_in_child
    assert answer == [2] if HAS_EXPECT_INITRET else "expect_initret" in answer
    process.join(TIMEOUT)


def test_manager(installed, start_method):
    context = multiprocessing.get_context(start_method)
    with context.Manager() as manager, manager.Pool(1, identity, (1,), expect_initret=True) as pool:
        assert pool.map_async(add, [1]).get(TIMEOUT) == [2]


IMPORTS = (
    "from multiprocessing import Pool",
    "from multiprocessing.pool import Pool",
    "from multiprocessing.pool import ThreadPool as Pool",
    "from multiprocessing.dummy import Pool",
    "import multiprocessing; Pool = multiprocessing.get_context('spawn').Pool",
    "import multiprocessing; Pool = multiprocessing.context.SpawnContext().Pool",
    "from multiprocessing.pool import Pool as Base\nclass Pool(Base): pass",
)
INSTALL = "import multiprocessing_initret; multiprocessing_initret.install()"
PROGRAM = """
def identity(value):
    return value

def add(item, initret):
    return item + initret

if __name__ == "__main__":
    {last_line_before}
    with Pool(2, identity, (40,), expect_initret=True) as pool:
        print(pool.map(add, range(3)))
"""


@pytest.mark.parametrize("imports", IMPORTS)
@pytest.mark.parametrize("order", ["install first", "install last", "install in main"])
def test_import_order(python, tmp_path, imports, order):
    lines = {
        "install first": [INSTALL, imports],
        "install last": [imports, INSTALL],
        "install in main": [imports],
    }[order]
    program = PROGRAM.format(last_line_before=INSTALL if order == "install in main" else "")
    (tmp_path / "program.py").write_text("\n".join(lines) + program)
    assert python("program.py") == "[40, 41, 42]\n"


PATCHED = """
import inspect, multiprocessing, os, sys
import multiprocessing_initret
from multiprocessing import pool

class Counted:
    pickled = 0

    def __reduce__(self):
        Counted.pickled += 1
        return Counted, ()

def exit_at_three(item, initret):
    if item == 3:
        os._exit(3)
    return item, type(initret).__name__

def identity(value):
    return value

def check(Pool):
    Counted.pickled = 0
    with Pool(2, identity, (Counted(),), expect_initret=True) as tested:
        results = [tested.apply_async(exit_at_three, (i,)) for i in range(5)]
        try:
            results.pop(3).get(60)
        except multiprocessing_initret.WorkerLostError as error:
            assert error.exitcode == 3
        else:
            raise AssertionError("the task did not fail")
        assert [result.get(60) for result in results] == [(i, "Counted") for i in (0, 1, 2, 4)]
    # Once for all workers, and not at all under fork.
    assert Counted.pickled == (multiprocessing.get_start_method() != "fork")

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    assert "expect_initret" in inspect.signature(pool.Pool).parameters
    assert not multiprocessing_initret.is_installed()
    check(multiprocessing_initret.Pool)
    standard = pool.Pool.__init__
    multiprocessing_initret.install()
    assert multiprocessing_initret.is_installed()
    check(multiprocessing.Pool)
    check(pool.Pool)
    multiprocessing_initret.uninstall()
    assert not multiprocessing_initret.is_installed()
    assert pool.Pool.__init__ is standard
"""


@pytest.mark.skipif(
    sys.version_info < (3, 8) or not OVERLAY.exists() or not shutil.which("git"),
    reason="this Python cannot be patched, or there is no git",
)
def test_guarantees_on_a_patched_interpreter(python, tmp_path, start_method):
    if not HAS_EXPECT_INITRET:
        python(OVERLAY, tmp_path / "overlay")
    (tmp_path / "program.py").write_text(PATCHED)
    python("program.py", start_method, PYTHONPATH=python_path(tmp_path / "overlay"))


PRELOADED = """
import sys
from multiprocessing import forkserver, get_context

# A worker imports the second one to unpickle its queues.
NAMES = ["multiprocessing_initret._worker.process", "multiprocessing.synchronize"]

def print_preloaded():
    print([name in sys.modules for name in NAMES], flush=True)

if __name__ == "__main__":
    import multiprocessing_initret
    if "install" in sys.argv:
        multiprocessing_initret.install()
    forkserver.ensure_running()
    # Otherwise every child would import the package.
    multiprocessing_initret.uninstall()
    process = get_context("forkserver").Process(target=print_preloaded)
    process.start()
    process.join()
"""


@pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="no fork server here"
)
def test_fork_server_preloads_the_package(python, tmp_path):
    (tmp_path / "program.py").write_text(PRELOADED)
    assert python("program.py", "install") == "[True, True]\n"
    assert python("program.py") == "[False, False]\n"


SHADOWED = """
import multiprocessing, sys
import multiprocessing_initret

def add(item, initret):
    return item + initret

if __name__ == "__main__":
    multiprocessing_initret.install()
    context = multiprocessing.get_context("forkserver")
    with context.Pool(1, int, (40,), expect_initret=True) as pool:
        print(pool.map_async(add, range(3)).get(60))
"""


@pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="no fork server here"
)
def test_file_with_the_name_of_a_standard_module(python, tmp_path):
    """A fork server that preloads looks for modules in the current directory (gh-117378)."""
    (tmp_path / "queue.py").write_text("class Queue: pass")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "program.py").write_text(SHADOWED)
    assert python(os.path.join("directory", "program.py")) == "[40, 41, 42]\n"


def test_fork_server_of_an_unknown_kind(monkeypatch):
    """The preloading is an optimization, which install() can do without."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system has no fork server")
    from multiprocessing import forkserver

    monkeypatch.delattr(forkserver._forkserver, "_preload_modules")
    install()
    assert is_installed()
    uninstall()


NOT_DERIVATIVES = (
    "no_such_package",
    "json",
    "multiprocessing.pool",
    "concurrent.futures",
    "",
    None,
)


@pytest.mark.parametrize("package", NOT_DERIVATIVES)
@pytest.mark.parametrize("function", [install, uninstall, is_installed])
def test_package_must_be_a_derivative(function, package):
    with pytest.raises(
        ValueError, match=f"package must be the name of multiprocessing or .* not {package!r}"
    ):
        function(package)
    check_uninstalled()


def test_public_names():
    assert sorted(multiprocessing_initret.__all__) == [
        "Pool",
        "ThreadPool",
        "WorkerLostError",
        "install",
        "is_installed",
        "uninstall",
    ]
    assert multiprocessing_initret.__version__.count(".") == 2
