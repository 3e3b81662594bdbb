"""The Pool of multiprocessing_initret.ray, on two nodes of Ray that are started here."""

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
    """Yield two nodes, the first of which is ours, and a function that kills the second."""
    ray.shutdown()
    node = {"num_cpus": 2, "object_store_memory": 200 * MB}
    # The copy of an object that a second node reads is reported too.
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


def where(item, initret):
    """Tell on which node the initializer ran, and on which node this runs."""
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
        seen = pool.map_async(where, range(100), chunksize=5).get(TIMEOUT)
        assert set(seen) == {(node, node) for node in nodes}
        totals = pool.map_async(total, range(4), chunksize=1).get(TIMEOUT)
        assert set(totals) == {(node, LARGE / 8, False) for node in nodes}

        wait_until(lambda: min(used_memory().values()) >= LARGE, TIMEOUT / 3)
        assert max(used_memory().values()) < LARGE + MB


def stay(folder, initret):
    """Tell that a node is at work, and go on with it when it is told to."""
    node, _ = initret
    (folder / node).touch()
    wait_until((folder / (node + " may go on")).exists)
    return node


def test_a_node_is_lost(two_nodes, tmp_path):
    first, second, kill_second = two_nodes
    options = {"num_cpus": 2}  # one actor for each node
    with Pool(2, get_node, ray_remote_args=options, expect_initret=True) as pool:
        assert set(pool.map(where, range(2), chunksize=1)) == {(first, first), (second, second)}
        one_by_one = pool.imap(stay, [tmp_path] * 2)
        mapped = pool.map_async(stay, [tmp_path] * 2)
        tasks = [pool.apply_async(stay, (tmp_path,)) for _ in range(2)]
        for node in (first, second):
            wait_until((tmp_path / node).exists)

        kill_second()
        (tmp_path / (first + " may go on")).touch()
        with pytest.raises(ray.exceptions.RayActorError):
            mapped.get(TIMEOUT)
        # Each other task of that node is lost as well, and no task of the first.
        tasks += [pool.apply_async(stay, (tmp_path,)) for _ in range(2)]
        for pair in [
            [one_by_one.next] * 2,
            [tasks[0].get, tasks[1].get],
            [tasks[2].get, tasks[3].get],
        ]:
            outcomes = []
            for get in pair:
                try:
                    outcomes.append(get(timeout=TIMEOUT))
                except ray.exceptions.RayActorError:
                    outcomes.append("lost")
            assert sorted(outcomes) == sorted([first, "lost"])
