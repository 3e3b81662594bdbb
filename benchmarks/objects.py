"""How time and memory grow while a large object reaches the workers, with its size and theirs.

    python objects.py [MEGABYTES]

Brings NumPy arrays of up to so many megabytes (default: 2048) and a dict of a
million entries to 1 to 8 workers, under each start method, by each way there is.
Prints the time and the workers' memory, writes results/objects.json, and draws
results/objects.svg.
"""

import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys

import matplotlib.pyplot as plt
from measure import RESULTS, ratio, save

HERE = pathlib.Path(__file__).parent
SIZES = [64, 128, 256, 512, 1024, 2048]  # megabytes
WORKERS = [1, 2, 4, 8]
SIZE, FEW = 512, 4  # what the other one grows with
DICT = 10**6  # entries
METHODS = ["fork", "spawn", "forkserver"]
DRAWN = "forkserver"
WAYS = {  # name: (way of probe.py, the start methods it has a choice of)
    "initargs": ("initargs", METHODS),
    "broadcast": ("broadcast", METHODS),
    "mpire": ("mpire", METHODS),
    "joblib": ("joblib", [DRAWN]),
    "Ray": ("ray", [DRAWN]),
}
ROUNDS = 3


def probe(way, method, workers, kind, size):
    """Return what probe.py prints."""
    arguments = [sys.executable, HERE / "probe.py", way, method, workers, kind, size]
    done = subprocess.run(list(map(str, arguments)), stdout=subprocess.PIPE, check=True)
    # Among messages of Ray's.
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith(b"{")))


class Measured:
    """What was found for one way, start method, number of workers and object."""

    def __init__(self, name, method, workers, kind, size):
        self.metadata = {
            "name": f"{name}, {method}, {workers} workers, {kind} of {size}",
            "way": name,
            "start_method": method,
            "workers": workers,
            "kind": kind,
            "size": size,
        }
        self.seconds, self.parent, self.in_workers = [], [], []
        self.probe = WAYS[name][0], method, workers, kind, size

    def measure(self):
        found = probe(*self.probe)
        self.seconds.append(found["seconds"])
        self.parent.append(found["parent"])
        self.in_workers.append(found["workers"])

    def result(self):
        memory = {
            "megabytes_of_parent": max(self.parent),
            "megabytes_of_workers": max(self.in_workers),
        }
        return {**self.metadata, **memory}, self.seconds


def cases(most):
    """Yield each number of workers and object once."""
    for size in SIZES:
        if size <= most:
            yield FEW, "array", size
    for workers in WORKERS:
        if workers != FEW:
            yield workers, "array", min(SIZE, most)
    yield FEW, "dict", DICT


def there(name):
    way = WAYS[name][0]
    return way in ("initargs", "broadcast") or importlib.util.find_spec(way)


def measure(most):
    measured = []
    print("seconds and, in brackets, megabytes of all workers; over initargs: times as fast")
    for workers, kind, size in cases(most):
        of_case = {}
        for name in filter(there, WAYS):
            for method in WAYS[name][1]:
                of_case[name, method] = Measured(name, method, workers, kind, size)
        # What takes a minute needs no second look.
        for number in range(ROUNDS if size <= SIZE or kind == "dict" else 1):
            for one in sorted(of_case, reverse=number % 2):
                of_case[one].measure()
        print(f"{kind} of {size} to {workers} workers")
        for (name, method), one in of_case.items():
            plain = of_case["initargs", method].seconds
            print(
                f"  {name:10} {method:10} {statistics.median(one.seconds):8.2f}"
                f" ({max(one.in_workers):6.0f}) {ratio(plain, one.seconds):6.1f}",
                flush=True,
            )
        measured += of_case.values()
    return measured


def draw(results):
    """Draw the seconds and the megabytes over the size and over the workers, as four plots."""
    plt.rcParams.update({"svg.hashsalt": "objects", "svg.fonttype": "none", "font.size": 9})
    figure, rows = plt.subplots(2, 2, figsize=(8, 6), constrained_layout=True)
    for axes, (grows, unit), fixed in zip(
        rows.T, [("size", "size of the array (MB)"), ("workers", "workers")], ["workers", "size"]
    ):
        at = {"workers": FEW, "size": SIZE}[fixed]
        for name in WAYS:
            line = sorted(
                (m[grows], statistics.median(seconds), m["megabytes_of_workers"])
                for m, seconds in results
                if (m["way"], m["start_method"], m["kind"]) == (name, DRAWN, "array")
                and m[fixed] == at
            )
            if line:
                x, seconds, megabytes = zip(*line)
                axes[0].plot(x, seconds, marker="o", markersize=3, label=name)
                axes[1].plot(x, megabytes, marker="o", markersize=3, label=name)
        axes[0].set(ylabel="seconds to all answers", yscale="log")
        axes[1].set(ylabel="MB of all workers together", ylim=(0, None))
        for ax in axes:
            ax.set(xlabel=unit, xlim=(0, None))
            ax.grid(alpha=0.3)
        axes[0].set_title(f"{FEW} workers" if fixed == "workers" else f"an array of {SIZE} MB")
    rows[1][0].legend()
    figure.savefig(RESULTS / "objects.svg", metadata={"Date": None})
    print("written: results/objects.svg")


def main():
    most = int(sys.argv[1]) if len(sys.argv) > 1 else SIZES[-1]
    results = [one.result() for one in measure(most)]
    save("objects", results)
    draw(results)


if __name__ == "__main__":
    main()
