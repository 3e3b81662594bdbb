"""Functions, tasks and ways to exit that the tests of pools share."""

import ctypes
import multiprocessing
import os
import signal
import sys
import time

import pytest
from conftest import TIMEOUT, wait_until
from multiprocessing_initret import WorkerLostError

# On Windows, os.kill() with a signal ends the process, and the signal is its exit code.
WINDOWS = os.name != "posix"
KILL = signal.SIGTERM if WINDOWS else signal.SIGKILL
KILLED = "exited with code 15" if WINDOWS else "was killed by SIGKILL"
needs_signals = pytest.mark.skipif(WINDOWS, reason="Windows has no signals")
# A fork server of Python 3.6 does not tell how a process was killed.
TELLS = sys.version_info >= (3, 7)
main_rows = pytest.mark.parametrize("package", ["multiprocessing", "multiprocess"])


def add(item, initret):
    return item + initret


def check(pool):
    """See that a pool goes on."""
    assert pool.map_async(add, range(6), chunksize=1).get(TIMEOUT) == list(range(40, 46))


def outcome(result):
    """Return what a result has, the error if it is one."""
    try:
        return result.get(TIMEOUT)
    except multiprocessing.TimeoutError:
        raise
    except Exception as error:
        return error


def outcomes(iterator):
    """Return what is in the result of imap() or imap_unordered(), errors too."""
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


def is_lost(error, how=""):
    text = str(error)
    if not TELLS and "ForkServer" in text:
        text = text.replace("exited with code 255", how)
    return type(error) is WorkerLostError and how in text


def segfault():
    import faulthandler
    import resource

    faulthandler.disable()  # that of pytest
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.memset(0, 1, 1)


def kill_itself():
    os.kill(os.getpid(), KILL)
    time.sleep(TIMEOUT)


LEAVE = {
    "SIGKILL": (kill_itself, KILLED),
    "_exit": (lambda: os._exit(3), "exited with code 3"),
    "_exit 0": (lambda: os._exit(0), "exited with code 0"),
    "sys.exit": (lambda: sys.exit(5), "exited with code 5"),
    "sys.exit 0": (lambda: sys.exit(0), "exited with code 0"),
    "SIGTERM": (lambda: os.kill(os.getpid(), signal.SIGTERM), "was killed by SIGTERM"),
    "SIGINT": (lambda: os.kill(os.getpid(), signal.SIGINT), "exited with code 1"),
    "abort": (os.abort, "was killed by SIGABRT"),
    "segfault": (segfault, "was killed by SIGSEGV"),
}
if hasattr(signal, "SIGRTMIN"):
    NAMELESS = signal.SIGRTMIN + 1
    how = f"was killed by signal {int(NAMELESS)}"
    LEAVE["nameless signal"] = (lambda: os.kill(os.getpid(), NAMELESS), how)
if WINDOWS:
    for signals in "SIGTERM", "SIGINT", "abort", "segfault":
        del LEAVE[signals]
all_ways = pytest.mark.parametrize("way", sorted(LEAVE))
some_ways = pytest.mark.parametrize("way", ["SIGKILL", "_exit", "sys.exit"])


def leave(way):
    LEAVE[way][0]()
    time.sleep(TIMEOUT)  # a signal may come a little later


def leave_at_three(item, way, initret):
    if item == 3:
        leave(way)
    return item + initret


class PartialOf:
    """Call a function with one more argument, also where no closure can be pickled."""

    def __init__(self, func, argument):
        self.func, self.argument = func, argument

    def __call__(self, item, initret):
        return self.func(item, self.argument, initret)


def say_and_wait(path, initret):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    os.rename(path, path + ".pid")
    time.sleep(TIMEOUT)


def pid_said(path):
    wait_until(lambda: os.path.exists(path + ".pid"))
    with open(path + ".pid") as file:
        return int(file.read())


def settled(pool, size):
    """Wait until a pool has its workers, and one of them has the lock of the tasks' pipe."""
    wait_until(lambda: len(pool._pool) == size)
    wait_until(pool._inqueue._rlock._semlock._is_zero)


def wait_until_replaced(pool, workers):
    size = len(workers)
    wait_until(lambda: len(pool._pool) == size and not set(workers) & set(pool._pool))


def length(data, initret):
    return len(data)


def echo(data, initret):
    return data


def no_luck(*args):
    raise LookupError("no luck")


def exit_at_three(item, initret):
    if item == 3:
        sys.exit("no luck")
    return item + initret


def block(path, initret):
    with open(path, "a") as file:
        file.write("inside\n")
    wait_until(lambda: not os.path.exists(path), 2 * TIMEOUT)


class Leaves(BaseException):
    pass
