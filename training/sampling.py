"""Portraits from a trained cascade: both U-Nets' moving averages, classic guidance, a seed per picture.

portraitist = Portraitist.load("runs/sr-1", "runs/sr-2")
portraits = portraitist.draw(compact, seeds, cond_scale=3.0, guide=guide)
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from featurestore.assembly import Assembler
from featurestore.conditioning import Layout
from featurestore.conditioning import system as system_named
from featurestore.draws import sample_seed
from featurestore.errors import UsageError, VoxportraitError, choose
from training import diffusion
from training.cascade import CascadeStage, enlarge, to_signed
from training.checkpoint import Checkpoint, open_run
from training.device import device_named
from training.portraitist import Leaning
from training.presets import Cascade, StagePreset, cascade_of
from training.samplers import SAMPLERS, STEPS, Denoise
from training.stages import UNETS, settings_in


@dataclass(frozen=True)
class Portraits:
    """pictures: (N, 128, 128, 3) uint8; coarse: (N, 32, 32, 3) uint8, what U-Net 1 drew."""

    pictures: np.ndarray
    coarse: np.ndarray


class Portraitist:
    """Both stages of a cascade, ready to draw: a `portraitist.AnyPortraitist`. layout: what its matrices are made with.
    about: both checkpoints'."""

    pictures, beside, variant, lender = ("target", "guide"), ("coarse",), "", None

    def __init__(
        self, stages: tuple[CascadeStage, CascadeStage], layout: Layout, cascade: Cascade, about: tuple[dict, dict]
    ):
        self.stages, self.layout, self.cascade, self.about = stages, layout, cascade, about
        self.device = stages[0].device
        self.shown = ("guide",) if cascade.sizes[0] else ()
        self._assembler = Assembler(layout, self.device, allow_missing=True)

    @classmethod
    def load(
        cls,
        first: str | os.PathLike[str],
        second: str | os.PathLike[str],
        device: str | None = None,
        layout: Layout | None = None,
    ) -> "Portraitist":
        """Load U-Net 1 from the run directory `first` and U-Net 2 from `second`.

        layout: what the caller's data is meant for. Raises UsageError where the two runs are not U-Net 1 and 2 of one
        system or the device is not there, VoxportraitError where a checkpoint was made with another layout.
        """
        where = device_named(device)
        checkpoints = open_run(first, layout), open_run(second, layout)
        for stage, run, checkpoint in zip(UNETS, (first, second), checkpoints, strict=True):
            if checkpoint.about["stage"] != stage:
                raise UsageError(f"{run} holds the stage {checkpoint.about['stage']}, not {stage}")
        one, two = checkpoints
        if one.about["system"] != two.about["system"]:
            raise UsageError(
                f"{first} is system {one.about['system']}, {second} is {two.about['system']}: they must agree"
            )
        one.layout.require(two.layout, f"checkpoint {two.folder}")
        cascade = cascade_of(system_named(one.about["system"]))
        stages = load_stage(one, cascade, where), load_stage(two, cascade, where)
        named = {**one.about, "run": Path(first).name}, {**two.about, "run": Path(second).name}
        return cls(stages, one.layout, cascade, named)

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """sha256 over the names and numbers of each stage's weights."""
        return tuple(_digest(stage.network.state_dict()) for stage in self.stages)

    @property
    def system(self) -> str:
        return self.about[0]["system"]

    @property
    def missing(self) -> str:
        return self.about[0]["data"].get("missing", "zero")

    def plan(self, sampler: str | None = None, steps: int | None = None) -> list[tuple[str, int]]:
        return [plan(stage.preset, sampler, steps) for stage in self.stages]

    def lean(self, clip_ids: Sequence[str], inputs: Mapping[str, np.ndarray]) -> Leaning:
        return Leaning([{}] * len(clip_ids))

    def paint(
        self,
        inputs: Mapping[str, np.ndarray],
        seeds: Sequence[int],
        cond_scale: float = 1.0,
        sampler: str | None = None,
        steps: int | None = None,
        batch_size: int = 8,
    ) -> dict[str, np.ndarray]:
        """See `AnyPortraitist.paint`; `coarse` is what U-Net 1 drew."""
        compact = {key: values for key, values in inputs.items() if key not in self.shown}
        made = self.draw(compact, seeds, cond_scale, inputs.get("guide"), sampler, steps, batch_size)
        return {"picture": made.pictures, "coarse": made.coarse}

    @torch.inference_mode()
    def draw(
        self,
        compact: Mapping[str, np.ndarray],
        seeds: Sequence[int],
        cond_scale: float = 1.0,
        guide: np.ndarray | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        batch_size: int = 8,
        progress: Callable[[int, int], None] | None = None,
    ) -> Portraits:
        """One portrait per seed, guided by null + (condition - null) x cond_scale at both stages.

        compact: constituents of N clips as in `featurestore.records.Batch`. seeds: N numbers >= 0; a portrait is
        decided by its own seed and inputs, not by its batch. guide: (N, 8, 8, 3) uint8, for super-resolution alone.
        sampler, steps: see `plan`. batch_size: how many at once. The U-Nets work in a fixed shape, that number or the
        next power of two, padded: in other shapes a portrait's last bits depend on its place. progress: called with
        (done, N). Raises VoxportraitError where the device has no room for a batch.
        """
        if self.cascade.sizes[0] and guide is None:
            raise UsageError("super-resolution needs an image guide for each clip")
        pictures, coarse = [], []
        for first in range(0, len(seeds), batch_size):
            chosen = range(first, min(first + batch_size, len(seeds)))
            padded = [chosen[i % len(chosen)] for i in range(1 << (batch_size - 1).bit_length())]
            try:
                drawn = self._draw_batch(
                    {key: values[padded] for key, values in compact.items()},
                    [seeds[i] for i in padded],
                    cond_scale,
                    guide[padded] if self.cascade.sizes[0] and guide is not None else None,
                    sampler,
                    steps,
                )
            except torch.OutOfMemoryError:
                raise VoxportraitError(
                    f"{self.device} has no room for {len(padded)} portraits at once: take a smaller batch size"
                ) from None
            coarse.append(_to_uint8(drawn[0][: len(chosen)]))
            pictures.append(_to_uint8(drawn[1][: len(chosen)]))
            if progress:
                progress(chosen[-1] + 1, len(seeds))
        return Portraits(np.concatenate(pictures), np.concatenate(coarse))

    def _draw_batch(self, compact, seeds, cond_scale, guide, sampler, steps) -> list[Tensor]:
        shown = {key: values for key, values in compact.items() if key not in self.layout.withheld}
        stored = {key: torch.from_numpy(values).to(self.device) for key, values in shown.items()}
        matrix = self._assembler(stored, size=len(seeds))
        low = None if guide is None else to_signed(guide, self.device)
        drawn = []
        for stage in self.stages:
            low = draw_stage(stage, matrix, seeds, cond_scale, low, sampler, steps)
            drawn.append(low)
        return drawn


