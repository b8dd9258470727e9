"""A loader over arrays in memory: for tests, for exports, and as the plainest example of the contract."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from featurestore.conditioning import Batch, epoch_order, image_guide
from featurestore.errors import VoxportraitError


class MemoryLoader:
    """Batches from arrays of N clips, shuffled anew each epoch as a function of (seed, epoch).

    compact: constituent -> (N, ...); target: (N, 128, 128, 3) uint8; guide: (N, 8, 8, 3) uint8, made from the target
    where it is None. held_out: indices of the clips that are only validated on. What does not fill a last batch is left
    out of that epoch; fewer clips than a batch are repeated within it.
    """

    def __init__(
        self,
        clip_ids: list[str],
        compact: Mapping[str, np.ndarray],
        target: np.ndarray,
        batch_size: int,
        seed: int = 0,
        guide: np.ndarray | None = None,
        held_out: Iterable[int] = (),
        about: Mapping[str, Any] | None = None,
    ):
        held = set(held_out)
        self._train = np.array([i for i in range(len(clip_ids)) if i not in held])
        self._held = np.array(sorted(held), dtype=np.int64)
        if not len(self._train):
            raise VoxportraitError("there is no clip to train on")
        self.clip_ids, self.compact, self.target = clip_ids, dict(compact), target
        self.guide = image_guide(target) if guide is None else guide
        self.batch_size, self.seed, self.about = batch_size, seed, dict(about or {})
        self.batches_per_epoch = max(1, len(self._train) // batch_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = epoch_order(self._train, self.seed, epoch, self.batch_size)
        for number in range(start, self.batches_per_epoch):
            positions = np.arange(number * self.batch_size, (number + 1) * self.batch_size)
            yield self._batch(order[positions], positions, epoch)

    def validation(self) -> Iterator[Batch]:
        for first in range(0, len(self._held), self.batch_size):
            chosen = self._held[first : first + self.batch_size]
            yield self._batch(chosen, np.arange(first, first + len(chosen)), 0)

    def describe(self) -> dict[str, Any]:
        return {"clips": len(self._train), "held_out": len(self._held), "seed": self.seed, **self.about}

    def _batch(self, chosen: np.ndarray, positions: np.ndarray, epoch: int) -> Batch:
        return Batch(
            [self.clip_ids[i] for i in chosen],
            positions,
            epoch,
            {key: values[chosen] for key, values in self.compact.items()},
            self.target[chosen],
            self.guide[chosen],
        )
