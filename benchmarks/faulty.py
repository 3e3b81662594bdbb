"""Do one of the things that go wrong in a pool, to the pool of one library.

faults.py runs this for each case, in a process of its own, since it may never end:

    FAULT="killed in a task" python faulty.py LIBRARY START_METHOD

Prints one outcome a line, as JSON: of the "task" that meets the fault, of a task
"after" it, and of the "end" of the pool.  What is missing was waited for in vain.
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

FAULT = os.environ.get("FAULT", "")  # also in the workers, which may have other arguments
LIMIT = 20  # seconds until a case that waits is ended
WORKERS = 2
LARGE = 2**28  # bytes, which take a while through a pipe
MEGABYTE = 2**20
RIGHT = 2  # what every task comes to that comes to something


# What the workers run.  Ours hands each function what the initializer returned.


def give(value=None):
    return value


def work(initret=None):
    return RIGHT


def kill(initret=None):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(initret=None):
    os._exit(3)


def sys_exit(initret=None):
    sys.exit(3)


def interrupt(initret=None):
    raise KeyboardInterrupt


def crash(initret=None):
    ctypes.string_at(0)


def kill_first(parent):
    """End the first worker of a program."""
    try:
        os.mkdir(os.path.join(tempfile.gettempdir(), f"faulty-{parent}"))
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
    """What can be pickled and cannot be unpickled."""

    def __reduce__(self):
        return explode, ()


class TwoArgumentsError(Exception):
    """The same, as people write it: pickle makes it anew from one argument."""

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
    """Has a length, and raises before that."""

    def __len__(self):
        return 10

    def __iter__(self):
        yield from (1, 2)
        raise ValueError("no more items")


if __name__ == "__main__":  # which a spawned worker does not have

    def late_give():
        return None

    def late_work(initret=None):
        return RIGHT


# The pools: each has submit(), which returns what waits for the result, map() and end().


class Pool:
    """What looks like multiprocessing.Pool."""

    def __init__(self, pool, **keywords):
        self.pool, self.keywords = pool, keywords

    def submit(self, function, *args):
        return self.pool.apply_async(function, args, **self.keywords).get

    def map(self, function, items):
        return self.pool.map(function, items, **self.keywords)

    def end(self):
        self.pool.terminate()


class Executor(Pool):
    """What looks like concurrent.futures.ProcessPoolExecutor."""

    def submit(self, function, *args):
        return self.pool.submit(function, *args).result

    def map(self, function, items):
        return list(self.pool.map(function, items))

    def end(self):
        # Since Python 3.14.
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


def stock(method, workers, *initializer, package="multiprocessing"):
    if method == "threads":
        return Pool(importlib.import_module(package + ".pool").ThreadPool(workers, *initializer))
    return Pool(importlib.import_module(package).get_context(method).Pool(workers, *initializer))


def ours(method, workers, *initializer):
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
LIBRARIES = {  # name: (how its pool is made, what is imported, its start methods)
    "stock Pool": (stock, "multiprocessing", [*PROCESSES, "threads"]),
    "expect_initret": (ours, "multiprocessing_initret", [*PROCESSES, "threads"]),
    "concurrent.futures": (futures, "concurrent.futures", [*PROCESSES, "threads"]),
    "loky (joblib)": (loky, "loky", [OWN]),
    "mpire": (mpire, "mpire", [*PROCESSES, "threads"]),
    "pebble": (pebble, "pebble", [*PROCESSES, "threads"]),
    "billiard": (functools.partial(stock, package="billiard"), "billiard", PROCESSES),
    "Ray's Pool": (ray, "ray", [OWN]),
}


# The faults.  Each returns what the task that meets it came to, or raises its error.


def first(pool, function=work, *args):
    return pool.submit(function, *args)()


def killed_idle(pool, workers):
    results = [pool.submit(process_id, 0.5) for _ in range(workers)]
    for pid in {result() for result in results}:
        time.sleep(0.5)  # until it waits
        with contextlib.suppress(ProcessLookupError):  # the first one may have ended the other
            os.kill(pid, signal.SIGKILL)
    return first(pool)


def killed_moving_data(pool, reader, function, *args):
    """Kill the one worker while the data of its task move, from or to it.

    :param reader: returns whose count of bytes read grows then; that of bytes written
        does not before the last is written
    """

    def bytes_read(pid):
        with open(f"/proc/{pid}/io") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))

    def watch():
        while bytes_read(reads) < before + MEGABYTE:
            pass
        os.kill(worker, signal.SIGKILL)

    worker = first(pool, process_id, 0)
    reads = reader(worker)
    before = bytes_read(reads)
    threading.Thread(target=watch, daemon=True).start()
    return first(pool, function, *args)


def awaited(pool, end):
    """End the pool in one thread while another waits for a result."""
    result, caught = pool.submit(slow), []

    def wait():
        try:
            caught.append(result())
        except BaseException as error:
            caught.append(error)

    waits = threading.Thread(target=wait, daemon=True)
    waits.start()
    time.sleep(2)  # until the task runs
    end(pool)
    waits.join()
    if isinstance(caught[0], BaseException):
        raise caught[0]
    return caught[0]


def leave_with(pool):
    with pool.pool:
        pass


NOTHING = "nothing goes wrong"
NO_GUARD = "no if __name__ == '__main__' in the program"
MAIN_RAISES = "the main module raises in a worker"
TYPED = "functions typed into an interpreter"
THREADS = 21  # the row about them

FAULTS = {  # name: (row of the promises, what does it with what makes a pool)
    NOTHING: (0, lambda make: first(make())),
    "a task is killed (SIGKILL)": (13, lambda make: first(make(), kill)),
    "a task calls os._exit()": (13, lambda make: first(make(), leave)),
    "a task calls sys.exit()": (13, lambda make: first(make(), sys_exit)),
    "a task raises KeyboardInterrupt": (13, lambda make: first(make(), interrupt)),
    "a task crashes in C": (13, lambda make: first(make(), crash)),
    "the one worker is killed while it waits": (
        14,
        lambda make: killed_idle(make(workers=1), 1),
    ),
    "all workers are killed while they wait": (14, lambda make: killed_idle(make(), WORKERS)),
    "the initializer is killed": (15, lambda make: first(make(kill))),
    "the initializer is killed, the first time": (
        15,
        lambda make: first(make(kill_first, os.getpid())),
    ),
    "the initializer calls sys.exit()": (15, lambda make: first(make(sys_exit))),
    NO_GUARD: (16, lambda make: first(make())),
    MAIN_RAISES: (16, lambda make: first(make())),
    "a worker is killed while it receives a task": (
        17,
        lambda make: killed_moving_data(
            make(workers=1), lambda worker: worker, large_argument, bytes(LARGE)
        ),
    ),
    "a worker is killed while it sends a result": (
        17,
        lambda make: killed_moving_data(make(workers=1), lambda worker: os.getpid(), large_result),
    ),
    "the initializer is defined under the guard": (18, lambda make: first(make(late_give))),
    "an argument of the initializer can't be unpickled": (
        18,
        lambda make: first(make(give, Explosive())),
    ),
    "a function is defined under the guard": (19, lambda make: first(make(), late_work)),
    "an argument can't be unpickled": (19, lambda make: first(make(), same, Explosive())),
    TYPED: (19, lambda make: first(make())),
    "a result can't be unpickled": (20, lambda make: first(make(), explosive_result)),
    "an exception can't be unpickled": (20, lambda make: first(make(), raise_two_arguments)),
    "the initializer's exception can't be unpickled": (
        20,
        lambda make: first(make(raise_two_arguments)),
    ),
    "in a thread, a task calls sys.exit()": (THREADS, lambda make: first(make(), sys_exit)),
    "in a thread, the initializer calls sys.exit()": (
        THREADS,
        lambda make: first(make(sys_exit)),
    ),
    "terminate() while a result is awaited": (
        22,
        lambda make: awaited(make(), lambda pool: pool.end()),
    ),
    "the end of with while a result is awaited": (22, lambda make: awaited(make(), leave_with)),
    "map() over what has a length and raises early": (
        23,
        lambda make: make().map(double, Short()),
    ),
}


def report(name, outcome):
    print(json.dumps({name: outcome}), flush=True)


def outcome(wait):
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
    _, act = FAULTS[FAULT]
    pools = []

    def make(initializer=give, *initargs, workers=WORKERS):
        pools.append(make_pool(method, workers, initializer, initargs))
        return pools[-1]

    if library == "Ray's Pool":  # a cluster is there before
        import ray as rays

        rays.init("local", num_cpus=WORKERS, include_dashboard=False, logging_level="ERROR")
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    report("task", outcome(lambda: act(make)))
    if pools:
        report("after", outcome(lambda: first(pools[0])))
        report("end", outcome(pools[0].end))
    else:
        report("end", "there was no pool")
    os._exit(0)


if FAULT == MAIN_RAISES and __name__ == "__mp_main__":
    raise RuntimeError("a main module that raises")
if __name__ == "__main__" or (FAULT == NO_GUARD and __name__ == "__mp_main__"):
    main()
