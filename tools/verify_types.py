"""Check with pyright that every public symbol of the installed package is typed.

    python tools/verify_types.py

The Pool for Ray is exempt: it derives from Ray's own, which is not typed.
"""

import json
import subprocess
import sys

UNTYPED = {"multiprocessing_initret.ray.Pool"}
COMMAND = "basedpyright --verifytypes multiprocessing_initret --ignoreexternal --outputjson"

if __name__ == "__main__":
    done = subprocess.run(COMMAND.split(), stdout=subprocess.PIPE, encoding="utf-8")
    symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    if not symbols:
        sys.exit("pyright found no public symbol")
    for symbol in symbols:
        if symbol["isExported"] and not symbol["isTypeKnown"] and symbol["name"] not in UNTYPED:
            sys.exit(json.dumps(symbol, indent=4))
    print(f"{len(symbols)} symbols, all typed but {', '.join(UNTYPED)}")
