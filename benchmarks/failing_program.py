"""Cause one failure in the pool of one library.

failures.py runs this program for each case in a new process, because it may hang:

    FAILURE="a task calls os._exit()" python failing_program.py LIBRARY START_METHOD

Prints one JSON object a line: the result of the "task" that fails, of a task "after" it, and
of the "end", which terminates the pool.  If the program hangs, the later ones are missing.
"""

import contextlib
import ctypes
import faulthandler
import functools
import importlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time

FAILURE = os.environ.get("FAILURE", "")  # workers read it too; they have other arguments
LIMIT = 20  # seconds after which a case that hangs is killed
WORKERS = 2
LARGE = 2**28  # bytes, enough to kill a worker while it sends them through a pipe
MEGABYTE = 2**20
RIGHT = 2  # the result of every task that succeeds


# The functions that the workers run; the package passes initret to them.


def return_value(value=None):
    return value


def work(initret=None):
    return RIGHT


def kill(initret=None):
    os.kill(os.getpid(), signal.SIGKILL)


def exit_at_once(initret=None):
    os._exit(3)


def sys_exit(initret=None):
    sys.exit(3)


def interrupt(initret=None):
    raise KeyboardInterrupt


def crash(initret=None):
    ctypes.string_at(0)


def kill_first(parent):
    """Kill the first worker of the program, whose ID all its workers receive."""
    try:
        os.mkdir(os.path.join(tempfile.gettempdir(), f"killed-{parent}"))
    except FileExistsError:
        return
    kill()


def process_id(seconds, initret=None):
    time.sleep(seconds)
    return os.getpid()


def slow(initret=None):
    time.sleep(5)
    return RIGHT


def large_result(initret=None):
    return bytes(LARGE)


def large_argument(data, initret=None):
    return RIGHT


def explode():
    raise RuntimeError("this cannot be unpickled")


class Explosive:
    """An object that can be pickled but not unpickled."""

    def __reduce__(self):
        return explode, ()


class TwoArgumentsError(Exception):
    """A common exception that cannot be unpickled: pickle passes it one argument."""

    def __init__(self, code, text):
        super().__init__(text)


def same(argument, initret=None):
    return RIGHT


def double(number, initret=None):
    return 2 * number


def raise_two_arguments(initret=None):
    raise TwoArgumentsError(1, "a task failed")


def explosive_result(initret=None):
    return Explosive()


class Short:
    """An iterable that raises an exception before its length is reached."""

    def __len__(self):
        return 10

    def __iter__(self):
        yield from (1, 2)
        raise ValueError("no more items")


if __name__ == "__main__":  # not in a spawned worker

    def late_initializer():
        return None

    def late_work(initret=None):
        return RIGHT


# The pools, with map(), end(), and submit(), which returns a function that waits for the result.


class Pool:
    """A pool with the interface of multiprocessing.Pool."""

    def __init__(self, pool, **keywords):
        self.pool, self.keywords = pool, keywords

    def submit(self, function, *args):
        return self.pool.apply_async(function, args, **self.keywords).get

    def map(self, function, items):
        return self.pool.map(function, items, **self.keywords)

    def end(self):
        self.pool.terminate()


class Executor(Pool):
    """A pool with the interface of concurrent.futures.ProcessPoolExecutor."""

    def submit(self, function, *args):
        return self.pool.submit(function, *args).result

    def map(self, function, items):
        return list(self.pool.map(function, items))

    def end(self):
        # terminate_workers() is new in Python 3.14.
        getattr(self.pool, "terminate_workers", self.pool.shutdown)()


class Loky(Executor):
    def end(self):
        self.pool.shutdown(kill_workers=True)


class Pebble(Pool):
    def submit(self, function, *args):
        return self.pool.schedule(function, args).result

    def map(self, function, items):
        return list(self.pool.map(function, items).result())

    def end(self):
        self.pool.stop()
        self.pool.join()


def standard(method, workers, *initializer, package="multiprocessing"):
    if method == "threads":
        return Pool(importlib.import_module(package + ".pool").ThreadPool(workers, *initializer))
    return Pool(importlib.import_module(package).get_context(method).Pool(workers, *initializer))


