"""How a fill job runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """workers: actors (None: one a core of the cluster, no more than there are chunks); address: of a Ray cluster
    (None: one of its own on this machine); device: `cpu` or `cuda`; deadline: seconds a clip may take;
    start_deadline: seconds an actor may take to load its models."""

    workers: int | None = None
    address: str | None = None
    device: str = "cpu"
    deadline: float = 120.0
    start_deadline: float = 600.0
