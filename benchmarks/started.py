"""Time pools from their start over one map to their end, and print seconds as JSON.

start.py runs this, as a program of its own for each of PACKAGE: "stock", "install"
(with the keyword, in multiprocessing's own pool) and "class" (with this package's):

    PACKAGE=stock python started.py START_METHOD ROUNDS
"""

import json
import multiprocessing.pool  # in the fork server for all: what imports it there starts faster
import os
import sys
import time

PACKAGE = os.environ["PACKAGE"]  # a spawned worker imports what its program does
if PACKAGE != "stock":
    import multiprocessing_initret
if PACKAGE == "install":
    multiprocessing_initret.install()
WORKERS = 4


def set_global(value):
    global global_value
    global_value = value


def add_global(number):
    return number + global_value


def give(value):
    return value


def add(number, initret):
    return number + initret


def start_map_end(method):
    context = multiprocessing.get_context(method)
    if PACKAGE == "stock":
        pool, function = context.Pool(WORKERS, set_global, (1,)), add_global
    elif PACKAGE == "install":
        pool, function = context.Pool(WORKERS, give, (1,), expect_initret=True), add
    else:
        own = multiprocessing_initret.Pool
        pool, function = own(WORKERS, give, (1,), context=context, expect_initret=True), add
    with pool:
        assert pool.map(function, range(WORKERS), 1) == [*range(1, WORKERS + 1)]
    pool.join()


def main():
    method, rounds = sys.argv[1:]
    seconds = []
    for _ in range(int(rounds) + 1):
        start = time.perf_counter()
        start_map_end(method)
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds[1:]))  # the first starts a fork server


if __name__ == "__main__":
    main()
