"""Functions that several modules of tests use: pools, tasks, and bounded calls."""

import contextlib
import multiprocessing
import os
import signal
import threading

import multiprocessing_initret
from conftest import TIMEOUT

WINDOWS = os.name != "posix"
# On Windows, os.kill() with a signal ends the process, and the signal is its exit code.
KILL = signal.SIGTERM if WINDOWS else signal.SIGKILL


def make_pool(start_method, processes=2, initializer=int, initargs=(40,), **kwds):
    context = multiprocessing.get_context(start_method)
    return multiprocessing_initret.Pool(
        processes, initializer, initargs, context=context, expect_initret=True, **kwds
    )


def add(item, initret):
    return item + initret


def check(pool):
    """Check that a pool runs tasks."""
    assert pool.map_async(add, range(6), chunksize=1).get(TIMEOUT) == list(range(40, 46))


def error_of(result):
    """Return the exception of a task, which must fail."""
    try:
        value = result.get(TIMEOUT)
    except multiprocessing.TimeoutError:
        raise
    except Exception as error:
        return error
    raise AssertionError(f"the task returned {value!r}")


def bounded(function, *args):
    """Call a function that may hang, and return its result or raise its exception."""
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


def end(pool, how="terminate"):
    """Close or terminate a pool, and join it."""
    bounded(getattr(pool, how))
    bounded(pool.join)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return True
