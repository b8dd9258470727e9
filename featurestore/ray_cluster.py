"""Joining a Ray cluster, or starting Ray on this machine: the same for the fill job and for training."""

import logging
import os
import signal
import sys
import threading
import warnings
from typing import Any

from featurestore.errors import VoxportraitError

ATTEMPTS = 3
"""How often Ray is started on a machine that may be busy."""


def start_ray(address: str | None, **local: Any) -> None:
    """Join a cluster, or the one that RAY_ADDRESS names; else start a Ray of this process's own on this machine.

    local: arguments of `ray.init` for a Ray of this machine. Never one that another process started for itself: it
    would end with that process. SIGTERM stays with whoever handled it before. VoxportraitError where Ray does not
    start, or no cluster answers.
    """
    import ray

    warnings.filterwarnings("ignore", message="lance is not fork-safe")  # Ray starts its processes and nothing else
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"include_dashboard": False, **local} if address == "local" else {}
    before = signal.getsignal(signal.SIGTERM)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
            break
        except Exception as error:  # Ray raises plain ones, of a machine that is busy too
            ray.shutdown()
            if attempt == ATTEMPTS or address != "local":
                where = "on this machine" if address == "local" else f"at {address}"
                raise VoxportraitError(f"no Ray {where}: {str(error).strip().splitlines()[0][:200]}") from error
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def stop_ray() -> None:
    """Leave the cluster, or end Ray on this machine."""
    ray = sys.modules.get("ray")
    if ray and ray.is_initialized():
        ray.shutdown()
