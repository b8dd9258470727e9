"""One U-Net of a cascade as something that is trained: batches in, a loss out."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featurestore import feed
from featurestore.conditioning import Layout
from featurestore.draws import sample_seed
from featurestore.records import Batch
from training import diffusion
from training.fast_unet import compiled_run, run, use_tensor_cores
from training.presets import Cascade, StagePreset
from training.stage import Stage
from training.unets import build_unet

SCALES = (1.0, 3.0)
"""Of guidance, a column of a grid each."""
SHORT = 25
"""Steps of the sampler for a grid, at most."""


@dataclass
class Inputs:
    """A batch on the device. matrix: (B, 256, 768); target (B, 3, 128, 128) and guide (B, 3, 8, 8) in -1..1."""

    matrix: Tensor
    target: Tensor
    guide: Tensor

    def __getitem__(self, rows: slice) -> "Inputs":
        return Inputs(self.matrix[rows], self.target[rows], self.guide[rows])


@dataclass
class Noise:
    """All that is random in a loss, one row per sample, a function of (seed, epoch, position).

    time, low_time: (B,) in 0..1. picture, low_picture: (B, 3, S, S) normal. drop: (B,) bool, where the condition is the
    null one. corner: (B, 2) in 0..1, where the crop lies.
    """

    time: Tensor
    low_time: Tensor
    picture: Tensor
    low_picture: Tensor
    drop: Tensor
    corner: Tensor

    def __getitem__(self, rows: slice) -> "Noise":
        return Noise(*(getattr(self, one.name)[rows] for one in fields(self)))


def to_signed(pictures: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in -1..1."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def shrink(pictures: Tensor, size: int) -> Tensor:
    """Means over squares, as `featurestore.pictures.image_guide`: (B, 3, H, H) -> (B, 3, size, size)."""
    return F.avg_pool2d(pictures, pictures.shape[-1] // size)


def enlarge(pictures: Tensor, size: int, mode: str) -> Tensor:
    """A low-resolution picture at a U-Net's size. mode: `nearest`, as in imagen-pytorch, or `bilinear`."""
    return F.interpolate(pictures, size, mode=mode)


