"""Weights are checked on every node of a real Ray cluster, here two nodes on one machine."""

import json
import subprocess
import sys
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from pipelines import weights


@pytest.fixture
def address():
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    yield cluster.address
    cluster.shutdown()


@pytest.mark.slow
def test_every_node_is_asked_once(address):
    code = "import json, sys; from pipelines.weights.cluster import verify_nodes; "
    code += "print(json.dumps(verify_nodes(sys.argv[1], ['fastmtcnn'])))"
    asked = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, check=True)
    rows = json.loads(asked.stdout.splitlines()[-1])
    assert all(row.pop("node") for row in rows)
    assert rows == weights.verify(["fastmtcnn"]) * 2
