"""What becomes of a task when something goes wrong, in the pool of each library.

    python faults.py

Does what faulty.py has to each pool: to all under forkserver, the default on Linux
since Python 3.14, or in their own way; to the stock pool and ours under every start
method.  Each case is a process of its own with a limit.  Prints what the task came
to, an error by its name; "broken" where a later task got an error too although
another library's pool went on; and counts of both.
"""

import concurrent.futures
import contextlib
import importlib.util
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

from faulty import FAULTS, LIBRARIES, LIMIT, NOTHING, OWN, THREADS, TYPED
from measure import conditions, save_json, save_tables, table, versions

PROGRAM = pathlib.Path(__file__).with_name("faulty.py")
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
IN_ALL = ["stock Pool", "expect_initret"]  # start methods
AT_ONCE = 6  # many do nothing but wait
MORE = 60  # seconds beyond the limit, for what is there before the pool


def outcomes(fault, library, method):
    """Return what the task came to, one after it, and the end, as far as the case went."""
    if FAULTS[fault][0] == THREADS:
        method = "threads"
    if method not in LIBRARIES[library][2]:
        return None
    program = ["-c", PROGRAM.read_text()] if fault == TYPED else [str(PROGRAM)]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *program, library, method],
            env={**os.environ, "FAULT": fault, "TMPDIR": folder},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LIMIT + MORE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it has left behind
        process.wait()
        output.seek(0)
        found = {}
        for line in output:
            if line.startswith("{"):
                found.update(json.loads(line))
    if process.returncode not in (0, 1, -signal.SIGKILL):  # 1: the limit
        found.setdefault("task", "the program is killed")
    return found


def cell(found, goes_on):
    if found is None:
        return "\\-"  # it has no such pool
    if "task" not in found:
        return "hang"
    if "end" not in found and "after" not in found:
        return found["task"] + ", then hang"
    if "end" not in found:
        return found["task"] + ", hangs at the end"
    return found["task"] + (", broken" if goes_on and found.get("after") != "answer" else "")


def main():
    columns = []
    for library, (_, module, methods) in LIBRARIES.items():
        if not importlib.util.find_spec(module.split(".")[0]):
            print(f"left out: {library}")
        elif methods == [OWN]:
            columns.append((library, OWN))
        else:
            columns.append((library, METHOD))
            others = set(multiprocessing.get_all_start_methods()) - {METHOD}
            columns += [(library, other) for other in sorted(others) if library in IN_ALL]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as executor:
        cases = {
            (fault, *column): executor.submit(outcomes, fault, *column)
            for column in columns
            for fault in FAULTS
        }
        found = {}
        for case, future in cases.items():
            found[case] = future.result()
            print(*case, found[case], sep=": ", flush=True)
    save_json(
        "faults",
        {
            **conditions(),
            "libraries": versions(),
            "limit": LIMIT,
            "cases": [
                {
                    "fault": fault,
                    "row": FAULTS[fault][0],
                    "library": library,
                    "start_method": method,
                    **result,
                }
                for (fault, library, method), result in found.items()
                if result is not None
            ],
        },
    )

    shown = [column for column in columns if column[1] in (METHOD, OWN)]
    rows, counts = [], {column: [0, 0, 0, 0] for column in columns}
    for fault in FAULTS:
        went_on = [found[(fault, *column)] for column in columns]
        goes_on = any(one and one.get("after") == "answer" for one in went_on)
        cells = {column: cell(found[(fault, *column)], goes_on) for column in columns}
        rows.append([fault, *(cells[column] for column in shown)])
        for column, text in cells.items():
            if fault == NOTHING:
                continue
            counts[column][0] += text.startswith("answer")
            counts[column][1] += "hang" in text
            counts[column][2] += "broken" in text
            counts[column][3] += text != "\\-"
    save_tables(
        "faults",
        table([f"under {METHOD}", *(library for library, _ in shown)], rows),
        table(
            ["pool", "start method", "cases", "answers", "errors", "hangs", "broken"],
            [
                [library, method, cases, answers, cases - answers - hangs, hangs, broken]
                for (library, method), (answers, hangs, broken, cases) in counts.items()
            ],
        ),
        f"A case that has not ended after {LIMIT} seconds hangs.  "
        + ", ".join(f"{name} {version}" for name, version in versions().items())
        + ".",
    )


if __name__ == "__main__":
    main()
