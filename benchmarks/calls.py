"""Time calls and tasks with initret and with a global, in turn, and print seconds as JSON.

cost.py runs this under each interpreter and each delivery of the feature, and
under the stock interpreter, which does not know the keyword:

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


def give(table):
    return table


def count_bits(number, initret):
    return initret[number]


def set_global(table):
    global global_table
    global_table = table


def count_bits_by_global(number):
    return global_table[number]


# What is timed: a call in a large chunk, and tasks of one call each.


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


def knows_the_keyword():
    return "expect_initret" in inspect.signature(multiprocessing.pool.Pool).parameters


def main():
    rounds = int(sys.argv[1])
    table = [bin(number).count("1") for number in NUMBERS]
    set_global(table)

    ways = {"one process": lambda: list(map(count_bits_by_global, NUMBERS))}
    for kind, make in KINDS.items():
        pools = {"global": (make, set_global, count_bits_by_global)}
        if knows_the_keyword():
            pools["initret"] = functools.partial(make, expect_initret=True), give, count_bits
        else:
            pools["global again"] = pools["global"]  # what its times differ by is noise
        for name, (make_pool, initializer, function) in pools.items():
            pool = make_pool(1, initializer, (table,))
            for work, do in WORK.items():
                ways[f"{kind}, {work}, {name}"] = functools.partial(do, pool, function)
    seconds = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in sorted(ways, reverse=number % 2):
            start = time.perf_counter()
            ways[name]()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
