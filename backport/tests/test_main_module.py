"""Workers that cannot import the main module, or a function that is defined in it."""

import json
import re
import sys

import pytest

# Runs a program, and prints what the program and its children write to stdout and stderr.
MERGE_OUTPUT = """
import subprocess, sys
pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
sys.stdout.buffer.write(subprocess.run([sys.executable] + sys.argv[1:], **pipe).stdout)
"""

# END stands for a method that ends the pool.
WITHOUT_GUARD = """
import multiprocessing, os, sys
import multiprocessing_initret

def return_item(item, initret):
    return item

os.dup2(1, 2)  # the stderr of the workers, too
context = multiprocessing.get_context(sys.argv[1])
try:
    pool = multiprocessing_initret.Pool(2, int, (40,), context=context, expect_initret=True)
except multiprocessing_initret.WorkerLostError as error:
    sys.exit("no pool: {}, caused by {!r}".format(error, error.__cause__))
for call in range(2):
    results = [pool.map_async(return_item, range(5)), pool.apply_async(return_item, (1,))]
    for get in [result.get for result in results] + [pool.imap(return_item, [1]).next]:
        try:
            print(get(60))
        except multiprocessing_initret.WorkerLostError as error:
            print("call", call, error)
pool.END()
pool.join()
print("ended")
"""
MAIN_MODULE_RAISES = WITHOUT_GUARD.replace("pool.END", "pool.terminate").replace(
    "os.dup2", "if __name__ != '__main__':\n    raise LookupError('no luck')\nos.dup2"
)
WITHOUT_GUARD = WITHOUT_GUARD.replace("pool.END", "pool.close")


@pytest.mark.parametrize(
    "program, reason",
    [(WITHOUT_GUARD, "bootstrapping phase"), (MAIN_MODULE_RAISES, "no luck")],
    ids=["no guard", "raises"],
)
def test_workers_exit_while_starting(python, tmp_path, start_method, program, reason):
    if start_method == "fork":
        pytest.skip("imports no main module")
    (tmp_path / "program.py").write_text(program)
    # In Python 3.13.8, 3.14.1 and later, the fork server itself imports the main module, and exits
    # if that fails.  Then no worker can be started, and the constructor of the pool raises the
    # exception.
    output = python("-c", MERGE_OUTPUT, "program.py", start_method)
    assert reason in output
    # Each worker prints why it exited, and no more workers are started than needed.
    assert output.count("Traceback (most recent call last)") <= 8
    lines = output.splitlines()
    # "ended" may not be the last line: Python may warn of leaked resources at exit.
    if start_method == "forkserver" and sys.version_info >= (3, 13) and "ended" not in lines:
        [line] = [line for line in lines if line.startswith("no pool: ")]
        assert "__main__" in line
        assert "caused by EOFError" in line or "caused by Connection" in line
        return
    assert "ended" in lines
    errors = [line for line in lines if line.startswith("call ")]
    assert len(errors) == 6
    for error in errors:
        assert "the pool is broken" in error and "__main__" in error


UNDER_THE_GUARD = """
import multiprocessing, sys
import multiprocessing_initret

if __name__ == "__main__":
    def add(item, initret):
        return item + initret

    class Item:
        def __radd__(self, other):
            return other

    context = multiprocessing.get_context(sys.argv[1])
    with multiprocessing_initret.Pool(2, int, (40,), context=context, expect_initret=True) as pool:
        for result in pool.map_async(add, range(3)), pool.apply_async(sum, ([], Item())):
            try:
                print(result.get(60))
            except AttributeError as error:
                print(error)
"""


def test_defined_under_the_guard(python, tmp_path, start_method):
    (tmp_path / "program.py").write_text(UNDER_THE_GUARD)
    if start_method == "fork":
        pytest.skip("imports no main module")
    for line, name in zip(python("program.py", start_method).splitlines(), ["add", "Item"]):
        assert name in line
        assert_gives_advice(line)


