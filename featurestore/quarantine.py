"""Quarantine: clips that could not give something, why, and how they are let out to be tried again.

A row stands for a clip, what it could not give (`media`, `sound`, `face` or a constituent) and by which maker. Another
maker's values are made without a release.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import journal
from featurestore.errors import UsageError
from featurestore.journal import Rejected
from featurestore.leases import Lease
from featurestore.store import Store, lance_errors


@dataclass(frozen=True)
class Which:
    """Rows of quarantine: those of a reason, of a constituent, of a clip; all where nothing is said."""

    reason: str | None = None
    constituent: str | None = None
    clip_id: str | None = None

    @property
    def where(self) -> str | None:
        """The choice in SQL; None for all."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return " AND ".join(f"{name} = '{_escaped(value)}'" for name, value in said.items()) or None

    def has(self, rejected: Rejected) -> bool:
        """Whether a rejection is one of them."""
        return all(value is None or getattr(rejected, name) == value for name, value in asdict(self).items())


def rows(store: Store, which: Which = Which()) -> pa.Table:
    """The rows of quarantine, ordered by clip and by what it could not give."""
    found = store.table("quarantine").to_table(filter=which.where)
    return found.sort_by([("clip_id", "ascending"), ("constituent", "ascending")])


def counts(found: pa.Table) -> list[dict[str, Any]]:
    """How many rows there are of each reason and constituent, the most first."""
    grouped = (
        found.group_by(["reason", "constituent"])
        .aggregate([([], "count_all")])
        .rename_columns(["reason", "constituent", "clips"])
    )
    return grouped.sort_by([("clips", "descending"), ("reason", "ascending")]).to_pylist()


def about(store: Store, clip_id: str) -> dict[str, Any]:
    """What is known of a clip in quarantine: {"clip": its row's text, "quarantine": rows with `model` and `job`}.

    model: who could not make it, "" where its maker is not in `makers`; job: who ran what, when, on which code. A
    UsageError for a clip that the store does not know.
    """
    clips = store.table("clips")
    columns = ["clip_id", "dataset", "speaker_id", "video_id", "split", "path", "sound_path", "licence", "consent"]
    found = clips.to_table(columns=columns, filter=f"clip_id = '{_escaped(clip_id)}'").to_pylist()
    if not found:
        raise UsageError(f"the store has no clip {clip_id}. See: voxportrait store quarantine list")
    makers = {m["digest"]: m for m in store.table("makers").to_table().to_pylist()}
    jobs = {job["job_id"]: job for job in store.table("jobs").to_table().to_pylist()}
    refused = []
    for row in rows(store, Which(clip_id=clip_id)).to_pylist():
        maker, job = makers.get(row["maker"], {}), jobs.get(row["job_id"], {})
        row["model"] = " ".join(filter(None, (maker.get("model"), maker.get("library"))))
        row["job"] = {name: job.get(name) for name in ("job_id", "who", "started", "code")}
        refused.append(row)
    return {"clip": found[0], "quarantine": refused}


def release(store: Store, which: Which, wait: float = 0.0, told: Callable[[str], None] = lambda line: None) -> int:
    """Let clips out of quarantine, so that the next fill tries them again. Returns how many rows are gone.

    Holds the lease of their fragments: a job that fills them is waited for so many seconds, else LeaseHeld.
    """
    kept = [entry for name in journal.names(store.place) if (entry := journal.entry(store.place, name))]
    waiting = [r.clip_id for entry in kept for r in entry.rejected if which.has(r)]
    clip_ids = {*rows(store, which)["clip_id"].to_pylist(), *waiting}
    resources = ["quarantine", *(f"fragment:{fragment}" for fragment in _fragments(store, sorted(clip_ids)))]
    with lance_errors("releasing clips"), Lease(store.place, resources, "releasing clips", wait, told) as lease:
        keys = set(rows(store, which)["key"].to_pylist())
        lease.check()
        for name in journal.names(store.place):
            keys |= _release_kept(store, name, which)
        store.table("quarantine").delete(which.where or "true")
    return len(keys)


def _release_kept(store: Store, name: str, which: Which) -> set[str]:
    """Take rejections out of a chunk in the journal; returns the keys of the rows they would have become."""
    entry = journal.entry(store.place, name)
    released = {r.key for r in entry.rejected if which.has(r)} if entry else set()
    if entry and released:
        left = [asdict(r) for r in entry.rejected if not which.has(r)]
        table = journal.read(store.place, name).replace_schema_metadata({b"rejected": json.dumps(left).encode()})
        journal.write(store.place, name, table)
    return released


def _fragments(store: Store, clip_ids: Sequence[str]) -> list[int]:
    """The fragments that clips are in."""
    table = store.table("clips").to_table(columns=["clip_id"], with_row_address=True)
    chosen = table.filter(pc.is_in(table["clip_id"], value_set=pa.array(clip_ids, pa.string())))
    return np.unique(chosen["_rowaddr"].to_numpy() >> np.uint64(32)).astype(int).tolist()


def _escaped(text: str) -> str:
    return text.replace("'", "''")
