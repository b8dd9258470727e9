"""What a job does, in numbers: kept in its row of `jobs`, and as JSON lines in a file. No line names a clip."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featurestore.errors import UsageError, VoxportraitError
from featurestore.jobs import Job
from featurestore.places import Place
from featurestore.store import lance_errors
from pipelines.schedule import Standing

PERIOD = 30.0
"""Seconds until a job's numbers are kept again; later in a long job, a fiftieth of the time it has run."""

FOLDER = "_logs"


def log_path(place: Place, job_id: str) -> Path:
    """Where a job's log goes if nobody says: into the store's folder, or here for a store that is no folder."""
    return Path(f"voxportrait-{job_id}.jsonl") if place.is_remote else Path(place.root) / FOLDER / f"{job_id}.jsonl"


def numbers(standing: Standing) -> dict[str, Any]:
    """A job's numbers. Seconds are rounded; `filled` counts clips whose fragment is written."""
    report = standing.report
    return {
        "doing": standing.doing,
        "done": standing.done,
        "total": standing.total,
        "clips": report.clips,
        "wall": round(standing.wall, 1),
        "rate": standing.rate and round(standing.rate, 3),
        "left": standing.left and round(standing.left),
        "workers": standing.workers,
        "filled": standing.filled,
        "quarantined": dict(report.rejected),
        "float16_losses": dict(report.losses),
        "seconds": {key: round(value, 3) for key, value in report.seconds.items()},
        "gpu_seconds": {key: round(value, 3) for key, value in standing.gpu_seconds.items()},
    }


class JobLog:
    """Keeps the numbers of a job while it runs. Called with each `Standing`, it keeps one now and then.

    A UsageError if the file cannot be written when the job starts; later a full disk costs lines, not the job.
    """

    def __init__(self, job: Job, path: Path, **start: Any):
        self.job, self.path, self.kept = job, path, 0.0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write("started", start | {"code": job.row["code"], "policy": json.loads(job.row["policy"])})
        except OSError as error:
            job.end("failed", {}, {})
            raise UsageError(f"the log {path} cannot be written: {error.strerror}. Say another with --log.") from error

    def __call__(self, standing: Standing) -> None:
        if standing.wall - self.kept < max(PERIOD, standing.wall / 50):
            return
        self.kept = standing.wall
        with suppress(VoxportraitError), lance_errors("keeping the numbers of a job"):
            self.job.update(*_of_row(standing))
            self._write("running", numbers(standing))

    def end(self, state: str, standing: Standing) -> None:
        """Record how it ended: `finished`, `interrupted` or `failed`."""
        with suppress(OSError):
            self._write(state, numbers(standing))
        self.job.end(state, *_of_row(standing))

    def _write(self, event: str, content: dict[str, Any]) -> None:
        head = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "job": self.job.job_id, "event": event}
        with self.path.open("a") as file:
            file.write(json.dumps(head | content) + "\n")


def _of_row(standing: Standing) -> tuple[dict[str, Any], dict[str, float], dict[str, float]]:
    """Counts, seconds and GPU-seconds for the row of `jobs`."""
    found = numbers(standing)
    counts = {name: found[name] for name in ("clips", "done", "total", "filled", "quarantined", "float16_losses")}
    return counts, found["seconds"] | {"wall": found["wall"]}, found["gpu_seconds"]
