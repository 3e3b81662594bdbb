"""Measure the time and the memory for passing a large object to all workers of a pool.

    python objects.py [MEGABYTES] [ENTRIES]

Passes an array of MEGABYTES (default: 512) and a dict of ENTRIES (default: a million) to 4 and
16 workers: of the standard Pool, by `initargs` and a global, of the package's Pool under each
start method, and of other libraries.  Prints a table, and draws how time and memory grow with
the size and with the number of workers, under forkserver.
"""

import importlib.util
import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys

import matplotlib.pyplot as plt
from measure import RESULTS, ratio, save, save_tables, table, versions

PROGRAM = pathlib.Path(__file__).with_name("object_program.py")
SIZE = int(sys.argv[1]) if len(sys.argv) > 1 else 512  # megabytes
ENTRIES = int(sys.argv[2]) if len(sys.argv) > 2 else 10**6
FEW, MANY = 4, 16  # workers
METHODS = multiprocessing.get_all_start_methods()
PLOTTED = "forkserver" if "forkserver" in METHODS else "spawn"
POOLS = {  # name: (argument of object_program.py, start methods)
    "standard Pool": ("standard", METHODS),
    "expect_initret": ("initret", METHODS),
    "mpire": ("mpire", [PLOTTED]),
    "joblib": ("joblib", ["its own"]),
    "Ray": ("ray", ["its own"]),
}
ROUNDS = 3
LONG = 60  # seconds times workers; longer cases are measured once


class Case:
    """One object and a number of workers, with the measurements by pool and start method."""

    def __init__(self, kind, size, workers, in_table=False):
        self.kind, self.size, self.workers, self.in_table = kind, size, workers, in_table
        self.found, self.empty = {}, {}

    def __str__(self):
        unit = "MB" if self.kind == "array" else "entries"
        return f"{self.kind} of {self.size:,} {unit}, {self.workers} workers"

    def run_program(self, name, method, size):
        """Return what object_program.py prints, or None if it fails."""
        arguments = [sys.executable, PROGRAM, POOLS[name][0], method, self.workers, self.kind, size]
        done = subprocess.run(list(map(str, arguments)), stdout=subprocess.PIPE)
        # Ray prints messages too.
        found = [line for line in done.stdout.splitlines() if line.startswith(b"{")]
        if not found:
            print(f"failed: {name}, {method}, {self}")
            return None
        return json.loads(found[0])

    def measure(self):
        print(self, end=": ", flush=True)
        columns = [
            (name, method)
            for name, (argument, methods) in POOLS.items()
            if argument in ("standard", "initret") or importlib.util.find_spec(argument)
            for method in methods
            if self.in_table or method not in METHODS or method == PLOTTED
        ]
        for number in range(ROUNDS):
            for column in columns[:: -1 if number % 2 else 1]:
                before = self.found.setdefault(column, [])
                if not before or before[0]["seconds"] < LONG / self.workers:
                    found = self.run_program(*column, self.size)
                    if found:
                        before.append(found)
            print(number + 1, end=" ", flush=True)
        for column in columns:
            if self.in_table:  # measure the workers without the object
                self.empty[column] = self.run_program(*column, 0)
        self.found = {column: found for column, found in self.found.items() if found}
        print()

    def of(self, column, field):
        """Return the median of a field, or None where the system does not report it."""
        values = [one[field] for one in self.found[column] if field in one]
        return statistics.median(values) if values else None

    def copies(self, column):
        """Return the memory of the workers, and of the parent, in multiples of the object's."""
        held = self.of(column, "object")
        if not held or not self.empty.get(column):
            return None, None
        workers = self.of(column, "workers") - self.empty[column]["workers"]
        return workers / held, self.of(column, "parent") / held

    def faster(self, column):
        """Return how many times as fast as the standard Pool this is, if both were measured."""
        name, method = column
        standard = ("standard Pool", method if method in METHODS else PLOTTED)
        if column not in self.found or standard not in self.found:
            return None
        times = [[one["seconds"] for one in self.found[which]] for which in (standard, column)]
        return ratio(*times)

    def results(self):
        for column in self.found:
            in_workers, in_parent = self.copies(column)
            metadata = {
                "name": ", ".join((*column, str(self))),
                "megabytes_of_workers": self.of(column, "workers"),
                "megabytes_of_parent": self.of(column, "parent"),
                "copies_in_workers": in_workers,
                "copies_in_parent": in_parent,
                "times_as_fast_as_standard": self.faster(column),
            }
            metadata = {
                key: round(value, 2) if isinstance(value, float) else value
                for key, value in metadata.items()
                if value is not None
            }
            yield metadata, [one["seconds"] for one in self.found[column]]

    def rows(self):
        for column in self.found:
            yield [
                str(self),
                *column,
                f"{self.of(column, 'seconds'):.2f}",
                *(
                    "\\-" if value is None else f"{value:.{digits}f}"
                    for value, digits in [
                        (self.faster(column), 1),
                        (self.of(column, "workers"), 0),
                        *((copies, 2) for copies in self.copies(column)),
                    ]
                ),
            ]


