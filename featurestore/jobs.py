"""The record of jobs: who ran what, when, on which code, with which result."""

import json
import subprocess
import uuid
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from featurestore.leases import who_am_i
from featurestore.store import Store


@cache
def code_version() -> str:
    """The installed version, with the commit where the code runs from a checkout."""
    release = version("voxportrait")
    folder = Path(__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return release
    describe = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(describe, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return release
    return f"{release}+{found.stdout.strip()}"


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
