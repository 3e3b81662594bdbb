"""Measure the cost of expect_initret=True when a pool starts, and the cost of the import.

    python startup.py [ROUNDS]

Prints, for each start method, the time to start a pool of four workers with small initargs,
call map() once, and terminate the pool, with the ratio of this time to that of the standard
pool in the same round.  Also prints the milliseconds of `import multiprocessing_initret` after
`multiprocessing.pool`.  The package must be installed, so that it is compiled only once.
"""

import gc
import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys

from measure import ratio, save, save_tables, table

PROGRAM = pathlib.Path(__file__).with_name("startup_program.py")
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
AT_A_TIME = 5  # pools of each kind before the next kind
# New objects between two collections of the second generation.
PERIOD = gc.get_threshold()[0] * (gc.get_threshold()[1] + 1)
PACKAGES = {  # argument of startup_program.py: name in the table
    "standard": "standard pool",
    "install": "install(), multiprocessing.Pool",
    "class": "multiprocessing_initret.Pool",
}
IMPORT = """
import multiprocessing.pool, time
start = time.perf_counter()
import multiprocessing_initret
print(time.perf_counter() - start)
"""
# With this variable, every worker would compile the package anew.
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
                objects = number * PERIOD // ROUNDS if method == "forkserver" else 0
                environment = {"PACKAGE": package, "OBJECTS": str(objects)}
                seconds[package] += run(PROGRAM, method, AT_A_TIME, **environment)
        for package, name in PACKAGES.items():
            timed.append(({"name": f"{method}, {name}"}, seconds[package]))
            rows.append(
                [
                    method,
                    name,
                    f"{1000 * statistics.median(seconds[package]):.1f}",
                    f"{ratio(seconds[package], seconds['standard']):.3f}",
                ]
            )
        print(*rows[-len(PACKAGES) :], sep="\n", flush=True)
    imports = [run("-c", IMPORT) for _ in range(ROUNDS + 1)][1:]
    timed.append(({"name": "import multiprocessing_initret"}, imports))
    save("startup", timed)
    milliseconds = 1000 * statistics.median(imports)
    save_tables(
        "startup",
        table(["start method", "pool", "ms", "ratio"], rows),
        f"The import takes {milliseconds:.1f} ms beyond that of multiprocessing.pool.",
    )


if __name__ == "__main__":
    main()
