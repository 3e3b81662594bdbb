import contextlib
import gc
import inspect
import logging
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
# Whether the standard Pool accepts expect_initret; evaluated before any test calls install().
HAS_EXPECT_INITRET = "expect_initret" in inspect.signature(multiprocessing.Pool).parameters
START_METHODS = multiprocessing.get_all_start_methods()

WINDOWS = os.name != "posix"

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
posix = pytest.mark.skipif(
    WINDOWS, reason="needs signals, os.fork(), or a pipe that may hold an incomplete message"
)
counts_references = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="PyPy has no reference counts"
)


def pytest_configure():
    # A shell starts background jobs with SIGINT ignored, and the workers would inherit that.
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
    """Wait for a condition that no event reports, such as a file of another process."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def call_with_timeout(function, *args):
    """Call a function in a thread, in case it hangs; return its result or raise its exception."""
    results, errors = [], []

    def call():
        try:
            results.append(function(*args))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive(), f"{function} hangs"
    for error in errors:
        raise error
    return results[0]


def join_in_time(pool):
    """Join a pool that is closed or terminated, and fail if that hangs."""
    call_with_timeout(pool.join)


class Counted:
    """An object that counts how often it is pickled."""

    def __init__(self):
        self.pickled = 0

    def __reduce__(self):
        self.pickled += 1
        return Counted, ()


class Unpicklable:
    """An object that cannot be pickled."""

    def __reduce__(self):
        raise LookupError("not to be pickled")


@pytest.fixture(params=START_METHODS)
def start_method(request):
    return request.param


@pytest.fixture(params=[method for method in START_METHODS if method != "fork"])
def spawning_method(request):
    """A start method whose workers do not inherit the objects of their parent."""
    return request.param


@pytest.fixture
def no_other_children():
    """Wait until the processes of earlier tests have exited, for a test that counts processes."""
    wait_until(lambda: multiprocessing.active_children() == [])


@pytest.fixture
def no_collector():
    """Collect garbage, then disable the garbage collector for the time of the test."""
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
def add_log_handler():
    """Return a function that adds a handler to multiprocessing's logger during the test."""
    logger, handlers = multiprocessing.get_logger(), []

    def add_log_handler(handler):
        logger.addHandler(handler)
        handlers.append(handler)

    yield add_log_handler
    for handler in handlers:
        logger.removeHandler(handler)


@pytest.fixture
def log(add_log_handler):
    """Return the list of the records that multiprocessing logs during the test."""
    records, handler = [], logging.Handler()
    handler.emit = records.append
    add_log_handler(handler)
    return records


@pytest.fixture
def short_tmp_path():
    """Return a temporary directory for sockets, whose paths must be shorter than tmp_path."""
    with tempfile.TemporaryDirectory(prefix="initret") as directory:
        yield directory


@pytest.fixture
def python(tmp_path):
    """Return a function that runs a new interpreter in tmp_path and returns its output.

    It passes *env* as environment variables, asserts that the exit code is *code*, and
    returns stderr in place of stdout if *code* is not 0.  If the interpreter hangs, the stacks
    of its threads are part of the error.
    """

    def run(*args, code=0, stdin="", **env):
        process = subprocess.Popen(
            [sys.executable] + [str(arg) for arg in args],
            cwd=str(tmp_path),
            env=dict(os.environ, PYTHONFAULTHANDLER="1", **env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        with process:
            try:
                stdout, stderr = process.communicate(stdin, timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGABRT)
                stdout, stderr = process.communicate(timeout=10)
                raise AssertionError("the program hangs: " + stdout + stderr) from None
            finally:
                process.kill()
        assert process.returncode == code, stdout + stderr
        return stdout if code == 0 else stderr

    return run


def python_path(directory):
    """Return a value of PYTHONPATH that has a directory before its present ones."""
    return os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH")]))


@pytest.fixture
def package():
    """Return the package whose pools are tested; tests replace it by a parameter."""
    return "multiprocessing"


def describe(pool):
    """Return the state of a pool of processes, for those who wonder why it hangs."""
    supervisor = pool._quick_put.__self__
    tasks = supervisor._task_pipe
    workers = [
        (worker.pid, worker.record.read(), worker.exitcode)
        for worker in list(supervisor._workforce.workers)
    ]
    return (
        f"workers (pid, (state, number), exit code): {workers}, in flight: {tasks.in_flight()}, "
        f"bytes unread: {tasks._unread()}, lock of the task pipe: {tasks._read_lock}"
    )


@pytest.fixture
def make_pool(start_method, package):
    """Return a function that makes pools of processes, which are terminated after the test.

    The pools must leave no process and no thread behind.
    """
    pools, threads = [], threading.active_count()
    if package == "multiprocess":
        for name in "multiprocess", "multiprocess.pool":
            pytest.importorskip(name)
    module = __import__(package)
    context = module.get_context(start_method)
    if package == "multiprocess":
        install(package)

    def make(processes=2, initializer=int, initargs=(40,), **kwds):
        if package == "multiprocess":
            args = processes, initializer, initargs
            pool = context.Pool(*args, expect_initret=True, **kwds)
        else:
            pool = multiprocessing_initret.Pool(
                processes, initializer, initargs, context=context, expect_initret=True, **kwds
            )
        pools.append(pool)
        return pool

    yield make
    if package == "multiprocess":
        uninstall(package)
    for pool in pools:
        # pytest shows this if the test has failed.  Some tests have ended or broken the pool.
        with contextlib.suppress(Exception):
            print(describe(pool))
        pool.terminate()
        join_in_time(pool)
    pools.clear()
    # There may be fewer threads if one of an earlier test has ended meanwhile.  A thread that
    # terminates a pool may need a moment to end.
    wait_until(lambda: threading.active_count() <= threads)
    assert not module.active_children()


@pytest.fixture
def make_thread_pool():
    """Return a function that makes pools of threads, which are terminated after the test."""
    pools = []

    def make(processes=2, initializer=int, initargs=(40,)):
        pool = multiprocessing_initret.ThreadPool(
            processes, initializer, initargs, expect_initret=True
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.terminate()
        join_in_time(pool)
