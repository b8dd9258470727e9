"""Steps of a real learner of any stage, on numbers that lie on the device, and what a device could do at most."""

import gc
import time
from typing import Any, Protocol

import numpy as np
import torch

from featurestore import feed
from infra.bench.rounds import Samples
from training.stage import Stage
from training.step import Learner

PRECISIONS = ("float32", "bfloat16")
FIRST = 2
"""Samples in the first micro-batch that is tried."""


class Numbers(Protocol):
    """A batch's numbers on the device. size: samples in it."""

    size: int
    device: torch.device

    def fed(self, size: int) -> feed.Inputs: ...


class Steps:
    """Steps of the real learner, at the micro-batch after which memory ends, or the whole batch."""

    def __init__(self, stage: Stage, numbers: Numbers):
        self.stage, self.numbers, self.most_memory = stage, numbers, 0
        self.tf32 = tf32()
        self.learner = Learner(stage)
        self.learner.micro_batch = self._most()
        clean(numbers.device)

    def _most(self) -> int:
        """Found by doubling, without compiling each of them."""
        compiled, self.stage.compiled = self.stage.compiled, False
        size = min(FIRST, self.numbers.size)
        while not self.learner.micro_batch:
            self.learner.step(self.numbers.fed(size), 0, 0, 1)
            if size == self.numbers.size:
                break
            size = min(2 * size, self.numbers.size)
        self.stage.compiled = compiled
        return self.learner.micro_batch or size

    def steps(self) -> Samples:
        device, fed = self.numbers.device, self.numbers.fed(self.numbers.size)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        while True:
            self.learner.step(fed, 0, 0, 1)
            wait(device)
            if device.type == "cuda":
                self.most_memory = max(self.most_memory, torch.cuda.max_memory_allocated())
            yield self.numbers.size


def tf32() -> dict[str, bool]:
    """Whether float32 is rounded to TF32 now, in matrix products and in convolutions."""
    return {
        "matrix_products": torch.get_float32_matmul_precision() != "highest",
        "convolutions": torch.backends.cudnn.allow_tf32,
    }


def peak_of(stage: Any) -> float:
    """Operations a second of a matrix product of random numbers, of the type that the stage's products have."""
    size, times = (8192, 20) if stage.device.type == "cuda" else (1024, 10)
    kind = torch.bfloat16 if stage.bfloat16 else torch.float32
    one, other = (torch.randn(size, size, device=stage.device).to(kind) for _ in range(2))
    seconds = []
    for _ in range(times):
        wait(stage.device)
        began = time.perf_counter()
        one @ other
        wait(stage.device)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / float(np.median(seconds))


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def clean(device: torch.device) -> None:
    """Give back what nobody holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
