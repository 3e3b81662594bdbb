"""Run the benchmarks, all or those that are named, one after the other.

python benchmarks [cost] [ways] [objects]
"""

import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
NAMES = ["cost", "ways", "objects"]

names = sys.argv[1:] or NAMES
if not set(names) <= set(NAMES):
    sys.exit(f"the benchmarks are {', '.join(NAMES)}")
for name in names:
    print(f"+ {name}.py", flush=True)
    subprocess.run([sys.executable, HERE / f"{name}.py"], check=True)