def draw(plots):
    """Draw the seconds and the megabytes of all workers.

    :param plots: triples of a title, the label of the x axis, and pairs of x and a case
    """
    if "SAVE_RESULTS" not in os.environ:
        return
    plt.rcParams.update({"svg.hashsalt": "objects", "svg.fonttype": "none", "font.size": 9})
    figure, rows = plt.subplots(2, len(plots), figsize=(10, 6), constrained_layout=True)
    for axes, (title, label, cases) in zip(rows.T, plots):
        for name, (_, methods) in POOLS.items():
            column = name, PLOTTED if PLOTTED in methods else methods[0]
            for ax, field in zip(axes, ["seconds", "workers"]):
                line = [
                    (x, case.of(column, field))
                    for x, case in sorted(cases, key=lambda pair: pair[0])
                    if column in case.found and case.of(column, field) is not None
                ]
                if line:
                    ax.plot(*zip(*line), marker="o", markersize=3, label=name)
        axes[0].set(title=title, ylabel="seconds to all answers", yscale="log")
        axes[1].set(ylabel="MB of all workers together", ylim=(0, None))
        for ax in axes:
            ax.set(xlabel=label, xlim=(0, None))
            ax.grid(alpha=0.3)
    rows[0][0].legend()
    figure.savefig(RESULTS / "objects.svg", metadata={"Date": None})
    plt.close(figure)
    print("written: results/objects.svg")


def main():
    table_of = [
        Case(kind, size, workers, in_table=True)
        for kind, size in (("array", SIZE), ("dict", ENTRIES))
        for workers in (FEW, MANY)
    ]
    sizes = [Case("array", size, FEW) for size in (SIZE // 8, SIZE // 2, 2 * SIZE)]
    numbers = [
        Case(kind, size, workers)
        for kind, size in (("array", SIZE), ("dict", ENTRIES))
        for workers in (1, 8)
    ]
    cases = [*table_of, *sizes, *numbers]
    for case in cases:
        case.measure()
    save(
        "objects",
        [result for case in cases for result in case.results()],
        libraries=json.dumps(versions()),
    )
    head = "object, workers|pool|start method|seconds|times as fast|MB|copies|in the parent"
    save_tables(
        "objects",
        table(head.split("|"), [row for case in table_of for row in case.rows()]),
        "Times as fast: as the standard Pool with the same start method (with "
        + f"{PLOTTED} for a library that has its own), the median of {ROUNDS} rounds.  MB: all\n"
        "workers together, with the process that forked them.  Copies: that memory minus the\n"
        "memory without the object, divided by the size of the object.  In the parent: its\n"
        "maximum, in copies, including its files in shared memory.",
    )
    draw(
        [
            (f"an array, {FEW} workers", "MB", [(c.size, c) for c in [*sizes, table_of[0]]]),
            *(
                (
                    f"{article} {kind} of {size}",
                    "workers",
                    [(c.workers, c) for c in [*table_of, *numbers] if c.kind == kind],
                )
                for article, kind, size in (
                    ("an", "array", f"{SIZE} MB"),
                    ("a", "dict", f"{ENTRIES:,} entries"),
                )
            ),
        ]
    )


if __name__ == "__main__":
    main()
