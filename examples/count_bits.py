"""Count the bits of all integers below 2**16, through a table made once in the parent.

The second pattern of gh-79018: the table reaches every worker when it starts, and
every call of count_bits() in that worker is given it as `initret`.  The same work
is done with a global too, as it is without the feature: on Ray that fails, since
Ray pickles each function of this file with globals of its own.

    python count_bits.py
    python count_bits.py --start-method spawn
    python count_bits.py --cluster auto
"""

import argparse
import functools
import multiprocessing
import sys
import time

import multiprocessing_initret

multiprocessing_initret.install()

BITS = 16
EXPECTED = BITS * 2 ** (BITS - 1)  # each bit is set in half of the integers


def make_table():
    return [bin(number).count("1") for number in range(2**BITS)]


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4, help="workers (default: %(default)s)")
    parser.add_argument("--start-method", choices=multiprocessing.get_all_start_methods())
    parser.add_argument("--cluster", metavar="ADDRESS", help="a Ray: auto, local or host:port")
    options = parser.parse_args()
    if options.cluster:
        from multiprocessing_initret.ray import Pool

        pool = functools.partial(Pool, ray_address=options.cluster)
    else:
        pool = multiprocessing.get_context(options.start_method).Pool

    table = make_table()
    for way, function, initializer, keywords in (
        ("initret", count_bits, give, {"expect_initret": True}),
        ("a global", count_bits_by_global, set_global, {}),
    ):
        start = time.perf_counter()
        try:
            with pool(options.processes, initializer, (table,), **keywords) as workers:
                bits = sum(workers.map(function, range(2**BITS)))
        except NameError as error:
            if not options.cluster or function is count_bits:
                raise
            print(f"{way:>8}: {error}")
            continue
        seconds = time.perf_counter() - start
        print(f"{way:>8}: {bits} bits in {seconds:.3f} s")
        if bits != EXPECTED:
            sys.exit(f"there are {EXPECTED} bits")


if __name__ == "__main__":
    main()
