"""Making exports of a store, and checking them against it; a node's cache of records is an export too.

export(store, Path("october.safetensors"), LAYOUTS["slf"], snapshot="october")

See `exports` for reading them, where there is no Lance.
"""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import artifacts, erasure
from featurestore.catalogue import ATTRIBUTES, CATALOGUE, constituent
from featurestore.clip import SPLITS
from featurestore.conditioning import Layout
from featurestore.console import bar, say
from featurestore.errors import UsageError, VoxportraitError
from featurestore.exports import FORMAT, LANDMARKS, NEVER, STORED, TEXTS, About, ExportRecords
from featurestore.policy import COLUMNS, Policy
from featurestore.records import ARRAYS, LABELS, PICTURES, Field, Slab
from featurestore.schema import decode
from featurestore.selection import identity_of_clips
from featurestore.store import Store, lance_errors
from featurestore.store_records import StoreRecords
from featurestore.tensor_file import Tensor, Writer, claimed
from featurestore.version import code_version

CHUNK = 512
"""Clips that are read and written at once."""


class Inputs(Protocol):
    """What an export needs to know of a layout."""

    @property
    def constituents(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Chosen:
    """Constituents that are exported without a layout."""

    constituents: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> "Chosen":
        """These constituents; a UsageError for one that is none or has no values of a fixed size."""
        for name in names:
            if constituent(name).kind not in (*ARRAYS, *LABELS):
                raise UsageError(f"{name} is a {constituent(name).kind} and no constituent to export: see --pictures")
            if constituent(name).kind == "label" and name not in ATTRIBUTES:
                raise UsageError(f"{name} is a label whose values are not known here: it has no codes to export")
        return cls(tuple(dict.fromkeys(names)))


@dataclass(frozen=True)
class Exported:
    """An export that is made. clips: with values in it; bytes: of the file; seconds: that it took."""

    path: str
    clips: int
    splits: dict[str, int]
    bytes: int
    seconds: float
    identity: str

    @property
    def bytes_a_clip(self) -> float:
        return self.bytes / self.clips


def export(
    store: Store,
    out: Path,
    layout: Inputs,
    pictures: Sequence[str] = ("target", "guide"),
    missing: str = "refuse",
    splits: Sequence[str] = ("train", "val"),
    snapshot: str | None = None,
    policy: Policy | None = None,
    clips: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Exported:
    """Write the compact rows of a layout's constituents, and pictures, into one file: whole, or not at all.

    layout: of which only `constituents` matters. pictures, missing, snapshot, policy: see `StoreRecords`.
    clips: only so many, see `choose_clips`; all where it is None.
    Raises UsageError where the file is there already, VoxportraitError where the disk is full, where it was stopped,
    and where somebody was forgotten meanwhile; then nothing is left of it.
    """
    with claimed(out) as file:
        if out.exists():
            raise UsageError(f"{out} is there already: remove it, or choose another name")
        records = StoreRecords(store, cast(Layout, layout), pictures, missing, splits[0], splits[-1], snapshot, policy)
        selection, sample = _select(records, tuple(dict.fromkeys(splits))), {}
        if clips is not None:
            there = np.flatnonzero(selection.present)
            ids, sample = records.clip_ids(selection.row_ids[there]), {"clips": clips, "seed": seed}
            selection = selection.of(there[choose_clips(ids, selection.codes[there], clips, seed)])
        return _write(records, selection, out, file, sample, progress, should_stop)


def cached_records(
    store: Store,
    layout: Layout,
    folder: str | Path,
    told: Callable[[str], None] = say,
    **options: Any,
) -> ExportRecords:
    """The records of a selection from a file in a folder of this node, which is made where it is not there.

    options: of `StoreRecords`. The file is called after what is in it: identity, constituents, pictures and makers. One
    process of a node makes it, others wait for it; told: what is called with a line that says so. Raises
    VoxportraitError where the disk has not the room (at once: reading from the store in silence would be slow for the
    whole training), and where a file that is there is not what the store holds now (see `check`).
    """
    records = StoreRecords(store, layout, **options)
    selection = _select(records, (records.split, records.held_out_split))
    path = Path(folder) / f"records-{_content(records, selection)}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the cache folder {folder} cannot be made: {error.strerror}") from error
    while not path.exists():
        with claimed(path, told) as file:
            if not path.exists():
                told(f"making the record cache {path}: {int(selection.present.sum()):,} clips")
                with bar("record cache", "clips") as progress:
                    _write(records, selection, path, file, {}, progress)
    made = ExportRecords(
        path,
        layout,
        [name for name in records.fields if name in PICTURES],
        records.missing,
        records.split,
        records.held_out_split,
        records.policy,
    )
    check(store, made)
    if made.identity != records.identity:
        raise VoxportraitError(f"{path} holds other clips than its name says: remove it, it is made again")
    allowed = selection.row_ids[selection.present]
    if lacks := len(np.setdiff1d(allowed, made.row_ids)):
        raise VoxportraitError(f"{path} lacks {lacks:,} clips that may be used now: remove it, it is made again")
    return made


def check(store: Store, records: ExportRecords) -> None:
    """Compare an export with the store it was made from, and have it leave out who may not be used there any more.

    Raises VoxportraitError where somebody in it was forgotten since, where a value has another maker now, and where it
    was made from another store.
    """
    about, path = records.about, records.path
    erasure.check(store, about.erasure_epoch, f"the export {path}", records.row_ids)
    dataset = store.table("clips")
    columns = [f"{key}_maker" for key in about.makers if f"{key}_maker" in dataset.schema.names]
    table = dataset.to_table(columns=["clip_id", *COLUMNS, *columns], with_row_id=True)
    found = pc.index_in(pa.array(records.row_ids), value_set=table["_rowid"].combine_chunks())
    here = table["clip_id"].take(found)
    others = pc.not_equal(here, pa.chunked_array([pa.array(records.clip_ids(records.row_ids))])).fill_null(True)
    if count := pc.sum(others).as_py():
        raise VoxportraitError(
            f"{path} was not made from {store.place.shown}: {count:,} of its {len(here):,} clips are others there; "
            f"use the store that it says, {about.store}"
        )
    names = {number: digest for digest, number in store.known_makers().items()}
    for key, made_by in records.made_by():
        column = f"{key}_maker"
        live = table[column].take(found).fill_null(-1).to_numpy() if column in columns else np.full(len(here), -1)
        now = np.array([names.get(number, "") for number in live.tolist()], str)
        changed = (made_by != "") & (made_by != now)
        if changed.any():
            first = int(np.flatnonzero(changed)[0])
            raise VoxportraitError(
                f"{key} of {int(changed.sum()):,} clips in {path} was made by {made_by[first][:8]} and "
                + (f"is by {now[first][:8]} now" if now[first] else "is gone now")
                + ": remove it and make it again"
            )
    allowed = np.logical_and.reduce([policy.allows(table) for policy in records.policies])
    records.leave_out(table["_rowid"].to_numpy()[~allowed])
    records.store = store


def choose_clips(clip_ids: Sequence[str], splits: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which of the clips a small export takes: `count` indices, ascending; fewer where there are not so many.

    Each split keeps its share, and has at least one clip where `count` allows it. Within it speakers take turns: first
    one clip of each, then a second of each; which, and who comes first, is told by a hash of the seed and the name. A
    larger choice by the same seed has the smaller one in it.
    """
    ranked: list[tuple[bool, float, int]] = []
    for code in np.unique(splits).tolist():
        by_speaker = defaultdict(list)
        for index in np.flatnonzero(splits == code).tolist():
            by_speaker["/".join(clip_ids[index].split("/")[:2])].append(index)
        turns = []
        for speaker, indices in by_speaker.items():
            own = sorted(indices, key=lambda index: _hash(seed, clip_ids[index]))
            turns += [(turn, _hash(seed, speaker), index) for turn, index in enumerate(own)]
        ranked += [(rank > 0, (rank + 0.5) / len(turns), index) for rank, (*_, index) in enumerate(sorted(turns))]
    return np.array(sorted(index for *_, index in sorted(ranked)[:count]), np.int64)


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()[:8]


# -- writing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Selection:
    """Places in order. row_ids, splits; makers (n, constituents) codes; present: those whose clips are exported."""

    splits: tuple[str, ...]
    row_ids: np.ndarray
    codes: np.ndarray
    makers: np.ndarray
    present: np.ndarray
    rights: pa.Table

    def of(self, chosen: np.ndarray) -> "_Selection":
        """These places alone."""
        return _Selection(
            self.splits,
            self.row_ids[chosen],
            self.codes[chosen],
            self.makers[chosen],
            self.present[chosen],
            self.rights.take(pa.array(chosen)),
        )


def _select(records: StoreRecords, splits: tuple[str, ...]) -> _Selection:
    """The places of these splits, and which of their clips are there and may be used."""
    snapshot = records.snapshot
    rows = np.concatenate([records.places(split) for split in splits])
    places = np.flatnonzero(np.isin(snapshot.row_ids, rows))
    row_ids = snapshot.row_ids[places]
    table = records.dataset.to_table(columns=list(COLUMNS), with_row_id=True)
    policies = (records.policy, snapshot.policy(records.policy.judged))
    allowed = np.logical_and.reduce([policy.allows(table) for policy in policies])
    at = pc.index_in(pa.array(row_ids), value_set=table["_rowid"].combine_chunks())
    present = snapshot.present[places] & pa.array(allowed).take(at).fill_null(False).to_numpy(zero_copy_only=False)
    makers = [snapshot.makers[key].codes[places] for key in _made(records)]
    return _Selection(
        splits,
        row_ids,
        snapshot.splits[places],
        np.stack(makers, 1).astype(np.int16) if makers else np.zeros((len(places), 0), np.int16),
        present,
        table.select(COLUMNS).take(at),
    )


def _made(records: StoreRecords) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*records.constituents, *records.needed)))


_ASIDE = ("store", "created", "code", "erasure_epoch")
"""Of what a file says of itself: by whom and when it was made, not what is in it."""


def _content(records: StoreRecords, selection: _Selection) -> str:
    """What a cache is called after: equal where the files are, but for clips that are gone since."""
    about = {name: value for name, value in vars(_about(records, selection, 0, {})).items() if name not in _ASIDE}
    about["policies"] = [{**policy, "judged": ""} for policy in about["policies"]]
    content = hashlib.sha256(json.dumps([FORMAT, about]).encode())
    for values in (selection.row_ids, selection.codes, selection.makers):
        content.update(values.tobytes())
    return content.hexdigest()[:32]


def _write(
    records: StoreRecords,
    selection: _Selection,
    out: Path,
    file: int,
    sample: dict[str, int],
    progress: Callable[[int, int], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> Exported:
    """Write a file that is claimed, enter it in the store, and give it its name."""
    began, store = time.perf_counter(), records.store
    if begun := erasure.unfinished(store):
        raise VoxportraitError(begun)
    epoch = erasure.epoch(store)
    lines = np.flatnonzero(selection.present)
    if not len(lines):
        raise VoxportraitError(f"no clip of {store.place.shown} is there to be exported")
    rows, ids = selection.row_ids[lines], records.clip_ids(selection.row_ids[lines])
    about = _about(records, selection, epoch, sample)
    small = _small(selection, lines, ids)
    tensors = {name: Tensor(str(values.dtype), values.shape) for name, values in small.items()}
    for name, field in _large(records).items():
        tensors[name] = Tensor(field.dtype, (len(rows), *field.shape))
    if has_faces := "face" in records.fields:
        tensors["face.offsets"] = Tensor("int64", (len(rows) + 1,))
    with _entered(store, out, rows):
        writer = Writer(out, file, tensors, about.metadata(), "face" if has_faces else "")
        for name, values in small.items():
            writer.write(name, values)
        _write_values(records, writer, rows, progress, should_stop)
        writer.finish()
        if erasure.epoch(store) != epoch:
            out.unlink(missing_ok=True)
            raise VoxportraitError(f"somebody was forgotten while {out} was written: nothing is left of it; run again")
    counts = {name: int((selection.codes[lines] == SPLITS.index(name)).sum()) for name in selection.splits}
    return Exported(str(out), len(rows), counts, writer.size, time.perf_counter() - began, about.identity)


@contextmanager
def _entered(store: Store, path: Path, rows: np.ndarray) -> Iterator[None]:
    """Enter an export in the store before anything of it is written; take it back where it fails."""
    artifacts.note(store, "export", {path: rows})
    try:
        yield
    except BaseException:
        artifacts.withdraw(store, "export", path)
        raise


def _about(records: StoreRecords, selection: _Selection, epoch: int, sample: dict[str, int]) -> About:
    split = selection.splits[0]
    theirs = selection.row_ids[selection.codes == SPLITS.index(split)]
    made = {key: list(records.snapshot.makers[key].digests) for key in _made(records)}
    known = records.store.table("makers").to_table(columns=["digest", "trained"]).to_pylist()
    used = {digest for digests in made.values() for digest in digests}
    return About(
        store=records.store.place.shown,
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        code=code_version(),
        snapshot=records.snapshot.name,
        digest=records.snapshot.digest,
        erasure_epoch=epoch,
        constituents=list(records.layout.constituents),
        pictures=[name for name in records.fields if name in PICTURES],
        splits=list(selection.splits),
        makers=made,
        untrained=sorted(row["digest"] for row in known if not row["trained"] and row["digest"] in used),
        labels={key: list(ATTRIBUTES[key]) for key in records.constituents if CATALOGUE[key].kind == "label"},
        policies=[records.policy.record(), records.snapshot.selection["policy"]],
        missing=records.missing,
        sample=sample,
        identity=identity_of_clips(split, records.clip_ids(theirs)) if sample else records.identity,
    )


def _small(selection: _Selection, lines: np.ndarray, ids: list[str]) -> dict[str, np.ndarray]:
    """All but values: who the clips are, where they stand, whether and how long they may be used; and empty places."""
    rights, empty = selection.rights.take(pa.array(lines)), np.flatnonzero(~selection.present)
    texts = {"clip_id": ids} | {name: rights[name].fill_null("").to_pylist() for name in ("licence", "consent")}
    days = rights["consent_until"].cast(pa.int32()).fill_null(NEVER)
    tensors = {
        "row_id": selection.row_ids[lines],
        "place": lines.astype(np.int64),
        "split": selection.codes[lines],
        "maker": selection.makers[lines],
        "consent_until": days.to_numpy(),
        "empty.row_id": selection.row_ids[empty],
        "empty.place": empty.astype(np.int64),
        "empty.split": selection.codes[empty],
        "empty.maker": selection.makers[empty],
    }
    for name in TEXTS:
        coded = [text.encode() for text in texts[name]]
        tensors[name] = np.frombuffer(b"".join(coded), np.uint8)
        tensors[f"{name}.offsets"] = np.cumsum([0, *map(len, coded)], dtype=np.int64)
    return tensors


def _large(records: StoreRecords) -> dict[str, Field]:
    """The tensors of values that have one shape, with the field of a row."""
    found = {key: records.fields[key] for key in records.constituents}
    for name in ("target", "guide"):
        if name in records.fields:
            found[name] = records.fields[name]
    if "bottom" in records.fields:
        found[STORED["bottom"]] = LANDMARKS
    return found


def _write_values(
    records: StoreRecords,
    writer: Writer,
    rows: np.ndarray,
    progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> None:
    plain, drawn = _plain(records), [name for name in ("face", "bottom") if name in records.fields]
    slabs = [Slab(plain.fields, CHUNK) for _ in range(2)]
    ends = [np.zeros(1, np.int64)]

    def read(first: int) -> Any:
        chunk = rows[first : first + CHUNK]
        if not plain.read(chunk, slabs[first // CHUNK % 2].arrays).all():
            raise VoxportraitError(f"clips were erased or withdrawn while {writer.path} was written: run again")
        return _stored(plain, chunk, [STORED[name] for name in drawn]) if drawn else None

    with ThreadPoolExecutor(1, "export") as pool:
        ahead = pool.submit(read, 0)
        for first in range(0, len(rows), CHUNK):
            table, count = ahead.result(), len(rows[first : first + CHUNK])
            if first + CHUNK < len(rows):
                ahead = pool.submit(read, first + CHUNK)
            for name, values in slabs[first // CHUNK % 2].arrays.items():
                if name in plain.constituents or name in PICTURES:
                    writer.write(name, values[:count], first)
            if "bottom" in drawn:
                writer.write(STORED["bottom"], decode(table[STORED["bottom"]], LANDMARKS.shape, LANDMARKS.dtype), first)
            if "face" in drawn:
                faces = table["face"].to_pylist()
                writer.append(b"".join(faces))
                ends.append(ends[-1][-1] + np.cumsum([len(face) for face in faces]))
            progress(first + count, len(rows))
            if should_stop():
                raise VoxportraitError(f"stopped as asked; nothing is left of {writer.path}")
    if "face" in drawn:
        writer.write("face.offsets", np.concatenate(ends))


def _plain(records: StoreRecords) -> StoreRecords:
    """Records of the same clips without the pictures that are drawn when they are read: what is stored is exported."""
    kept = [name for name in records.fields if name in PICTURES and STORED[name] == name != "face"]
    if len(kept) == sum(name in PICTURES for name in records.fields):
        return records
    name = records.snapshot.name or None
    plain = StoreRecords(
        records.store, records.layout, kept, "zero", records.split, records.held_out_split, name, records.policy
    )
    if plain.snapshot.digest != records.snapshot.digest:
        raise VoxportraitError("the store was written to while the export began: run again")
    return plain


def _stored(records: StoreRecords, rows: np.ndarray, columns: list[str]) -> pa.Table:
    """Columns of these rows, in their order, as they are stored."""
    with lance_errors("exporting"):
        table = records.dataset._take_rows(np.sort(rows).tolist(), columns=["_rowid", *columns])
    return table.take(np.searchsorted(table["_rowid"].to_numpy(), rows))
