"""Questions to a store: coverage, information, content digest. All of them only read. SQL is in `sql`."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import journal
from featurestore import policy as policies
from featurestore.catalogue import CATALOGUE, constituent
from featurestore.conditioning import PORTRAITISTS, SYSTEMS
from featurestore.leases import is_dead
from featurestore.policy import Policy
from featurestore.records import PICTURES
from featurestore.schema import TABLES, candidate, candidates, value_fields
from featurestore.store import Store


def coverage(store: Store, policy: Policy = Policy()) -> dict[str, Any]:
    """How far each constituent is filled, of the clips that the policy allows, from the small maker columns alone.

    Returns {"clips", "constituents": {name: {"filled", "missing", "quarantined", "untrained"}}, "candidates": the same
    of `ecapa@1f2e3d4c` and its like, "systems": {name: clips that have every constituent of the system}}.
    Quarantined clips are missing too. A clip whose sound or face could not be had counts as quarantined under `sound`
    or `face`, which are listed when there are any.
    """
    dataset = store.table("clips")
    proposed = [name for names in candidates(dataset.schema.names).values() for name in sorted(names)]
    made_in = {key: entry.maker_column for key, entry in CATALOGUE.items()} | {n: f"{n}_maker" for n in proposed}
    read = {key: column for key, column in made_in.items() if column in dataset.schema.names}
    judged = () if policy.takes_all else policies.COLUMNS
    table = dataset.to_table(columns=[*read.values(), *judged])
    allowed = policy.allows(table)
    clips = int(allowed.sum())
    untrained = store.table("makers").to_table(columns=["id"], filter="NOT trained")["id"].to_numpy()
    quarantined = _quarantined(store, policy, proposed)
    present: dict[str, np.ndarray] = {}
    counts: dict[str, dict[str, int]] = {}
    for key in made_in:
        made_by = table[read[key]].fill_null(-1).to_numpy()[allowed] if key in read else np.full(clips, -1, np.int16)
        present[key] = made_by >= 0
        filled = int(np.count_nonzero(present[key]))
        counts[key] = {
            "filled": filled,
            "missing": clips - filled,
            "quarantined": quarantined.pop(key, 0),
            "untrained": int(np.count_nonzero(np.isin(made_by, untrained))),
        }
    shared = {
        what: {"filled": clips - number, "missing": number, "quarantined": number, "untrained": 0}
        for what, number in sorted(quarantined.items())
    }
    systems = {}
    for name, system in {**SYSTEMS, **PORTRAITISTS}.items():
        seen = (key for picture in system.pictures for key in PICTURES[picture].made_of)
        needed = (*system.layout().constituents, *seen)
        systems[name] = int(np.logical_and.reduce([present[key] for key in needed]).sum())
    return {
        "clips": clips,
        "constituents": {key: counts[key] for key in CATALOGUE} | shared,
        "candidates": {name: counts[name] for name in proposed},
        "systems": systems,
    }


def _quarantined(store: Store, policy: Policy, proposed: Sequence[str]) -> Counter[str]:
    """Clips in quarantine that the policy allows, by what could not be had: a constituent, a candidate, a part."""
    rows = store.table("quarantine").to_table(columns=["clip_id", "constituent", "maker"])
    if not policy.takes_all and len(rows):
        allowed = store.table("clips").to_table(columns=["clip_id"], filter=policy.where)
        rows = rows.filter(pc.is_in(rows["clip_id"], value_set=allowed["clip_id"]))
    found = Counter[str]()
    for row in rows.group_by(["constituent", "maker"]).aggregate([("clip_id", "count_distinct")]).to_pylist():
        name = candidate(row["constituent"], row["maker"])
        found[name if name in proposed else row["constituent"]] += row["clip_id_count_distinct"]
    return found


def info(store: Store) -> dict[str, Any]:
    """The store in numbers: clips, speakers, hours, splits, datasets, bytes, its jobs."""
    dataset = store.table("clips")
    columns = ["dataset", "speaker_id", "split", "licence", "consent"]
    has_media = "media_duration" in dataset.schema.names
    table = dataset.to_table(columns=[*columns, "media_duration"] if has_media else columns)
    seconds = pc.sum(table["media_duration"]).as_py() if has_media else None
    jobs = store.table("jobs").to_table().sort_by("started").to_pylist()
    holders = store.table("leases").to_table().to_pylist()
    return {
        "uri": store.place.shown,
        "version": dataset.version,
        "clips": len(table),
        "speakers": len(table.group_by(["dataset", "speaker_id"]).aggregate([])),
        "hours": None if seconds is None else seconds / 3600,
        **{
            plural: _counts(table[column])
            for column, plural in (
                ("dataset", "datasets"),
                ("split", "splits"),
                ("licence", "licences"),
                ("consent", "consents"),
            )
        },
        "fragments": len(dataset.get_fragments()),
        "bytes": sum(file.size for file in store.place.list("", recursive=True)),
        "chunks_in_journal": journal.pending(store.place),
        "quarantined": len(store.table("quarantine")),
        "in_use_by": sorted({row["who"] for row in holders if not is_dead(row["process"])}),
        "last_job": {**jobs[-1], "counts": json.loads(jobs[-1]["counts"]), "seconds": json.loads(jobs[-1]["seconds"])}
        if jobs
        else None,
    }


def _counts(column: pa.ChunkedArray) -> dict[str | None, int]:
    """How often each value occurs, by the values in order."""
    counted = ((row["values"], row["counts"]) for row in pc.value_counts(column).to_pylist())
    return dict(sorted(counted, key=lambda pair: pair[0] or ""))


def digest(store: Store, constituents: Iterable[str] = tuple(CATALOGUE)) -> str:
    """sha256 over the content: every clip with its values of `constituents` and their makers, and the quarantine.

    Independent of the order of rows, of versions, of fragments and of who filled the store when: two stores with the
    same digest hold the same values.
    """
    dataset = store.table("clips")
    names = {m["id"]: m["digest"] for m in store.table("makers").to_table(columns=["id", "digest"]).to_pylist()}
    chosen = [constituent(key) for key in constituents]
    maker_columns = {c.maker_column for c in chosen}
    known = {f.name for c in chosen for f in value_fields(c)} | maker_columns | set(TABLES["clips"].names)
    columns = sorted(known & set(dataset.schema.names))
    rows = []
    for batch in dataset.to_batches(columns=columns, batch_size=64):
        for row in batch.to_pylist():
            content = hashlib.sha256()
            for column in columns:
                value = names.get(row[column]) if column in maker_columns else row[column]
                if value is not None:
                    content.update(f"{column}={value!r};".encode())
            rows.append(f"{row['clip_id']} {content.hexdigest()}")
    rejected = store.table("quarantine").to_table(columns=["key", "reason", "message"]).to_pylist()
    rows += [f"{r['key']} {r['reason']} {r['message']}" for r in rejected]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()
