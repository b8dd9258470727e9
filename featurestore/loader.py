"""Batches for training, read from a store: compact rows of the constituents that a layout uses, and the face.

A `Loader` as `conditioning.Loader` defines it: the order is a function of (seed, epoch), so a resume is exact; batches
are read ahead in a thread. Rows are read at the version the loader was opened at.
"""

import hashlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.catalogue import CATALOGUE
from featurestore.conditioning import Batch, Layout, attribute_code, epoch_order
from featurestore.errors import VoxportraitError
from featurestore.schema import decode
from featurestore.store import Store

AHEAD = 2
"""Batches that are read while the trainer is busy."""


class Loader:
    """Training batches of a store's clips.

    layout: its constituents are read; one that no clip of the store has is left out of the batches (zero rows in the
    matrix). A clip is used if it has the face and every other array that the layout uses; attributes may be unknown.
    split, held_out: what is trained and validated on. Raises VoxportraitError when no clip is left.
    """

    def __init__(
        self,
        store: Store,
        layout: Layout,
        batch_size: int,
        seed: int = 0,
        split: str = "train",
        held_out: str = "val",
    ):
        self.store, self.layout, self.batch_size, self.seed = store, layout, batch_size, seed
        self.dataset = store.table("clips")
        self.constituents = present_constituents(store, layout)
        self.rows = self._usable(split)
        self.held_out = self._usable(held_out)
        if not len(self.rows):
            raise VoxportraitError(
                f"no clip of split {split!r} in {store.uri} has a face and {', '.join(self.constituents)}. "
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
        """Batches of these rows of the table, in their order."""
        for first in range(0, len(rows), self.batch_size):
            chosen = rows[first : first + self.batch_size]
            yield self.read(chosen, np.arange(first, first + len(chosen)), 0)

    def describe(self) -> dict[str, Any]:
        """What is trained on, for the run's record: clips, makers by constituent, what is untrained or absent."""
        makers = {row["id"]: row for row in self.store.table("makers").to_table().to_pylist()}
        used = {}
        for key in (*self.constituents, "face_128"):
            column = self.dataset.to_table(columns=[CATALOGUE[key].maker_column])[0]
            used[key] = sorted(makers[i]["digest"] for i in column.unique().to_pylist() if i is not None)
        untrained = {row["digest"] for row in makers.values() if not row["trained"]}
        clip_ids = self.dataset.take(self.rows.tolist(), columns=["clip_id"])["clip_id"].to_pylist()
        return {
            "clips": len(self.rows),
            "clip_ids": hashlib.sha256("\n".join(clip_ids).encode()).hexdigest(),
            "held_out": len(self.held_out),
            "seed": self.seed,
            "makers": used,
            "absent": [key for key in self.layout.constituents if key not in self.constituents],
            "untrained": [key for key, digests in used.items() if untrained & set(digests)],
        }

    def read(self, rows: np.ndarray, positions: np.ndarray, epoch: int) -> Batch:
        """Clips by their row in the table, in the order given."""
        columns = ["clip_id", *self.constituents, "face_128", "face_128_guide"]
        order = np.argsort(rows, kind="stable")
        table = self.dataset.take(rows[order].tolist(), columns=columns)
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return Batch(
            [table["clip_id"][int(i)].as_py() for i in back],
            positions,
            epoch,
            {key: _compact(key, table[key])[back] for key in self.constituents},
            decode(table["face_128"], (128, 128, 3), "uint8")[back],
            decode(table["face_128_guide"], (8, 8, 3), "uint8")[back],
        )

    def _usable(self, split: str) -> np.ndarray:
        needed = [key for key in self.constituents if CATALOGUE[key].kind in ("vector", "block")]
        makers = [CATALOGUE[key].maker_column for key in (*needed, "face_128")]
        columns = [c for c in ("split", *makers) if c in self.dataset.schema.names]
        if len(columns) <= len(makers):
            return np.empty(0, np.int64)
        table = self.dataset.to_table(columns=columns)
        usable = np.array(table["split"].to_pylist()) == split
        for column in makers:
            usable &= table[column].is_valid().to_numpy()
        return np.flatnonzero(usable)


def present_constituents(store: Store, layout: Layout) -> tuple[str, ...]:
    """The constituents of a layout that at least one clip of the store has."""
    counts = store.coverage()["constituents"]
    return tuple(key for key in layout.constituents if counts[key]["filled"])


def _compact(key: str, column: pa.ChunkedArray) -> np.ndarray:
    """A column as a batch holds it: arrays as they are, an age in years or NaN, a label as its code or -1."""
    entry = CATALOGUE[key]
    if entry.kind in ("vector", "block"):
        return decode(column, entry.shape, entry.dtype)
    if entry.kind == "number":
        return np.array([np.nan if v is None else v for v in column.to_pylist()], np.float32)
    return np.array([attribute_code(key, label) for label in column.to_pylist()], np.int64)
