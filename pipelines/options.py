"""How a fill job runs."""

from dataclasses import dataclass
from pathlib import Path

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Options:
    """What a person may choose about a job.

    workers: actors (None: as many as fit, one a core, no more than there are chunks); address: of a Ray cluster (None:
    one of its own on this machine); device: `cpu`, `cuda`, or `auto`: a GPU where a node has one; deadline: seconds a
    clip may take; start_deadline: seconds an actor may take to load its models; journal_every: how long finished clips
    of an unfinished fragment may be in memory alone, which is what a kill of the whole job costs; wait: seconds to wait
    for another job to leave the store; log: the file of the job's JSON lines (None: as `joblog.log_path` says).
    """

    workers: int | None = None
    address: str | None = None
    device: str = "auto"
    deadline: float = 120.0
    start_deadline: float = 600.0
    journal_every: float = 120.0
    wait: float = 0.0
    log: Path | None = None
