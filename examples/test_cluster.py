"""Tests of the two examples on Ray, on a cluster of one node, started by the tests."""

import re

import pytest
from test_examples import ROW, run

pytest.importorskip("ray")

from ray.cluster_utils import Cluster  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False}
    )
    yield cluster
    cluster.shutdown()


@pytest.fixture(params=["auto", "address"])
def address(request, cluster, monkeypatch):
    if request.param == "address":
        return cluster.address
    # "auto" reads this variable first; other clusters may be running on this machine.
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    return "auto"


def test_count_bits(address):
    printed = run("count_bits.py", "--cluster", address)
    # Ray prints messages too.
    assert "524288 bits, 65536 entries, 4 workers, on Ray\n" in printed
    assert "a global name 'global_table' is not defined\n" in printed
    assert re.search(ROW.format("initret "), printed, re.MULTILINE)


def test_insert_records(address):
    printed = run("insert_records.py", "--records", 300, "--cluster", address)
    assert "300 rows in sqlite, each exactly once" in printed