def package(method, workers, *initializer):
    from multiprocessing_initret import Pool as OurPool
    from multiprocessing_initret import ThreadPool

    if method == "threads":
        return Pool(ThreadPool(workers, *initializer, expect_initret=True))
    context = multiprocessing.get_context(method)
    return Pool(OurPool(workers, *initializer, context=context, expect_initret=True))


def futures(method, workers, *initializer):
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    if method == "threads":
        return Executor(ThreadPoolExecutor(workers, "", *initializer))
    context = multiprocessing.get_context(method)
    return Executor(ProcessPoolExecutor(workers, context, *initializer))


def loky(method, workers, initializer, initargs):
    from loky import ProcessPoolExecutor

    return Loky(ProcessPoolExecutor(workers, initializer=initializer, initargs=initargs))


def mpire(method, workers, initializer, initargs):
    from mpire import WorkerPool

    pool = WorkerPool(workers, start_method=method.replace("threads", "threading"))
    return Pool(pool, worker_init=functools.partial(initializer, *initargs))


def pebble(method, workers, *initializer):
    from pebble import ProcessPool, ThreadPool

    if method == "threads":
        return Pebble(ThreadPool(workers, 0, *initializer))
    context = multiprocessing.get_context(method)
    return Pebble(ProcessPool(workers, 0, *initializer, context=context))


def ray(method, workers, *initializer):
    from ray.util.multiprocessing import Pool as RaysPool

    return Pool(RaysPool(workers, *initializer))


OWN = "its own"  # start method
PROCESSES = ["fork", "spawn", "forkserver"]
LIBRARIES = {  # name: (function that creates the pool, module, start methods)
    "standard Pool": (standard, "multiprocessing", [*PROCESSES, "threads"]),
    "expect_initret": (package, "multiprocessing_initret", [*PROCESSES, "threads"]),
    "concurrent.futures": (futures, "concurrent.futures", [*PROCESSES, "threads"]),
    "loky (joblib)": (loky, "loky", [OWN]),
    "mpire": (mpire, "mpire", [*PROCESSES, "threads"]),
    "pebble": (pebble, "pebble", [*PROCESSES, "threads"]),
    "billiard": (functools.partial(standard, package="billiard"), "billiard", PROCESSES),
    "Ray's Pool": (ray, "ray", [OWN]),
}


# The failures: each returns the result of the task, or raises its exception.


def first(pool, function=work, *args):
    return pool.submit(function, *args)()


def killed_idle(pool, workers):
    results = [pool.submit(process_id, 0.5) for _ in range(workers)]
    for pid in {result() for result in results}:
        time.sleep(0.5)  # until the worker is idle
        with contextlib.suppress(ProcessLookupError):  # the pool may have terminated it
            os.kill(pid, signal.SIGKILL)
    return first(pool)


def killed_moving_data(pool, reader, function, *args):
    """Kill the only worker while it receives its task or sends its result.

    :param reader: function that returns the ID of the process that reads these data.  Its count
        of bytes read grows meanwhile; the writer's count of bytes written only grows at the end.
    """

    def bytes_read(pid):
        with open(f"/proc/{pid}/io") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))

    def watch():
        while bytes_read(reader_pid) < before + MEGABYTE:
            pass
        os.kill(worker, signal.SIGKILL)

    worker = first(pool, process_id, 0)
    reader_pid = reader(worker)
    before = bytes_read(reader_pid)
    threading.Thread(target=watch, daemon=True).start()
    return first(pool, function, *args)


def terminated_while_waiting(pool, end):
    """Terminate the pool in one thread while another waits for a result."""
    result, caught = pool.submit(slow), []

    def wait():
        try:
            caught.append(result())
        except BaseException as error:
            caught.append(error)

    waits = threading.Thread(target=wait, daemon=True)
    waits.start()
    time.sleep(2)  # until the task is running
    end(pool)
    waits.join()
    if isinstance(caught[0], BaseException):
        raise caught[0]
    return caught[0]


def exit_with_block(pool):
    with pool.pool:
        pass


