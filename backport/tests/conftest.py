import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time

import multiprocessing_initret
import pytest

TIMEOUT = 60  # seconds

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def pytest_configure():
    # A shell has what it runs in the background ignore SIGINT, and a worker would too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(params=multiprocessing.get_all_start_methods())
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
