"""The cost of a call and of a task, on every Python on PATH, under both deliveries.

    python cost.py [ROUNDS]

Prints the time with `initret` over that with a global, in `map()`, in `imap()` with
chunks of one, and in `apply()`; over the same calls in one process; and with the
keyword off over the stock interpreter.  Where it says stock, both are a global:
what those ratios differ by from 1 is noise.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from measure import ratio, save

HERE = pathlib.Path(__file__).parent
PYTHONS = [f"python3.{minor}" for minor in range(6, 16)] + ["pypy3.11"]
WAYS = ("map", "imap", "apply")
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
RUNS = 3  # of each, in turn with the others


def version(python):
    """Return the version of an interpreter on PATH, or nothing if there is none that runs."""
    if shutil.which(python) is None:
        return ""
    code = "import platform; print(platform.python_implementation(), platform.python_version())"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def calls(python, path, *options):
    arguments = [python, *options, HERE / "calls.py", ROUNDS]
    done = subprocess.run(
        list(map(str, arguments)),
        env={**os.environ, "PYTHONPATH": str(path)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def measure(python, overlay):
    """Return the seconds by delivery and by what was timed."""
    backport = HERE.parent / "backport" / "src"
    deliveries = {
        "stock": ("",),
        "backport": (backport, "-m", "multiprocessing_initret"),
    }
    if subprocess.run([python, HERE.parent / "tools" / "overlay.py", overlay]).returncode == 0:
        deliveries["patch"] = (overlay,)
    timed = {delivery: {} for delivery in deliveries}
    for _ in range(RUNS):
        for delivery, arguments in deliveries.items():
            for way, seconds in calls(python, *arguments).items():
                timed[delivery].setdefault(way, []).extend(seconds)
    return timed


def main():
    saved = []
    print("initret / global        map   imap  apply   map / one process   off / stock: map")
    for python, name in {python: version(python) for python in PYTHONS}.items():
        if not name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            timed = measure(python, os.path.join(folder, "overlay"))
        for delivery, seconds in timed.items():
            saved += [
                ({"name": f"{name}, {delivery}: {way}", "python": name}, values)
                for way, values in seconds.items()
            ]
            pool = "global again" if delivery == "stock" else "initret"
            over_global = (
                ratio(seconds[f"{way}, {pool}"], seconds[f"{way}, global"]) for way in WAYS
            )
            print(
                f"{name.replace('CPython ', ''):8} {delivery:10}",
                *(f"{value:6.2f}" for value in over_global),
                f"{ratio(seconds[f'map, {pool}'], seconds['one process']):19.2f}",
                f"{ratio(seconds['map, global'], timed['stock']['map, global']):18.2f}",
                flush=True,
            )
    save("cost", saved)


if __name__ == "__main__":
    main()