NONE = "no failure"
NO_GUARD = "no if __name__ == '__main__' in the program"
MAIN_RAISES = "the main module raises in a worker"
TYPED = "functions defined in an interactive interpreter"
THREADS = [
    "in a thread, a task calls sys.exit()",
    "in a thread, the initializer calls sys.exit()",
]  # failures of a pool of threads

FAILURES = {  # name: function that receives a function which creates the pool
    NONE: lambda make: first(make()),
    "a task is killed (SIGKILL)": lambda make: first(make(), kill),
    "a task calls os._exit()": lambda make: first(make(), exit_at_once),
    "a task calls sys.exit()": lambda make: first(make(), sys_exit),
    "a task raises KeyboardInterrupt": lambda make: first(make(), interrupt),
    "a task crashes in C": lambda make: first(make(), crash),
    "the only worker is killed while idle": lambda make: killed_idle(make(workers=1), 1),
    "all workers are killed while idle": lambda make: killed_idle(make(), WORKERS),
    "the initializer is killed": lambda make: first(make(kill)),
    "the initializer is killed, the first time": lambda make: first(make(kill_first, os.getpid())),
    "the initializer calls sys.exit()": lambda make: first(make(sys_exit)),
    NO_GUARD: lambda make: first(make()),
    MAIN_RAISES: lambda make: first(make()),
    "a worker is killed while it receives a task": lambda make: killed_moving_data(
        make(workers=1), lambda worker: worker, large_argument, bytes(LARGE)
    ),
    "a worker is killed while it sends a result": lambda make: killed_moving_data(
        make(workers=1), lambda worker: os.getpid(), large_result
    ),
    "the initializer is defined under the guard": lambda make: first(make(late_initializer)),
    "an argument of the initializer can't be unpickled": lambda make: first(
        make(return_value, Explosive())
    ),
    "a function is defined under the guard": lambda make: first(make(), late_work),
    "an argument can't be unpickled": lambda make: first(make(), same, Explosive()),
    TYPED: lambda make: first(make()),
    "a result can't be unpickled": lambda make: first(make(), explosive_result),
    "an exception can't be unpickled": lambda make: first(make(), raise_two_arguments),
    "the initializer's exception can't be unpickled": lambda make: first(make(raise_two_arguments)),
    "in a thread, a task calls sys.exit()": lambda make: first(make(), sys_exit),
    "in a thread, the initializer calls sys.exit()": lambda make: first(make(sys_exit)),
    "terminate() while a thread waits for a result": lambda make: terminated_while_waiting(
        make(), lambda pool: pool.end()
    ),
    "the end of with while a thread waits for a result": lambda make: terminated_while_waiting(
        make(), exit_with_block
    ),
    "map() over an iterable that raises an exception": lambda make: make().map(double, Short()),
}


def report(name, result):
    print(json.dumps({name: result}), flush=True)


def result_of(wait):
    try:
        result = wait()
    except BaseException as error:
        if __name__ != "__main__":  # a program without a guard, in a worker
            raise
        return type(error).__name__
    return "answer" if result in (RIGHT, bytes(LARGE)) else "no error"


def main():
    library, method = sys.argv[1:]
    make_pool, *_ = LIBRARIES[library]
    fail = FAILURES[FAILURE]
    pools = []

    def make(initializer=return_value, *initargs, workers=WORKERS):
        pools.append(make_pool(method, workers, initializer, initargs))
        return pools[-1]

    if library == "Ray's Pool":  # the time limit does not include the start of the cluster
        import ray as rays

        rays.init("local", num_cpus=WORKERS, include_dashboard=False, logging_level="ERROR")
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    report("task", result_of(lambda: fail(make)))
    if pools:
        report("after", result_of(lambda: first(pools[0])))
        report("end", result_of(pools[0].end))
    else:
        report("end", "no pool")
    os._exit(0)


if FAILURE == MAIN_RAISES and __name__ == "__mp_main__":
    raise RuntimeError("a main module that raises")
if __name__ == "__main__" or (FAILURE == NO_GUARD and __name__ == "__mp_main__"):
    main()
