"""What the benchmarks time runs, and finds what it looks for."""

import json
import multiprocessing
import os
import pathlib
import subprocess
import sys

import faults
import faulty
import measure
import pytest

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
    ways = {
        f"{kind}, {work}, {pool}"
        for kind in ("processes", "threads")
        for work in ("chunks", "map", "imap", "apply")
        for pool in ("global", "initret")
    }
    assert set(seconds) == {"one process", *ways}
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in seconds.values())


def test_calls_without_the_feature():
    assert "threads, imap, global again" in run(HERE / "calls.py", 1)


@pytest.mark.parametrize("package", ["stock", "install", "class"])
@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods())
def test_started(package, start_method):
    assert len(run(HERE / "started.py", start_method, 2, PACKAGE=package)) == 2


@linux
@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods())
def test_probe(start_method):
    stock, initret = (
        run(HERE / "probe.py", way, start_method, 3, "array", 64) for way in ("stock", "initret")
    )
    for found in (stock, initret):
        assert found["seconds"] > 0
        assert found["parent"] >= found["object"] > 60  # megabytes
    if start_method != "fork":
        assert stock["workers"] - initret["workers"] > 100  # three copies, or one


@linux
@pytest.mark.parametrize("way", ["stock", "initret"])
def test_probe_of_a_dict(way):
    assert run(HERE / "probe.py", way, "spawn", 2, "dict", 1000)["seconds"] > 0


@linux
def test_probe_counts_files_in_shared_memory():
    code = "\n".join(
        [
            "import json, os, probe",
            "memory = probe.Memory()",
            "before = memory.now()",
            "os.write(os.memfd_create(''), bytes(2**24))",
            "print(json.dumps(memory.now() - before))",
        ]
    )
    assert run("-c", code, PYTHONPATH=str(HERE)) > 2**14  # kilobytes


@pytest.mark.parametrize("library", ["stock Pool", "expect_initret", "concurrent.futures"])
@pytest.mark.parametrize("start_method", [*multiprocessing.get_all_start_methods(), "threads"])
def test_nothing_goes_wrong(library, start_method):
    found = faults.outcomes(faulty.NOTHING, library, start_method)
    assert found["task"] == found["after"] == "answer" and "end" in found


def test_a_task_that_leaves():
    found = faults.outcomes("a task calls os._exit()", "concurrent.futures", faults.METHOD)
    assert found["task"] == found["after"] == "BrokenProcessPool"
    assert faults.cell(found, goes_on=True) == "BrokenProcessPool, broken"


def test_a_case_that_hangs(monkeypatch):
    monkeypatch.setattr(faults, "MORE", 5 - faulty.LIMIT)
    found = faults.outcomes("a task calls os._exit()", "stock Pool", faults.METHOD)
    assert faults.cell(found, goes_on=True) == "hang"


def test_results_can_be_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    measure.save("tried", [({"name": "one"}, [0.123456, 2.0])])
    assert measure.saved("tried")["one"][0] == [0.1235, 2.0]
    assert '"values": [ 0.1235, 2.0 ]' in (tmp_path / "tried.json").read_text()
