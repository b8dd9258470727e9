"""Whether bfloat16 trains as float32 does: gradients at one place, and a short run of each on the same draws.

float32   the yardstick
bfloat16  the U-Net under autocast, weights and Adam in float32
rounded   float32 from weights that were rounded to bfloat16: how far gradients move at a change of that size alone
"""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featurestore.conditioning import LAYOUTS
from featurestore.console import bar
from featurestore.errors import choose
from infra.bench.rounds import machine
from infra.bench.steps import tf32
from infra.bench.train import Images
from training.cascade import CascadeStage
from training.presets import PRESETS, SUPER_RESOLUTION, StagePreset
from training.step import Learner

TYPES = ("float32", "bfloat16")
STEPS, WARM = {"cuda": 200, "cpu": 20}, {"cuda": 50, "cpu": 10}
"""Steps of the short run, and those before the gradients are compared: fresh weights say little (see docs/speed.md)."""

MOST = 32
"""Samples of a batch at most."""

GRID = 8
"""Pictures are of squares of so many pixels: something that a short run can learn."""


def run(preset: str | None = None, steps: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Compares at a preset: `paper` on a GPU, else `micro`. steps: of the short run.

    Returns, by stage: gradients, of fresh weights and of warm ones, and there of bfloat16 and of rounded weights the
    cosine and the relative distance to float32's, in all and by group of parameters; losses of the short run, step by
    step, and the mean of the last half of them, whose difference is to be judged against the spread of the losses.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = choose("preset", preset or ("paper" if device.type == "cuda" else "micro"), PRESETS)
    steps = steps or STEPS[device.type]
    with bar("bench precision", timed=False) as progress:
        stages = {}
        for number, settings in enumerate(PRESETS[name], start=1):
            progress(number - 1, 2, f"unet{number}")
            stages[f"unet{number}"] = _compare(number, settings, device, steps, seed)
    return {
        "stages": stages,
        "preset": name,
        "steps": steps,
        "data": "random pictures of squares and random matrices: no loader",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": str(torch.__version__),
        "tf32": tf32(),
        **machine(),
    }


def _compare(number: int, settings: StagePreset, device: torch.device, steps: int, seed: int) -> dict[str, Any]:
    settings = replace(settings, batch_size=min(settings.batch_size, MOST), warmup=0, compile=False)
    images = Images(number, settings, device)
    images.target = _squares(images.target)
    with device:
        torch.manual_seed(seed)
        stage = CascadeStage(number, SUPER_RESOLUTION, settings, LAYOUTS["slf"], device)
    start = deepcopy(stage.network.state_dict())
    gradients = {"fresh": _gradients(stage, images, seed)}
    losses: dict[str, list[float]] = {}
    for kind in TYPES:
        stage.network.load_state_dict(start)
        stage.bfloat16 = kind == "bfloat16"
        learner = Learner(stage)
        losses[kind] = []
        for step in range(steps):
            losses[kind].append(float(learner.step(_batch(images, step), seed, step, steps)))
            if kind == "float32" and step + 1 == min(WARM[device.type], steps):
                gradients["warm"] = _gradients(stage, images, seed)
        del learner
    half = {kind: np.array(values[steps // 2 :]) for kind, values in losses.items()}
    return {
        "gradients": gradients,
        "losses": losses,
        "last_half": {kind: float(values.mean()) for kind, values in half.items()},
        "spread": float(half["float32"].std()),
        "mean_difference": float(np.abs(half["bfloat16"] - half["float32"]).mean()),
    }


def _squares(pictures: Tensor) -> Tensor:
    return nn.functional.interpolate(pictures[..., ::GRID, ::GRID], pictures.shape[-1])


def _batch(images: Images, step: int) -> Any:
    """The same pictures, at other places of the epoch: other noise."""
    fed = images.fed(images.size)
    fed.batch.positions = fed.batch.positions + step * images.size
    return fed


def _gradients(stage: CascadeStage, images: Images, seed: int) -> dict[str, Any]:
    """How far bfloat16's and rounded weights' gradients are from float32's. The stage is left as it was."""
    own, before = deepcopy(stage.network.state_dict()), stage.bfloat16
    of = {}
    for kind in ("float32", "bfloat16", "rounded"):
        if kind == "rounded":
            rounded = {key: values.bfloat16().to(values.dtype) for key, values in own.items()}
            stage.network.load_state_dict(rounded)
        stage.bfloat16 = kind == "bfloat16"
        of[kind] = _slopes(stage, images, seed)
    stage.network.load_state_dict(own)
    stage.bfloat16 = before
    return {kind: apart(of[kind], of["float32"]) for kind in ("bfloat16", "rounded")}


def _slopes(stage: CascadeStage, images: Images, seed: int) -> dict[str, Tensor]:
    stage.network.zero_grad(set_to_none=True)
    fed = images.fed(images.size)
    inputs, noise = stage.inputs(fed), stage.noise(fed.batch, seed)
    stage.loss(inputs, noise).mean().backward()
    found = {name: p.grad for name, p in stage.network.named_parameters() if p.grad is not None}
    stage.network.zero_grad(set_to_none=True)
    return found


def apart(slopes: dict[str, Tensor], yardstick: dict[str, Tensor]) -> dict[str, Any]:
    """Cosine and relative distance |a - b| / |b| of gradients, in all and by the U-Net's own parts."""
    groups: dict[str, list[str]] = {}
    for name in yardstick:
        groups.setdefault(group_of(name), []).append(name)
    return {
        **_apart(slopes, yardstick, list(yardstick)),
        "groups": {group: _apart(slopes, yardstick, names) for group, names in groups.items()},
    }


def group_of(name: str) -> str:
    """The part of the U-Net that a parameter belongs to: its own part, and the level of it."""
    part, *rest = name.split(".")
    return f"{part}.{rest[0]}" if part in ("downs", "ups") else part


def _apart(slopes: dict[str, Tensor], yardstick: dict[str, Tensor], names: list[str]) -> dict[str, float]:
    dot = sum(float((slopes[name].double() * yardstick[name].double()).sum()) for name in names)
    sizes = [sum(float(of[name].double().square().sum()) for name in names) ** 0.5 for of in (slopes, yardstick)]
    gap = sum(float((slopes[name] - yardstick[name]).double().square().sum()) for name in names) ** 0.5
    return {
        "cosine": dot / (sizes[0] * sizes[1]) if all(sizes) else float(sizes[0] == sizes[1]),
        "distance": gap / sizes[1] if sizes[1] else gap,
    }
