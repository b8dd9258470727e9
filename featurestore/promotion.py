"""Promotion: a candidate's values take the place of the live ones, after a look at how far they have drifted.

    drift -> promote (live and candidate change names, in one commit) -> perhaps promote back, or discard

Nothing is copied and nothing lost: the values that were live are a candidate afterwards.
"""

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import schema
from featurestore.catalogue import Constituent, constituent
from featurestore.errors import UsageError, VoxportraitError, choose
from featurestore.jobs import Job
from featurestore.leases import STORE, Lease
from featurestore.store import Store, lance_errors

PROBE = {"vector": 2000, "block": 256, "picture": 256, "label": 20_000, "number": 20_000, "record": 20_000}
"""How many clips with both values are compared at most, by kind."""

PROBE_SPEAKER = 10
"""Clips of one speaker among them, at most."""

ENOUGH_SPEAKERS = 20
"""Speakers with two clips or more, from which on an equal error rate is taken."""

RULES = {
    "eer": 0.01,
    "cosine": 0.99,
    "relative_error": 0.05,
    "pixel_difference": 4.0,
    "agreement": 0.95,
}
"""What a candidate must keep to: an equal error rate at most so much above the live one (where it cannot be taken, a
mean cosine of at least this); a mean relative error at most; a mean difference of pixels (of 255) at most; a share of
equal labels at least."""


@dataclass(frozen=True)
class Drift:
    """A candidate compared with the live values.

    clips: with both; probed: of those, compared; lost, gained: clips that would lose, or get, a value; measures: by
    name; against: why it should not be promoted without a person's word, nothing where it may.
    """

    constituent: str
    candidate: str
    clips: int
    probed: int
    lost: int
    gained: int
    measures: dict[str, float | int | None] = field(default_factory=dict)
    against: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Promotion:
    """A promotion that was made. kept_as: what the values that were live are called now, "" where there were none;
    dropped: vector indices that are to be built anew; forced: it was a person's word, against the drift."""

    job_id: str
    drift: Drift
    kept_as: str
    dropped: tuple[str, ...]
    forced: bool


def candidate_of(store: Store, key: str, candidate: str | None = None) -> str:
    """The name of a candidate of a constituent: the one there is, or the one that is meant by name or by digest.

    Raises UsageError where there is none, or more than one to choose from.
    """
    there = schema.candidates(store.table("clips").schema.names).get(constituent(key).key, [])
    if not there:
        raise UsageError(f"{key} has no candidate: a fill by another model or version makes one beside the live values")
    if candidate is None:
        if len(there) > 1:
            raise UsageError(f"{key} has several candidates, say which: {', '.join(there)}")
        return there[0]
    return choose("candidate", candidate if "@" in candidate else f"{key}@{candidate}", there)


def drift(store: Store, key: str, candidate: str | None = None) -> Drift:
    """Compare a candidate with the live values on clips that have both. Only reads.

    Vectors: the cosine of each clip's two values, and the equal error rate of pairs of clips of one speaker against
    pairs of two, for both. Blocks and numbers: relative error. Pictures: difference of pixels. Labels and records: the
    share that is equal. What is compared is the value, not its probability or other extras.
    """
    return _drift(store.table("clips"), constituent(key), candidate_of(store, key, candidate))


def promote(
    store: Store,
    key: str,
    candidate: str | None = None,
    force: bool = False,
    wait: float = 0.0,
    told: Callable[[str], None] = lambda line: None,
) -> Promotion:
    """Make a candidate live, and the live values a candidate; one commit, recorded in `jobs`.

    force: a person's word, whatever the drift says. Raises VoxportraitError where clips would lose their value or the
    drift is against it; LeaseHeld, after `wait` seconds, where another job is at work.
    """
    entry, name = constituent(key), candidate_of(store, key, candidate)
    with lance_errors("promoting"), Lease(store.place, [STORE], "promoting", wait, told) as lease:
        dataset = store.table("clips")
        found = _drift(dataset, entry, name)
        if found.against and not force:
            raise VoxportraitError(f"{name} is not promoted: {'; '.join(found.against)}. A person's word: --force")
        kept_as = _name_for_live(store, dataset, entry, name)
        job = Job(store, "promote")
        lease.check()
        dropped = _drop_indices(dataset, [key, name])
        _swap(store, entry, name, kept_as)
        promotion = Promotion(job.job_id, found, kept_as, dropped, force and bool(found.against))
        counts = {"promoted": name, "kept_as": kept_as, "forced": promotion.forced, "drift": found.as_dict()}
        job.end("finished", counts, {})
    return promotion


