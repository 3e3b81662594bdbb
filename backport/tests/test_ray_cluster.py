"""Tests of multiprocessing_initret.ray on a cluster of two nodes, started by the tests."""

import sys

import conftest
import pytest
from conftest import TIMEOUT, wait_until

pytest.importorskip("ray")
pytest.importorskip("numpy")

import numpy  # noqa: E402
import ray  # noqa: E402
from multiprocessing_initret.ray import Pool  # noqa: E402
from ray._private import state  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

for module in (sys.modules[__name__], conftest):
    ray.cloudpickle.register_pickle_by_value(module)

MB = 10**6
LARGE = 64 * MB


@pytest.fixture
def two_nodes():
    """Yield the IDs of this process's node and of another, and a function that kills the latter."""
    ray.shutdown()
    node = {"num_cpus": 2, "object_store_memory": 200 * MB}
    # Also report the copies of objects that are on the second node.
    config = {"scheduler_report_pinned_bytes_only": False}
    cluster = Cluster(
        initialize_head=True,
        head_node_args=dict(node, include_dashboard=False, _system_config=config),
    )
    try:
        second = cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False)
        nodes = {node["NodeID"] for node in ray.nodes()}
        first = ray.get_runtime_context().get_node_id()
        [other] = nodes - {first}
        yield first, other, lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        ray.shutdown()
        cluster.shutdown()


def get_node(*args):
    return ray.get_runtime_context().get_node_id(), args


def get_nodes(item, initret):
    """Return the node on which the initializer ran, and the node on which this runs."""
    node, _ = initret
    return node, ray.get_runtime_context().get_node_id()


def total(item, initret):
    node, [array] = initret
    return node, float(array.sum()), array.flags.owndata


def used_memory():
    """Return how many bytes the object store of each node holds."""
    free = state.available_resources_per_node()
    return {
        node["NodeID"]: node["Resources"]["object_store_memory"]
        - free[node["NodeID"]]["object_store_memory"]
        for node in ray.nodes()
    }


def test_both_nodes_work_and_each_stores_the_array_once(two_nodes):
    array = numpy.ones(LARGE // 8)
    nodes = set(two_nodes[:2])
    with Pool(4, get_node, (array,), ray_remote_args={"num_cpus": 1}, expect_initret=True) as pool:
        seen = pool.map_async(get_nodes, range(100), chunksize=5).get(TIMEOUT)
        assert set(seen) == {(node, node) for node in nodes}
        totals = pool.map_async(total, range(4), chunksize=1).get(TIMEOUT)
        assert set(totals) == {(node, LARGE / 8, False) for node in nodes}

        wait_until(lambda: min(used_memory().values()) >= LARGE, TIMEOUT / 3)
        assert max(used_memory().values()) < LARGE + MB


def wait_for_file(directory, initret):
    """Create a file named after the node, and wait for a file that lets the node continue."""
    node, _ = initret
    (directory / node).touch()
    wait_until((directory / (node + " may continue")).exists)
    return node


def test_a_node_is_lost(two_nodes, tmp_path):
    first, second, kill_second = two_nodes
    options = {"num_cpus": 2}  # one actor for each node
    with Pool(2, get_node, ray_remote_args=options, expect_initret=True) as pool:
        assert set(pool.map(get_nodes, range(2), chunksize=1)) == {(first, first), (second, second)}
        one_by_one = pool.imap(wait_for_file, [tmp_path] * 2)
        mapped = pool.map_async(wait_for_file, [tmp_path] * 2)
        tasks = [pool.apply_async(wait_for_file, (tmp_path,)) for _ in range(2)]
        for node in (first, second):
            wait_until((tmp_path / node).exists)

        kill_second()
        (tmp_path / (first + " may continue")).touch()
        with pytest.raises(ray.exceptions.RayActorError):
            mapped.get(TIMEOUT)
        # Every task of the killed node fails, and no task of the first node.
        tasks += [pool.apply_async(wait_for_file, (tmp_path,)) for _ in range(2)]
        for pair in [
            [one_by_one.next] * 2,
            [tasks[0].get, tasks[1].get],
            [tasks[2].get, tasks[3].get],
        ]:
            results = []
            for get in pair:
                try:
                    results.append(get(timeout=TIMEOUT))
                except ray.exceptions.RayActorError:
                    results.append("lost")
            assert sorted(results) == sorted([first, "lost"])
