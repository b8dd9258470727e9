"""Quarantine: clips that could not give something, why, and how they are let out to be tried again.

A row stands for a clip, what it could not give (`media`, `sound`, `face` or a constituent) and by which maker. Another
maker's values are made without a release.
"""

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
from featurestore.redaction import redact
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

    The rows are those that are there when it begins. Holds the lease of the fragments of their clips, and of the clips
    in the same kept chunks: a job that fills them is waited for so many seconds, else LeaseHeld.
    """
    kept = [entry for name in journal.names(store.place) if (entry := journal.entry(store.place, name))]
    kept = [entry for entry in kept if any(which.has(one) for one in entry.rejected)]
    waiting = [one for entry in kept for one in entry.rejected if which.has(one)]
    listed = rows(store, which)
    keys = frozenset([*listed["key"].to_pylist(), *(one.key for one in waiting)])
    clip_ids = {*listed["clip_id"].to_pylist(), *(one.clip_id for one in waiting)}
    fragments = _fragments(store, sorted(clip_ids), [entry.row_ids for entry in kept])
    resources = ["quarantine", *(f"fragment:{fragment}" for fragment in fragments)]
    with lance_errors("releasing clips"), Lease(store.place, resources, "releasing clips", wait, told) as lease:
        lease.check()
        gone = redact(store.place, [entry.name for entry in kept], leaves=lambda one: one.key in keys)
        there = keys.intersection(rows(store, which)["key"].to_pylist())
        for some in (sorted(there)[first : first + 500] for first in range(0, len(there), 500)):
            lease.check()
            store.table("quarantine").delete("key IN (" + ", ".join(f"'{_escaped(key)}'" for key in some) + ")")
    return len(there.union(one.key for one in gone))


def _fragments(store: Store, clip_ids: Sequence[str], row_ids: Sequence[np.ndarray]) -> list[int]:
    """The fragments that clips are in, known by their ids or by stable row ids."""
    table = store.table("clips").to_table(columns=["clip_id"], with_row_id=True, with_row_address=True)
    known = pa.array(np.concatenate([np.empty(0, np.uint64), *row_ids]), pa.uint64())
    chosen = pc.or_(
        pc.is_in(table["clip_id"], value_set=pa.array(clip_ids, pa.string())),
        pc.is_in(table["_rowid"], value_set=known),
    )
    addresses = table["_rowaddr"].to_numpy()[chosen.to_numpy()]
    return np.unique(addresses >> np.uint64(32)).astype(int).tolist()


def _escaped(text: str) -> str:
    return text.replace("'", "''")
