import multiprocessing
import os
import subprocess
import sys
import time

import multiprocessing_initret
import pytest

TIMEOUT = 60  # seconds


def wait_until(condition, timeout=TIMEOUT):
    """Wait for what no event tells, such as a file of another process."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(params=multiprocessing.get_all_start_methods())
def start_method(request):
    return request.param


@pytest.fixture
def installed():
    multiprocessing_initret.install()
    yield
    multiprocessing_initret.uninstall()


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
