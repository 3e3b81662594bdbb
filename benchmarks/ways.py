"""The second pattern of gh-79018 by each way that people have: a table for every call.

    python ways.py [ROUNDS]

Each way counts the bits of the 2**16 integers through the table, with four workers
and in chunks of 4096: once from its start, workers included, and once more with the
workers there.  Prints the times over those of the stock Pool with a global.
"""

import contextlib
import functools
import importlib
import multiprocessing
import sys
import time

# Imported, since what is pickled by value, as loky and Ray do with __main__, has
# globals of its own.
from calls import NUMBERS, count_bits, count_bits_by_global, give, set_global

START_METHOD = "forkserver"  # the default on Linux since 3.14
WORKERS = 4
CHUNK = 4096
ENOUGH = 0.2  # seconds for the maps once the workers are there
EXPECTED = 16 * 2**15
TABLE = [bin(number).count("1") for number in NUMBERS]


def count_bits_of_chunk(table, numbers):
    return [table[number] for number in numbers]


@contextlib.contextmanager
def global_in_pool(package="multiprocessing"):
    context = importlib.import_module(package).get_context(START_METHOD)
    with context.Pool(WORKERS, set_global, (TABLE,)) as pool:
        yield lambda: pool.map(count_bits_by_global, NUMBERS, CHUNK)


@contextlib.contextmanager
def initret(module="multiprocessing_initret"):
    pool = importlib.import_module(module).Pool
    with pool(WORKERS, give, (TABLE,), expect_initret=True) as pool:
        yield lambda: pool.map(count_bits, NUMBERS, CHUNK)


@contextlib.contextmanager
def partial(chunk=CHUNK):
    with multiprocessing.Pool(WORKERS) as pool:
        yield lambda: pool.map(functools.partial(count_bits, initret=TABLE), NUMBERS, chunk)


@functools.lru_cache(maxsize=None)
def cached_table():
    return [bin(number).count("1") for number in NUMBERS]


def count_bits_by_cache(number):
    return cached_table()[number]


@contextlib.contextmanager
def lru_cache():
    with multiprocessing.Pool(WORKERS) as pool:
        yield lambda: pool.map(count_bits_by_cache, NUMBERS, CHUNK)


@contextlib.contextmanager
def global_in_executor(module="concurrent.futures"):
    executor = importlib.import_module(module).ProcessPoolExecutor
    with executor(WORKERS, initializer=set_global, initargs=(TABLE,)) as executor:
        yield lambda: executor.map(count_bits_by_global, NUMBERS, chunksize=CHUNK)


@contextlib.contextmanager
def initret_in_executor():
    from multiprocessing_initret.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(
        WORKERS, initializer=give, initargs=(TABLE,), expect_initret=True
    ) as executor:
        yield lambda: executor.map(count_bits, NUMBERS, chunksize=CHUNK)


@contextlib.contextmanager
def mpire():
    from mpire import WorkerPool

    with WorkerPool(WORKERS, shared_objects=TABLE, start_method=START_METHOD) as pool:
        yield lambda: pool.map(table_first, NUMBERS, chunk_size=CHUNK)


def table_first(table, number):
    return table[number]


@contextlib.contextmanager
def joblib():
    import joblib
    from joblib.externals.loky import get_reusable_executor

    with joblib.Parallel(WORKERS) as parallel:
        chunks = [NUMBERS[start : start + CHUNK] for start in NUMBERS[::CHUNK]]
        task = joblib.delayed(count_bits_of_chunk)
        yield lambda: sum(parallel(task(TABLE, chunk) for chunk in chunks), [])
    get_reusable_executor().shutdown()  # or its workers stay for the next


@contextlib.contextmanager
def pebble():
    from pebble import ProcessPool

    with ProcessPool(WORKERS, initializer=set_global, initargs=(TABLE,)) as pool:
        yield lambda: pool.map(count_bits_by_global, NUMBERS, chunksize=CHUNK).result()


@contextlib.contextmanager
def global_in_ray():
    from ray.util.multiprocessing import Pool

    with Pool(WORKERS, set_global, (TABLE,)) as pool:
        yield lambda: pool.map(count_bits_by_global, NUMBERS, CHUNK)


STOCK = "Pool, a global"
WAYS = {
    STOCK: global_in_pool,
    "Pool, initret": initret,
    "Pool, functools.lru_cache": lru_cache,
    "Pool, functools.partial": partial,
    "Pool, functools.partial, chunks of 64": functools.partial(partial, 64),
    "concurrent.futures, a global": global_in_executor,
    "concurrent.futures, initret": initret_in_executor,
    "multiprocess, a global": functools.partial(global_in_pool, "multiprocess"),
    "mpire, shared_objects": mpire,
    "joblib, an argument of each chunk": joblib,
    "loky, a global": functools.partial(global_in_executor, "loky"),
    "pebble, a global": pebble,
    "Ray's Pool, a global": global_in_ray,
    "Ray's Pool, initret": functools.partial(initret, "multiprocessing_initret.ray"),
}


def first_and_next(way):
    """Return the seconds of a map with the start of its workers, and of one without."""
    start = time.perf_counter()
    with way() as count_all:
        assert sum(count_all()) == EXPECTED
        first = time.perf_counter() - start
        start, maps = time.perf_counter(), 0
        while time.perf_counter() - start < ENOUGH:
            assert sum(count_all()) == EXPECTED
            maps += 1
        return first, (time.perf_counter() - start) / maps


def main():
    from measure import ratio, save, save_tables, table  # what workers need not import

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    multiprocessing.set_start_method(START_METHOD)
    with contextlib.suppress(ImportError):
        import ray

        # The cluster is there before: what is measured is a pool on it.
        ray.init("local", num_cpus=WORKERS, include_dashboard=False, logging_level="ERROR")
    timed = {name: [] for name in WAYS}
    for number in range(rounds + 1):
        for name in sorted(timed, reverse=number % 2):
            try:
                seconds = first_and_next(WAYS[name])
            except Exception as error:  # which takes nothing from the others
                print(f"left out: {name} ({error!r})")
                del timed[name]
            else:
                if number:  # the first round warms up
                    timed[name].append(seconds)

    firsts, agains = {}, {}
    for name, seconds in timed.items():
        firsts[name], agains[name] = zip(*seconds)
    save(
        "ways",
        [
            ({"name": f"{name}: {when}"}, seconds[name])
            for name in timed
            for when, seconds in (("from the start", firsts), ("once more", agains))
        ],
        start_method=START_METHOD,
    )
    save_tables(
        "ways",
        table(
            ["way", "from the start", "once more"],
            [
                [
                    name,
                    *(
                        f"{ratio(seconds[name], seconds[STOCK]):.2f}"
                        for seconds in (firsts, agains)
                    ),
                ]
                for name in timed
            ],
        ),
        f"Over {STOCK}, with {START_METHOD}.",
    )


if __name__ == "__main__":
    main()
