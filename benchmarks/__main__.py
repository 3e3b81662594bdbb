"""Run the named benchmarks, or all of them, one after the other.

    python benchmarks [--save] [startup] [tasks] [cost] [alternatives] [objects] [failures]

With --save the results replace those in benchmarks/results, which the documentation includes.
Without it the tables are only printed.
"""

import os
import pathlib
import subprocess
import sys

DIRECTORY = pathlib.Path(__file__).parent
NAMES = ["startup", "tasks", "cost", "alternatives", "objects", "failures"]

names = sys.argv[1:]
if "--save" in names:
    names.remove("--save")
    os.environ["SAVE_RESULTS"] = "1"  # measure.py reads it
names = names or NAMES
if not set(names) <= set(NAMES):
    sys.exit(f"the benchmarks are {', '.join(NAMES)}")
failed = []
for name in names:
    print(f"+ {name}.py", flush=True)
    if subprocess.run([sys.executable, DIRECTORY / f"{name}.py"]).returncode:
        failed.append(name)  # continue with the others
if failed:
    sys.exit(f"failed: {', '.join(failed)}")
