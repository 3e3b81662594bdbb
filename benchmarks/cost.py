"""Measure the cost of a call and of a task on every Python on PATH, for package and patch.

    python cost.py [PYTHON ...]

Prints the time with `initret` over the time with a global in the same run, in processes and
in threads: of calls in large chunks, and of tasks of one call, by map(), imap() and
apply().  In the rows "standard" both are a global, so these ratios show the noise.  The rows
"package over before" compare the package with a version that gave no guarantees.
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
BEFORE = "e54e573"  # the last commit in which tasks could hang
ROUNDS = 8
RUNS = 5  # of each delivery, in turn
COLUMNS = [(kind, work) for kind in KINDS for work in WORK]


def version(python):
    """Return the version of an interpreter on PATH, or an empty string if it does not run."""
    if shutil.which(python) is None:
        return ""
    code = "import platform; print(platform.python_implementation(), platform.python_version())"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def package_before(directory):
    """Write the package of the commit BEFORE, and return its path, or None without that commit."""
    archive = directory / "before.tar"
    command = ["git", "archive", "--output", archive, BEFORE, "backport/src"]
    if subprocess.run(list(map(str, command)), cwd=REPOSITORY).returncode:
        return None
    with tarfile.open(archive) as file:
        file.extractall(directory)
    return directory / "backport" / "src"


def calls(python, path, *options):
    arguments = [python, *options, PROGRAM, ROUNDS]
    done = subprocess.run(
        list(map(str, arguments)),
        env={**os.environ, "PYTHONPATH": str(path)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def measure(python, before, directory):
    """Return the measured seconds, by delivery and by name."""
    run_module = ["-m", "multiprocessing_initret"]
    deliveries = {
        "standard": [""],
        "package": [REPOSITORY / "backport" / "src", *run_module],
    }
    if before:
        deliveries["before"] = [before, *run_module]
    overlay = directory / "overlay" / python
    patch = [python, REPOSITORY / "tools" / "overlay.py", overlay]
    if subprocess.run(list(map(str, patch))).returncode == 0:
        deliveries["patch"] = [overlay]
    timed = {delivery: {} for delivery in deliveries}
    for number in range(RUNS):
        for delivery in sorted(deliveries, reverse=number % 2):
            for name, seconds in calls(python, *deliveries[delivery]).items():
                timed[delivery].setdefault(name, []).extend(seconds)
    return timed


def rows(name, timed):
    """Yield the ratios of one Python, by delivery."""

    def row(what, ratios):
        return [name, what, *(f"{value:.2f}" for value in ratios)]

    for delivery, seconds in timed.items():
        if delivery != "before":
            pool = "global again" if delivery == "standard" else "initret"
            yield row(
                delivery,
                (
                    ratio(seconds[f"{kind}, {work}, {pool}"], seconds[f"{kind}, {work}, global"])
                    for kind, work in COLUMNS
                ),
            )
    if "before" in timed:
        names = [f"{kind}, {work}, initret" for kind, work in COLUMNS]
        over = (ratio(timed["package"][name], timed["before"][name]) for name in names)
        yield row("package over before", over)


def main():
    saved, printed = [], []
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        before = package_before(directory)
        for python, name in {python: version(python) for python in PYTHONS}.items():
            if not name:
                continue
            try:
                timed = measure(python, before, directory)
            except subprocess.CalledProcessError as error:
                print(f"left out: {name} ({error})")
                continue
            saved += [
                ({"name": f"{name}, {delivery}: {what}", "python": name}, values)
                for delivery, seconds in timed.items()
                for what, values in seconds.items()
            ]
            for row in rows(name, timed):
                printed.append(row)
                print(*row, flush=True)
    save("cost", saved)
    head = [f"{kind}: {work}" for kind, work in COLUMNS]
    save_tables(
        "cost",
        table(["Python", "initret over a global", *head], printed),
        "Chunks: calls in large chunks.  Other columns: tasks of one call.",
    )


if __name__ == "__main__":
    main()
