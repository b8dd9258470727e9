"""The weights of every node of a cluster."""

from collections.abc import Iterable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from featurestore.errors import VoxportraitError
from featurestore.ray_cluster import start_ray
from pipelines.weights.states import verify


def verify_nodes(address: str, names: Iterable[str] | None = None) -> list[dict[str, str]]:
    """`verify` once on every living node of the Ray cluster at `address`: its rows, each with its node's name.

    Raises VoxportraitError that names the node on which it failed.
    """
    chosen = None if names is None else list(names)
    if not ray.is_initialized():
        start_ray(address)
    check: Any = ray.remote(num_cpus=0)(verify)
    nodes = [(node["NodeManagerHostname"], node["NodeID"]) for node in ray.nodes() if node["Alive"]]
    on = [NodeAffinitySchedulingStrategy(identity, soft=False) for _, identity in nodes]
    asked = [check.options(scheduling_strategy=strategy).remote(chosen) for strategy in on]
    answers = [_answer(host, answer) for (host, _), answer in zip(nodes, asked, strict=True)]
    return [row for rows in answers for row in rows]


def _answer(host: str, answer: ray.ObjectRef) -> list[dict[str, str]]:
    try:
        return [{"node": host, **row} for row in ray.get(answer)]
    except RayError as error:
        raise VoxportraitError(f"node {host} cannot verify its weights: {str(error).splitlines()[-1]}") from error