SESSION = """
import multiprocessing, os
import multiprocessing_initret

os.dup2(1, 2)

def identity(value):
    return value

def add(item, initret):
    return item + initret

def make_pool(initializer):
    context = multiprocessing.get_context("METHOD")
    args = 2, initializer, (40,), None, context
    return multiprocessing_initret.Pool(*args, expect_initret=True)

pool = make_pool(int)
try:
    print(pool.map_async(add, range(3)).get(60))
except Exception as error:
    print(type(error).__name__, error)

pool.terminate()
pool = make_pool(identity)
try:
    print(pool.map_async(add, range(3)).get(60))
except Exception as error:
    print(type(error).__name__, error)

pool.close()
pool.join()
print("ended")
"""
DILL_SESSION = """
import multiprocess, multiprocessing_initret
multiprocessing_initret.install("multiprocess")

def identity(value):
    return value

def add(item, initret):
    return item + initret

with multiprocess.get_context("METHOD").Pool(2, identity, (40,), expect_initret=True) as pool:
    print(pool.map_async(add, range(3)).get(60))

"""


def assert_gives_advice(text):
    assert "move it to a module" in text
    assert "get_context('fork')" in text
    assert "install('multiprocess')" in text


def check_session(output, start_method):
    if start_method == "fork":
        assert output.count("[40, 41, 42]") == 2
    else:
        # An exception for each call, and a warning for each worker that lacks the initializer.
        warnings = output.count("initializer failed; it will be called again for the next task")
        assert output.count("Traceback") == warnings <= 2
        # The second is the message of Python 3.15.
        missing = r"(?:Can't get attribute|module '__main__' has no attribute) '{}'"
        assert len(re.findall("AttributeError " + missing.format("add"), output)) == 2
        assert len(re.findall("AttributeError: " + missing.format("identity"), output)) == warnings
        for line in output.splitlines():
            if "AttributeError" in line:
                assert_gives_advice(line)
    assert "ended" in output


def test_interactive_session(python, start_method):
    session = SESSION.replace("METHOD", start_method)
    check_session(python("-i", stdin=session), start_method)


def run_notebook(python, tmp_path, *cells):
    """Run a notebook, and return its output."""
    for name in "nbconvert", "ipykernel":
        pytest.importorskip(name)
    cells = [
        {
            "cell_type": "code",
            "execution_count": None,
            "metadata": {},
            "outputs": [],
            "source": cell,
        }
        for cell in cells
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (tmp_path / "notebook.ipynb").write_text(
        json.dumps(
            {
                "cells": cells,
                "metadata": {"kernelspec": kernel},
                "nbformat": 4,
                "nbformat_minor": 4,
            }
        )
    )
    args = ["--to", "notebook", "--execute", "--stdout", "notebook.ipynb"]
    done = json.loads(python("-m", "nbconvert", *args))
    outputs = [output for cell in done["cells"] for output in cell["outputs"]]
    return "".join("".join(output.get("text", ())) for output in outputs)


def test_notebook(python, tmp_path, start_method):
    session = SESSION.replace("METHOD", start_method).replace("os.dup2(1, 2)", "")
    cells = session.split("\n\n")
    check_session(run_notebook(python, tmp_path, *cells), start_method)


def test_notebook_with_multiprocess(python, tmp_path, start_method):
    pytest.importorskip("multiprocess")
    cells = DILL_SESSION.replace("METHOD", start_method).split("\n\n")
    assert run_notebook(python, tmp_path, *cells) == "[40, 41, 42]\n"


def test_log_of_a_broken_pool(python, tmp_path, start_method):
    if start_method == "fork":
        pytest.skip("imports no main module")
    (tmp_path / "program.py").write_text(
        "import multiprocessing\nmultiprocessing.log_to_stderr()\n" + MAIN_MODULE_RAISES
    )
    output = python("-c", MERGE_OUTPUT, "program.py", start_method)
    assert "[WARNING/MainProcess] the pool is broken: " in output or "no pool: " in output
