"""Batches on the device: compact rows travel, the matrix is assembled there, pictures become numbers there.

feed = Feed(loader, layout, "cuda", dropout_seed=0)
for inputs in feed:                  # epoch after epoch, as the loader
    loss = model(inputs.matrix, inputs.target)
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from featurestore.assembly import Assembler
from featurestore.conditioning import Layout
from featurestore.draws import attribute_dropout
from featurestore.loader import Loader
from featurestore.records import Batch


@dataclass
class Inputs:
    """A batch on the device. Its tensors are the feed's, until the next is asked for.

    batch: where it comes from. matrix: (B, 256, 768). pictures: by their names in `records.PICTURES`, (B, 3, H, W)
    float32 in 0..1, channels last in memory; `bottom` is the face with 0 outside its bottom.
    """

    batch: Batch
    matrix: Tensor
    pictures: dict[str, Tensor] = field(default_factory=dict)

    @property
    def target(self) -> Tensor:
        return self.pictures["target"]

    @property
    def guide(self) -> Tensor:
        return self.pictures["guide"]


class Feed:
    """A loader's batches on a device.

    dropout_seed: attributes are dropped as in training, by the layout's probabilities; None: never.
    dtype: of the matrix.
    """

    def __init__(
        self,
        loader: Loader,
        layout: Layout,
        device: str | torch.device = "cpu",
        dropout_seed: int | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        self.loader, self.layout, self.device, self.dropout_seed = loader, layout, torch.device(device), dropout_seed
        self._assemble = Assembler(layout, self.device, dtype=dtype)

    def __iter__(self) -> Iterator[Inputs]:
        for batch in self.loader:
            yield self.move(batch)

    def move(self, batch: Batch) -> Inputs:
        """One batch on the device."""
        compact = {key: torch.from_numpy(values).to(self.device) for key, values in batch.compact.items()}
        dropped = None
        if self.dropout_seed is not None:
            draws = attribute_dropout(self.layout, self.dropout_seed, batch.epoch, batch.positions)
            dropped = {key: torch.from_numpy(values).to(self.device) for key, values in draws.items()}
        pictures = {name: torch.from_numpy(values).to(self.device) for name, values in batch.pictures.items()}
        return Inputs(batch, self._assemble(compact, dropped), {name: to_unit(p) for name, p in pictures.items()})


def to_unit(pictures: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in 0..1, channels last in memory."""
    return pictures.permute(0, 3, 1, 2).float().div_(255)
