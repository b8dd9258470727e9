"""The true faces that portraits are compared with, from a store or from an export.

    faces = Faces.of(store)                    # or Faces.of(ExportRecords("clips.safetensors", split="test"))
    faces.read(["vox2/id00017/video/00001"])["target"]
    Faces.of(store, picture="face")            # at 256 px, Fine-portraitist's

`target` and `face` show the same square of the frame, at 128 and at 256 px.

Importable without Lance, Arrow and Ray; an export needs none of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from featurestore.clip import SPLITS
from featurestore.errors import VoxportraitError
from featurestore.records import PICTURES, Records

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
    """The clips with a face of one split. rows: clip id -> row of the records, by clip id; picture: which of
    `records.PICTURES` the face is."""

    records: Records
    rows: Mapping[str, int]
    picture: str = "target"

    @classmethod
    def of(cls, source: "Store | Records", split: str = "test", picture: str = "target") -> "Faces":
        """Those of a store's split, or of the split that the records were opened for.

        Raises VoxportraitError where no clip of the split has a face, or the records lack the picture.
        """
        records = _records(source, split, picture)
        found = zip(records.clip_ids(records.rows), records.rows.tolist(), strict=True)
        faces = cls(records, {clip_id: row for clip_id, row in sorted(found) if clip_id}, picture)
        if picture not in records.fields:
            raise VoxportraitError(
                f"{faces.where} holds no picture {picture!r}, which these portraits are likenesses of: export it with "
                f"--pictures {picture}"
            )
        return faces

    @property
    def side(self) -> int:
        """Pixels of a face's side."""
        return PICTURES[self.picture].shape[0]

    @cached_property
    def others(self) -> Mapping[str, int]:
        """The same of the clips that the records hold out: of the other split, people who are not drawn."""
        found = zip(self.records.clip_ids(self.records.held_out), self.records.held_out.tolist(), strict=True)
        return {clip_id: row for clip_id, row in sorted(found) if clip_id}

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
        """The picture (N, S, S, 3) by its name, with `target` also `guide` (N, 8, 8, 3), uint8, and the labels that
        there are, of clips in the order given: `age` (N,) in years or NaN, the others (N,) codes or -1. A
        VoxportraitError for one not here."""
        return self.read_rows(self.rows_of(clip_ids))

    def rows_of(self, clip_ids: Sequence[str]) -> np.ndarray:
        """The rows of clips: (N,) uint64."""
        if gone := [clip_id for clip_id in clip_ids if clip_id not in self.rows]:
            raise VoxportraitError(
                f"clip {gone[0]} is not among the {len(self.rows)} faces of {self.where}: draw the portraits again"
            )
        return np.array([self.rows[clip_id] for clip_id in clip_ids], np.uint64)

    def read_rows(self, rows: np.ndarray, names: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """The same of rows of the records, in their order; names: of what is wanted, all where it is empty. A
        VoxportraitError where one was erased meanwhile."""
        wanted = names or (self.picture, *(["guide"] if self.picture == "target" else []), *LABELS)
        fields = {name: one for name, one in self.records.fields.items() if name in wanted}
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

    def look(
        self, rows: np.ndarray, see: Callable[[np.ndarray], Mapping[str, np.ndarray]], told: Callable[[int], None]
    ) -> dict[str, np.ndarray]:
        """What somebody sees in the faces of at least one row, so that only a few are held: name -> (N, ...).

        see: (n, S, S, 3) uint8 -> name -> (n, ...). told: called with how many were looked at.
        """
        parts = []
        for first in range(0, len(rows), AT_ONCE):
            faces = self.read_rows(rows[first : first + AT_ONCE], [self.picture])[self.picture]
            parts.append(see(faces))
            told(len(faces))
        return joined(parts)

    @cached_property
    def untrained(self) -> tuple[str, ...]:
        """The labels that untrained weights gave."""
        return tuple(key for key in LABELS if key in self.records.describe().get("untrained", ()))


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Parts of the same arrays, at least one, each whole."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _records(source: "Store | Records", split: str, picture: str) -> Records:
    if hasattr(source, "rows"):
        return cast(Records, source)
    from featurestore.conditioning import LAYOUTS
    from featurestore.store_records import StoreRecords

    layout, others = LAYOUTS["slf"].only(*LABELS), held_out_of(split)
    pictures = ("target", "guide") if picture == "target" else (picture,)
    return StoreRecords(cast("Store", source), layout, pictures, missing="zero", split=split, held_out=others)


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


def read_pictures(source: "Any", clip_ids: Sequence[str]) -> list[np.ndarray | None]:
    """The picture `face`, (256, 256, 3) uint8, of clips in the order given; None of those that are not here.

    source: records, whose split or held out split the clips are of; or a store, of any split.
    """
    if hasattr(source, "rows"):
        faces = Faces.of(source, picture="face")
        known = {**faces.others, **faces.rows}
        here = {clip_id: row for clip_id in clip_ids if (row := known.get(clip_id)) is not None}
        found = dict(zip(here, faces.read_rows(np.array(list(here.values()), np.uint64))["face"], strict=True))
        return [found.get(clip_id) for clip_id in clip_ids]
    stored = set(source.table("clips").to_table(columns=["clip_id"])["clip_id"].to_pylist())
    wanted = [clip_id for clip_id in dict.fromkeys(clip_ids) if clip_id in stored]
    files = read_columns(source, wanted, ["face"])["face"].to_pylist() if wanted else []
    found = {clip_id: _decoded(file) for clip_id, file in zip(wanted, files, strict=True) if file}
    return [found.get(clip_id) for clip_id in clip_ids]


def _decoded(file: bytes) -> np.ndarray:
    from io import BytesIO

    from PIL import Image

    with Image.open(BytesIO(file)) as picture:
        return np.asarray(picture.convert("RGB"))
