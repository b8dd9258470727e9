"""Batches for training: shuffled, shared over ranks, read ahead, and exact to go on with.

    loader = Loader(StoreRecords(store, layout), batch_size=64, seed=0, rank=0, ranks=4)
    for batch in loader:                 # epoch after epoch
        ...
        state = loader.state_dict()      # the next batch's place, for any number of ranks

Importable without Lance: records come from a store, an export, or memory (`records.Records`).
"""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from featurestore.errors import VoxportraitError
from featurestore.order import Order
from featurestore.records import PICTURES, Batch, Records, Slab

GROUP = 256
"""Clips that are read at once, where batches are smaller: a store answers few large questions faster than many."""


class EmptyBatch(VoxportraitError):
    """All clips of a batch were erased or may not be used."""


@dataclass
class Timing:
    """What a loader was asked for. waited: seconds for which its user waited; seconds: in all, from the first batch."""

    batches: int = 0
    samples: int = 0
    waited: float = 0.0
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """Of the time, how much was spent waiting for the loader: 0 to 1."""
        return self.waited / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class _Read:
    """Batches to read together: their rows, one after another, and where each begins and ends."""

    epoch: int
    numbers: list[int]
    positions: list[np.ndarray]
    rows: np.ndarray


class Loader:
    """Batches of records.

    batch_size: of the global batch, of which each rank takes its part. remainder: see `order.REMAINDERS`.
    ahead: groups of batches that are read while the trainer is busy. readers: threads that read; more than one pays
    where a read is mostly waiting, as for an object store. pinned: buffers for a GPU.
    timing: how long it was waited for. Raises what `Order` raises.
    """

    def __init__(
        self,
        records: Records,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        remainder: str = "drop",
        ahead: int = 2,
        readers: int = 1,
        pinned: bool = False,
    ):
        self.records, self.batch_size = records, batch_size
        self.order = Order(len(records.rows), batch_size, seed, rank, ranks, remainder, records.identity)
        self.timing = Timing()
        self._ahead, self._readers, self._pinned = max(ahead, readers), readers, pinned
        self._own_size = batch_size // ranks
        self._together = max(1, GROUP // self._own_size)
        self._free: list[Slab] = []
        self._next = (0, 0)

    @property
    def seed(self) -> int:
        return self.order.seed

    @property
    def batches_per_epoch(self) -> int:
        return self.order.batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        """Batch after batch, epoch after epoch, from where `state_dict` says."""
        epoch, first = self._next
        places = ((e, first if e == epoch else 0) for e in count(epoch))
        for batch in self._stream(read for e, start in places for read in self._epoch(e, start)):
            self._next = divmod(batch.epoch * self.batches_per_epoch + batch.number + 1, self.batches_per_epoch)
            yield batch

    def batches(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of one epoch from batch number `start` on."""
        return self._stream(self._epoch(epoch, start))

    def validation(self) -> Iterator[Batch]:
        """Batches of the held-out speakers in a fixed order, all of them on every rank; the last may be smaller."""
        yield from self.in_order(self.records.held_out)

    def in_order(self, rows: np.ndarray) -> Iterator[Batch]:
        """Batches of these rows, in their order; one with no clip left is left out."""
        positions = np.arange(len(rows))
        slab = Slab(self.records.fields, self.batch_size)
        for number, first in enumerate(range(0, len(rows), self.batch_size)):
            chosen = slice(first, first + self.batch_size)
            with suppress(EmptyBatch):
                yield from self._read(_Read(0, [number], [positions[chosen]], rows[chosen]), slab)

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch of iteration stands: JSON, the same on every rank."""
        return self.order.state(*self._next)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another loader was, on whatever number of ranks. Raises what `Order.place` raises."""
        self._next = self.order.place(state)

    def describe(self) -> dict[str, Any]:
        """What is trained on, for the run's record."""
        return {**self.records.describe(), "seed": self.seed}

    def _epoch(self, epoch: int, start: int) -> Iterator[_Read]:
        for first in range(start, self.batches_per_epoch, self._together):
            numbers = list(range(first, min(first + self._together, self.batches_per_epoch)))
            positions = [self.order.positions(number) for number in numbers]
            clips = self.order.clips_at(epoch, np.concatenate(positions))
            yield _Read(epoch, numbers, positions, self.records.rows[clips])

    def _stream(self, reads: Iterable[_Read]) -> Generator[Batch, None, None]:
        todo, reading = iter(reads), deque[tuple[Future[list[Batch]], Slab]]()
        pool = ThreadPoolExecutor(self._readers, "loader")
        began = time.perf_counter() - self.timing.seconds
        try:
            while True:
                while len(reading) < self._ahead and (read := next(todo, None)):
                    slab = self._free.pop() if self._free else self._slab()
                    reading.append((pool.submit(self._read, read, slab), slab))
                if not reading:
                    return
                future, slab = reading.popleft()
                asked = time.perf_counter()
                batches = future.result()
                self.timing.waited += time.perf_counter() - asked
                for batch in batches:
                    self.timing.batches += 1
                    self.timing.samples += len(batch)
                    self.timing.seconds = time.perf_counter() - began
                    yield batch
                self._free.append(slab)
        finally:
            pool.shutdown(cancel_futures=True)
            self._free += [slab for _, slab in reading]

    def _slab(self) -> Slab:
        return Slab(self.records.fields, self._together * self._own_size, self._pinned)

    def _read(self, read: _Read, slab: Slab) -> list[Batch]:
        """The batches of a group, as views of a slab."""
        here = self.records.read(read.rows, slab.arrays)
        clip_ids, rows = self.records.clip_ids(read.rows[here]), read.rows[here]
        batches, first = [], 0
        ends = np.cumsum([len(positions) for positions in read.positions])
        for number, positions, is_here in zip(read.numbers, read.positions, np.split(here, ends[:-1]), strict=True):
            if not is_here.any() and len(positions):
                raise EmptyBatch(
                    f"all clips of batch {number} (positions {positions[0]} to {positions[-1]}) were erased or may "
                    "not be used: take a new snapshot"
                )
            part = slice(first, first + int(is_here.sum()))
            arrays = {name: values[part] for name, values in slab.arrays.items()}
            batches.append(Batch(read.epoch, number, positions[is_here], rows[part], clip_ids[part], *_parted(arrays)))
            first = part.stop
        return batches


def _parted(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Constituents, pictures."""
    return (
        {name: values for name, values in arrays.items() if name not in PICTURES},
        {name: values for name, values in arrays.items() if name in PICTURES},
    )
