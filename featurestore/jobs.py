"""The record of jobs: who ran what, when, on which code, under which policy, with which result and at what cost."""

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from featurestore.leases import who_am_i
from featurestore.policy import Policy
from featurestore.store import Store
from featurestore.version import code_version


class Job:
    """A row of `jobs`, written when a job starts, while it runs and when it ends; a killed one stays `running`.

    policy: the choice of clips, as it was judged when the job started.
    """

    def __init__(self, store: Store, kind: str, policy: Policy | None = None):
        self.store = store
        self.row: dict[str, Any] = {
            "job_id": f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}",
            "kind": kind,
            "state": "running",
            "who": who_am_i(),
            "code": code_version(),
            "started": datetime.now(UTC),
            "ended": None,
            "counts": "{}",
            "seconds": "{}",
            "gpu_seconds": "{}",
            "policy": json.dumps((policy or Policy()).record()),
        }
        store.insert("jobs", [self.row])

    @property
    def job_id(self) -> str:
        return self.row["job_id"]

    def update(
        self, counts: Mapping[str, Any], seconds: Mapping[str, float], gpu_seconds: Mapping[str, float] | None = None
    ) -> None:
        """Record how far it is: counts, and seconds and GPU-seconds by constituent."""
        self.row |= {
            "counts": json.dumps(counts),
            "seconds": json.dumps(_rounded(seconds)),
            "gpu_seconds": json.dumps(_rounded(gpu_seconds or {})),
        }
        self.store.insert("jobs", [self.row], update=True)

    def end(
        self,
        state: str,
        counts: Mapping[str, Any],
        seconds: Mapping[str, float],
        gpu_seconds: Mapping[str, float] | None = None,
    ) -> None:
        """Record how it ended: `finished`, `interrupted` or `failed`."""
        self.row |= {"state": state, "ended": datetime.now(UTC)}
        self.update(counts, seconds, gpu_seconds)


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}
