"""Batches for training: shuffled, shared over ranks, read ahead, and exact to go on with.

    loader = Loader(StoreRecords(store, layout), batch_size=64, seed=0, rank=0, ranks=4)
    for batch in loader:                 # epoch after epoch
        ...
        state = loader.state_dict()      # the next batch's place, for any number of ranks

A batch's arrays are lent: they hold until the next batch of its stream is asked for, or the stream is closed.
Importable without Lance or Arrow: records come from a store, an export, or memory (`records.Records`).
"""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain, count, islice
from typing import Any

import numpy as np

from featurestore.errors import UsageError, VoxportraitError
from featurestore.order import Order
from featurestore.records import PICTURES, Batch, Records, Slab

GROUP = 256
"""Clips that are read at once, where batches are smaller: a store answers few large questions faster than many."""


class EmptyBatch(VoxportraitError):
    """All clips of a global batch were erased or may not be used."""


@dataclass
class Timing:
    """What a loader was asked for, over all its epochs and streams. waited: seconds for which its user waited;
    seconds: in all, while there was a stream."""

    batches: int = 0
    samples: int = 0
    waited: float = 0.0
    seconds: float = 0.0
    _streams: int = field(default=0, repr=False)
    _seen: float = field(default=0.0, repr=False)

    @property
    def share(self) -> float:
        """Of the time, how much was spent waiting for the loader: 0 to 1."""
        return self.waited / self.seconds if self.seconds else 0.0

    @property
    def samples_per_second(self) -> float:
        return self.samples / self.seconds if self.seconds else 0.0

    def describe(self) -> str:
        """For a person: how long the loader was waited for, and how fast batches went."""
        return f"waited for data {100 * self.share:.0f} % of the time, {self.samples_per_second:,.0f} samples a second"

    @contextmanager
    def stream(self) -> Iterator[None]:
        """While a stream is open, time counts; of several streams at once, once."""
        self._pass()
        self._streams += 1
        try:
            yield
        finally:
            self._pass()
            self._streams -= 1

    def asked(self) -> None:
        """A batch is waited for from here on."""
        self._pass()

    def handed_over(self, samples: int, excused: float = 0.0) -> None:
        """It is there. excused: seconds of the wait that do not count."""
        self.waited += max(0.0, self._pass() - excused)
        self.batches += 1
        self.samples += samples

    def _pass(self) -> float:
        now = time.perf_counter()
        passed = now - self._seen if self._streams else 0.0
        self.seconds, self._seen = self.seconds + passed, now
        return passed


@dataclass(frozen=True)
class _Wanted:
    """A batch to read: its places in the epoch and its rows, of this rank and (`everybody`) of all ranks."""

    epoch: int
    number: int
    positions: np.ndarray
    rows: np.ndarray
    everybody: np.ndarray


