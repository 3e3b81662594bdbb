"""Count the set bits of integers with a table that the parent creates once.

The second pattern of gh-79018: each worker receives the table when it starts, and passes it
to every call of count_bits() as `initret`.  The program also does the same work with a global,
as programs do without expect_initret, and prints what both cost.  On Ray a global fails, because
Ray pickles each function of this file with its own globals.

    python count_bits.py
    python count_bits.py --start-method forkserver --entries 1000000
    python count_bits.py --cluster auto
"""

import argparse
import contextlib
import functools
import multiprocessing
import sys
import time

import multiprocessing_initret

multiprocessing_initret.install()

MAX_NUMBERS = 2**16  # to look up, however large the table is


def make_table(entries):
    return {number: bin(number).count("1") for number in range(entries)}


def return_table(table):
    """Initialize a worker: the returned object is `initret` in its calls."""
    return table


def count_bits(number, initret):
    return initret[number]


def set_global(table):
    """Initialize a worker without expect_initret."""
    global global_table
    global_table = table


def count_bits_with_global(number):
    return global_table[number]


def memory_of_workers():
    """Return the megabytes of all workers together, or None where /proc does not report them.

    Memory that several processes share is divided by their number (PSS).
    """
    kilobytes = 0
    with contextlib.suppress(OSError):
        for worker in multiprocessing.active_children():
            with open(f"/proc/{worker.pid}/smaps_rollup") as rollup:
                kilobytes += sum(int(line.split()[1]) for line in rollup if line[:4] == "Pss:")
    return kilobytes / 1024 if kilobytes else None


def measure(make_pool, function, numbers):
    """Return the bits, the seconds of the first call and of a second one, and the memory."""
    start = time.perf_counter()
    with make_pool() as pool:
        bits = sum(pool.map(function, numbers))
        first = time.perf_counter()
        pool.map(function, numbers)
        second = time.perf_counter()
        return bits, first - start, second - first, memory_of_workers()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4, help="workers (default: %(default)s)")
    parser.add_argument(
        "--entries", type=int, default=2**16, help="size of the table (default: 2**16)"
    )
    parser.add_argument("--start-method", choices=multiprocessing.get_all_start_methods())
    parser.add_argument("--cluster", metavar="ADDRESS", help="of Ray: auto, local or host:port")
    options = parser.parse_args()
    if options.entries < 1:
        parser.error("--entries must be at least 1")
    if options.cluster:
        from multiprocessing_initret.ray import Pool

        pool = functools.partial(Pool, ray_address=options.cluster)
        started_by = "on Ray"
    else:
        context = multiprocessing.get_context(options.start_method)
        pool, started_by = context.Pool, f"started by {context.get_start_method()}"

    table = make_table(options.entries)
    numbers = range(0, options.entries, -(-options.entries // MAX_NUMBERS))
    expected = sum(bin(number).count("1") for number in numbers)
    print(f"{expected} bits, {options.entries} entries, {options.processes} workers, {started_by}")
    print(f"{'':8} {'first call':>12} {'second call':>12} {'memory':>10}")
    for name, function, initializer, keywords in (
        ("a global", count_bits_with_global, set_global, {}),
        ("initret", count_bits, return_table, {"expect_initret": True}),
    ):
        make_pool = functools.partial(pool, options.processes, initializer, (table,), **keywords)
        try:
            # The first run, which may also start a fork server, is not printed.
            measure(make_pool, function, numbers)
            bits, first, second, memory = measure(make_pool, function, numbers)
        except NameError as error:
            if not options.cluster or function is count_bits:
                raise
            print(f"{name:8} {error}")
            continue
        if bits != expected:
            sys.exit(f"{name}: {bits} bits")
        memory = f"{memory:7.0f} MB" if memory else "unknown"
        print(f"{name:8} {first:10.3f} s {second:10.3f} s {memory:>10}")


if __name__ == "__main__":
    main()
