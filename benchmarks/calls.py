"""Time calls and tasks with initret and with a global, in turn, and print seconds as JSON.

cost.py runs this under each interpreter and each delivery of the feature, and
under the stock interpreter, which does not know the keyword.
"""

import functools
import inspect
import json
import multiprocessing.pool
import sys
import time

NUMBERS = range(2**16)
TASKS = range(300)


def give(table):
    return table


def count_bits(number, initret):
    return initret[number]


def set_global(table):
    global global_table
    global_table = table


def count_bits_by_global(number):
    return global_table[number]


def imap(pool, function):
    for _ in pool.imap(function, TASKS):  # of one item each
        pass


def apply(pool, function):
    for number in TASKS:
        pool.apply(function, (number,))


def main():
    rounds = int(sys.argv[1])
    table = [bin(number).count("1") for number in NUMBERS]
    set_global(table)
    by_global = multiprocessing.Pool, set_global, count_bits_by_global
    pools = {"global": by_global}
    if "expect_initret" in inspect.signature(multiprocessing.pool.Pool).parameters:
        by_initret = functools.partial(multiprocessing.Pool, expect_initret=True)
        pools["initret"] = by_initret, give, count_bits
    else:
        pools["global again"] = by_global  # what its times differ by is noise

    ways = {"one process": lambda: list(map(count_bits_by_global, NUMBERS))}
    for name, (make, initializer, function) in pools.items():
        pool = make(1, initializer, (table,))
        ways["map, " + name] = lambda p=pool, f=function: p.map(f, NUMBERS)
        ways["imap, " + name] = lambda p=pool, f=function: imap(p, f)
        ways["apply, " + name] = lambda p=pool, f=function: apply(p, f)
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
