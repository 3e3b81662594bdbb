"""Helpers that the tests of pools share: pools, tasks, checks, and ways to end a worker."""

import contextlib
import ctypes
import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import time
import types

import multiprocessing_initret
import pytest
from conftest import TIMEOUT, WINDOWS, call_with_timeout, join_in_time, wait_until
from multiprocessing_initret import WorkerLostError

# On Windows, os.kill() terminates the process, and the number of the signal is its exit code.
KILL = signal.SIGTERM if WINDOWS else signal.SIGKILL
KILLED = "exited with code 15" if WINDOWS else "was killed by SIGKILL"
# In Python 3.6 a fork server reports exit code 255 for each process that was killed or that has
# called os._exit().
FORK_SERVER_REPORTS_SIGNALS = sys.version_info >= (3, 7)
# Runs a test with multiprocess too, if it is installed.
with_multiprocess = pytest.mark.parametrize("package", ["multiprocessing", "multiprocess"])


def create_pool(start_method, processes=2, initializer=int, initargs=(40,), **kwds):
    """Return a pool of processes that its caller must end, unlike those of make_pool."""
    context = multiprocessing.get_context(start_method)
    return multiprocessing_initret.Pool(
        processes, initializer, initargs, context=context, expect_initret=True, **kwds
    )


def end_pool(pool, method="terminate"):
    """Close or terminate a pool, and join it."""
    call_with_timeout(getattr(pool, method))
    join_in_time(pool)


def identity(value):
    return value


def add(item, initret):
    return item + initret


def check_pool(pool):
    """Check that a pool whose initret is 40 runs tasks."""
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


def result_or_exception(result):
    """Return the value of an AsyncResult, or its exception."""
    try:
        return result.get(TIMEOUT)
    except multiprocessing.TimeoutError:
        raise
    except Exception as error:
        return error


def results_and_exceptions(iterator):
    """Return the values and exceptions of the iterator of imap() or imap_unordered()."""
    found = []
    while True:
        try:
            found.append(iterator.next(TIMEOUT))
        except StopIteration:
            return found
        except multiprocessing.TimeoutError:
            raise
        except Exception as error:
            found.append(error)


def is_lost(error, message=""):
    """Return whether an object is a WorkerLostError whose message contains a text."""
    text = str(error)
    if not FORK_SERVER_REPORTS_SIGNALS and "ForkServer" in text:
        text = text.replace("exited with code 255", message)
    return type(error) is WorkerLostError and message in text


def is_running(pid):
    """Return whether a process exists and, on Linux, is not a zombie.  Not for Windows."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return True


def abort():
    faulthandler.disable()  # pytest enables it, and it prints a traceback
    os.abort()


def cause_segfault():
    import resource

    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.memset(0, 1, 1)


def kill_itself():
    os.kill(os.getpid(), KILL)
    time.sleep(TIMEOUT)


# Functions that end the worker, each with part of the message of the resulting WorkerLostError.
EXITS = {
    "SIGKILL": (kill_itself, KILLED),
    "_exit": (lambda: os._exit(3), "exited with code 3"),
    "_exit 0": (lambda: os._exit(0), "exited with code 0"),
    "sys.exit": (lambda: sys.exit(5), "exited with code 5"),
    "sys.exit 0": (lambda: sys.exit(0), "exited with code 0"),
    "SIGTERM": (lambda: os.kill(os.getpid(), signal.SIGTERM), "was killed by SIGTERM"),
    "SIGINT": (lambda: os.kill(os.getpid(), signal.SIGINT), "exited with code 1"),
    "abort": (abort, "was killed by SIGABRT"),
    "segfault": (cause_segfault, "was killed by SIGSEGV"),
}
if hasattr(signal, "SIGRTMIN"):
    SIGNAL_WITHOUT_NAME = int(signal.SIGRTMIN) + 1
    EXITS["signal without a name"] = (
        lambda: os.kill(os.getpid(), SIGNAL_WITHOUT_NAME),
        f"was killed by signal {SIGNAL_WITHOUT_NAME}",
    )
if WINDOWS:
    for name in "SIGTERM", "SIGINT", "abort", "segfault":
        del EXITS[name]
all_exits = pytest.mark.parametrize("exit_by", sorted(EXITS))
some_exits = pytest.mark.parametrize("exit_by", ["SIGKILL", "_exit", "sys.exit"])


def exit_worker(exit_by):
    EXITS[exit_by][0]()
    time.sleep(TIMEOUT)  # a signal may arrive a little later


def exit_at_three(item, exit_by, initret):
    if item == 3:
        exit_worker(exit_by)
    return item + initret


def write_pid_and_wait(path, initret=None):
    """Write the pid of this process to a file for :func:`wait_for_pid`, then block."""
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    os.rename(path, path + ".pid")
    time.sleep(2 * TIMEOUT)  # longer than any test waits for what happens meanwhile


def wait_for_pid(path):
    """Return the pid that a process writes to a file with :func:`write_pid_and_wait`."""
    wait_until(lambda: os.path.exists(path + ".pid"))
    with open(path + ".pid") as file:
        return int(file.read())


def wait_until_idle(pool, size):
    """Wait until a pool has all its workers and one of them holds the lock of the task pipe."""
    wait_until(lambda: len(pool._pool) == size)
    wait_until(pool._inqueue._rlock._semlock._is_zero)


def is_replaced(pool, workers):
    """Return whether replacements of *workers*, once all workers of the pool, have started."""
    return len(pool._pool) == len(workers) and not set(workers) & set(pool._pool)


def wait_until_replaced(pool, workers):
    wait_until(lambda: is_replaced(pool, workers))


def interrupt_until(condition, workers, number):
    """Send a signal that has a Python handler to workers until a condition holds.

    A signal that arrives just before a system call blocks does not interrupt that call.
    """

    def interrupt():
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)
        return condition()

    wait_until(interrupt)


def wait_for_initret(initret):
    initret.wait(TIMEOUT)


def wait_long(initret):
    time.sleep(TIMEOUT)


def length(data, initret):
    return len(data)


def echo(data, initret):
    return data


def raise_lookup_error(*args):
    raise LookupError("no luck")


def sys_exit_at_three(item, initret):
    if item == 3:
        sys.exit("no luck")
    return item + initret


def block(path, initret):
    """Create a file, and return when it has been removed."""
    with open(path, "a") as file:
        file.write("inside\n")
    wait_until(lambda: not os.path.exists(path), 2 * TIMEOUT)


class FullLog(logging.Handler):
    """A log handler that raises an exception."""

    def __init__(self, error=OSError):
        super().__init__()
        self._error = error

    def emit(self, record):
        raise self._error("the log is full")


def unblock(path):
    """Remove the file of :func:`block`."""

    def is_removed():
        # Windows does not remove a file that is open, if only because its existence is tested.
        with contextlib.suppress(PermissionError):
            os.unlink(path)
            return True
        return False

    wait_until(is_removed)


def rename_in(function, name):
    """Return a stand-in for a function, in which a parameter or attribute has another name."""
    code = getattr(function, "__func__", function).__code__

    def renamed(names):
        return tuple("renamed" if item == name else item for item in names)

    names = {"co_names": renamed(code.co_names), "co_varnames": renamed(code.co_varnames)}
    return types.SimpleNamespace(__code__=types.SimpleNamespace(**names))


class NotAnException(BaseException):
    """A BaseException that is not an Exception."""
