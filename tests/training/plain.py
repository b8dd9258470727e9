"""A stage with one small layer in place of a U-Net: what a learner does is seen on it in milliseconds."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from featurestore import feed
from featurestore.draws import sample_seed
from featurestore.records import Batch
from training.presets import stage_preset
from training.stage import Stage

WIDTH = 6


@dataclass
class Rows:
    """Some numbers for each sample."""

    values: Tensor

    def __getitem__(self, rows: slice) -> "Rows":
        return Rows(self.values[rows])


class Limited(nn.Module):
    """A layer that has memory for so many samples, and one more that nothing asks."""

    def __init__(self, room: int | None):
        super().__init__()
        self.layer, self.unused, self.room, self.seen = nn.Linear(WIDTH, WIDTH), nn.Linear(2, 2), room, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if self.room is not None and len(x) > self.room:
            raise torch.OutOfMemoryError(f"no room for {len(x)}\nand more lines")
        return self.layer(x).tanh()


class PlainStage(Stage):
    """Takes the noise off its inputs."""

    name = "plain"

    def __init__(self, room: int | None = None, **settings):
        preset = replace(stage_preset("micro", 1), **{"learning_rate": 0.01, "warmup": 0, "clip": 0.5, **settings})
        super().__init__(preset, torch.device("cpu"))
        torch.manual_seed(3)
        self.network = self.limited = Limited(room)

    def inputs(self, fed: feed.Inputs) -> Rows:
        return Rows(fed.matrix)

    def noise(self, batch: Batch, seed: int, purpose: str = "noise") -> Rows:
        draws = [
            torch.randn(WIDTH, generator=torch.Generator().manual_seed(sample_seed(seed, batch.epoch, int(p), purpose)))
            for p in batch.positions
        ]
        return Rows(torch.stack(draws))

    def loss(self, inputs: Rows, noise: Rows) -> Tensor:
        return (self.network(inputs.values + noise.values) - inputs.values).square().mean(1)

    def columns(self, inputs: Rows, seeds) -> list[Tensor]:
        return []


def batch(number: int, size: int = 8, own: slice = slice(None)) -> feed.Inputs:
    """The part `own` of global batch `number`."""
    values = torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(100 + number))[own]
    positions = np.arange(number * size, (number + 1) * size)[own]
    return feed.Inputs(Batch(0, number, positions, positions.astype(np.uint64), [], {}, {}), values)


def weights(learner) -> Tensor:
    """All of them, trained and averaged, in one row."""
    both = (learner.stage.network, learner.average)
    return torch.cat([p.detach().reshape(-1) for network in both for p in network.parameters()])
