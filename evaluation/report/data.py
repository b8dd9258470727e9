"""What the report says of the store: its people, how far it is filled, how long that took, what could not be had."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc

from evaluation.faces import read_columns, speaker_of
from evaluation.report import pictures
from featurestore.catalogue import CATALOGUE
from featurestore.clip import SPLITS
from featurestore.store import Store

MOST_FACES, FACE_SIZE = 60, 112


def people(store: Store) -> dict[str, Any]:
    """Counts of clips and speakers by split, consents and licences, and a face of each of at most 60 speakers."""
    dataset = store.table("clips")
    has_faces = CATALOGUE["face"].maker_column in dataset.schema.names
    small = ["clip_id", "split", "licence", "consent"] + ([CATALOGUE["face"].maker_column] if has_faces else [])
    rows = dataset.to_table(columns=small).sort_by("clip_id").to_pylist()
    speakers: dict[str, set[str]] = {split: set() for split in SPLITS}
    with_face: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    for row in rows:
        speakers[row["split"]].add(speaker_of(row["clip_id"]))
        if has_faces and row[CATALOGUE["face"].maker_column] is not None:
            with_face[row["split"]].setdefault(speaker_of(row["clip_id"]), row["clip_id"])
    consents = Counter(row["consent"] or "not stated" for row in rows)
    return {
        "clips": len(rows),
        "clips_by_split": {split: sum(row["split"] == split for row in rows) for split in SPLITS},
        "speakers": len(set().union(*speakers.values())),
        "speakers_by_split": {split: len(speakers[split]) for split in SPLITS},
        "consents": dict(consents),
        "licences": dict(Counter(row["licence"] or "not stated" for row in rows)),
        "synthetic": bool(rows) and all("synthetic" in consent.lower() for consent in consents),
        "faces": _faces(store, with_face),
    }


def _faces(store: Store, with_face: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """By split: its speakers' faces as pictures, as many as its share of `MOST_FACES`."""
    total = sum(len(clips) for clips in with_face.values())
    groups = []
    for split, clips in with_face.items():
        most = MOST_FACES if total <= MOST_FACES else max(1, round(MOST_FACES * len(clips) / total))
        chosen = pictures.evenly(list(clips.items()), most)
        if chosen:
            faces = read_columns(store, [clip_id for _, clip_id in chosen], ["face"])["face"].to_pylist()
            shown = [
                {"speaker": speaker.split("/")[1], "picture": pictures.from_bytes(face, FACE_SIZE)}
                for (speaker, _), face in zip(chosen, faces, strict=True)
            ]
            groups.append({"split": split, "speakers": len(clips), "shown": shown})
    return groups


def makers(store: Store) -> list[dict[str, Any]]:
    """The makers whose values the store holds, in the catalogue's order: model, library, weights, trained, clips."""
    dataset = store.table("clips")
    known = {row["id"]: row for row in store.table("makers").to_table().to_pylist()}
    rows = []
    for key, entry in CATALOGUE.items():
        if entry.maker_column not in dataset.schema.names:
            continue
        column = dataset.to_table(columns=[entry.maker_column])[0].drop_null()
        for maker, number in sorted(Counter(column.to_pylist()).items()):
            rows.append({**known[maker], "constituent": key, "clips": number})
    return rows


def coverage(store: Store, made: list[dict[str, Any]]) -> dict[str, Any]:
    """How far each constituent is filled and by which model; those that no clip has are listed apart."""
    found = store.coverage()
    models = defaultdict(list)
    for maker in made:
        models[maker["constituent"]].append(" · ".join(filter(None, (maker["model"], maker["library"]))))
    rows = [
        {"key": key, "about": entry.about, "maker": ", ".join(models[key]), **found["constituents"][key]}
        for key, entry in CATALOGUE.items()
    ]
    return {
        "clips": found["clips"],
        "filled": [row for row in rows if row["filled"]],
        "absent": [row for row in rows if not row["filled"]],
    }


def quarantine(store: Store) -> list[dict[str, Any]]:
    """By reason and by what could not be had: clips, and one message as an example; the most frequent first."""
    rows = store.table("quarantine").to_table(columns=["constituent", "reason", "message", "clip_id"]).to_pylist()
    groups = defaultdict(list)
    for row in rows:
        groups[row["reason"], row["constituent"]].append(row)
    return [
        {"reason": reason, "what": what, "clips": len(group), "example": min(group, key=lambda row: row["clip_id"])}
        for (reason, what), group in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def extraction(store: Store) -> dict[str, Any] | None:
    """What the store's fill jobs took: clips, wall seconds, and seconds of work by constituent, the longest first.

    losses: constituent -> numbers that half precision could not hold. None where no job has ended.
    Work is summed over workers: more seconds than the wall's where several ran.
    """
    jobs = store.table("jobs").to_table().filter(pc.equal(pc.field("kind"), "fill")).to_pylist()
    seconds: Counter[str] = Counter()
    filled: Counter[str] = Counter()
    losses: Counter[str] = Counter()
    clips = 0
    for job in jobs:
        counts = json.loads(job["counts"])
        clips += counts.get("clips", 0)
        filled.update(counts.get("filled", {}))
        losses.update(counts.get("float16_losses", {}))
        seconds.update(json.loads(job["seconds"]))
    wall = seconds.pop("wall", 0.0)
    if not clips or not wall:
        return None
    work = sum(seconds.values())
    return {
        "clips": clips,
        "wall": wall,
        "work": work,
        "losses": {key: number for key, number in losses.items() if number},
        "rows": [
            {
                "name": name,
                "seconds": spent,
                "share": spent / work if work else 0.0,
                "milliseconds": 1000 * spent / filled.get(name, clips) if filled.get(name, clips) else None,
            }
            for name, spent in seconds.most_common()
        ],
    }


def attributes(store: Store, clip_ids: list[str]) -> dict[str, str]:
    """Clip -> what is known of its speaker, in words: `woman, 34 years`."""
    names = store.table("clips").schema.names
    columns = [key for key in ("gender", "age") if key in names]
    if not clip_ids or not columns:
        return {}
    words = {}
    for clip_id, row in zip(clip_ids, read_columns(store, clip_ids, columns).to_pylist(), strict=True):
        age = row.get("age")
        known = [row.get("gender"), None if age is None or np.isnan(age) else f"{age:.0f}"]
        words[clip_id] = ", ".join(filter(None, known))
    return words
