"""python -m multiprocessing_initret"""

import multiprocessing
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


def test_a_script_runs_as_it_would_alone(python, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "program.py").write_text(FACTS)
    (folder / "neighbour.py").write_text("print('found')")
    script = folder / "program.py"
    args = [script, "-m", "-x", "--help", "last"]
    assert python("-m", "multiprocessing_initret", *args) == python(*args)
    args[0] = "link.py"
    (tmp_path / "link.py").symlink_to(script)
    assert python("-m", "multiprocessing_initret", *args) == python(*args)
    flag = "-I" if sys.version_info < (3, 11) else "-P"
    assert python(flag, "-m", "multiprocessing_initret", *args) == python(flag, *args)


def test_a_module_runs_as_it_would_alone(python, tmp_path):
    (tmp_path / "program.py").write_text(FACTS)
    (tmp_path / "neighbour.py").write_text("print('found')")
    args = ["-m", "program", "-m", "-x", "--help", "last"]
    assert python("-m", "multiprocessing_initret", *args) == python(*args)


def test_exit_code(python, tmp_path):
    (tmp_path / "program.py").write_text("raise SystemExit(7)")
    python("-m", "multiprocessing_initret", "program.py", code=7)


@pytest.mark.parametrize("args", [(), ("-m",)])
def test_nothing_to_run(python, args):
    assert "usage" in python("-m", "multiprocessing_initret", *args, code=2)


def test_no_such_script(python):
    assert "missing.py" in python("-m", "multiprocessing_initret", "missing.py", code=2)


def test_no_such_module(python):
    assert "missing" in python("-m", "multiprocessing_initret", "-m", "missing", code=1)
