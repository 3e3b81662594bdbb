"""Report what the environments of tox tested, and what this machine cannot test, and why.

    python tools/report.py WORK_DIR [ENVIRONMENT...]

WORK_DIR is the directory of tox, .tox.  Each ENVIRONMENT has run in this Python and has written
the results of its tests to WORK_DIR/ENVIRONMENT/tmp/*.xml, in the format of JUnit.
"""

import ast
import collections
import importlib.util
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import xml.etree.ElementTree

PYTHONS = [f"python3.{minor}" for minor in range(6, 16)] + ["python3.14t", "pypy3.11"]
RAY = [f"python3.{minor}" for minor in range(10, 15)]
TESTS_OF_POOL = "test._test_multiprocessing"
ALL = "python -m tox -m all -p auto"
OTHERS = "the slow tests, other Pythons, the examples, documentation, types, and style"


def runs(python):
    """Return whether an interpreter is on PATH and runs; pyenv has shims that do not."""
    if not shutil.which(python):
        return False
    done = subprocess.run([python, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def report_tests(work_dir, environment):
    """Print how many tests of an environment passed, failed, and were skipped, and why."""
    counts, reasons = collections.Counter(), collections.Counter()
    for path in pathlib.Path(work_dir, environment, "tmp").glob("*.xml"):
        for suite in xml.etree.ElementTree.parse(str(path)).iter("testsuite"):
            for name in ("tests", "failures", "errors", "skipped"):
                counts[name] += int(suite.get(name))
            for skip in suite.iter("skipped"):
                reason = skip.get("message")
                if reason == "collection skipped":
                    # A whole module: its text is a path, a line, and the reason.
                    reason = ast.literal_eval(skip.text)[2].partition(": ")[2]
                reasons[reason] += 1
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    print(f"{environment}: {passed} tests passed, {failed} failed, {counts['skipped']} skipped:")
    for reason, count in reasons.most_common():
        print(f"  {count:4} {reason}")


def missing():
    """Yield what this machine cannot test, and why."""
    if importlib.util.find_spec("test") is None or not importlib.util.find_spec(TESTS_OF_POOL):
        yield "CPython's own tests of Pool: this Python comes without them"
    pythons = [python for python in PYTHONS if not runs(python)]
    if pythons:
        yield f"not on PATH: {', '.join(pythons)}"
    if not any(map(runs, RAY)):
        yield f"Ray: needs one of {', '.join(RAY)}"
    if not shutil.which("wine"):
        yield "CPython for Windows: Wine is not on PATH"
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    if not shutil.which("mariadbd", path=path):
        yield "the examples with MariaDB: no server is installed"
    if not (shutil.which("pg_ctl") or list(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))):
        yield "the examples with PostgreSQL: no server is installed"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    work_dir, *environments = sys.argv[1:]
    if environments:
        implementation = platform.python_implementation()
        print(f"Tested: {implementation} {platform.python_version()}, {sys.base_prefix}")
        for environment in environments:
            report_tests(work_dir, environment)
        print(f"Not tested: {OTHERS}. To test them:\n{ALL}")
    print("This machine cannot test:")
    print("\n".join(f"  {line}" for line in missing()) or "  nothing")