class Loader:
    """Batches of records.

    batch_size: of the global batch, of which each rank takes its part. remainder: see `order.REMAINDERS`.
    ahead: groups of batches that are read while the trainer is busy with one. readers: threads that read; more than one
    pays where a read is mostly waiting, as for an object store. pinned: whether new buffers are for a GPU, as a feed to
    one has it. timing: how long it was waited for. Raises what `Order` raises.

    A clip that was erased leaves its place empty, so a batch may be smaller. Where a rank's whole part is gone, that
    rank is handed a batch of no clips and stays in step with the others: a trainer on several ranks weighs gradients by
    `len(batch)`. Where all ranks' clips are gone, each of them gets an EmptyBatch, when its turn comes.
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
    ):
        if min(ahead, readers) < 1:
            raise UsageError(f"a loader with {ahead} groups ahead and {readers} readers: it takes one of each at least")
        self.records, self.batch_size = records, batch_size
        self.order = Order(len(records.rows), batch_size, seed, rank, ranks, remainder, records.identity)
        self.timing = Timing()
        self.pinned = False
        self._ahead, self._readers = max(ahead, readers), readers
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

    def __iter__(self) -> Generator[Batch, None, None]:
        """Batch after batch, epoch after epoch, from where `state_dict` says."""
        with closing(self.onward()) as stream:
            for batch in stream:
                self.go_on_behind(batch)
                yield batch

    def onward(self) -> Generator[Batch, None, None]:
        """As iteration, but `state_dict` stays where it is: for who reads ahead of the trainer."""
        epoch, start = self._next
        later = (wanted for number in count(epoch + 1) for wanted in self._epoch(number))
        with closing(self._stream(chain(self._epoch(epoch, start), later))) as stream:
            yield from _raising(stream)

    def go_on_behind(self, batch: Batch) -> None:
        """Have the next iteration, and `state_dict`, begin behind this batch."""
        self._next = divmod(batch.epoch * self.batches_per_epoch + batch.number + 1, self.batches_per_epoch)

    def batches(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of one epoch from batch number `start` on."""
        with closing(self._stream(self._epoch(epoch, start))) as stream:
            yield from _raising(stream)

    def validation(self, most: int | None = None) -> Generator[Batch, None, None]:
        """Batches of the held-out speakers, of `most` of their clips evenly spread where there are more: see
        `in_order`."""
        rows = self.records.held_out
        if most is not None and most < len(rows):
            rows = rows[np.arange(most) * len(rows) // most]
        return self.in_order(rows)

    def in_order(self, rows: np.ndarray) -> Generator[Batch, None, None]:
        """Batches of these rows in their order, all of them on every rank, each of a rank's size; the last may be
        smaller, and one with no clip left is left out."""
        wanted = (
            _Wanted(0, number, np.arange(first, first + len(some)), some, some)
            for number, first in enumerate(range(0, len(rows), self._own_size))
            for some in (rows[first : first + self._own_size],)
        )
        with closing(self._stream(wanted)) as stream:
            yield from (batch for batch in stream if isinstance(batch, Batch))

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch of iteration stands: JSON, the same on every rank."""
        return self.order.state(*self._next)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the next iteration go on where another loader was, on whatever number of ranks. Raises what
        `Order.place` raises."""
        self._next = self.order.place(state)

    def describe(self) -> dict[str, Any]:
        """What is trained on, for the run's record."""
        return {**self.records.describe(), "seed": self.seed}

    def _epoch(self, epoch: int, start: int = 0) -> Iterator[_Wanted]:
        rows = self.records.rows[self.order.epoch(epoch)]
        for number in range(start, self.batches_per_epoch):
            own, everybody = self.order.positions(number), self.order.everybody(number)
            yield _Wanted(epoch, number, own, rows[own], rows[everybody])

    def _stream(self, batches: Iterable[_Wanted]) -> Generator[Batch | EmptyBatch, None, None]:
        todo, reading = iter(batches), deque[tuple[Future[list[Batch | EmptyBatch]], Slab]]()
        lent: list[Slab] = []
        pool = ThreadPoolExecutor(self._readers, "loader")

        def read_ahead() -> None:
            while len(reading) < self._ahead and (group := list(islice(todo, self._together))):
                lent.append(self._slab())
                reading.append((pool.submit(self._read, group, lent[-1]), lent[-1]))

        with self.timing.stream():
            try:
                read_ahead()
                while reading:
                    future, slab = reading.popleft()
                    group = future.result()
                    read_ahead()
                    for batch in group:
                        if isinstance(batch, Batch):
                            self.timing.handed_over(len(batch))
                        yield batch
                        self.timing.asked()
                    lent.remove(slab)
                    self._free.append(slab)
            finally:
                pool.shutdown(cancel_futures=True)
                self._free += lent

    def _slab(self) -> Slab:
        try:
            return self._free.pop()
        except IndexError:
            return Slab(self.records.fields, self._together * self._own_size, self.pinned)

    def _read(self, group: list[_Wanted], slab: Slab) -> list[Batch | EmptyBatch]:
        """The batches of a group, as views of a slab."""
        rows = np.concatenate([wanted.rows for wanted in group])
        here = self.records.read(rows, slab.arrays) if len(rows) else np.zeros(0, bool)
        clip_ids = self.records.clip_ids(rows[here])
        batches: list[Batch | EmptyBatch] = []
        first = 0
        ends = np.cumsum([len(wanted.rows) for wanted in group])
        for wanted, is_here in zip(group, np.split(here, ends[:-1]), strict=True):
            if not is_here.any() and self._is_gone(wanted.everybody):
                batches.append(
                    EmptyBatch(
                        f"all {len(wanted.everybody)} clips of batch {wanted.number} of epoch {wanted.epoch} were "
                        "erased or may not be used: take a new snapshot"
                    )
                )
                continue
            part = slice(first, first := first + int(is_here.sum()))
            arrays = {name: values[part] for name, values in slab.arrays.items()}
            places = wanted.positions[is_here], wanted.rows[is_here]
            batches.append(Batch(wanted.epoch, wanted.number, *places, clip_ids[part], *_parted(arrays)))
        return batches

    def _is_gone(self, rows: np.ndarray) -> bool:
        """Whether none of these is left."""
        one = Slab(self.records.fields, 1)
        return not any(self.records.read(rows[i : i + 1], one.arrays).any() for i in range(len(rows)))


def _raising(stream: Iterable[Batch | EmptyBatch]) -> Iterator[Batch]:
    for batch in stream:
        if isinstance(batch, EmptyBatch):
            raise batch
        yield batch


def _parted(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Constituents, pictures."""
    return (
        {name: values for name, values in arrays.items() if name not in PICTURES},
        {name: values for name, values in arrays.items() if name in PICTURES},
    )
