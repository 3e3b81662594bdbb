"""What the keyword costs when a pool starts, over the stock pool, and what the import costs.

    python start.py [ROUNDS]

Prints the time of a pool of four with small initargs from its start over one map to
its end, over that of the stock pool in the same round, under each start method; and
the milliseconds of `import multiprocessing_initret` after `multiprocessing.pool`.
The package must be installed, as it is for its users: so it is compiled once.
"""

import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys

from measure import ratio, save, save_tables, table

PROGRAM = pathlib.Path(__file__).with_name("started.py")
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
AT_A_TIME = 5  # of each, before the next has its turn
PACKAGES = {  # for started.py: its name in the table
    "stock": "stock",
    "install": "install(), multiprocessing.Pool",
    "class": "multiprocessing_initret.Pool",
}
IMPORT = """
import multiprocessing.pool, time
start = time.perf_counter()
import multiprocessing_initret
print(time.perf_counter() - start)
"""
# Or what is installed is compiled anew in every worker.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def run(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def main():
    rows, timed = [], []
    for method in multiprocessing.get_all_start_methods():
        seconds = {package: [] for package in PACKAGES}
        for number in range(ROUNDS):
            for package in sorted(PACKAGES, reverse=number % 2):
                seconds[package] += run(PROGRAM, method, AT_A_TIME, PACKAGE=package)
        for package, name in PACKAGES.items():
            timed.append(({"name": f"{method}, {name}"}, seconds[package]))
            rows.append(
                [
                    method,
                    name,
                    f"{1000 * statistics.median(seconds[package]):.1f}",
                    f"{ratio(seconds[package], seconds['stock']):.3f}",
                ]
            )
        print(*rows[-len(PACKAGES) :], sep="\n", flush=True)
    imports = [run("-c", IMPORT) for _ in range(ROUNDS + 1)][1:]
    timed.append(({"name": "import multiprocessing_initret"}, imports))
    save("start", timed)
    beyond = 1000 * statistics.median(imports)
    save_tables(
        "start",
        table(["start method", "pool", "ms", "over stock"], rows),
        f"The import takes {beyond:.1f} ms beyond that of multiprocessing.pool.",
    )


if __name__ == "__main__":
    main()
