"""Report how the pool of each library handles failures of tasks and workers.

    python failures.py

Runs each failure of failing_program.py in each pool: under forkserver, the default on Linux
since Python 3.14, or the library's own start method; and in the standard Pool and the
package's under every start method.  Each case runs in a new process, with a time limit.  The
table shows the result of the task, or the name of its exception; "broken" means that a later
task failed too, although another library's pool kept running.
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

from failing_program import FAILURES, LIBRARIES, LIMIT, NONE, OWN, THREADS, TYPED
from measure import conditions, save_json, save_tables, table, versions

PROGRAM = pathlib.Path(__file__).with_name("failing_program.py")
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
ALL_METHODS = ["standard Pool", "expect_initret"]  # run under every start method
AT_ONCE = 6  # cases; most of them only wait for a time limit
MORE = 60  # seconds beyond the limit, to start Ray


def run_case(failure, library, method):
    """Return the results of the task, of a later task, and of terminate(), as far as printed."""
    if failure in THREADS:
        method = "threads"
    if method not in LIBRARIES[library][2]:
        return None
    program = ["-c", PROGRAM.read_text()] if failure == TYPED else [str(PROGRAM)]
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *program, library, method],
            env={**os.environ, "FAILURE": failure, "TMPDIR": directory},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LIMIT + MORE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and the processes that it started
        process.wait()
        output.seek(0)
        found = {}
        for line in output:
            if line.startswith("{"):
                found.update(json.loads(line))
    if process.returncode not in (0, 1, -signal.SIGKILL):  # 1: faulthandler, after LIMIT
        found.setdefault("task", "the program is killed")
    return found


def cell(found, others_continue):
    if found is None:
        return "\\-"  # the library has no such pool
    if "task" not in found:
        return "hang"
    if "end" not in found and "after" not in found:
        return found["task"] + ", then hang"
    if "end" not in found:
        return found["task"] + ", hangs at the end"
    return found["task"] + (
        ", broken" if others_continue and found.get("after") != "answer" else ""
    )


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
            columns += [(library, other) for other in sorted(others) if library in ALL_METHODS]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as executor:
        cases = {
            (failure, *column): executor.submit(run_case, failure, *column)
            for column in columns
            for failure in FAILURES
        }
        found = {}
        for case, future in cases.items():
            found[case] = future.result()
            print(*case, found[case], sep=": ", flush=True)
    save_json(
        "failures",
        {
            **conditions(),
            "libraries": versions(),
            "limit": LIMIT,
            "cases": [
                {
                    "failure": failure,
                    "library": library,
                    "start_method": method,
                    **result,
                }
                for (failure, library, method), result in found.items()
                if result is not None
            ],
        },
    )

    shown = [column for column in columns if column[1] in (METHOD, OWN)]
    rows, counts = [], {column: [0, 0, 0, 0] for column in columns}
    for failure in FAILURES:
        cases = [found[(failure, *column)] for column in columns]
        others_continue = any(one and one.get("after") == "answer" for one in cases)
        cells = {column: cell(found[(failure, *column)], others_continue) for column in columns}
        rows.append([failure, *(cells[column] for column in shown)])
        for column, text in cells.items():
            if failure == NONE:
                continue
            counts[column][0] += text.startswith("answer")
            counts[column][1] += "hang" in text
            counts[column][2] += "broken" in text
            counts[column][3] += text != "\\-"
    save_tables(
        "failures",
        table([f"under {METHOD}", *(library for library, _ in shown)], rows),
        table(
            ["pool", "start method", "cases", "answers", "errors", "hangs", "broken"],
            [
                [library, method, cases, answers, cases - answers - hangs, hangs, broken]
                for (library, method), (answers, hangs, broken, cases) in counts.items()
            ],
        ),
        f"A case that has not finished after {LIMIT} seconds counts as a hang.  "
        + ", ".join(f"{name} {version}" for name, version in versions().items())
        + ".",
    )


if __name__ == "__main__":
    main()
