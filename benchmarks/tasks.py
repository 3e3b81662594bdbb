"""Measure tasks of one call, and a pool of many workers, against the standard pool.

    python tasks.py [ROUNDS]

Prints the ratio of the time with multiprocessing_initret.Pool and expect_initret=True to the
time with multiprocessing.Pool and a global: for imap() and apply() with tasks of one call, under
fork and forkserver, and for map() and close() with join() in a pool of 200 forked workers.
"""

import contextlib
import multiprocessing
import sys
import time

import multiprocessing_initret
from calls import count_bits, count_bits_by_global, return_table, set_global

TABLE = [bin(number).count("1") for number in range(2**10)]
TASKS = range(1000)
WORKERS, MANY_WORKERS = 4, 200


def standard_pool(context, workers):
    return context.Pool(workers, set_global, (TABLE,))


def initret_pool(context, workers):
    pool = multiprocessing_initret.Pool
    return pool(workers, return_table, (TABLE,), context=context, expect_initret=True)


POOLS = {
    "standard": (standard_pool, count_bits_by_global),
    "initret": (initret_pool, count_bits),
}


@contextlib.contextmanager
def timed(seconds, name):
    start = time.perf_counter()
    yield
    seconds.setdefault(name, []).append(time.perf_counter() - start)


def measure_tasks(method, rounds):
    """Return the seconds of imap() and apply(), by call and by pool."""
    context = multiprocessing.get_context(method)
    seconds = {}
    with contextlib.ExitStack() as stack:
        pools = {
            name: (stack.enter_context(make(context, WORKERS)), function)
            for name, (make, function) in POOLS.items()
        }
        for number in range(rounds + 1):
            measured = seconds if number else {}  # the first round warms up
            for name in sorted(pools, reverse=number % 2):
                pool, function = pools[name]
                with timed(measured, (f"imap(), {method}", name)):
                    for _ in pool.imap(function, TASKS):
                        pass
                with timed(measured, (f"apply(), {method}", name)):
                    for task in TASKS:
                        pool.apply(function, (task,))
    return seconds


def measure_many_workers(rounds):
    """Return the seconds of map(), and of close() with join(), in a pool of many workers."""
    context = multiprocessing.get_context("fork")
    seconds = {}
    for number in range(rounds + 1):
        measured = seconds if number else {}
        for name in sorted(POOLS, reverse=number % 2):
            make, function = POOLS[name]
            pool = make(context, MANY_WORKERS)
            pool.map(function, TASKS, 1)  # until the workers have started
            with timed(measured, (f"map(), {MANY_WORKERS} workers", name)):
                pool.map(function, TASKS, 1)
            with timed(measured, (f"close() and join(), {MANY_WORKERS} workers", name)):
                pool.close()
                pool.join()
    return seconds


def main():
    from measure import ratio, save, save_tables, table  # workers need not import it

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seconds = {}
    for method in ("fork", "forkserver"):
        if method in multiprocessing.get_all_start_methods():
            seconds.update(measure_tasks(method, rounds))
    if "fork" in multiprocessing.get_all_start_methods():
        seconds.update(measure_many_workers(rounds))
    save("tasks", [({"name": f"{call}: {pool}"}, times) for (call, pool), times in seconds.items()])
    calls = dict.fromkeys(call for call, _ in seconds)
    rows = [
        [call, f"{ratio(seconds[call, 'initret'], seconds[call, 'standard']):.2f}"]
        for call in calls
    ]
    save_tables(
        "tasks",
        table(["call", "initret over the standard pool"], rows),
        f"{len(TASKS)} tasks of one call; {WORKERS} workers where no number is given.",
    )


if __name__ == "__main__":
    main()
