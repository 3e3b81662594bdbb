import gc
import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import multiprocessing_initret
import pytest
from multiprocessing_initret import install, uninstall

TIMEOUT = 60  # seconds
# Whether this Python has the feature itself; evaluated before any test calls install().
HAS_EXPECT_INITRET = "expect_initret" in inspect.signature(multiprocessing.Pool).parameters
START_METHODS = multiprocessing.get_all_start_methods()

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def pytest_configure():
    # A shell has what it runs in the background ignore SIGINT, and a worker would too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before pytest selects the tests by their marks
def pytest_collection_modifyitems(items):
    """Mark a test as slow if its parameters name another start method than "fork"."""
    if "fork" not in START_METHODS:
        return
    for item in items:
        for value in item.callspec.params.values() if hasattr(item, "callspec") else ():
            if isinstance(value, str) and value in START_METHODS and value != "fork":
                item.add_marker(pytest.mark.slow)


def wait_until(condition, timeout=TIMEOUT):
    """Wait for what no event tells, such as a file of another process."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Counted:
    """An object that counts how often it is pickled."""

    def __init__(self):
        self.pickled = 0

    def __reduce__(self):
        self.pickled += 1
        return Counted, ()


@pytest.fixture(params=START_METHODS)
def start_method(request):
    return request.param


@pytest.fixture
def alone():
    """Let a test that counts processes begin when those of the tests before have left."""
    wait_until(lambda: multiprocessing.active_children() == [])


@pytest.fixture
def no_collector():
    """Let nothing be there that the garbage collector would end, and nothing be ended by it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def installed():
    multiprocessing_initret.install()
    yield
    multiprocessing_initret.uninstall()


@pytest.fixture
def short_folder():
    """A folder for what has a short path, as a socket must: that of tmp_path is long."""
    with tempfile.TemporaryDirectory(prefix="initret") as folder:
        yield folder


@pytest.fixture
def python(tmp_path):
    """Run a fresh interpreter in an empty folder, and return its output.

    The folder is tmp_path, stdin is empty unless it is given, and what the
    interpreter prints to stderr is a failure where it says so by its exit code.
    """

    def run(*args, code=0, stdin="", **env):
        done = subprocess.run(
            [sys.executable] + [str(arg) for arg in args],
            cwd=str(tmp_path),
            env=dict(os.environ, **env),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


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
