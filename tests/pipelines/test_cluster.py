"""A job on a Ray cluster of two nodes, here on one machine, one of which is lost half-way."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from featurestore.queries import digest
from tests.faults.drill import CLIPS, KEYS, Drill, cluster, kit


@pytest.fixture
def nodes(tmp_path):
    with kit(tmp_path, pace=0.005, nodes=2) as variables, cluster(variables, nodes=2) as ray:
        yield variables, ray


def test_a_node_that_is_lost_costs_nothing(tmp_path, nodes):
    variables, ray = nodes
    drills = [Drill(tmp_path, variables, ray.address, random.Random(0), name) for name in ("disturbed", "undisturbed")]
    for drill in drills:
        drill.register()
    disturbed, undisturbed = drills
    done = undisturbed.fill()
    assert done.returncode == 0, done.stderr
    before = len(undisturbed.made())
    both = {node.node_id for node in ray.list_all_nodes()}
    assert {node for _, _, node, _ in undisturbed.made()} == both
    (lost,) = ray.worker_nodes

    def made_by_lost() -> int:
        return sum(node == lost.node_id for _, _, node, _ in disturbed.made()[before:])

    with ThreadPoolExecutor(1) as threads:
        job = threads.submit(disturbed.fill)
        while not job.done() and made_by_lost() < CLIPS // 4:
            time.sleep(0.05)
        ray.remove_node(lost, allow_graceful=False)
        done = job.result()
    assert done.returncode == 0, done.stderr
    assert {node for _, _, node, _ in disturbed.made()[before:]} == both
    assert digest(disturbed.store, KEYS) == digest(undisturbed.store, KEYS)
    assert disturbed.store.place.list("_journal") == []
