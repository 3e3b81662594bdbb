"""Bring one large object to all workers of one pool, by one way, in a process of its own.

objects.py runs this for each measurement, so that the memory it finds is that of
the measurement alone:

    python probe.py WAY START_METHOD WORKERS KIND SIZE

KIND and SIZE are "array" and megabytes, or "dict" and entries.  Prints the seconds
from before the first worker starts until all have answered, the most memory that
the parent had, and that of all workers (proportional set sizes), as JSON.
"""

import json
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time

import multiprocessing_initret

PAGE = 4096  # bytes


def make(kind, size):
    if kind == "dict":
        return {str(number): (number, str(number)) for number in range(size)}
    import numpy

    return numpy.random.default_rng(0).random(size * 2**20 // 8)


def touch(obj):
    """Read something of each page of an array, which has it in the worker's memory."""
    return len(obj) if isinstance(obj, dict) else float(obj[:: PAGE // obj.itemsize].sum())


def memory(file, field):
    """Return megabytes of this process."""
    with open(f"/proc/self/{file}") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


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
    megabytes = memory("smaps_rollup", "Pss:")
    meeting.wait(2)
    return os.getpid(), touched, megabytes


# What each way gives its workers to run.


def give(obj):
    return obj


def give_value(shared):
    return shared.value


def answer_with_initret(meeting, initret):
    return answer(initret, meeting)


# The ways: each yields all answers, and ends its workers after that.


def initargs(obj, meeting, start_method, initializer=give):
    context = multiprocessing.get_context(start_method)
    with multiprocessing_initret.Pool(
        meeting.workers, initializer, (obj,), context=context, expect_initret=True
    ) as pool:
        yield pool.map(answer_with_initret, [meeting] * meeting.workers, chunksize=1)


def broadcast(obj, meeting, start_method):
    return initargs(multiprocessing_initret.broadcast(obj), meeting, start_method, give_value)


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
        yield pool.map(answer_with_initret, [meeting] * meeting.workers, chunksize=1)


def main():
    way, start_method, workers, kind, size = sys.argv[1:]
    obj = make(kind, int(size))
    expected = touch(obj)
    if way == "ray":  # the cluster is there before
        import ray

        store = 4 * 2**30
        ray.init(
            address="local",
            num_cpus=int(workers),
            object_store_memory=store,
            include_dashboard=False,
            logging_level="ERROR",
        )
    else:
        # And so are what every program starts once: the fork server, the resource tracker.
        multiprocessing.get_context(start_method).Pool(1).terminate()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for answers in globals()[way](obj, Meeting(folder, int(workers)), start_method):
            seconds = time.perf_counter() - start
            pids, touched, megabytes = zip(*answers)
            assert len(set(pids)) == int(workers) and set(touched) == {expected}
    found = {"parent": memory("status", "VmHWM:"), "workers": sum(megabytes)}
    print(json.dumps({"seconds": seconds, **found}))


if __name__ == "__main__":
    main()
