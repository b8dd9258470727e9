"""Batches for others' trainers: a torch dataset, and a numpy iterator.

dataset = MatrixDataset(store.batches(layout, 64).records, layout, batch_size=64)
for batch in DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="spawn"):
    model(batch["matrix"], batch["target"])
    state = dataset.state_dict(batch)          # to go on behind this batch, with any number of workers

for batch in matrices(loader, layout):         # numpy
    ...
"""

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import islice, takewhile
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from featurestore.conditioning import Layout
from featurestore.errors import UsageError
from featurestore.feed import Feed, Inputs
from featurestore.loader import Loader
from featurestore.records import Records


class MatrixDataset(IterableDataset[dict[str, Any]]):
    """Whole batches, made on the CPU; the same stream for every number of workers and of ranks.

    A batch: `matrix` (B, 256, 768); the pictures by name, (B, 3, H, W) float32 in 0..1; `clip_id`, a list;
    `positions` (B,) in the epoch; the numbers `epoch` and `batch`. Give it to a DataLoader with batch_size=None. Each
    iteration begins at the place of `load_state_dict` or `set_epoch`.

    records: or a function that opens them, which every worker calls: a store's are opened, not sent.
    batch_size: of the global batch. rank, ranks: torch.distributed's where it is initialised, else 0 of 1.
    epochs: how many an iteration gives; None: without end. dropout: attributes are dropped, as in training.
    dtype, allow_missing: as of `Assembler`. reuse: a batch's tensors are used again for the next one, which is fast and
    only for num_workers=0. Workers must be spawned, or come from a forkserver: Lance cannot be forked.
    """

    def __init__(
        self,
        records: Records | Callable[[], Records],
        layout: Layout,
        batch_size: int,
        seed: int = 0,
        rank: int | None = None,
        ranks: int | None = None,
        remainder: str = "drop",
        epochs: int | None = 1,
        dropout: bool = True,
        dtype: torch.dtype = torch.float32,
        allow_missing: bool = False,
        reuse: bool = False,
    ):
        super().__init__()
        own_rank, all_ranks = _ranks()
        rank, ranks = own_rank if rank is None else rank, all_ranks if ranks is None else ranks
        self.layout, self.epochs, self.reuse, self._records = layout, epochs, reuse, records
        self._loader = partial(
            _Share, batch_size=batch_size, seed=seed, rank=rank, ranks=ranks, remainder=remainder, epochs=epochs
        )
        self._feed = partial(
            Feed, layout=layout, dropout_seed=seed if dropout else None, dtype=dtype, allow_missing=allow_missing,
            reuse=reuse,
        )  # fmt: skip
        self._opened: Records | None = None
        self._order = self._loader(self._open()).order
        self._place, self._given = (0, 0), (0, 0)
        self._process, self._was_iterated = os.getpid(), False

    def __iter__(self) -> Generator[dict[str, Any], None, None]:
        worker = get_worker_info()
        if self._process != os.getpid():
            raise UsageError(
                "the worker was forked, and Lance cannot be: give the DataLoader multiprocessing_context='spawn'"
            )
        if worker and self._was_iterated:
            raise UsageError(
                "a worker that is kept hears of no set_epoch and would give the same epochs again: use epochs=None, or "
                "persistent_workers=False"
            )
        if worker and self.reuse:
            raise UsageError("reuse=True is for num_workers=0: a worker's tensors would be overwritten on their way")
        self._was_iterated = True
        loader = self._loader(self._open(), share=(worker.id, worker.num_workers) if worker else (0, 1))
        loader.load_state_dict(self._order.state(*self._place))
        with closing(iter(self._feed(loader))) as feed:
            for inputs in feed:
                self._given = inputs.batch.epoch, inputs.batch.number + 1
                yield _as_dict(inputs)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._order.batches_per_epoch

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_was_iterated": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _process=os.getpid())

    def set_epoch(self, epoch: int) -> None:
        """Have the next iteration begin with this epoch."""
        self._place = self._given = (epoch, 0)

    def state_dict(self, batch: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The place behind a batch; None: behind the last one that this object gave itself, without workers."""
        return self._order.state(*(self._given if batch is None else (batch["epoch"], batch["batch"] + 1)))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have iterations begin there. Raises what `Order.place` raises."""
        self._place = self._given = self._order.place(state)

    def _open(self) -> Records:
        if self._opened is None:
            self._opened = self._records() if callable(self._records) else self._records
        return self._opened


def records_of(store_uri: str, layout: Layout, **options: Any) -> Records:
    """A store's records for a layout. options: as of `Store.batches`, of which those about records."""
    import featurestore

    return featurestore.open(store_uri).batches(layout, batch_size=1, **options).records


def matrices(
    loader: Loader,
    layout: Layout,
    dropout_seed: int | None = None,
    allow_missing: bool = False,
    reuse: bool = False,
) -> Iterator[dict[str, Any]]:
    """A loader's batches from its place on, as those of `MatrixDataset` in numpy: `matrix` (B, 256, 768) float32, ...

    dropout_seed: attributes are dropped as in training; None: never. reuse: a batch's arrays hold until the next one.
    """
    feed = Feed(loader, layout, dropout_seed=dropout_seed, allow_missing=allow_missing, reuse=reuse)
    with closing(iter(feed)) as batches:
        for inputs in batches:
            yield {name: _as_numpy(value) for name, value in _as_dict(inputs).items()}


class _Share(Loader):
    """Of the batches of so many epochs one worker's share (its number, of how many): batch by batch in turn."""

    def __init__(self, records: Records, epochs: int | None, share: tuple[int, int] = (0, 1), **options: Any):
        super().__init__(records, **options)
        self._epochs, self._share = epochs, share

    def _stream(self, batches):
        last = None if self._epochs is None else self._next[0] + self._epochs - 1
        until = takewhile(lambda wanted: last is None or wanted.epoch <= last, batches)
        return super()._stream(islice(until, self._share[0], None, self._share[1]))


def _ranks() -> tuple[int, int]:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _as_dict(inputs: Inputs) -> dict[str, Any]:
    return {
        "matrix": inputs.matrix,
        **inputs.pictures,
        "clip_id": inputs.batch.clip_ids,
        "positions": torch.from_numpy(np.asarray(inputs.batch.positions)),
        "epoch": inputs.batch.epoch,
        "batch": inputs.batch.number,
    }


def _as_numpy(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value
