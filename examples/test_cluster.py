"""The two examples run on Ray, on a cluster of one node that is started here."""

import pytest
from test_examples import run

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
    # Where "auto" looks first, and there may be other clusters on this machine.
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    return "auto"


# Ray prints messages of its own too.


def test_count_bits(address):
    printed = run("count_bits.py", "--cluster", address)
    assert " initret: 524288 bits in " in printed
    assert "a global: name 'global_table' is not defined" in printed


def test_insert_records(address):
    printed = run("insert_records.py", "--records", 300, "--cluster", address)
    assert "300 rows in sqlite, none missing, none doubled" in printed
