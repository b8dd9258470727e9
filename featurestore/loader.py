"""Batches for training, read from a store: compact rows of the constituents that a layout uses, and the face.

A `Loader` as `conditioning.Loader` defines it: the order is a function of (seed, epoch), so a resume is exact; batches
are read ahead in a thread.

Rows are known by their stable row ids and read at the version the loader was opened at; when compaction or an erasure
has removed that one, at the newest. Makers must be the same then. Places of erased clips stay empty: no other clip
changes its position.
"""

import hashlib
import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import snapshots
from featurestore.catalogue import CATALOGUE
from featurestore.conditioning import Batch, Layout, attribute_code, epoch_order
from featurestore.errors import VoxportraitError
from featurestore.policy import COLUMNS, Policy
from featurestore.schema import decode
from featurestore.store import Store

AHEAD = 2
"""Batches that are read while the trainer is busy."""

REOPENED = 3
"""How often a read that fails is tried again at the newest version."""


class EmptyBatch(VoxportraitError):
    """All clips of a batch were erased or may not be used."""


class Loader:
    """Training batches of a store's clips.

    layout: its constituents are read; one that no clip of the store has is left out of the batches (zero rows in the
    matrix). A clip is used if it has the face and every other array that the layout uses; attributes may be unknown.
    split, held_out: what is trained and validated on. snapshot: the name of one, whose clips and order are used, and
    what was missing then is missing. policy: which clips may be used; a snapshot's own holds too, judged on the day of
    this one, and its clips that may not be used leave their places empty. Raises VoxportraitError when no clip is left,
    and what `snapshots.read` raises.

    rows, held_out: stable row ids, in the order of clip ids.
    """

    def __init__(
        self,
        store: Store,
        layout: Layout,
        batch_size: int,
        seed: int = 0,
        split: str = "train",
        held_out: str = "val",
        snapshot: str | None = None,
        policy: Policy | None = None,
    ):
        self.store, self.layout, self.batch_size, self.seed = store, layout, batch_size, seed
        self.policy = policy or Policy()
        self.dataset = store.table("clips")
        if snapshot is None:
            self.snapshot = snapshots.look(store, self.policy)
        else:
            self.snapshot = snapshots.read(store, snapshot, {*layout.constituents, "face_128"})
        self._policies = (self.policy, self.snapshot.policy(self.policy.judged))
        self.constituents = tuple(key for key in layout.constituents if key in self.snapshot.makers)
        arrays = [key for key in self.constituents if CATALOGUE[key].kind in ("vector", "block")]
        self.rows = self.snapshot.places(split, [*arrays, "face_128"])
        self.held_out = self.snapshot.places(held_out, [*arrays, "face_128"])
        self._refused = self._refused_rows(self.dataset)
        if not len(self.rows):
            raise VoxportraitError(
                f"no clip of split {split!r} in {store.place.shown} has a face and {', '.join(self.constituents)}. "
                "Fill them first (voxportrait store coverage says what is missing)."
            )
        self.batches_per_epoch = max(1, len(self.rows) // batch_size)

    def batches(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch from batch number `start` on, each read while the one before is used."""
        order = epoch_order(self.rows, self.seed, epoch, self.batch_size)
        ahead: queue.Queue[Batch | Exception | None] = queue.Queue(AHEAD)
        abandoned = threading.Event()

        def hand_over(item: Batch | Exception | None) -> None:
            while not abandoned.is_set():
                try:
                    return ahead.put(item, timeout=0.1)
                except queue.Full:
                    continue

        def read() -> None:
            try:
                for number in range(start, self.batches_per_epoch):
                    if abandoned.is_set():
                        return
                    positions = np.arange(number * self.batch_size, (number + 1) * self.batch_size)
                    hand_over(self.read(order[positions], positions, epoch))
                hand_over(None)
            except (OSError, ValueError, VoxportraitError) as error:
                hand_over(error)

        thread = threading.Thread(target=read, name="loader", daemon=True)
        thread.start()
        try:
            while (batch := ahead.get()) is not None:
                if isinstance(batch, Exception):
                    raise batch
                yield batch
        finally:
            abandoned.set()
            thread.join()

    def validation(self) -> Iterator[Batch]:
        """Batches of the held-out speakers in a fixed order; the last may be smaller."""
        yield from self.in_order(self.held_out)

    def in_order(self, rows: np.ndarray) -> Iterator[Batch]:
        """Batches of these rows, in their order; one with no clip left is left out."""
        for first in range(0, len(rows), self.batch_size):
            chosen = rows[first : first + self.batch_size]
            with suppress(EmptyBatch):
                yield self.read(chosen, np.arange(first, first + len(chosen)), 0)

    def clip_ids(self, rows: np.ndarray) -> list[str]:
        """The ids of the clips in these rows, in their order; "" where the clip was erased."""
        table = self.store.table("clips").to_table(columns=["clip_id"], with_row_id=True)
        places = pc.index_in(pa.array(rows), value_set=table["_rowid"])
        return table["clip_id"].take(places).fill_null("").to_pylist()

    def describe(self) -> dict[str, Any]:
        """What is trained on, for the run's record: clips, makers by constituent, what is untrained or absent.

        The same for the same data: the day on which the policy was judged is in `policy.record()`.
        """
        makers = self.store.table("makers").to_table(columns=["digest", "trained"]).to_pylist()
        untrained = {row["digest"] for row in makers if not row["trained"]}
        used = {key: list(self.snapshot.makers[key].digests) for key in (*self.constituents, "face_128")}
        if self.snapshot.name:
            which = {"snapshot": self.snapshot.name, "digest": self.snapshot.digest}
        else:
            clip_ids = "\n".join(self.clip_ids(self.rows))
            which = {"clip_ids": hashlib.sha256(clip_ids.encode()).hexdigest()}
        return {
            "clips": len(self.rows),
            **which,
            "erasure_epoch": self.snapshot.erasure_epoch,
            "policy": {name: value for name, value in self.policy.record().items() if name != "judged"},
            "held_out": len(self.held_out),
            "seed": self.seed,
            "makers": used,
            "absent": [key for key in self.layout.constituents if key not in self.constituents],
            "untrained": [key for key, digests in used.items() if untrained & set(digests)],
        }

    def read(self, rows: np.ndarray, positions: np.ndarray, epoch: int) -> Batch:
        """Clips by their row, in the order given; those that were erased, or may not be used, are left out.

        Raises EmptyBatch where none is left, VoxportraitError where a value was made anew since the loader was opened.
        """
        columns = ["_rowid", "clip_id", *self.constituents, "face_128", "face_128_guide"]
        table = self._take(rows, columns)
        here = table["_rowid"].to_numpy()
        is_here = np.isin(rows, here)
        if not is_here.any():
            raise EmptyBatch(
                f"all clips of a batch (positions {positions[0]} to {positions[-1]}) were erased or may not be used: "
                "take a new snapshot"
            )
        back = np.searchsorted(here, rows[is_here])
        return Batch(
            [table["clip_id"][int(i)].as_py() for i in back],
            positions[is_here],
            epoch,
            {key: _compact(key, table[key])[back] for key in self.constituents},
            decode(table["face_128"], (128, 128, 3), "uint8")[back],
            decode(table["face_128_guide"], (8, 8, 3), "uint8")[back],
        )

    def _take(self, rows: np.ndarray, columns: list[str]) -> pa.Table:
        """Rows in ascending order, less those that are gone or refused; from the newest version where this is gone."""
        for _ in range(REOPENED):
            try:
                return self.dataset._take_rows(np.setdiff1d(rows, self._refused).tolist(), columns=columns)
            except (OSError, ValueError):  # as Lance and Arrow tell of a file that is gone
                self._reopen()
        return self.dataset._take_rows(np.setdiff1d(rows, self._refused).tolist(), columns=columns)

    def _reopen(self) -> None:
        dataset = self.store.table("clips")
        snapshots.check(self.store, self.snapshot, dataset, {*self.constituents, "face_128"})
        self._refused = self._refused_rows(dataset)
        self.dataset = dataset

    def _refused_rows(self, dataset: lance.LanceDataset) -> np.ndarray:
        """Rows of a version of `clips` that a policy does not allow."""
        if all(policy.takes_all for policy in self._policies):
            return np.empty(0, np.uint64)
        table = dataset.to_table(columns=list(COLUMNS), with_row_id=True)
        allowed = np.logical_and.reduce([policy.allows(table) for policy in self._policies])
        return table["_rowid"].to_numpy()[~allowed]


def _compact(key: str, column: pa.ChunkedArray) -> np.ndarray:
    """A column as a batch holds it: arrays as they are, an age in years or NaN, a label as its code or -1."""
    entry = CATALOGUE[key]
    if entry.kind in ("vector", "block"):
        return decode(column, entry.shape, entry.dtype)
    if entry.kind == "number":
        return np.array([np.nan if v is None else v for v in column.to_pylist()], np.float32)
    return np.array([attribute_code(key, label) for label in column.to_pylist()], np.int64)
