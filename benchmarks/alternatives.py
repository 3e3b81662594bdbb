"""Measure the second pattern of gh-79018, a table for every call, and its alternatives.

    python alternatives.py [ROUNDS]

Each alternative counts the bits of 2**16 integers with the table, with four workers and in
chunks of 4096: once including the start of the workers, and once more with running workers.
Prints the ratios of these times to those of the standard Pool with a global.
"""

import contextlib
import functools
import importlib
import multiprocessing
import sys
import time

# Imported, because loky and Ray pickle functions of __main__ by value, with their own globals.
from calls import NUMBERS, count_bits, count_bits_by_global, return_table, set_global

START_METHOD = "forkserver"  # the default on Linux since 3.14
WORKERS = 4
CHUNK = 4096
REPEAT_FOR = 0.2  # seconds of maps with running workers
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
    with pool(WORKERS, return_table, (TABLE,), expect_initret=True) as pool:
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
        WORKERS, initializer=return_table, initargs=(TABLE,), expect_initret=True
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
    get_reusable_executor().shutdown()  # its workers would keep running


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


STANDARD = "Pool, a global"
ALTERNATIVES = {
    STANDARD: global_in_pool,
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


def measure(alternative):
    """Return the seconds of a map including the start of the workers, and of one without it."""
    start = time.perf_counter()
    with alternative() as count_all:
        assert sum(count_all()) == EXPECTED
        first = time.perf_counter() - start
        start, maps = time.perf_counter(), 0
        while time.perf_counter() - start < REPEAT_FOR:
            assert sum(count_all()) == EXPECTED
            maps += 1
        return first, (time.perf_counter() - start) / maps


def main():
    from measure import ratio, save, save_tables, table  # workers need not import it

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    multiprocessing.set_start_method(START_METHOD)
    with contextlib.suppress(ImportError):
        import ray

        # Start the cluster first, so that only the pool on it is measured.
        ray.init("local", num_cpus=WORKERS, include_dashboard=False, logging_level="ERROR")
    timed = {name: [] for name in ALTERNATIVES}
    for number in range(rounds + 1):
        for name in sorted(timed, reverse=number % 2):
            try:
                seconds = measure(ALTERNATIVES[name])
            except Exception as error:  # continue with the others
                print(f"left out: {name} ({error!r})")
                del timed[name]
            else:
                if number:  # the first round warms up
                    timed[name].append(seconds)

    with_start, running = {}, {}
    for name, seconds in timed.items():
        with_start[name], running[name] = zip(*seconds)
    save(
        "alternatives",
        [
            ({"name": f"{name}: {when}"}, seconds[name])
            for name in timed
            for when, seconds in (("from the start", with_start), ("once more", running))
        ],
        start_method=START_METHOD,
    )
    save_tables(
        "alternatives",
        table(
            ["alternative", "from the start", "once more"],
            [
                [
                    name,
                    *(
                        f"{ratio(seconds[name], seconds[STANDARD]):.2f}"
                        for seconds in (with_start, running)
                    ),
                ]
                for name in timed
            ],
        ),
        f'Relative to "{STANDARD}", under {START_METHOD}.',
    )


if __name__ == "__main__":
    main()
