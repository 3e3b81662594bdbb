"""python -m multiprocessing_initret"""

import contextlib
import multiprocessing
import os
import shutil
import sys

import pytest

POOLS = """
import multiprocessing
import sys
from multiprocessing import Pool
from multiprocessing.dummy import Pool as ThreadPool

class Value:
    number = 40

def give():
    return Value()

def add(item, initret):
    return item + initret.number

def use_pool(number):
    with Pool(2, give, expect_initret=True) as pool:
        print(pool.map(add, range(number)), flush=True)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    use_pool(3)
    with ThreadPool(2, give, expect_initret=True) as pool:
        print(pool.map(add, range(2)), flush=True)
    with multiprocessing.Manager() as manager, manager.Pool(2, give, expect_initret=True) as pool:
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
    import neighbour

def go_on_after_the_last_line():
    threading.main_thread().join()
    print(sys.modules["__main__"].__dict__ is globals())

threading.Thread(target=go_on_after_the_last_line).start()
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


ARGS = ["-m", "-x", "--", "--help", "last"]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("program.py", "__main__.py"):
        (folder / name).write_text(FACTS)
    (folder / "neighbour.py").write_text("print('found')")
    return folder


@pytest.fixture
def runs_as_alone(python):
    def check(*program):
        args = [*program, *ARGS]
        assert python("-m", "multiprocessing_initret", *args) == python(*args)
        flag = "-I" if sys.version_info < (3, 11) else "-P"
        assert python(flag, "-m", "multiprocessing_initret", *args) == python(flag, *args)

    return check


def test_a_script_runs_as_it_would_alone(folder, runs_as_alone):
    runs_as_alone(folder / "program.py")
    runs_as_alone(os.path.join("folder", "program.py"))


def test_a_link_runs_as_it_would_alone(folder, tmp_path, runs_as_alone):
    link = tmp_path / "link.py"
    with contextlib.suppress(OSError):
        link.symlink_to(folder / "program.py")
    if not link.exists():
        pytest.skip("Windows makes no symbolic links for everybody, Wine none")
    runs_as_alone("link.py")


def test_a_folder_runs_as_it_would_alone(folder, runs_as_alone):
    runs_as_alone(folder)
    runs_as_alone("folder")


def test_a_zip_file_runs_as_it_would_alone(folder, runs_as_alone):
    zip_file = shutil.make_archive(str(folder), "zip", str(folder))
    runs_as_alone(zip_file)
    runs_as_alone("folder.zip")


@pytest.mark.parametrize("option", [["-m", "program"], ["-mprogram"]])
def test_a_module_runs_as_it_would_alone(python, tmp_path, option):
    (tmp_path / "program.py").write_text(FACTS)
    (tmp_path / "neighbour.py").write_text("print('found')")
    args = [*option, *ARGS]
    assert python("-m", "multiprocessing_initret", *args) == python(*args)


def test_a_folder_has_pools(python, tmp_path):
    method = multiprocessing.get_all_start_methods()[0]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "pools.py").write_text(POOLS.replace(GUARD, "def main():"))
    (tmp_path / "folder" / "__main__.py").write_text(GUARD + "\n    import pools; pools.main()")
    assert python("-m", "multiprocessing_initret", "folder", method) == POOLS_PRINT


@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="PyPy's prompt has a __main__ of its own"
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


@pytest.mark.parametrize(
    "args, complaint",
    [
        ([], "name a program"),
        (["-m"], "name a program"),
        (["missing.py"], "missing.py"),
        (["-c", "pass"], "install()"),
        (["-i", "program.py"], "python -i -m multiprocessing_initret"),
    ],
)
def test_nothing_to_run(python, args, complaint):
    message = python("-m", "multiprocessing_initret", *args, code=2)
    assert message.startswith("usage: ") and complaint in message


def test_no_such_module(python):
    assert "missing" in python("-m", "multiprocessing_initret", "-m", "missing", code=1)


def test_a_folder_without_main(python, tmp_path):
    (tmp_path / "folder").mkdir()
    assert "__main__" in python("-m", "multiprocessing_initret", "folder", code=1)
