"""The cost of a call and of a task, on every Python on PATH, by each delivery of the feature.

    python cost.py [PYTHON ...]

Prints the time with `initret` over that with a global in the same run, in processes and
in threads: of calls in large chunks, and of tasks of one call, by map(), imap() and
apply().  Where it says stock, both are a global: what those ratios differ by from 1 is
noise.  Where it says "over before", it is the package now over the package as it was
before it looked after lost workers, both with `initret`.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

from calls import KINDS, WORK
from measure import ratio, save, save_tables, table

REPOSITORY = pathlib.Path(__file__).parent.parent
PROGRAM = pathlib.Path(__file__).with_name("calls.py")
PYTHONS = sys.argv[1:] or [f"python3.{minor}" for minor in range(6, 16)] + ["pypy3.11"]
BEFORE = "e54e573"  # the last commit before rows 13 to 23 of what the package promises
ROUNDS = 8
RUNS = 5  # of each, in turn with the others
COLUMNS = [(kind, work) for kind in KINDS for work in WORK]


def version(python):
    """Return the version of an interpreter on PATH, or nothing if there is none that runs."""
    if shutil.which(python) is None:
        return ""
    code = "import platform; print(platform.python_implementation(), platform.python_version())"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def package_before(folder):
    """Write the package as it was, and return its path, or nothing without the history."""
    archive = folder / "before.tar"
    command = ["git", "archive", "--output", archive, BEFORE, "backport/src"]
    if subprocess.run(list(map(str, command)), cwd=REPOSITORY).returncode:
        return None
    with tarfile.open(archive) as file:
        file.extractall(folder)
    return folder / "backport" / "src"


def calls(python, path, *options):
    arguments = [python, *options, PROGRAM, ROUNDS]
    done = subprocess.run(
        list(map(str, arguments)),
        env={**os.environ, "PYTHONPATH": str(path)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def measure(python, before, folder):
    """Return the seconds by delivery and by what was timed."""
    run_module = ["-m", "multiprocessing_initret"]
    deliveries = {
        "stock": [
            "",
        ],
        "package": [REPOSITORY / "backport" / "src", *run_module],
    }
    if before:
        deliveries["before"] = [before, *run_module]
    overlay = folder / "overlay" / python
    patch = [python, REPOSITORY / "tools" / "overlay.py", overlay]
    if subprocess.run(list(map(str, patch))).returncode == 0:
        deliveries["patch"] = [overlay]
    timed = {delivery: {} for delivery in deliveries}
    for number in range(RUNS):
        for delivery in sorted(deliveries, reverse=number % 2):
            for way, seconds in calls(python, *deliveries[delivery]).items():
                timed[delivery].setdefault(way, []).extend(seconds)
    return timed


def rows(name, timed):
    """Yield the ratios of one Python, by delivery."""

    def row(what, ratios):
        return [name, what, *(f"{value:.2f}" for value in ratios)]

    for delivery, seconds in timed.items():
        if delivery != "before":
            pool = "global again" if delivery == "stock" else "initret"
            yield row(
                delivery,
                (
                    ratio(seconds[f"{kind}, {work}, {pool}"], seconds[f"{kind}, {work}, global"])
                    for kind, work in COLUMNS
                ),
            )
    if "before" in timed:
        ways = [f"{kind}, {work}, initret" for kind, work in COLUMNS]
        over = (ratio(timed["package"][way], timed["before"][way]) for way in ways)
        yield row("package over before", over)


def main():
    saved, printed = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        before = package_before(folder)
        for python, name in {python: version(python) for python in PYTHONS}.items():
            if not name:
                continue
            try:
                timed = measure(python, before, folder)
            except subprocess.CalledProcessError as error:
                print(f"left out: {name} ({error})")
                continue
            saved += [
                ({"name": f"{name}, {delivery}: {way}", "python": name}, values)
                for delivery, seconds in timed.items()
                for way, values in seconds.items()
            ]
            for row in rows(name, timed):
                printed.append(row)
                print(*row, flush=True)
    save("cost", saved)
    head = [f"{kind}: {work}" for kind, work in COLUMNS]
    save_tables(
        "cost",
        table(["Python", "initret over a global", *head], printed),
        "Chunks: calls in large chunks.  The others: tasks of one call.",
    )


if __name__ == "__main__":
    main()
