"""Tests of python -m multiprocessing_initret."""

import contextlib
import multiprocessing
import os
import shutil
import sys

import pytest
from multiprocessing_initret import __version__

POOLS = """
import multiprocessing
import sys
from multiprocessing import Pool
from multiprocessing.dummy import Pool as ThreadPool

class Number:
    value = 40

def make_number():
    return Number()

def add(item, initret):
    return item + initret.value

def use_pool(number):
    with Pool(2, make_number, expect_initret=True) as pool:
        print(pool.map(add, range(number)), flush=True)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    use_pool(3)
    with ThreadPool(2, make_number, expect_initret=True) as pool:
        print(pool.map(add, range(2)), flush=True)
    with multiprocessing.Manager() as manager:
        with manager.Pool(2, make_number, expect_initret=True) as pool:
            print(pool.map(add, range(2)), flush=True)
    process = multiprocessing.Process(target=use_pool, args=(1,))
    process.start()
    process.join()
"""
GUARD = 'if __name__ == "__main__":'
POOLS_PRINT = "[40, 41, 42]\n[40, 41]\n[40, 41]\n[40]\n"

FACTS = """
import os, sys, threading
print(sys.argv[1:], __name__, __file__, __spec__ and __spec__.name, __builtins__, type(__loader__))
print(sorted(name for name in globals() if name not in ("__annotations__", "__cached__")))
print(sys.modules["__main__"].__dict__ is globals(), sys.path[0])
if not sys.flags.isolated and not getattr(sys.flags, "safe_path", False):
    import sibling

def check_main_after_the_last_line():
    threading.main_thread().join()
    print(sys.modules["__main__"].__dict__ is globals())

threading.Thread(target=check_main_after_the_last_line).start()
"""


def test_script(python, tmp_path, start_method):
    (tmp_path / "program.py").write_text(POOLS)
    assert python("-m", "multiprocessing_initret", "program.py", start_method) == POOLS_PRINT


def test_module(python, tmp_path, start_method):
    (tmp_path / "program.py").write_text(POOLS)
    printed = python("-m", "multiprocessing_initret", "-m", "program", start_method)
    assert printed == POOLS_PRINT


def test_package(python, tmp_path):
    method = multiprocessing.get_all_start_methods()[0]
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "pools.py").write_text(POOLS)
    printed = python("-m", "multiprocessing_initret", "-m", "package.pools", method)
    assert printed == POOLS_PRINT


# Options of the program, not of the package.
ARGS = ["-m", "-x", "--", "--help", "last"]


@pytest.fixture
def directory(tmp_path):
    """Make a directory with a program and a module that it imports."""
    directory = tmp_path / "directory"
    directory.mkdir()
    for name in ("program.py", "__main__.py"):
        (directory / name).write_text(FACTS)
    (directory / "sibling.py").write_text("print('found')")
    return directory


@pytest.fixture
def runs_as_by_python(python):
    """Check that a program prints what it prints when Python runs it directly."""

    def check(*program):
        args = [*program, *ARGS]
        assert python("-m", "multiprocessing_initret", *args) == python(*args)
        flag = "-I" if sys.version_info < (3, 11) else "-P"
        assert python(flag, "-m", "multiprocessing_initret", *args) == python(flag, *args)

    return check


def test_a_script_runs_as_by_python(directory, runs_as_by_python):
    runs_as_by_python(directory / "program.py")
    runs_as_by_python(os.path.join("directory", "program.py"))


def test_a_link_runs_as_by_python(directory, tmp_path, runs_as_by_python):
    link = tmp_path / "link.py"
    with contextlib.suppress(OSError):
        link.symlink_to(directory / "program.py")
    if not link.exists():
        pytest.skip("creating symbolic links needs a privilege on Windows, and Wine has none")
    runs_as_by_python("link.py")


def test_a_directory_runs_as_by_python(directory, runs_as_by_python):
    runs_as_by_python(directory)
    runs_as_by_python("directory")


def test_a_zip_file_runs_as_by_python(directory, runs_as_by_python):
    zip_file = shutil.make_archive(str(directory), "zip", str(directory))
    runs_as_by_python(zip_file)
    runs_as_by_python("directory.zip")


@pytest.mark.parametrize("option", [["-m", "program"], ["-mprogram"]])
def test_a_module_runs_as_by_python(python, tmp_path, option):
    (tmp_path / "program.py").write_text(FACTS)
    (tmp_path / "sibling.py").write_text("print('found')")
    args = [*option, *ARGS]
    assert python("-m", "multiprocessing_initret", *args) == python(*args)


def test_a_directory_uses_pools(python, tmp_path):
    method = multiprocessing.get_all_start_methods()[0]
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "pools.py").write_text(POOLS.replace(GUARD, "def main():"))
    (tmp_path / "directory" / "__main__.py").write_text(GUARD + "\n    import pools; pools.main()")
    assert python("-m", "multiprocessing_initret", "directory", method) == POOLS_PRINT


@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="PyPy's prompt uses another __main__ module"
)
def test_interactive(python, tmp_path):
    (tmp_path / "program.py").write_text("number = 41")
    command = ["-i", "-m", "multiprocessing_initret", "program.py"]
    assert python(*command, stdin="print(number + 1)\n") == "42\n"


def test_exit_code(python, tmp_path):
    (tmp_path / "program.py").write_text("raise SystemExit(7)")
    python("-m", "multiprocessing_initret", "program.py", code=7)


def test_help(python):
    assert python("-m", "multiprocessing_initret", "--help").startswith("usage: ")


def test_version(python):
    printed = python("-m", "multiprocessing_initret", "--version")
    assert printed == f"multiprocessing-initret {__version__}\n"


@pytest.mark.parametrize("program", [["program.py"], ["-m", "program"]])
def test_a_traceback_has_one_line_of_ours(python, tmp_path, program):
    (tmp_path / "program.py").write_text("raise LookupError('no luck')")
    printed = python("-m", "multiprocessing_initret", *program, code=1)
    assert printed.endswith("LookupError: no luck\n")
    assert printed.count(os.path.join("multiprocessing_initret", "__main__.py")) == 1


def test_a_syntax_error_has_no_traceback(python, tmp_path):
    (tmp_path / "program.py").write_text("for = 1")
    printed = python("-m", "multiprocessing_initret", "program.py", code=1)
    assert printed.startswith("  File ") and "SyntaxError: " in printed


@pytest.mark.parametrize(
    "args, reason",
    [
        ([], "name a script"),
        (["-m"], "name a script"),
        (["missing.py"], "missing.py"),
        (["-c", "pass"], "install()"),
        (["-i", "program.py"], "python -i -m multiprocessing_initret"),
    ],
)
def test_usage_errors(python, args, reason):
    message = python("-m", "multiprocessing_initret", *args, code=2)
    assert message.startswith("usage: ") and reason in message


def test_no_such_module(python):
    assert "missing" in python("-m", "multiprocessing_initret", "-m", "missing", code=1)


def test_a_directory_without_main(python, tmp_path):
    (tmp_path / "directory").mkdir()
    assert "__main__" in python("-m", "multiprocessing_initret", "directory", code=1)
