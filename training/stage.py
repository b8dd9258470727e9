"""One thing that is trained: batches in, a loss of each sample out. What the step and the loop ask of it."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from featurestore import feed
from featurestore.records import Batch
from training.settings import Settings

Samples = TypeVar("Samples")


class Sliceable(Protocol):
    """Tensors with a row per sample; a slice of it has some of the rows."""

    def __getitem__(self: Samples, rows: slice) -> Samples: ...


class Stage(ABC):
    """A stage of a system.

    name: `unet1`, `codec`, ...; network: all that is trained, its weights drawn from torch's global random state;
    bfloat16, compiled: whether it works in that type, and as one graph: as the preset says, on a GPU alone.
    """

    name: str
    network: nn.Module
    shows: int = 0
    """How many numbers a sample shows to the others of its global batch."""

    def __init__(self, preset: Settings, device: torch.device):
        self.preset, self.device = preset, device
        on_gpu = device.type == "cuda"
        self.compiled = preset.compile and on_gpu
        self.bfloat16 = preset.bfloat16 and on_gpu and torch.cuda.is_bf16_supported()

    @abstractmethod
    def inputs(self, fed: feed.Inputs) -> Any:
        """A feed's batch as the network takes it: `Sliceable`."""

    @abstractmethod
    def noise(self, batch: Batch, seed: int, purpose: str = "noise") -> Any:
        """All that is random in this batch's loss: `Sliceable`, the same for the same seed, epoch and positions on any
        machine."""

    @abstractmethod
    def loss(self, inputs: Any, noise: Any) -> Tensor:
        """(B,), each sample's."""

    def shown(self, inputs: Any) -> Tensor:
        """(B, `shows`): what the losses of other samples in the global batch take of each, as in contrast.

        Asked for without gradients, of micro-batches, where `shows` is not 0; see `meet`.
        """
        raise NotImplementedError

    def meet(self, inputs: Any, everybody: Tensor, first: int) -> Any:
        """The inputs, which know from now on what all samples of the global batch show, whatever slice is taken.

        everybody: (N, `shows`) of all workers; first: the place of these inputs' first sample in it.
        """
        raise NotImplementedError

    @abstractmethod
    def columns(self, inputs: Any, seeds: Sequence[int]) -> list[Tensor]:
        """For a grid of held-out clips: pictures (B, 3, S, S) in -1..1, all of one size, from what is given to the true
        ones. seeds: of their noise."""

    def columns_about(self) -> dict[str, Any]:
        """How `columns` are drawn, for the grid's own metadata."""
        return {}

    def measure(self, batches: Iterator[Any]) -> dict[str, float]:
        """What is reported of held-out clips beside their loss. batches: their inputs, each valid until the next."""
        return {}

    def with_network(self, network: nn.Module) -> Self:
        """The same stage with other weights, as for validation with the moving average."""
        other = copy.copy(self)
        other.network = network
        return other
