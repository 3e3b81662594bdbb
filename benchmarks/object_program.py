"""Pass one large object to all workers of one pool, and print the time and memory as JSON.

objects.py runs this program for each measurement, so that the memory is that of this
measurement alone:

    python object_program.py POOL START_METHOD WORKERS KIND SIZE

KIND and SIZE are "array" and megabytes, or "dict" and entries.  Prints the "seconds" from
before the first worker starts until all have answered, and these numbers of megabytes:

- "object": the object itself
- "parent": how much the parent's memory, including its files in shared memory, grew at most
- "workers": the proportional set size of the workers and of the process that forked them,
  which may hold the object

Without /proc it prints the seconds alone.
"""

import json
import multiprocessing
import os
import pathlib
import sys
import tempfile
import threading
import time

import multiprocessing_initret

PAGE = 4096  # bytes
MEGABYTE = 2**20
LOOKED_UP = 1000  # entries of a dict
PAUSE = 0.01  # seconds between two measurements of the parent's memory
RAY_STORE = 4 * 2**30  # bytes
PARENT = "OBJECT_PROGRAM_PARENT"  # the environment variable with the parent's process ID


def make(kind, size):
    if kind == "dict":
        return {str(number): (number, str(number)) for number in range(size)}
    import numpy

    return numpy.random.default_rng(0).random(size * MEGABYTE // 8)


def touch(obj):
    """Read a number in each page of an array, or some entries of a dict."""
    if isinstance(obj, dict):
        return sum(obj[str(number)][0] for number in range(min(LOOKED_UP, len(obj))))
    return float(obj[:: PAGE // obj.itemsize].sum())


def kilobytes(path, *fields):
    """Return the sum of fields of a file in /proc, or 0 if it does not exist."""
    try:
        with open(path) as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(fields))
    except FileNotFoundError:
        return 0


class Memory:
    """Memory of this process in kilobytes, and its maximum since this object was created."""

    def __init__(self):
        self.maximum = 0
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while True:
            self.maximum = max(self.maximum, self.now())
            time.sleep(PAUSE)

    def now(self):
        # Count a file in shared memory by its size, whether it is mapped or not.
        shared = 0
        for file in pathlib.Path("/proc/self/fd").glob("*"):
            try:
                if os.readlink(file).startswith(("/memfd:", "/dev/shm/")):
                    shared += file.stat().st_blocks / 2
            except FileNotFoundError:
                continue
        return kilobytes("/proc/self/status", "RssAnon:", "RssFile:") + shared

    def peak(self):
        """Return the larger of the maximum that was sampled and the one that the system counts."""
        return max(self.maximum, kilobytes("/proc/self/status", "VmHWM:"))


class Meeting:
    """Barrier for the workers of any library: each creates a file, and waits for the others."""

    def __init__(self, directory, workers):
        self.directory = pathlib.Path(directory)
        self.workers = workers

    def wait(self, number):
        (self.directory / f"{os.getpid()}.{number}").touch()
        while len(list(self.directory.glob(f"*.{number}"))) < self.workers:
            time.sleep(0.005)


def answer(obj, meeting):
    """Measure the memory while every worker has the object and runs one task."""
    touched = touch(obj)
    meeting.wait(1)
    processes = {os.getpid(), os.getppid()} - {int(os.environ[PARENT])}
    memory = {pid: kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in processes}
    meeting.wait(2)
    return os.getpid(), touched, memory


# The functions that the workers run.


def return_object(obj):
    return obj


def set_global(obj):
    global global_obj
    global_obj = obj


def answer_by_global(meeting):
    return answer(global_obj, meeting)


def answer_by_initret(meeting, initret):
    return answer(initret, meeting)


# The pools: each yields all answers, and then stops its workers.


def standard(obj, meeting, start_method):
    context = multiprocessing.get_context(start_method)
    with context.Pool(meeting.workers, set_global, (obj,)) as pool:
        yield pool.map(answer_by_global, [meeting] * meeting.workers, chunksize=1)


def initret(obj, meeting, start_method):
    context = multiprocessing.get_context(start_method)
    with multiprocessing_initret.Pool(
        meeting.workers, return_object, (obj,), context=context, expect_initret=True
    ) as pool:
        yield pool.map(answer_by_initret, [meeting] * meeting.workers, chunksize=1)


def mpire(obj, meeting, start_method):
    from mpire import WorkerPool

    with WorkerPool(
        meeting.workers, start_method=start_method, shared_objects=obj, keep_alive=True
    ) as pool:
        arguments = [(meeting,) for _ in range(meeting.workers)]
        yield pool.map(answer, arguments, chunk_size=1)


def joblib(obj, meeting, start_method):
    import joblib

    with joblib.Parallel(meeting.workers) as parallel:
        task = joblib.delayed(answer)
        yield parallel(task(obj, meeting) for _ in range(meeting.workers))


def ray(obj, meeting, start_method):
    from multiprocessing_initret.ray import Pool

    with Pool(meeting.workers, return_object, (obj,), expect_initret=True) as pool:
        yield pool.map(answer_by_initret, [meeting] * meeting.workers, chunksize=1)


POOLS = {"standard": standard, "initret": initret, "mpire": mpire, "joblib": joblib, "ray": ray}


def start_shared_processes(pool, start_method, workers):
    """Start the processes that all pools of a program share."""
    if pool == "ray":
        import ray

        ray.init(
            address="local",
            num_cpus=workers,
            object_store_memory=RAY_STORE,
            include_dashboard=False,
            logging_level="ERROR",
        )
    elif start_method in multiprocessing.get_all_start_methods():
        # Starts the fork server and the resource tracker.
        multiprocessing.get_context(start_method).Pool(1).terminate()


def main():
    pool, start_method, workers, kind, size = sys.argv[1:]
    os.environ[PARENT] = str(os.getpid())
    start_shared_processes(pool, start_method, int(workers))
    make(kind, 0)  # imports NumPy
    parent = Memory()
    before = parent.now()
    obj = make(kind, int(size))
    held = parent.now() - before
    expected = touch(obj)
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        for answers in POOLS[pool](obj, Meeting(directory, int(workers)), start_method):
            seconds = time.perf_counter() - start
            pids, touched, memories = zip(*answers)
            assert len(set(pids)) == int(workers) and set(touched) == {expected}
    found = {"seconds": seconds}
    if os.path.exists("/proc/self/smaps_rollup"):
        of_workers = {pid: kilobytes for memory in memories for pid, kilobytes in memory.items()}
        kilos = {"object": held, "parent": parent.peak() - before}
        kilos["workers"] = sum(of_workers.values())
        found.update({name: value / 1024 for name, value in kilos.items()})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
