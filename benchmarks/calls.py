"""Time calls and tasks, alternately with initret and with a global; print seconds as JSON.

cost.py runs this program on each interpreter, with the package, with the patch, and with
neither:

    python calls.py ROUNDS
"""

import functools
import inspect
import json
import multiprocessing.pool
import sys
import time

NUMBERS = range(2**16)
TASKS = range(200)


def return_table(table):
    return table


def count_bits(number, initret):
    return initret[number]


def set_global(table):
    global global_table
    global_table = table


def count_bits_by_global(number):
    return global_table[number]


# The functions that are timed: calls in large chunks, and tasks of one call each.


def chunks(pool, function):
    pool.map(function, NUMBERS)


def map_ones(pool, function):
    pool.map(function, TASKS, 1)


def imap(pool, function):
    for _ in pool.imap(function, TASKS):
        pass


def apply(pool, function):
    for number in TASKS:
        pool.apply(function, (number,))


WORK = {"chunks": chunks, "map": map_ones, "imap": imap, "apply": apply}
KINDS = {"processes": multiprocessing.Pool, "threads": multiprocessing.pool.ThreadPool}


def accepts_expect_initret():
    return "expect_initret" in inspect.signature(multiprocessing.pool.Pool).parameters


def main():
    rounds = int(sys.argv[1])
    table = [bin(number).count("1") for number in NUMBERS]
    set_global(table)

    timed = {"one process": lambda: list(map(count_bits_by_global, NUMBERS))}
    for kind, make in KINDS.items():
        pools = {"global": (make, set_global, count_bits_by_global)}
        if accepts_expect_initret():
            pools["initret"] = (
                functools.partial(make, expect_initret=True),
                return_table,
                count_bits,
            )
        else:
            pools["global again"] = pools["global"]  # the difference is noise
        for name, (make_pool, initializer, function) in pools.items():
            pool = make_pool(1, initializer, (table,))
            for work, do in WORK.items():
                timed[f"{kind}, {work}, {name}"] = functools.partial(do, pool, function)
    seconds = {name: [] for name in timed}
    for number in range(rounds + 1):
        for name in sorted(timed, reverse=number % 2):
            start = time.perf_counter()
            timed[name]()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
