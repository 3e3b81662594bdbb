"""Count the bits of integers through a table that the parent made once.

The second pattern of gh-79018: the table reaches every worker when it starts, and
every call of count_bits() in that worker is given it as `initret`.  The same work
is done with a global too, as it is without the feature, and what both cost is
printed.  On Ray the global fails, since Ray pickles each function of this file
with globals of its own.

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

NUMBERS = 2**16  # most to look up, whatever the size of the table


def make_table(entries):
    return {number: bin(number).count("1") for number in range(entries)}


def give(table):
    """Initialize a worker: what this returns is `initret` in its calls."""
    return table


def count_bits(number, initret):
    return initret[number]


def set_global(table):
    """Initialize a worker as it is done without the feature."""
    global global_table
    global_table = table


def count_bits_by_global(number):
    return global_table[number]


def memory_of_workers():
    """Say how much memory the workers have together, if the system tells.

    What several processes share is divided by their number (PSS).
    """
    kilobytes = 0
    with contextlib.suppress(OSError):
        for worker in multiprocessing.active_children():
            with open(f"/proc/{worker.pid}/smaps_rollup") as rollup:
                kilobytes += sum(int(line.split()[1]) for line in rollup if line[:4] == "Pss:")
    return f", workers have {kilobytes / 1024:.0f} MB" if kilobytes else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4, help="workers (default: %(default)s)")
    parser.add_argument("--entries", type=int, default=2**16, help="of the table (default: 2**16)")
    parser.add_argument("--start-method", choices=multiprocessing.get_all_start_methods())
    parser.add_argument("--cluster", metavar="ADDRESS", help="a Ray: auto, local or host:port")
    options = parser.parse_args()
    if options.entries < 1:
        parser.error("--entries must be at least 1")
    if options.cluster:
        from multiprocessing_initret.ray import Pool

        pool = functools.partial(Pool, ray_address=options.cluster)
        started_by = "Ray"
    else:
        context = multiprocessing.get_context(options.start_method)
        pool, started_by = context.Pool, context.get_start_method()

    print(f"{options.entries} entries to {options.processes} workers, started by {started_by}")
    with pool(1):
        pass  # what the first pool starts for all, such as a fork server, is not counted
    table = make_table(options.entries)
    numbers = range(0, options.entries, -(-options.entries // NUMBERS))
    expected = sum(bin(number).count("1") for number in numbers)
    for way, function, initializer, keywords in (
        ("initret", count_bits, give, {"expect_initret": True}),
        ("a global", count_bits_by_global, set_global, {}),
    ):
        start = time.perf_counter()
        try:
            with pool(options.processes, initializer, (table,), **keywords) as workers:
                bits = sum(workers.map(function, numbers))
                first = time.perf_counter()
                workers.map(function, numbers)
                again = time.perf_counter()
                memory = memory_of_workers()
        except NameError as error:
            if not options.cluster or function is count_bits:
                raise
            print(f"{way:>8}: {error}")
            continue
        print(
            f"{way:>8}: {bits} bits in {first - start:.3f} s, "
            f"once more in {again - first:.3f} s{memory}"
        )
        if bits != expected:
            sys.exit(f"there are {expected} bits")


if __name__ == "__main__":
    main()
