"""Records of a store's clips, for training.

Rows are known by their stable row ids and read at the version the records were opened at; when compaction or an erasure
has removed that one, at the newest. Makers must be the same then. Places of erased clips stay empty: no other clip
changes its position. What is small (ids, labels) is read once and kept.

A read costs for each fragment and file that it touches, beside its bytes: where clips lie in thousands of fragments,
or each constituent in a file of its own, a store reads several times slower than a cache of it (`exporting`).
"""

import copy
import ctypes
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import Any

import cv2
import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import snapshots
from featurestore.catalogue import ATTRIBUTES, CATALOGUE
from featurestore.conditioning import Layout
from featurestore.errors import VoxportraitError, choose
from featurestore.face_parts import bottom_mask
from featurestore.policy import COLUMNS, Policy
from featurestore.records import ARRAYS, PICTURES, Field, fields_of
from featurestore.schema import decode
from featurestore.selection import MISSING, identity_in_snapshot, identity_of_clips, refuse_lacking
from featurestore.store import Store, lance_errors

READ_AT_ONCE = 1 << 16
"""Bytes that a local read takes in together: small values of neighbouring clips come in one read, as from S3."""

REOPENED = 3
"""How often a read that fails is tried again at the newest version."""


class StoreRecords:
    """The records of a store.

    layout: its constituents are read. pictures: names in `records.PICTURES`. missing: see `selection.MISSING`.
    split, held_out: what is trained and validated on. snapshot: the name of one, whose clips and order are used, and
    what was missing then is missing. policy: which clips may be used; a snapshot's own holds too, judged on the day of
    this one, and its clips that may not be used leave their places empty.
    Raises VoxportraitError where clips lack something, or none is left, and what `snapshots.read` raises.
    """

    def __init__(
        self,
        store: Store,
        layout: Layout,
        pictures: Sequence[str] = ("target", "guide"),
        missing: str = "refuse",
        split: str = "train",
        held_out: str = "val",
        snapshot: str | None = None,
        policy: Policy | None = None,
    ):
        self.store, self.layout, self.missing = store, layout, choose("missing", missing, MISSING)
        self.policy, self.split, self.held_out_split = policy or Policy(), split, held_out
        self.fields: Mapping[str, Field] = fields_of(layout.constituents, pictures)
        self._pictures = tuple(pictures)
        self.needed = tuple(dict.fromkeys(key for name in pictures for key in PICTURES[name].made_of))
        self._used = {*layout.constituents, *self.needed}
        self.snapshot, self.dataset = self._opened(snapshot)
        self._policies = (self.policy, self.snapshot.policy(self.policy.judged))
        self.constituents = tuple(key for key in layout.constituents if key in self.snapshot.makers)
        self.rows, self.held_out = self.places(split), self.places(held_out)
        if not len(self.rows):
            raise VoxportraitError(
                f"no clip of split {split!r} in {store.place.shown} has {' and '.join(self.needed)}"
                + (f" and {', '.join(layout.constituents)}" if missing == "skip" else "")
                + ". Fill them first (voxportrait store coverage says what is missing)."
            )
        self._refused = self._refused_rows(self.dataset)
        self._by_row = np.argsort(self.snapshot.row_ids)
        self._had = {key: had for key in self.constituents if not (had := self.snapshot.had(key)).all()}
        self._clip_ids, self._labels = self._small()
        self.identity = self._identity()
        self._reopening = Lock()
        _keep_freed_memory()

    def read(self, rows: np.ndarray, out: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `records.Records`. Raises VoxportraitError where a value was made anew since the store was opened."""
        arrays = [key for key in self.constituents if CATALOGUE[key].kind in ARRAYS]
        columns = [*arrays, *(column for name in self._pictures for column in _COLUMNS[name])]
        table = self._take(rows, ["_rowid", *dict.fromkeys(columns)])
        found = table["_rowid"].to_numpy()
        here = np.isin(rows, found)
        chosen = rows[here]
        back, places = np.searchsorted(found, chosen), self._place(chosen)
        for key, field in self.fields.items():
            target = out[key][: len(chosen)]
            if key in arrays:
                _copy(table[key], field, back, target)
                if key in self._had:
                    target[~self._had[key][places]] = 0
            elif key in self._labels:
                target[...] = self._labels[key][places]
            elif key in PICTURES:
                if (broken := _READ[key](table, field, back, target)) is not None:
                    raise VoxportraitError(
                        f"the {key} of {self.clip_ids(chosen[broken : broken + 1])[0]} in {self.store.place.shown} is "
                        f"no picture of {field.shape[1]} x {field.shape[0]}: see voxportrait store verify"
                    )
            else:
                target[...] = _UNKNOWN.get(CATALOGUE[key].kind, 0)
        return here

    def clip_ids(self, rows: np.ndarray) -> list[str]:
        """The ids of the clips in these rows, in their order; "" where the clip was erased before they were opened."""
        return self._clip_ids.take(pa.array(self._place(rows))).to_pylist()

    def only(self, names: Iterable[str]) -> "StoreRecords":
        """See `records.Records`; `describe` and `places` are of these fields too."""
        other, wanted = copy.copy(self), set(names)
        other.fields = {name: field for name, field in self.fields.items() if name in wanted}
        other.constituents = tuple(key for key in self.constituents if key in wanted)
        other._pictures = tuple(name for name in self._pictures if name in wanted)
        return other

    def lacking(self, split: str) -> dict[str, int]:
        """Constituent -> clips of a split that have the pictures and lack it, where there are any."""
        usable = self.snapshot.has(split, self.needed)
        counts = {key: int((usable & ~self.snapshot.had(key)).sum()) for key in self.layout.constituents}
        return {key: number for key, number in counts.items() if number}

    def describe(self) -> dict[str, Any]:
        """What is trained on, for the run's record: clips, makers by constituent, what is untrained or absent.

        The same for the same data: the day on which the policy was judged is in `policy.record()`.
        """
        makers = self.store.table("makers").to_table(columns=["digest", "trained"]).to_pylist()
        untrained = {row["digest"] for row in makers if not row["trained"]}
        used = {key: list(self.snapshot.makers[key].digests) for key in (*self.constituents, *self.needed)}
        named = {"snapshot": self.snapshot.name, "digest": self.snapshot.digest} if self.snapshot.name else {}
        return {
            "clips": len(self.rows),
            **named,
            "identity": self.identity,
            "erasure_epoch": self.snapshot.erasure_epoch,
            "policy": {name: value for name, value in self.policy.record().items() if name != "judged"},
            "held_out": len(self.held_out),
            "makers": used,
            "missing": self.missing,
            "lacking": self.lacking(self.split) if self.missing == "zero" else {},
            "absent": [key for key in self.layout.constituents if key not in self.constituents],
            "untrained": [key for key, digests in used.items() if untrained & set(digests)],
        }

    def places(self, split: str) -> np.ndarray:
        """The row ids of the clips of a split, in order. Raises VoxportraitError where some lack a constituent."""
        if self.missing == "skip":
            return self.snapshot.places(split, {*self.layout.constituents, *self.needed})
        if self.missing == "refuse":
            refuse_lacking(split, int(self.snapshot.has(split, self.needed).sum()), self.lacking(split))
        return self.snapshot.places(split, self.needed)

    def _opened(self, name: str | None) -> tuple[snapshots.Snapshot, lance.LanceDataset]:
        """What there is, by a snapshot or as it is now, and the clips as they were then or later."""
        version = self.store.table("clips").version
        if name is None:
            found = snapshots.look(self.store, self.policy)
        else:
            found = snapshots.read(self.store, name, self._used)
        dataset = self.store.place.table("clips", block_size=READ_AT_ONCE)
        if dataset.version != version:
            found = snapshots.check(self.store, found, dataset, self._used)
        return found, dataset

    def _small(self) -> tuple[pa.StringArray, dict[str, np.ndarray]]:
        """Of every place of the snapshot: the clip's id, "" where it is gone, and its labels as numbers."""
        labels = [key for key in self.constituents if CATALOGUE[key].kind not in ARRAYS]
        table = self.dataset.to_table(columns=["clip_id", *labels], with_row_id=True)
        at, present = snapshots.find(table["_rowid"].to_numpy(), self.snapshot.row_ids)
        numbers = {}
        for key in labels:
            kind = CATALOGUE[key].kind
            known = present & self.snapshot.had(key)
            numbers[key] = np.where(known, _numbers(key, table[key])[at], _UNKNOWN[kind]).astype(_SMALL[kind])
        ids = table["clip_id"].combine_chunks().take(pa.array(at, mask=~present)).fill_null("")
        again = np.flatnonzero(pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False) & present[1:])
        if len(again):
            raise VoxportraitError(
                f"{ids[int(again[0])]} is in {self.store.place.shown} twice, as are {len(again) - 1} others: see "
                "voxportrait store verify"
            )
        return ids, numbers

    def _place(self, rows: np.ndarray) -> np.ndarray:
        return self._by_row[np.searchsorted(self.snapshot.row_ids, rows, sorter=self._by_row)]

    def _identity(self) -> str:
        if self.snapshot.name:
            return identity_in_snapshot(self.split, self.snapshot.digest, self.missing, self._used)
        return identity_of_clips(self.split, self._each_id(self.rows))

    def _each_id(self, rows: np.ndarray) -> Iterator[str]:
        for first in range(0, len(rows), _IDS_AT_ONCE):
            yield from self.clip_ids(rows[first : first + _IDS_AT_ONCE])

    def _take(self, rows: np.ndarray, columns: list[str]) -> pa.Table:
        """Rows in ascending order, less those that are gone or refused; from the newest version where this is gone."""
        for _ in range(REOPENED):
            dataset = self.dataset
            try:
                return self._taken(dataset, rows, columns)
            except (OSError, ValueError):  # as Lance and Arrow tell of a file that is gone
                self._reopen(dataset)
        with lance_errors(f"reading {self.store.place.shown}"):
            return self._taken(self.dataset, rows, columns)

    def _taken(self, dataset: lance.LanceDataset, rows: np.ndarray, columns: list[str]) -> pa.Table:
        return dataset._take_rows(np.setdiff1d(rows, self._refused).tolist(), columns=columns)

    def _reopen(self, failed: lance.LanceDataset) -> None:
        """Go to the newest version, where no other reader has."""
        with self._reopening:
            if self.dataset is failed:
                dataset = self.store.place.table("clips", block_size=READ_AT_ONCE)
                snapshots.check(self.store, self.snapshot, dataset, self._used)
                self._refused = self._refused_rows(dataset)
                self.dataset = dataset

    def _refused_rows(self, dataset: lance.LanceDataset) -> np.ndarray:
        """Rows of a version of `clips` that a policy does not allow."""
        if all(policy.takes_all for policy in self._policies):
            return np.empty(0, np.uint64)
        table = dataset.to_table(columns=list(COLUMNS), with_row_id=True)
        allowed = np.logical_and.reduce([policy.allows(table) for policy in self._policies])
        return table["_rowid"].to_numpy()[~allowed]


