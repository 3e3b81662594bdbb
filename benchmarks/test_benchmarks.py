"""Tests of the programs that the benchmarks time, and of their results."""

import json
import multiprocessing
import os
import pathlib
import subprocess
import sys

import failing_program
import failures
import measure
import pytest
import tasks

HERE = pathlib.Path(__file__).parent
TIMEOUT = 100  # seconds

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def run(*args, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        timeout=TIMEOUT,
        check=True,
    )
    return json.loads(done.stdout)


def test_calls():
    seconds = run("-m", "multiprocessing_initret", HERE / "calls.py", 2)
    timed = {
        f"{kind}, {work}, {pool}"
        for kind in ("processes", "threads")
        for work in ("chunks", "map", "imap", "apply")
        for pool in ("global", "initret")
    }
    assert set(seconds) == {"one process", *timed}
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in seconds.values())


def test_calls_of_the_standard_pool():
    assert "threads, imap, global again" in run(HERE / "calls.py", 1)


@pytest.mark.parametrize("package", ["standard", "install", "class"])
@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods())
def test_startup_program(package, start_method):
    assert len(run(HERE / "startup_program.py", start_method, 2, PACKAGE=package, OBJECTS="9")) == 2


def test_tasks(monkeypatch):
    monkeypatch.setattr(tasks, "MANY_WORKERS", 3)
    methods = {"fork", "forkserver"} & set(multiprocessing.get_all_start_methods())
    for method in methods:
        seconds = tasks.measure_tasks(method, 1)
        assert {pool for _, pool in seconds} == set(tasks.POOLS)
        assert all(len(rounds) == 1 for rounds in seconds.values())
    if "fork" in methods:
        calls = {call for call, _ in tasks.measure_many_workers(1)}
        assert calls == {"map(), 3 workers", "close() and join(), 3 workers"}


@linux
@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods())
def test_object_program(start_method):
    standard, initret = (
        run(HERE / "object_program.py", pool, start_method, 3, "array", 64)
        for pool in ("standard", "initret")
    )
    for found in (standard, initret):
        assert found["seconds"] > 0
        assert found["parent"] >= found["object"] > 60  # megabytes
    if start_method != "fork":
        assert standard["workers"] - initret["workers"] > 100  # three copies, or one


@linux
@pytest.mark.parametrize("pool", ["standard", "initret"])
def test_object_program_with_a_dict(pool):
    assert run(HERE / "object_program.py", pool, "spawn", 2, "dict", 1000)["seconds"] > 0


@linux
def test_object_program_counts_files_in_shared_memory():
    code = "\n".join(
        [
            "import json, object_program, os",
            "memory = object_program.Memory()",
            "before = memory.now()",
            "os.write(os.memfd_create(''), bytes(2**24))",
            "print(json.dumps(memory.now() - before))",
        ]
    )
    assert run("-c", code, PYTHONPATH=str(HERE)) > 2**14  # kilobytes


@pytest.mark.parametrize("library", ["standard Pool", "expect_initret", "concurrent.futures"])
@pytest.mark.parametrize("start_method", [*multiprocessing.get_all_start_methods(), "threads"])
def test_no_failure(library, start_method):
    found = failures.run_case(failing_program.NONE, library, start_method)
    assert found["task"] == found["after"] == "answer" and "end" in found


def test_a_task_that_exits():
    found = failures.run_case("a task calls os._exit()", "concurrent.futures", failures.METHOD)
    assert found["task"] == found["after"] == "BrokenProcessPool"
    assert failures.cell(found, others_continue=True) == "BrokenProcessPool, broken"


def test_a_case_that_hangs(monkeypatch):
    monkeypatch.setattr(failures, "MORE", 5 - failing_program.LIMIT)
    found = failures.run_case("a task calls os._exit()", "standard Pool", failures.METHOD)
    assert failures.cell(found, others_continue=True) == "hang"


def test_results_can_be_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    measure.save("tried", [({"name": "one"}, [1.0])])
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("SAVE_RESULTS", "1")
    measure.save("tried", [({"name": "one"}, [0.123456, 2.0])])
    assert measure.saved("tried")["one"][0] == [0.1235, 2.0]
    assert '"values": [ 0.1235, 2.0 ]' in (tmp_path / "tried.json").read_text()
