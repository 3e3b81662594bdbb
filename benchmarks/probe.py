"""Bring one large object to all workers of one pool, by one way, in a process of its own.

objects.py runs this for each measurement, so that the memory it finds is that of
the measurement alone:

    python probe.py WAY START_METHOD WORKERS KIND SIZE

KIND and SIZE are "array" and megabytes, or "dict" and entries.  Prints as JSON the
"seconds" from before the first worker starts until all have answered, and megabytes:
of the "object"; the most that the "parent" had beyond what it had before the object,
with its files in shared memory; and those of the "workers", by proportional set sizes,
with what forked them, which may hold the object for them.  Without /proc there are the
seconds alone.
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
PAUSE = 0.01  # seconds between two looks at the parent's memory
RAYS_STORE = 4 * 2**30  # bytes
PROBE = "PROBE"  # the environment variable with the parent's process ID


def make(kind, size):
    if kind == "dict":
        return {str(number): (number, str(number)) for number in range(size)}
    import numpy

    return numpy.random.default_rng(0).random(size * MEGABYTE // 8)


def touch(obj):
    """Read something of each page of an array, and some entries of a dict."""
    if isinstance(obj, dict):
        return sum(obj[str(number)][0] for number in range(min(LOOKED_UP, len(obj))))
    return float(obj[:: PAGE // obj.itemsize].sum())


def kilobytes(path, *fields):
    """Return the sum of fields of a file in /proc; 0 where there is none."""
    try:
        with open(path) as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(fields))
    except FileNotFoundError:
        return 0


class Memory:
    """What this process has, in kilobytes, and the most it had while this watched."""

    def __init__(self):
        self.most = 0
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while True:
            self.most = max(self.most, self.now())
            time.sleep(PAUSE)

    def now(self):
        # A file in shared memory is counted by its size: it may be mapped or not.
        shared = 0
        for file in pathlib.Path("/proc/self/fd").glob("*"):
            try:
                if os.readlink(file).startswith(("/memfd:", "/dev/shm/")):
                    shared += file.stat().st_blocks / 2
            except FileNotFoundError:
                continue
        return kilobytes("/proc/self/status", "RssAnon:", "RssFile:") + shared

    def peak(self):
        """Return the most that was seen, or that the system counts, which misses nothing."""
        return max(self.most, kilobytes("/proc/self/status", "VmHWM:"))


class Meeting:
    """A barrier for the workers of any library: each leaves a file, and waits for the others'."""

    def __init__(self, folder, workers):
        self.folder = pathlib.Path(folder)
        self.workers = workers

    def wait(self, number):
        (self.folder / f"{os.getpid()}.{number}").touch()
        while len(list(self.folder.glob(f"*.{number}"))) < self.workers:
            time.sleep(0.005)


def answer(obj, meeting):
    """Answer while all workers have the object, so that each of them has one task."""
    touched = touch(obj)
    meeting.wait(1)
    processes = {os.getpid(), os.getppid()} - {int(os.environ[PROBE])}
    memory = {pid: kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in processes}
    meeting.wait(2)
    return os.getpid(), touched, memory


# What each way gives its workers to run.


def give(obj):
    return obj


def set_global(obj):
    global global_obj
    global_obj = obj


def answer_by_global(meeting):
    return answer(global_obj, meeting)


def answer_by_initret(meeting, initret):
    return answer(initret, meeting)


# The ways: each yields all answers, and ends its workers after that.


def stock(obj, meeting, start_method):
    context = multiprocessing.get_context(start_method)
    with context.Pool(meeting.workers, set_global, (obj,)) as pool:
        yield pool.map(answer_by_global, [meeting] * meeting.workers, chunksize=1)


def initret(obj, meeting, start_method):
    context = multiprocessing.get_context(start_method)
    with multiprocessing_initret.Pool(
        meeting.workers, give, (obj,), context=context, expect_initret=True
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

    with Pool(meeting.workers, give, (obj,), expect_initret=True) as pool:
        yield pool.map(answer_by_initret, [meeting] * meeting.workers, chunksize=1)


WAYS = {"stock": stock, "initret": initret, "mpire": mpire, "joblib": joblib, "ray": ray}


def start_before(way, start_method, workers):
    """Start what a program starts once, for all its pools."""
    if way == "ray":
        import ray

        ray.init(
            address="local",
            num_cpus=workers,
            object_store_memory=RAYS_STORE,
            include_dashboard=False,
            logging_level="ERROR",
        )
    elif start_method in multiprocessing.get_all_start_methods():
        # The fork server, the resource tracker.
        multiprocessing.get_context(start_method).Pool(1).terminate()


def main():
    way, start_method, workers, kind, size = sys.argv[1:]
    os.environ[PROBE] = str(os.getpid())
    start_before(way, start_method, int(workers))
    make(kind, 0)  # imports what it needs
    parent = Memory()
    before = parent.now()
    obj = make(kind, int(size))
    held = parent.now() - before
    expected = touch(obj)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for answers in WAYS[way](obj, Meeting(folder, int(workers)), start_method):
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