_UNKNOWN, _SMALL = {"number": np.nan, "label": -1}, {"number": np.float32, "label": np.int16}

_IDS_AT_ONCE = 1 << 16

_COLUMNS = {
    "target": ("face_128",),
    "guide": ("face_128_guide",),
    "face": ("face",),
    "bottom": ("face_parts",),
}
"""Of each picture: the columns that it is read from."""


def _numbers(key: str, column: pa.ChunkedArray) -> np.ndarray:
    """A label column as numbers: years as they are, NaN where unknown; a label as its code, -1 where unknown."""
    if CATALOGUE[key].kind == "number":
        return column.to_numpy()
    return pc.index_in(column, value_set=pa.array(ATTRIBUTES[key])).fill_null(-1).to_numpy()


def _copy(column: pa.ChunkedArray, field: Field, back: np.ndarray, out: np.ndarray) -> None:
    """The values in the order of `back`; where one is NULL, whatever lies there."""
    np.take(decode(column, field.shape, field.dtype, nulls=True), back, axis=0, out=out, mode="clip")


def _read_face(column: pa.ChunkedArray, field: Field, back: np.ndarray, out: np.ndarray) -> int | None:
    """Decode pictures; the first place that holds none of the field's shape, or None."""

    def is_read(place: int) -> bool:
        data = np.frombuffer(column[int(back[place])].as_buffer(), np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if len(data) else None
        if picture is None or picture.shape != field.shape:
            return False
        out[place] = picture
        return True

    return next((place for place, read in enumerate(_PICTURE_THREADS.map(is_read, range(len(back)))) if not read), None)


def _read_bottom(column: pa.ChunkedArray, field: Field, back: np.ndarray, out: np.ndarray) -> None:
    landmarks = decode(column, (468, 2), "float16")

    def read(place: int) -> None:
        out[place] = bottom_mask(landmarks[back[place]], field.shape[0])

    for _ in _PICTURE_THREADS.map(read, range(len(back))):
        pass


_PICTURE_THREADS = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "pictures")
"""What decodes: a face takes half a millisecond, and a mask a fifth."""

_READ = {
    "target": lambda table, *more: _copy(table["face_128"], *more),
    "guide": lambda table, *more: _copy(table["face_128_guide"], *more),
    "face": lambda table, *more: _read_face(table["face"], *more),
    "bottom": lambda table, *more: _read_bottom(table["face_parts"], *more),
}
"""How each picture is read: (table, field, back, out) -> the first place that holds no such picture, or None."""


def _keep_freed_memory() -> None:
    """Have the C library keep what a read has freed for the next one, where it can be told.

    Else each clip costs about 20 page faults, in which the system zeroes that memory again.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(_M_TRIM_THRESHOLD, 512 << 20)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
