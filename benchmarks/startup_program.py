"""Time the start of a pool, one map() and terminate(), and print the seconds as JSON.

startup.py runs this program in a new process for each PACKAGE: "standard", "install"
(expect_initret=True in multiprocessing's own pool) and "class" (in this package's pool):

    PACKAGE=standard OBJECTS=0 python startup_program.py START_METHOD ROUNDS
"""

import json
import multiprocessing.pool  # for every PACKAGE, so that the fork server has imported it
import os
import sys
import time

PACKAGE = os.environ["PACKAGE"]  # spawned workers read it too
if PACKAGE != "standard":
    import multiprocessing_initret
if PACKAGE == "install":
    multiprocessing_initret.install()
WORKERS = 4
# The workers of a fork server inherit its number of new objects.  Whether a garbage collection,
# which takes up to five milliseconds, falls into their start depends on that number.
OBJECTS = [[] for _ in range(int(os.environ["OBJECTS"]))]


def set_global(value):
    global global_value
    global_value = value


def add_global(number):
    return number + global_value


def return_value(value):
    return value


def add(number, initret):
    return number + initret


def start_map_terminate(method):
    context = multiprocessing.get_context(method)
    if PACKAGE == "standard":
        pool, function = context.Pool(WORKERS, set_global, (1,)), add_global
    elif PACKAGE == "install":
        pool, function = context.Pool(WORKERS, return_value, (1,), expect_initret=True), add
    else:
        own = multiprocessing_initret.Pool
        pool, function = own(WORKERS, return_value, (1,), context=context, expect_initret=True), add
    with pool:
        assert pool.map(function, range(WORKERS), 1) == [*range(1, WORKERS + 1)]
    pool.join()


def main():
    method, rounds = sys.argv[1:]
    seconds = []
    for _ in range(int(rounds) + 1):
        start = time.perf_counter()
        start_map_terminate(method)
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds[1:]))  # the first round starts a fork server


if __name__ == "__main__":
    main()
