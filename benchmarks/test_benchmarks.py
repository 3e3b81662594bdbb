"""What the benchmarks time runs, and finds what it looks for."""

import json
import multiprocessing
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
TIMEOUT = 100  # seconds

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def run(*args):
    done = subprocess.run(
        [sys.executable, *map(str, args)], stdout=subprocess.PIPE, timeout=TIMEOUT, check=True
    )
    return json.loads(done.stdout)


def test_calls():
    seconds = run("-m", "multiprocessing_initret", HERE / "calls.py", 2)
    ways = [f"{way}, {pool}" for way in ("map", "imap", "apply") for pool in ("global", "initret")]
    assert set(seconds) == {"one process", *ways}
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in seconds.values())


def test_calls_without_the_feature():
    assert "map, global again" in run(HERE / "calls.py", 1)


@linux
@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods())
def test_probe(start_method):
    found = {
        way: run(HERE / "probe.py", way, start_method, 3, "array", 64)
        for way in ("initargs", "broadcast")
    }
    for way in found.values():
        assert way["seconds"] > 0 and way["parent"] > 64
    if start_method != "fork":
        # Megabytes: three copies, or one.
        assert found["initargs"]["workers"] - found["broadcast"]["workers"] > 100


@linux
@pytest.mark.parametrize("way", ["initargs", "broadcast"])
def test_probe_of_a_dict(way):
    assert run(HERE / "probe.py", way, "spawn", 2, "dict", 1000)["seconds"] > 0
