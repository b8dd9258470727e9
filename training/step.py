"""One step of training, the same for every stage: losses, gradients, optimiser, moving average.

    learner = Learner(stage)
    loss = learner.step(fed, seed=0, step=0, steps=1000)

Randomness comes from (seed, epoch, position), so a step is the same in one micro-batch or ten, on one worker or four,
up to the rounding of sums.
"""

import copy
import gc
import math
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from featurestore import feed
from featurestore.errors import VoxportraitError
from featurestore.records import Batch
from training.presets import StagePreset
from training.ranks import Ranks

Samples = TypeVar("Samples")


class Sliceable(Protocol):
    """Tensors with a row per sample; a slice of it has some of the rows."""

    def __getitem__(self: Samples, rows: slice) -> Samples: ...


class Trainable(Protocol):
    """What a step asks of a stage. network: all that is trained. preset: batch size, learning rate and the like.

    inputs: a feed's batch as the network takes it. noise: all that is random, a function of (seed, epoch, position).
    loss: (B,), each sample's.
    """

    network: nn.Module
    preset: StagePreset
    device: torch.device

    def inputs(self, fed: feed.Inputs) -> Sliceable: ...

    def noise(self, batch: Batch, seed: int, purpose: str = "noise") -> Sliceable: ...

    def loss(self, inputs: Any, noise: Any) -> Tensor: ...


class Learner:
    """A stage with what learning needs: the moving average of its weights and Adam's moments.

    micro_batch: samples that go through the network at once; as many as there are where it is None. Where the device
    has no memory for them it is halved, the step starts over, and it stays so.
    """

    def __init__(self, stage: Trainable, ranks: Ranks = Ranks(), micro_batch: int | None = None):
        self.stage, self.ranks, self.micro_batch = stage, ranks, micro_batch
        ranks.share(stage.network.parameters())
        self.average = copy.deepcopy(stage.network).requires_grad_(False)
        settings = stage.preset
        self.optimizer = torch.optim.Adam(
            stage.network.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            fused=stage.device.type == "cuda",
        )

    def step(self, fed: feed.Inputs, seed: int, step: int, steps: int, samples: int | None = None) -> Tensor:
        """Learn from a batch. samples: of the global batch, where there are several workers. Returns this worker's
        part of the mean loss, without waiting for the device.

        Raises VoxportraitError where the device has no memory for a single sample.
        """
        settings, network = self.stage.preset, self.stage.network
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, step, steps)
        loss = self._gradients(fed, seed, samples or len(fed.batch))
        self.ranks.add_gradients(network.parameters())
        if settings.clip:
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        self.optimizer.step()
        update_average(self.average, network, settings.ema_decay, step)
        return loss

    def is_sound(self) -> bool:
        """Whether all weights are finite; waits for the device."""
        norms = torch._foreach_norm([p.detach() for p in self.stage.network.parameters()])
        return bool(torch.stack(norms).isfinite().all())

    def _gradients(self, fed: feed.Inputs, seed: int, samples: int) -> Tensor:
        while True:
            try:
                return self._accumulated(fed, seed, samples)
            except torch.OutOfMemoryError as error:
                now = min(self.micro_batch or len(fed.batch), len(fed.batch))
                if now <= 1:
                    raise VoxportraitError(
                        f"{self.stage.device} has no memory for one sample: {str(error).splitlines()[0]}"
                    ) from None
                self.micro_batch = math.ceil(now / 2)
            gc.collect()
            if self.stage.device.type == "cuda":
                torch.cuda.empty_cache()

    def _accumulated(self, fed: feed.Inputs, seed: int, samples: int) -> Tensor:
        """Gradients of the mean over `samples`, of this worker's micro-batches one after another."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.stage.device)
        if not len(fed.batch):
            return total
        inputs, noise = self.stage.inputs(fed), self.stage.noise(fed.batch, seed)
        for rows in parts(len(fed.batch), self.micro_batch):
            loss = self.stage.loss(inputs[rows], noise[rows]).sum() / samples
            loss.backward()
            total += loss.detach()
        return total


def parts(size: int, most: int | None) -> Iterator[slice]:
    """The rows of a batch in micro-batches of at most `most`; all at once where it is None."""
    most = most or size
    return (slice(first, min(first + most, size)) for first in range(0, size, most))


def learning_rate(settings: StagePreset, step: int, steps: int) -> float:
    """Linear up over `warmup` steps, then along a cosine down to `final_rate` of the preset's rate."""
    up = min(1.0, (step + 1) / max(1, settings.warmup))
    down = settings.final_rate + (1 - settings.final_rate) * (1 + math.cos(math.pi * step / steps)) / 2
    return settings.learning_rate * up * down


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """average <- d average + (1 - d) weights, with d = min(decay, (1 + step) / (10 + step))."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), share)
