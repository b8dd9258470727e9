"""One step of training, the same for every stage: losses, gradients, optimiser, moving average.

    learner = Learner(stage)
    loss = learner.step(fed, seed=0, step=0, steps=1000)

Randomness comes from (seed, epoch, position), so a step is the same in one micro-batch or ten, on one worker or four,
up to the rounding of sums.
"""

import copy
import gc
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from featurestore import feed
from featurestore.errors import UsageError, VoxportraitError
from training.ranks import Ranks
from training.settings import Settings
from training.stage import Stage

Result = TypeVar("Result")


class Learner:
    """A stage with what learning needs: the moving average of its weights and Adam's moments.

    micro_batch: samples that go through the network at once; as many as there are where it is None. Where the device
    has no memory for them it is halved, the step starts over, and it stays so.
    """

    def __init__(self, stage: Stage, ranks: Ranks = Ranks(), micro_batch: int | None = None):
        self.stage, self.ranks, self.micro_batch = stage, ranks, micro_batch
        ranks.share(stage.network.parameters())
        self.average = copy.deepcopy(stage.network).requires_grad_(False)
        settings = stage.preset
        self.optimizer = torch.optim.Adam(
            list(_groups(stage.network, settings.rates)),
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
            group["lr"] = learning_rate(settings, step, steps) * group["rate"]
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
        """Gradients of the mean over `samples`, of this worker's micro-batches one after another; its part of it."""
        size = len(fed.batch)
        inputs = self.stage.inputs(fed) if size else None
        noise = self.stage.noise(fed.batch, seed) if size else None
        if self.stage.shows:
            seen = self._within_memory(size, lambda: shown(self.stage, inputs, size, self.micro_batch))
            inputs = self.stage.meet(inputs, *self.ranks.gather(seen)) if size else None
        return self._within_memory(size, lambda: self._accumulated(inputs, noise, size, samples))

    def _within_memory(self, size: int, work: Callable[[], Result]) -> Result:
        """What the work gives, begun again in smaller micro-batches as long as the device has no memory for them."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                now = min(self.micro_batch or size, size)
                if now <= 1:
                    raise VoxportraitError(
                        f"{self.stage.device} has no memory for one sample: {str(error).splitlines()[0]}"
                    ) from None
                self.micro_batch = math.ceil(now / 2)
            gc.collect()
            if self.stage.device.type == "cuda":
                torch.cuda.empty_cache()

    def _accumulated(self, inputs: Any, noise: Any, size: int, samples: int) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.stage.device)
        for rows in parts(size, self.micro_batch) if size else ():
            loss = self.stage.loss(inputs[rows], noise[rows]).sum() / samples
            loss.backward()
            total += loss.detach()
        return total


@torch.no_grad()
def shown(stage: Stage, inputs: Any, size: int, micro_batch: int | None = None) -> Tensor:
    """(B, `shows`): what a batch's samples show to each other."""
    if not size:
        return torch.zeros(0, stage.shows, device=stage.device)
    return torch.cat([stage.shown(inputs[rows]) for rows in parts(size, micro_batch)])


def _groups(network: nn.Module, rates: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """The parameters by the factor on their learning rate. Raises UsageError for a rate of nothing."""
    groups: dict[float, list[nn.Parameter]] = {}
    used = set()
    for name, parameter in network.named_parameters():
        prefix = max((one for one in rates if name.startswith(one)), key=len, default=None)
        used.add(prefix)
        groups.setdefault(rates[prefix] if prefix else 1.0, []).append(parameter)
    if unused := [one for one in rates if one not in used]:
        raise UsageError(f"rates has {unused[0]!r}, and no parameter's name begins so")
    return ({"params": parameters, "rate": rate} for rate, parameters in groups.items())


def parts(size: int, most: int | None) -> Iterator[slice]:
    """The rows of a batch in micro-batches of at most `most`; all at once where it is None."""
    most = most or size
    return (slice(first, min(first + most, size)) for first in range(0, size, most))


def learning_rate(settings: Settings, step: int, steps: int) -> float:
    """Linear up over `warmup` steps, then along a cosine down to `final_rate` of the preset's rate."""
    up = min(1.0, (step + 1) / max(1, settings.warmup))
    down = settings.final_rate + (1 - settings.final_rate) * (1 + math.cos(math.pi * step / steps)) / 2
    return settings.learning_rate * up * down


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """average <- d average + (1 - d) weights, with d = min(decay, (1 + step) / (10 + step))."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), share)
