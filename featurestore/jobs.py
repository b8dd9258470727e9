"""The record of jobs: who ran what, when, on which code, with which result."""

import json
import uuid
from datetime import UTC, datetime
from typing import Any

from featurestore.leases import who_am_i
from featurestore.store import Store
from featurestore.version import code_version


class Job:
    """A row of `jobs`, written when the job starts and again when it ends; one that was killed stays `running`."""

    def __init__(self, store: Store, kind: str):
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
        }
        store.insert("jobs", [self.row])

    @property
    def job_id(self) -> str:
        return self.row["job_id"]

    def end(self, state: str, counts: dict[str, Any], seconds: dict[str, float]) -> None:
        """Record how it ended: `finished`, `interrupted` or `failed`; counts and seconds by name."""
        rounded = {name: round(value, 3) for name, value in seconds.items()}
        self.row |= {
            "state": state,
            "ended": datetime.now(UTC),
            "counts": json.dumps(counts),
            "seconds": json.dumps(rounded),
        }
        self.store.insert("jobs", [self.row], update=True)
