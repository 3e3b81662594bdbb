"""Messages about workers that cannot import the main module, or a name from it."""

import sys
import types
import zipfile

import pytest
from conftest import posix
from multiprocessing_initret._parent.main_module import missing_name_hint

PROGRAM = """
import multiprocessing
import multiprocessing_initret

def add(item, initret):
    return item + initret

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pool = multiprocessing_initret.Pool(1, int, (40,), context=context, expect_initret=True)
    try:
        print(pool.apply_async(add, (1,)).get(60))
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    pool.terminate()
    pool.join()
"""

UNDER_THE_GUARD = """
import multiprocessing
import multiprocessing_initret

if __name__ == "__main__":
    def add(item, initret):
        return item + initret
""" + PROGRAM.partition("    return item + initret\n")[2].replace(
    'if __name__ == "__main__":\n', ""
)


def check_hint(output, hint):
    """Check that the exception names its task's function, this cause, and what to do."""
    lines = [line for line in output.splitlines() if "AttributeError " in line]
    assert len(lines) == 1, output
    assert "add" in lines[0] and hint in lines[0]
    assert "move it to a module" in lines[0] and "get_context('fork')" in lines[0]


def test_main_module_is_imported(python, tmp_path):
    """No hint is needed."""
    (tmp_path / "program.py").write_text(PROGRAM)
    assert python("program.py") == "41\n"


def test_command(python):
    check_hint(python("-c", PROGRAM), "defined by python -c")


def test_under_the_guard(python, tmp_path):
    (tmp_path / "program.py").write_text(UNDER_THE_GUARD)
    check_hint(python("program.py"), 'without what follows `if __name__ == "__main__":`')


def test_interactive(python):
    check_hint(python("-i", stdin=PROGRAM + "\n"), "defined in an interactive session")


@pytest.mark.parametrize("args", [["-m", "package"], ["package"]], ids=["module", "directory"])
def test_package(python, tmp_path, args):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "__main__.py").write_text(PROGRAM)
    check_hint(python(*args), "do not import the __main__.py")


def test_zip_file(python, tmp_path):
    with zipfile.ZipFile(str(tmp_path / "program.zip"), "w") as file:
        file.writestr("__main__.py", PROGRAM)
    check_hint(python("program.zip"), "do not import the __main__.py")


@pytest.mark.parametrize("args", [[], ["-"]])
def test_stdin(python, args):
    """Depending on the version of Python, workers lack the name, or cannot start."""
    output = python(*args, stdin=PROGRAM)
    assert "a program that is read from stdin: " in output, output
    assert "AttributeError" in output or "WorkerLostError the pool is broken" in output


AFTER_ITS_END = (
    PROGRAM.replace('if __name__ == "__main__":', "def call_add():")
    + """
def call_add_later():
    while hasattr(__main__, "__file__"):
        time.sleep(0.01)
    call_add()

if __name__ == "__main__":
    import __main__, threading, time
    threading.Thread(target=call_add_later).start()
"""
)


@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="PyPy keeps the path of the main module"
)
@pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="no thread can be started then")
def test_thread_after_the_end_of_the_main_module(python, tmp_path):
    """CPython deletes the path of the main module then."""
    (tmp_path / "program.py").write_text(AFTER_ITS_END)
    check_hint(python("program.py"), "a main module that has ended")


IN_AN_EXIT_HANDLER = """
import atexit, multiprocessing
import multiprocessing_initret

def add(item, initret):
    return item + initret

def call_add():
    try:
        print([pool.apply_async(add, (i,)).get(60) for i in range(3)])
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    pool.terminate()

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    # Each task runs in a new worker.  All but the first start after the main module has ended.
    pool = multiprocessing_initret.Pool(1, int, (40,), 1, context, expect_initret=True)
    atexit.register(call_add)
"""


@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="PyPy keeps the path of the main module"
)
def test_worker_that_starts_after_the_end_of_the_main_module(python, tmp_path):
    (tmp_path / "program.py").write_text(IN_AN_EXIT_HANDLER)
    check_hint(python("program.py"), "a main module that has ended")


RUN = """
import runpy
program = runpy.run_path("program.py", run_name="__main__")
try:
    program["pool"].apply_async(program["add"], (1,)).get(60)
except Exception as error:
    print(type(error).__name__, error, flush=True)
program["pool"].terminate()
"""

RUN_PROGRAM = """
import multiprocessing
import multiprocessing_initret

def add(item, initret):
    return item + initret

context = multiprocessing.get_context("fork")
pool = multiprocessing_initret.Pool(1, int, (40,), context=context, expect_initret=True)
"""


def test_no_arguments_of_a_program(monkeypatch):
    """Before Python 3.8, a program that embeds Python may not set them."""
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    monkeypatch.delattr(sys, "argv")
    assert "main module" in missing_name_hint()


@posix  # the program makes a pool without a guard
def test_main_module_that_has_ended(python, tmp_path):
    """A pool can be used after runpy has finished and cleared the main module of its program."""
    (tmp_path / "program.py").write_text(RUN_PROGRAM)
    output = python("-c", RUN)
    assert "the main module of the program has ended" in output
    assert "define the function in a module" in output