def discard(store: Store, candidate: str, wait: float = 0.0, told: Callable[[str], None] = lambda line: None) -> int:
    """Drop a candidate's columns; returns how many clips had a value. The next compaction frees its bytes.

    Raises UsageError on an unknown candidate; LeaseHeld, after `wait` seconds, where another job is at work.
    """
    name = candidate_of(store, candidate.split("@")[0], candidate)
    entry = constituent(name.split("@")[0])
    with lance_errors("discarding"), Lease(store.place, [STORE], f"discarding {name}", wait, told) as lease:
        dataset = store.table("clips")
        clips = int((_makers(dataset, name) >= 0).sum())
        job = Job(store, "discard")
        lease.check()
        _drop_indices(dataset, [name])
        store.table("clips").drop_columns([f.name for f in schema.columns_of(entry, name)])
        job.end("finished", {"discarded": name, "clips": clips}, {})
    return clips


# -- comparing ---------------------------------------------------------------------------------------------------


def _drift(dataset: lance.LanceDataset, entry: Constituent, name: str) -> Drift:
    live, other = _makers(dataset, entry.key) >= 0, _makers(dataset, name) >= 0
    lost, gained = int((live & ~other).sum()), int((other & ~live).sum())
    speakers, rows = _probe(dataset, live & other, PROBE[entry.kind])
    against = [f"{lost} clips would lose their value"] if lost else []
    measures: dict[str, float | int | None] = {}
    if len(rows):
        measures, why = _compare(dataset, entry, name, speakers, rows)
        against += why
    elif live.any():
        against.append("no clip has both values")
    return Drift(entry.key, name, int((live & other).sum()), len(rows), lost, gained, measures, tuple(against))


def _makers(dataset: lance.LanceDataset, column: str) -> np.ndarray:
    """Numbers of the makers of all rows, -1 where there is no value."""
    if f"{column}_maker" not in dataset.schema.names:
        return np.full(dataset.count_rows(), -1)
    return dataset.to_table(columns=[f"{column}_maker"])[0].fill_null(-1).to_numpy()