def draw_stage(
    stage: CascadeStage,
    matrix: Tensor,
    seeds: Sequence[int],
    cond_scale: float,
    low: Tensor | None = None,
    sampler: str | None = None,
    steps: int | None = None,
) -> Tensor:
    """Pictures (B, 3, S, S) in -1..1 of one stage. low: the low-resolution picture in -1..1, at any smaller size."""
    preset, size = stage.preset, stage.size
    sampler, steps = plan(preset, sampler, steps)
    generators = [torch.Generator().manual_seed(sample_seed(seed, 0, stage.number, "portrait")) for seed in seeds]

    def draw() -> Tensor:
        noise = torch.stack([torch.randn(3, size, size, generator=g) for g in generators])
        return noise.pin_memory().to(stage.device, non_blocking=True) if stage.device.type == "cuda" else noise

    low_log_snr = None
    if low is not None:
        low_log_snr = diffusion.linear_log_snr(torch.full((len(seeds),), preset.guide_noise, device=stage.device))
        low = diffusion.add_noise(enlarge(low, size, preset.enlarge), low_log_snr, draw())
    denoise = guided(stage, matrix, cond_scale, low, low_log_snr)
    return SAMPLERS[sampler](denoise, draw, stage.schedule, steps).clamp(-1, 1)


def plan(preset: StagePreset, sampler: str | None = None, steps: int | None = None) -> tuple[str, int]:
    """The sampler and the number of its steps: the preset's, or what is asked for instead; where a sampler alone is
    asked for, its own number (`samplers.STEPS`). A UsageError lists the known samplers."""
    chosen = choose("sampler", sampler or preset.sampler, SAMPLERS)
    return chosen, steps or (preset.sampler_steps if chosen == preset.sampler else STEPS[chosen])


_DROPPED: dict[float, tuple[bool, ...]] = {0.0: (True,), 1.0: (False,)}
"""Whether the condition is dropped, in each prediction that a scale takes; others take both, in one batch."""


def guided(
    stage: CascadeStage, matrix: Tensor, cond_scale: float, low: Tensor | None = None, low_log_snr: Tensor | None = None
) -> Denoise:
    """The clean picture a stage sees, by classifier-free guidance (arXiv 2207.12598) and dynamic thresholding.

    prediction = null + (condition - null) x cond_scale, both in one batch; at scale 0 it is the null prediction itself,
    the unconditional model's, and at scale 1 the condition's.
    low, low_log_snr: the noised low-resolution picture (B, 3, S, S) and how much it was noised.
    """
    dropped = _DROPPED.get(cond_scale, (False, True))
    matrix = matrix.repeat(len(dropped), 1, 1)
    drop = torch.tensor(dropped, device=stage.device).repeat_interleave(len(matrix) // len(dropped))
    if low is not None and low_log_snr is not None:
        low, low_log_snr = low.repeat(len(dropped), 1, 1, 1), low_log_snr.repeat(len(dropped))

    def denoise(noisy: Tensor, log_snr: Tensor) -> Tensor:
        stacked = noisy.repeat(len(dropped), 1, 1, 1), log_snr.repeat(len(dropped))
        prediction, *null = stage.predict(*stacked, matrix, drop, low, low_log_snr).chunk(len(dropped))
        if null:
            prediction = null[0] + (prediction - null[0]) * cond_scale
        return threshold(diffusion.predicted_clean(stage.preset.objective, prediction, noisy, log_snr))

    return denoise


_QUANTILES = 256
"""Pictures of 128 px of which torch takes quantiles at once."""


def threshold(pictures: Tensor, percentile: float = 0.95) -> Tensor:
    """Dynamic thresholding (Imagen, arXiv 2205.11487, Section 2.3): values beyond the percentile are scaled back."""
    parts = pictures.abs().flatten(1).split(_QUANTILES)
    limit = torch.cat([torch.quantile(part, percentile, dim=1) for part in parts]).clamp(min=1)[:, None, None, None]
    return pictures.clamp(-limit, limit) / limit


def load_stage(checkpoint: Checkpoint, cascade: Cascade, device: torch.device) -> CascadeStage:
    about = checkpoint.about
    stage = CascadeStage(
        UNETS[about["stage"]], cascade, cast(StagePreset, settings_in(about)), checkpoint.layout, device
    )
    stage.network.load_state_dict(checkpoint.tensors("average", device))
    stage.network.requires_grad_(False)
    return stage


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _to_uint8(pictures: Tensor) -> np.ndarray:
    scaled = ((pictures.float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
