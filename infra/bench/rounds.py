"""Contenders that take turns, a round each, so that whatever else the machine does meets all of them."""

import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any

import numpy as np

Samples = Generator[int, None, None]
"""Work in steps; gives how many samples each step made. Its first step is not measured."""


def alternate(
    contenders: Mapping[str, Callable[[], Samples]],
    rounds: int,
    seconds: float,
    told: Callable[[int, str], None] = lambda done, name: None,
) -> dict[str, list[float]]:
    """Samples a second in each round, by contender. seconds: how long a round lasts at least, or until the work ends.

    told: is called with the rounds that are done and who is next.
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for done in range(rounds):
        for name, begin in contenders.items():
            told(done, name)
            with closing(begin()) as work:
                rates[name].append(rate(work, seconds))
    return rates


def rate(work: Samples, seconds: float) -> float:
    """Samples a second."""
    next(work)
    began, made = time.perf_counter(), 0
    for samples in work:
        made += samples
        if time.perf_counter() - began >= seconds:
            break
    return made / (time.perf_counter() - began)


def summary(rates: Mapping[str, list[float]]) -> dict[str, Any]:
    """samples_per_second: medians. spread: the slowest and the fastest round."""
    return {
        "samples_per_second": {name: float(np.median(values)) for name, values in rates.items()},
        "spread": {name: [min(values), max(values)] for name, values in rates.items()},
    }


def machine() -> dict[str, Any]:
    """What numbers depend on: cores, how busy they were in the last minute, and threads of torch."""
    import torch

    return {"cores": os.cpu_count(), "load": os.getloadavg()[0], "torch_threads": torch.get_num_threads()}
