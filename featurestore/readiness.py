"""What a store has for a layout: which clips the matrix can be assembled of, and what one clip gives for it.

found = Readiness.of(store, LAYOUTS["slf"])
found.clips(), found.assembled(), found.lacking("train")
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import snapshots
from featurestore.catalogue import ATTRIBUTES, CATALOGUE
from featurestore.clip import SPLITS
from featurestore.conditioning import Layout
from featurestore.errors import UsageError
from featurestore.policy import COLUMNS, Policy
from featurestore.records import ARRAYS, PICTURES, fields_of
from featurestore.schema import decode
from featurestore.snapshots import Snapshot
from featurestore.store import Store

PICTURE = PICTURES["target"].made_of[0]
"""What a clip must have beside the matrix to be trained on."""


@dataclass(frozen=True)
class Readiness:
    """The clips of a store or of a snapshot, and what each has for a layout; from the small maker columns alone.

    usable: (n,) bool, the places of the snapshot whose clip is there and may be used.
    """

    store: Store
    layout: Layout
    snapshot: Snapshot
    usable: np.ndarray

    @classmethod
    def of(cls, store: Store, layout: Layout, snapshot: str | None = None, policy: Policy | None = None) -> "Readiness":
        """Look at a store; snapshot, policy: as in `StoreRecords`. Raises what `snapshots.look` and `read` raise."""
        policy = policy or Policy()
        if snapshot is None:
            looked = snapshots.look(store, policy)
            return cls(store, layout, looked, looked.present)
        looked = snapshots.read(store, snapshot, {*layout.constituents, PICTURE})
        return cls(store, layout, looked, looked.present & _allowed(store, looked, policy))

    def clips(self) -> dict[str, int]:
        """Split -> clips."""
        return {split: int(self._has(split, ()).sum()) for split in SPLITS}

    def assembled(self, layout: Layout | None = None, picture: bool = False) -> dict[str, int]:
        """Split -> clips that have all that a layout reads, this one where none is named.

        picture: that have the face to train on, too.
        """
        needed = (*(layout or self.layout).constituents, *([PICTURE] if picture else []))
        return {split: int(self._has(split, needed).sum()) for split in SPLITS}

    def lacking(self, split: str) -> dict[str, int]:
        """Constituent of the layout, or the face -> clips of a split that lack it."""
        clips = self._has(split, ())
        return {key: int((clips & ~self.snapshot.had(key)).sum()) for key in (*self.layout.constituents, PICTURE)}

    def incomplete(self, splits: Sequence[str] = SPLITS) -> Iterator[tuple[str, str, list[str]]]:
        """(clip id, split, what it lacks) of each clip that lacks something, in the order of clip ids."""
        keys = (*self.layout.constituents, PICTURE)
        lacks = np.stack([~self.snapshot.had(key) for key in keys])
        chosen = np.isin(self.snapshot.splits, [SPLITS.index(split) for split in splits])
        places = np.flatnonzero(self.usable & chosen & lacks.any(0))
        table = self.store.table("clips").to_table(columns=["clip_id"], with_row_id=True)
        at = pc.index_in(pa.array(self.snapshot.row_ids[places]), value_set=table["_rowid"].combine_chunks())
        names = table["clip_id"].combine_chunks().take(at).to_pylist()
        for name, place in zip(names, places, strict=True):
            yield name, SPLITS[self.snapshot.splits[place]], [keys[i] for i in np.flatnonzero(lacks[:, place])]

    def _has(self, split: str, constituents: Sequence[str]) -> np.ndarray:
        return self.usable & self.snapshot.has(split, constituents)


@dataclass(frozen=True)
class OneClip:
    """What one clip has for a layout. compact: as in `records.Batch`, of one clip; row_id: stable."""

    clip_id: str
    row_id: int
    compact: dict[str, np.ndarray]
    missing: tuple[str, ...]


def one_clip(store: Store, layout: Layout, clip_id: str) -> OneClip:
    """The constituents of a layout that a clip has. A UsageError for a clip that is not there."""
    dataset = store.table("clips")
    there = [key for key in layout.constituents if key in dataset.schema.names]
    columns = [*there, *(CATALOGUE[key].maker_column for key in there)]
    escaped = clip_id.replace("'", "''")
    table = dataset.scanner(columns=columns, filter=f"clip_id = '{escaped}'", with_row_id=True).to_table()
    if not len(table):
        known = dataset.head(1, columns=["clip_id"])["clip_id"].to_pylist()
        example = f"clips are called as {known[0]!r} is" if known else "it has none"
        raise UsageError(f"there is no clip {clip_id!r} in {store.place.shown}: {example}")
    made = [key for key in there if table[CATALOGUE[key].maker_column][0].as_py() is not None]
    missing = tuple(key for key in layout.constituents if key not in made)
    return OneClip(clip_id, table["_rowid"][0].as_py(), {key: _value(key, table) for key in made}, missing)


def _value(key: str, table: pa.Table) -> np.ndarray:
    field = fields_of([key], ())[key]
    if CATALOGUE[key].kind in ARRAYS:
        return decode(table[key], field.shape, field.dtype)
    value = table[key][0].as_py()
    if key in ATTRIBUTES:
        value = ATTRIBUTES[key].index(value) if value in ATTRIBUTES[key] else -1
    return np.array([np.nan if value is None else value], field.dtype)


def _allowed(store: Store, snapshot: Snapshot, policy: Policy) -> np.ndarray:
    """The places whose clip both policies allow, the asked one and the snapshot's own."""
    policies = [one for one in (policy, snapshot.policy(policy.judged)) if not one.takes_all]
    if not policies:
        return np.ones(len(snapshot), bool)
    table = store.table("clips").to_table(columns=list(COLUMNS), with_row_id=True)
    allowed = np.logical_and.reduce([one.allows(table) for one in policies])
    return np.isin(snapshot.row_ids, table["_rowid"].to_numpy()[allowed])
