"""Measure the cost of a call and of a task on every Python on PATH, for package and patch.

    python cost.py [PYTHON ...]

Prints the ratio of the time with `initret` to the time with a global in the same run, in
processes and in threads: for calls in large chunks, and for tasks of one call, by map(), imap()
and apply().  In the rows "standard" both are a global, so these ratios show the noise.  The rows
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
RUNS = 5  # of each variant (standard, package, before, patch), in turn
COLUMNS = [(kind, work) for kind in KINDS for work in WORK]


def version(python):
    """Return the version of an interpreter on PATH, or an empty string if it does not run."""
    if shutil.which(python) is None:
        return ""
    code = "import platform; print(platform.python_implementation(), platform.python_version())"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def write_package_before(directory):
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
    """Return the measured seconds, by variant and by name."""
    run_module = ["-m", "multiprocessing_initret"]
    variants = {
        "standard": [""],
        "package": [REPOSITORY / "backport" / "src", *run_module],
    }
    if before:
        variants["before"] = [before, *run_module]
    overlay = directory / "overlay" / python
    patch = [python, REPOSITORY / "tools" / "overlay.py", overlay]
    if subprocess.run(list(map(str, patch))).returncode == 0:
        variants["patch"] = [overlay]
    timed = {variant: {} for variant in variants}
    for number in range(RUNS):
        for variant in sorted(variants, reverse=number % 2):
            for name, seconds in calls(python, *variants[variant]).items():
                timed[variant].setdefault(name, []).extend(seconds)
    return timed


def rows(name, timed):
    """Yield the ratios of one Python, by variant."""

    def row(what, ratios):
        return [name, what, *(f"{value:.2f}" for value in ratios)]

    for variant, seconds in timed.items():
        if variant != "before":
            pool = "global again" if variant == "standard" else "initret"
            yield row(
                variant,
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
        before = write_package_before(directory)
        for python, name in {python: version(python) for python in PYTHONS}.items():
            if not name:
                continue
            try:
                timed = measure(python, before, directory)
            except subprocess.CalledProcessError as error:
                print(f"left out: {name} ({error})")
                continue
            saved += [
                ({"name": f"{name}, {variant}: {what}", "python": name}, values)
                for variant, seconds in timed.items()
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
