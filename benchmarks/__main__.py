"""Run the benchmarks, all or those that are named, one after the other.

python benchmarks [start] [cost] [ways] [objects] [faults]
"""

import pathlib
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parent
NAMES = ["start", "cost", "ways", "objects", "faults"]

names = sys.argv[1:] or NAMES
if not set(names) <= set(NAMES):
    sys.exit(f"the benchmarks are {', '.join(NAMES)}")
failed = []
for name in names:
    print(f"+ {name}.py", flush=True)
    if subprocess.run([sys.executable, FOLDER / f"{name}.py"]).returncode:
        failed.append(name)  # which takes nothing from the others
if failed:
    sys.exit(f"failed: {', '.join(failed)}")
