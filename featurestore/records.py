"""Compact rows: what a loader reads of a clip and hands over, wherever it comes from.

    records = StoreRecords(store, layout)          # or an export's, or arrays in memory
    records.read(records.rows[:64], slab.arrays)

Importable without Arrow, Lance or Ray.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

import numpy as np

from featurestore.catalogue import CATALOGUE
from featurestore.errors import choose


@dataclass(frozen=True)
class Field:
    """One thing in a record: the shape and type of its array."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Picture(Field):
    """A picture of a record. made_of: the constituents that a clip must have for it."""

    made_of: tuple[str, ...] = ()


PICTURES = {
    "target": Picture((128, 128, 3), "uint8", ("face_128",)),
    "guide": Picture((8, 8, 3), "uint8", ("face_128",)),
    "face": Picture((256, 256, 3), "uint8", ("face",)),
    "bottom": Picture((256, 256), "bool", ("face", "face_parts")),
}
"""target, guide: SLF's, RGB. face: the 256 px target, RGB. bottom: Fine-portraitist's mask of the bottom face on it."""

ARRAYS, LABELS = ("vector", "block"), ("label", "number")
"""Kinds of constituents that a record holds as they are stored, and those it holds as a number."""


def fields_of(constituents: Iterable[str], pictures: Iterable[str] = ("target", "guide")) -> dict[str, Field]:
    """The fields of records: constituents (an age in years or NaN, a label's code or -1), and pictures by name."""
    fields: dict[str, Field] = {}
    for key in constituents:
        entry = CATALOGUE[key]
        if entry.kind in ARRAYS:
            fields[key] = Field(entry.shape, entry.dtype)
        else:
            fields[key] = Field((), "float32" if entry.kind == "number" else "int64")
    return fields | {name: PICTURES[choose("picture", name, PICTURES)] for name in pictures}


class Records(Protocol):
    """Where records come from.

    fields: what a record holds. rows, held_out: the clips that are trained on and validated on, in the order of clip
    ids: (n,) uint64, what `read` takes. identity: equal where the clips, their places and their makers are.
    """

    fields: Mapping[str, Field]
    rows: np.ndarray
    held_out: np.ndarray
    identity: str

    def read(self, rows: np.ndarray, out: Mapping[str, np.ndarray]) -> np.ndarray:
        """Fill the first places of the arrays in `out` with these rows, in their order, less those that are gone.

        Zeros where a clip lacks a value. Returns which are here: (n,) bool. May be called from several threads.
        """
        ...

    def clip_ids(self, rows: np.ndarray) -> list[str]:
        """The clips' ids, "" where one is gone."""
        ...

    def only(self, names: Iterable[str]) -> "Records":
        """The same records with these of their fields alone: nothing else is read."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the data is (snapshot, makers, untrained inputs): JSON, the same for the same data."""
        ...


class Slab:
    """Buffers for `size` records that are used again and again: one piece of memory, an array for each field.

    pinned: where a GPU is to be fed, so that copies to it need not be waited for.
    """

    _ALIGNED = 64

    def __init__(self, fields: Mapping[str, Field], size: int, pinned: bool = False):
        starts, end = {}, 0
        for name, one in fields.items():
            starts[name] = end
            end += -(-one.nbytes * size // self._ALIGNED) * self._ALIGNED
        self.size, self.memory = size, _memory(end, pinned)
        self.arrays = {
            name: self.memory[starts[name] : starts[name] + one.nbytes * size].view(one.dtype).reshape(size, *one.shape)
            for name, one in fields.items()
        }

    def __len__(self) -> int:
        return self.size


def _memory(size: int, pinned: bool) -> np.ndarray:
    if not pinned:
        return np.zeros(size, np.uint8)
    import torch

    return torch.zeros(size, dtype=torch.uint8, pin_memory=True).numpy()


@dataclass
class Batch:
    """What a loader hands over: B clips in compact form. Its arrays are the loader's, until the next is asked for or
    the stream is closed; see `copy`.

    epoch, number: of the batch. positions: (B,) int64, each clip's place in the epoch. rows: (B,) uint64.
    compact: constituent -> (B, ...) as stored, zeros where a clip lacks it; `age` (B,) float32 in years, NaN unknown;
    `gender`, `ethnicity`, `language` (B,) int64 codes, -1 unknown.
    pictures: by their names in `PICTURES`, (B, H, W, 3) uint8 or (B, H, W) bool.
    """

    epoch: int
    number: int
    positions: np.ndarray
    rows: np.ndarray
    clip_ids: list[str]
    compact: dict[str, np.ndarray]
    pictures: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def target(self) -> np.ndarray:
        return self.pictures["target"]

    @property
    def guide(self) -> np.ndarray:
        return self.pictures["guide"]

    def copy(self) -> "Batch":
        """A batch that may be kept."""
        return replace(
            self,
            compact={key: values.copy() for key, values in self.compact.items()},
            pictures={name: values.copy() for name, values in self.pictures.items()},
        )
