"""The true faces that portraits are compared with, from a store or from an export.

    faces = Faces.of(store)                    # or Faces.of(ExportRecords("clips.safetensors", split="test"))
    faces.read(["vox2/id00017/video/00001"])["target"]

Importable without Lance, Arrow and Ray; an export needs none of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from featurestore.clip import SPLITS
from featurestore.errors import VoxportraitError
from featurestore.records import Records

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.store import Store

LABELS = ("age", "gender", "ethnicity", "language")
"""What is known of a person beside the face."""

AT_ONCE = 256
"""Clips that are read together."""


def speaker_of(clip_id: str) -> str:
    """`<dataset>/<speaker>` of a clip's id: speakers of two datasets are never one."""
    return "/".join(clip_id.split("/")[:2])


def held_out_of(split: str, splits: Sequence[str] = SPLITS) -> str:
    """The split whose speakers are others than those of this one: train, if it is there and is not this one."""
    return next((one for one in splits if one != split), "train")


def video_of(clip_id: str) -> str:
    """`<dataset>/<speaker>/<video>` of a clip's id."""
    return "/".join(clip_id.split("/")[:3])


@dataclass(frozen=True)
class Faces:
    """The clips with a face of one split. rows: clip id -> row of the records, by clip id."""

    records: Records
    rows: Mapping[str, int]

    @classmethod
    def of(cls, source: "Store | Records", split: str = "test") -> "Faces":
        """Those of a store's split, or of the split that the records were opened for.

        Raises VoxportraitError where no clip of the split has a face.
        """
        records = _records(source, split)
        found = zip(records.clip_ids(records.rows), records.rows.tolist(), strict=True)
        return cls(records, {clip_id: row for clip_id, row in sorted(found) if clip_id})

    @property
    def store(self) -> "Store | None":
        """The store that the records are read from, if it is one."""
        return getattr(self.records, "store", None) if hasattr(self.records, "snapshot") else None

    @property
    def where(self) -> str:
        """The store or the file, for a person."""
        if path := getattr(self.records, "path", None):
            return str(path)
        return self.store.place.shown if self.store else "these records"

    def read(self, clip_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """`target` (N, 128, 128, 3) and `guide` (N, 8, 8, 3), uint8, and the labels that there are, of clips in the
        order given: `age` (N,) in years or NaN, the others (N,) codes or -1. A VoxportraitError for one not here."""
        if gone := [clip_id for clip_id in clip_ids if clip_id not in self.rows]:
            raise VoxportraitError(
                f"clip {gone[0]} is not among the {len(self.rows)} faces of {self.where}: draw the portraits again"
            )
        return self.read_rows(np.array([self.rows[clip_id] for clip_id in clip_ids], np.uint64))

    def read_rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The same of rows of the records, in their order; a VoxportraitError where one was erased meanwhile."""
        fields = {name: one for name, one in self.records.fields.items() if name in ("target", "guide", *LABELS)}
        whole = {name: np.zeros((len(rows), *one.shape), one.dtype) for name, one in fields.items()}
        buffers = {
            name: np.zeros((min(AT_ONCE, len(rows)), *one.shape), one.dtype)
            for name, one in self.records.fields.items()
        }
        for first in range(0, len(rows), AT_ONCE):
            part = rows[first : first + AT_ONCE]
            if not self.records.read(part, buffers).all():
                raise VoxportraitError(f"a clip of {self.where} was erased meanwhile: evaluate again")
            for name, values in whole.items():
                values[first : first + len(part)] = buffers[name][: len(part)]
        return whole

    @cached_property
    def untrained(self) -> tuple[str, ...]:
        """The labels that untrained weights gave."""
        return tuple(key for key in LABELS if key in self.records.describe().get("untrained", ()))


def _records(source: "Store | Records", split: str) -> Records:
    if hasattr(source, "rows"):
        return cast(Records, source)
    from featurestore.conditioning import LAYOUTS
    from featurestore.store_records import StoreRecords

    layout, others = LAYOUTS["slf"].only(*LABELS), held_out_of(split)
    return StoreRecords(cast("Store", source), layout, missing="zero", split=split, held_out=others)


def read_columns(store: "Store", clip_ids: Sequence[str], columns: Sequence[str]) -> "pa.Table":
    """The columns of a store's clips, in the order given; a VoxportraitError names one that is not in the store."""
    dataset = store.table("clips")
    known = dataset.to_table(columns=["clip_id"])["clip_id"].to_pylist()
    row_of = {clip_id: row for row, clip_id in enumerate(known)}
    if gone := [clip_id for clip_id in clip_ids if clip_id not in row_of]:
        raise VoxportraitError(f"clip {gone[0]} is not in {store.place.shown}: draw the portraits of this store")
    rows = np.array([row_of[clip_id] for clip_id in clip_ids], np.int64)
    order = np.argsort(rows)
    return dataset.take(rows[order].tolist(), columns=list(columns)).take(np.argsort(order))


def read_faces(source: "Any", clip_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Faces (N, 128, 128, 3) and their guides (N, 8, 8, 3), uint8, of clips in the order given.

    source: records, whose split the clips are of; or a store, of any split. A clip that has no face is a ValueError.
    """
    if not clip_ids:
        return np.empty((0, 128, 128, 3), np.uint8), np.empty((0, 8, 8, 3), np.uint8)
    if hasattr(source, "rows"):
        found = Faces.of(source).read(clip_ids)
        return found["target"], found["guide"]
    from featurestore.schema import decode

    table = read_columns(source, clip_ids, ["face_128", "face_128_guide"])
    return decode(table["face_128"], (128, 128, 3), "uint8"), decode(table["face_128_guide"], (8, 8, 3), "uint8")
