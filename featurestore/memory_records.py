"""Records in memory: for tests, and as the plainest example of the contract."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from featurestore.errors import VoxportraitError
from featurestore.pictures import image_guide
from featurestore.records import Field
from featurestore.selection import identity_of_clips


class MemoryRecords:
    """Records from arrays of N clips; see `records.Records`.

    compact: constituent -> (N, ...); target: (N, 128, 128, 3) uint8, or none; guide: (N, 8, 8, 3) uint8, made from the
    target where it is None. pictures: others of `records.PICTURES`. held_out: numbers of the clips that are only
    validated on. about: what `describe` adds.
    """

    def __init__(
        self,
        clip_ids: list[str],
        compact: Mapping[str, np.ndarray],
        target: np.ndarray | None = None,
        guide: np.ndarray | None = None,
        held_out: Iterable[int] = (),
        about: Mapping[str, Any] | None = None,
        pictures: Mapping[str, np.ndarray] | None = None,
    ):
        self.arrays = {**compact, **(pictures or {})}
        if target is not None:
            self.arrays |= {"target": target, "guide": image_guide(target) if guide is None else guide}
        self.fields: Mapping[str, Field] = {
            name: Field(values.shape[1:], str(values.dtype)) for name, values in self.arrays.items()
        }
        self.held_out = np.array(sorted(set(held_out)), np.uint64)
        self.rows = np.setdiff1d(np.arange(len(clip_ids), dtype=np.uint64), self.held_out)
        if not len(self.rows):
            raise VoxportraitError("there is no clip to train on")
        self.identity = identity_of_clips("memory", (clip_ids[row] for row in self.rows.tolist()))
        self.about = dict(about or {})
        self._clip_ids = clip_ids

    def read(self, rows: np.ndarray, out: Mapping[str, np.ndarray]) -> np.ndarray:
        for name, values in self.arrays.items():
            np.take(values, rows.astype(np.int64), axis=0, out=out[name][: len(rows)], mode="clip")
        return np.ones(len(rows), bool)

    def clip_ids(self, rows: np.ndarray) -> list[str]:
        return [self._clip_ids[int(row)] for row in rows]

    def only(self, names: Iterable[str]) -> "MemoryRecords":
        other, wanted = copy.copy(self), {*names} & self.arrays.keys()
        other.arrays = {name: values for name, values in self.arrays.items() if name in wanted}
        other.fields = {name: field for name, field in self.fields.items() if name in wanted}
        return other

    def describe(self) -> dict[str, Any]:
        return {"clips": len(self.rows), "held_out": len(self.held_out), **self.about}