def _probe(dataset: lance.LanceDataset, both: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Speakers (as numbers) and ascending row ids of the clips to compare: whole speakers, by a fixed draw."""
    table = dataset.to_table(columns=["dataset", "speaker_id"], with_row_id=True).filter(pa.array(both))
    names = pc.binary_join_element_wise(table["dataset"], table["speaker_id"], "/")
    speakers = names.combine_chunks().dictionary_encode().indices.to_numpy()
    rows = table["_rowid"].to_numpy()
    draw = np.random.default_rng(0)
    order = np.lexsort((draw.random(len(rows)), draw.permutation(speakers.max(initial=-1) + 1)[speakers]))
    starts = np.flatnonzero(np.diff(speakers[order], prepend=-1))
    nth = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    chosen = np.sort(order[nth < PROBE_SPEAKER][:size])
    chosen = chosen[np.argsort(rows[chosen])]
    return speakers[chosen], rows[chosen]


def _compare(
    dataset: lance.LanceDataset, entry: Constituent, name: str, speakers: np.ndarray, rows: np.ndarray
) -> tuple[dict[str, float | int | None], list[str]]:
    """Measures, and what of them is against the candidate."""
    columns = [f.name for f in schema.value_fields(entry)]
    columns = columns if entry.kind == "record" else columns[:1]
    others = [name + column.removeprefix(entry.key) for column in columns]
    table = dataset._take_rows(rows.tolist(), columns=[*columns, *others])
    if entry.kind in ("label", "record"):
        same = np.logical_and.reduce([_equal(table[a], table[b]) for a, b in zip(columns, others, strict=True)])
        agreement = float(same.mean())
        return {"agreement": agreement}, _unless(agreement >= RULES["agreement"], f"{agreement:.1%} of values agree")
    live, other = table[columns[0]], table[others[0]]
    if entry.kind == "picture":
        return _pixels([_picture(v) for v in live.to_pylist()], [_picture(v) for v in other.to_pylist()])
    if entry.kind == "number":
        return _relative(live.to_numpy()[:, None], other.to_numpy()[:, None])
    a, b = (schema.decode(column, entry.shape, entry.dtype) for column in (live, other))
    if entry.dtype == "uint8":
        return _pixels(list(a), list(b))
    a, b = (values.reshape(len(rows), -1).astype(np.float64) for values in (a, b))
    return _vectors(a, b, speakers) if entry.kind == "vector" else _relative(a, b)


def _unless(holds: bool, what: str) -> list[str]:
    return [] if holds else [what]


def _equal(a: pa.ChunkedArray, b: pa.ChunkedArray) -> np.ndarray:
    same = pc.equal(a, b).fill_null(False).to_numpy()
    return same | (a.is_null().to_numpy() & b.is_null().to_numpy())


def _picture(jpeg: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as picture:
        return np.asarray(picture.convert("RGB"))


def _pixels(a: list[np.ndarray], b: list[np.ndarray]) -> tuple[dict[str, float | int | None], list[str]]:
    if any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        return {"pixel_difference": None}, ["the pictures have another size"]
    each = np.array([np.abs(x.astype(np.float32) - y).mean() for x, y in zip(a, b, strict=True)])
    mean = float(each.mean())
    said = f"pixels differ by {mean:.1f} of 255, more than {RULES['pixel_difference']:g}"
    measures = {"pixel_difference": mean, "pixel_difference_p95": float(np.quantile(each, 0.95))}
    return {**measures}, _unless(mean <= RULES["pixel_difference"], said)


def _relative(a: np.ndarray, b: np.ndarray) -> tuple[dict[str, float | int | None], list[str]]:
    each = np.linalg.norm(b - a, axis=1) / np.maximum(np.linalg.norm(a, axis=1), 1e-12)
    mean = float(each.mean())
    said = f"values differ by {mean:.1%}, more than {RULES['relative_error']:.0%}"
    measures = {"relative_error": mean, "relative_error_p95": float(np.quantile(each, 0.95))}
    return {**measures}, _unless(mean <= RULES["relative_error"], said)


def _vectors(a: np.ndarray, b: np.ndarray, speakers: np.ndarray) -> tuple[dict[str, float | int | None], list[str]]:
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    cosines = (a * b).sum(1)
    mean = float(cosines.mean())
    same = speakers[:, None] == speakers[None]
    pairs = np.triu(np.ones_like(same), 1)
    several = int((np.bincount(speakers) > 1).sum())
    measures: dict[str, float | int | None] = {
        "cosine": mean,
        "cosine_p05": float(np.quantile(cosines, 0.05)),
        "speakers": len(np.unique(speakers)),
        "speakers_with_pairs": several,
        "same_pairs": int((same & pairs).sum()),
        "different_pairs": int((~same & pairs).sum()),
        "eer_live": None,
        "eer_candidate": None,
    }
    if several < ENOUGH_SPEAKERS:
        said = (
            f"the mean cosine is {mean:.3f}, below {RULES['cosine']}, and {several} speakers with two clips or more "
            f"are too few for an equal error rate ({ENOUGH_SPEAKERS})"
        )
        return measures, _unless(mean >= RULES["cosine"], said)
    live, other = (equal_error_rate((x @ x.T)[same & pairs], (x @ x.T)[~same & pairs]) for x in (a, b))
    said = f"its equal error rate is {other:.2%} and the live one's {live:.2%}, more than {RULES['eer']:.0%} worse"
    return {**measures, "eer_live": live, "eer_candidate": other}, _unless(other <= live + RULES["eer"], said)


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> float:
    """The share of wrong decisions at the threshold where pairs of one speaker that are taken for two are as many, by
    share, as pairs of two that are taken for one. same, different: their scores, higher = more alike."""
    scores = np.concatenate([same, different])
    is_same = np.concatenate([np.ones(len(same), bool), np.zeros(len(different), bool)])[np.argsort(scores)]
    missed = np.cumsum(is_same) / len(same)
    taken = 1 - np.cumsum(~is_same) / len(different)
    at = int(np.argmin(np.abs(missed - taken)))
    return float((missed[at] + taken[at]) / 2)


# -- changing names ----------------------------------------------------------------------------------------------


def _name_for_live(store: Store, dataset: lance.LanceDataset, entry: Constituent, name: str) -> str:
    """What the live values will be called: after the maker of most of them; "" where there are none."""
    makers = _makers(dataset, entry.key)
    if not (makers >= 0).any():
        return ""
    digests = {number: digest for digest, number in store.known_makers().items()}
    most = digests[int(np.bincount(makers[makers >= 0]).argmax())]
    kept_as = schema.candidate(entry.key, most)
    if kept_as != name and kept_as in schema.candidates(dataset.schema.names)[entry.key]:
        raise VoxportraitError(f"there is a candidate {kept_as} already: discard it, or promote that one")
    return kept_as


def _drop_indices(dataset: lance.LanceDataset, columns: list[str]) -> tuple[str, ...]:
    """Drop the indices of columns that change their names; returns theirs."""
    dropped = [index.name for index in dataset.describe_indices() if set(index.field_names) & set(columns)]
    for name in dropped:
        dataset.drop_index(name)
    return tuple(dropped)


def _swap(store: Store, entry: Constituent, name: str, kept_as: str) -> None:
    dataset = store.table("clips")
    live, candidate = schema.columns_of(entry), schema.columns_of(entry, name)
    changes: list[Any] = [{"path": old.name, "name": new.name} for old, new in zip(candidate, live, strict=True)]
    if kept_as:
        kept = schema.columns_of(entry, kept_as)
        changes += [{"path": old.name, "name": new.name} for old, new in zip(live, kept, strict=True)]
    elif empty := [f.name for f in live if f.name in dataset.schema.names]:
        dataset.drop_columns(empty)
    dataset.alter_columns(*changes)