class CascadeStage(Stage):
    """U-Net 1 (32 px) or 2 (128 px) of a cascade, with how it is trained.

    number: 1 or 2. size: side of its picture. low_size: side of the low-resolution picture it is given, 0 for none.
    """

    preset: StagePreset

    def __init__(self, number: int, cascade: Cascade, preset: StagePreset, layout: Layout, device: torch.device):
        super().__init__(preset, device)
        self.name, self.number, self.cascade, self.layout = f"unet{number}", number, cascade, layout
        self.low_size, self.size = cascade.sizes[number - 1 : number + 1]
        self.schedule = diffusion.SCHEDULES[cascade.schedules[number - 1]]
        network = build_unet(preset.architecture, low_resolution=self.low_size > 0)
        self.network: nn.Module = network.to(memory_format=torch.channels_last).to(device)  # type: ignore[call-overload]
        use_tensor_cores(device)

    def inputs(self, fed: feed.Inputs) -> Inputs:
        """A feed's batch as the U-Net takes it."""
        return Inputs(fed.matrix, fed.target * 2 - 1, fed.guide * 2 - 1)

    def noise(self, batch: Batch, seed: int, purpose: str = "noise") -> Noise:
        """What is random in this batch's loss; the same for the same seed, epoch and positions on any machine."""
        side = self.preset.crop or self.size
        generator = torch.Generator(self.device)
        uniforms, pictures = [], []
        for position in batch.positions:
            generator.manual_seed(sample_seed(seed, batch.epoch, int(position), purpose))
            uniforms.append(torch.rand(5, generator=generator, device=self.device))
            pictures.append(torch.randn(2, 3, side, side, generator=generator, device=self.device))
        uniform, low_time, drop, *corner = torch.stack(uniforms, dim=1)
        time = 1 - (1 - uniform) ** self.preset.time_power
        picture, low_picture = torch.stack(pictures, dim=1)
        drop = drop < self.preset.condition_drop
        return Noise(time, low_time, picture, low_picture, drop, torch.stack(corner, dim=1))

    def low_picture(self, inputs: Inputs) -> Tensor | None:
        """The clean low-resolution picture at this U-Net's size: guide, or target at 32 px; None without one."""
        if not self.low_size:
            return None
        low = inputs.guide if self.number == 1 else shrink(inputs.target, self.low_size)
        return enlarge(low, self.size, self.preset.enlarge)

    def loss(self, inputs: Inputs, noise: Noise) -> Tensor:
        """The loss of each sample, (B,); its mean is equal to `Imagen.forward`'s for the same draws.

        || U(alpha x0 + sigma n, l, matrix, low-resolution picture) - target ||^2, weighted by min-SNR.
        """
        clean, low = shrink(inputs.target, self.size), self.low_picture(inputs)
        if self.preset.crop:
            clean, low = self._crop(clean, noise.corner), None if low is None else self._crop(low, noise.corner)
        low_log_snr = None
        if low is not None:
            low_log_snr = diffusion.linear_log_snr(noise.low_time * self.preset.most_guide_noise)
            low = diffusion.add_noise(low, low_log_snr, noise.low_picture)
        log_snr = self.schedule(noise.time)
        noisy = diffusion.add_noise(clean, log_snr, noise.picture)
        prediction = self.predict(noisy, log_snr, inputs.matrix, noise.drop, low, low_log_snr)
        target = diffusion.objective_target(self.preset.objective, clean, log_snr, noise.picture)
        errors = F.mse_loss(prediction, target, reduction="none").mean((1, 2, 3))
        if self.preset.gamma:
            errors = errors * diffusion.min_snr_weight(self.preset.objective, log_snr, self.preset.gamma)
        return errors

    def predict(
        self,
        noisy: Tensor,
        log_snr: Tensor,
        matrix: Tensor,
        drop: Tensor,
        low: Tensor | None = None,
        low_log_snr: Tensor | None = None,
    ) -> Tensor:
        """What the U-Net says of noisy pictures (B, 3, S, S), in float32. Zero rows of the matrix are masked."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            prediction = (compiled_run() if self.compiled else run)(
                self.network,
                noisy.contiguous(memory_format=torch.channels_last),
                log_snr,
                text_embeds=matrix * self.preset.condition_gain,
                text_mask=(matrix != 0).any(-1),
                cond_drop_prob=drop.float(),
                lowres_cond_img=None if low is None else low.contiguous(memory_format=torch.channels_last),
                lowres_noise_times=low_log_snr,
            )
        return prediction.float()

    def columns(self, inputs: Inputs, seeds: Sequence[int]) -> list[Tensor]:
        """The low-resolution picture where there is one, what is drawn at each of `SCALES`, the true picture."""
        from training.sampling import draw_stage

        low, (sampler, steps) = self.low_picture(inputs), self._short()
        drawn = [draw_stage(self, inputs.matrix, seeds, scale, low, sampler, steps) for scale in SCALES]
        return [*([] if low is None else [low]), *drawn, shrink(inputs.target, self.size)]

    def columns_about(self) -> dict[str, Any]:
        sampler, steps = self._short()
        return {"cond_scales": SCALES, "sampler": sampler, "sampler_steps": steps, "truth": "last column"}

    def _short(self) -> tuple[str, int]:
        """The preset's sampler if it has few steps, else DPM-Solver++ with `SHORT`."""
        steps = self.preset.sampler_steps
        return (self.preset.sampler, steps) if steps <= SHORT else ("dpm-solver++", SHORT)

    def _crop(self, pictures: Tensor, corner: Tensor) -> Tensor:
        """Squares of the preset's side, their corners on the grid of the low-resolution picture's pixels."""
        side, unit = self.preset.crop, self.size // (self.low_size or self.size)
        places = (self.size - side) // unit + 1
        corners = (corner * places).long().clamp(max=places - 1) * unit
        y, x = (corners[:, :, None] + torch.arange(side, device=corners.device)).unbind(1)
        sample = torch.arange(len(pictures), device=corners.device)
        return pictures.permute(0, 2, 3, 1)[sample[:, None, None], y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)
