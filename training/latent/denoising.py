"""A latent diffusion stage as something that is trained, and drawing with it: from speech to the latent of a face.

    latents = draw_latents(stage, condition, {"bottom": bottoms, "prior": priors}, seeds, cond_scale=1.0)

`face`: the face from speech alone (one-stage). `bottom`: its bottom, Z_b, from speech, and from the retrieved bottom
Z_b^r where the system has a prior. `upper`: the face Z_f from Z_b, speech and, likewise, the retrieved face Z_f^r. What
a stage is given lies beside the noisy latent on the channel axis; speech is attended to (Rombach et al., arXiv
2112.10752, with diffusers' U-Net and schedulers). Latents are the codec's, divided by their standard deviation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featurestore import feed
from featurestore.conditioning import COLUMNS, ROWS, Layout, System
from featurestore.conditioning import system as system_named
from featurestore.draws import sample_seed
from featurestore.errors import UsageError, VoxportraitError
from featurestore.records import Batch
from training.checkpoint import Checkpoint
from training.fast_unet import compiled_run, run, use_tensor_cores
from training.latent.presets import QUERY, LatentPreset
from training.latent.schedule import min_snr_weights, plan, sampling_schedule, scheduler
from training.stage import Stage

SCALES = (1.0, 3.0)
"""Of guidance, a column of a grid each."""

SHORT = 25
"""Steps of the sampler for a grid, at most."""

PRIORS = {"bottom": "prior_bottom", "upper": "prior_face"}
"""Which field of encoded records a stage leans on, in the system with the retrieval prior."""


class LatentCodec(Protocol):
    """What a stage asks of the frozen codec. latent_shape: (c, h, w); token_shape: (T, W)."""

    @property
    def latent_shape(self) -> tuple[int, int, int]: ...
    @property
    def token_shape(self) -> tuple[int, int]: ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents as a stage has them -> pictures (B, 3, S, S) in -1..1."""
        ...


def leans(system: System, stage: str) -> bool:
    """Whether a stage of a system leans on a retrieved prior."""
    return system.name == "fine-portraitist" and stage in PRIORS


@dataclass
class Inputs:
    """A batch on the device. condition: (B, R, W) speech tokens or matrix; target: (B, c, h, w), the latent that is
    learned; given: what a stage is told beside it, see `Denoiser`; `drawn` in it: the bottom stage's own drawings."""

    condition: Tensor
    target: Tensor
    given: dict[str, Tensor]

    def __getitem__(self, rows: slice) -> "Inputs":
        return Inputs(self.condition[rows], self.target[rows], {name: one[rows] for name, one in self.given.items()})


@dataclass
class Noise:
    """All that is random in a loss, one row per sample, a function of (seed, epoch, position).

    time: (B,) in 0..1. latent, bottom: (B, c, h, w) normal. drop, drop_prior: (B,) bool, where the condition or the
    prior is the null one. drawn: (B,) bool, where the bottom is one that the bottom stage drew.
    """

    time: Tensor
    latent: Tensor
    bottom: Tensor
    drop: Tensor
    drop_prior: Tensor
    drawn: Tensor

    def __getitem__(self, rows: slice) -> "Noise":
        return Noise(*(getattr(self, one.name)[rows] for one in fields(self)))


class Condition(nn.Module):
    """Rows (B, R, W) -> what is attended to, (B, R, D), and, `pooled`, all of it in one, (B, D).

    A row is a linear map of its numbers and its own place. Rows of zeros, and all rows where the condition is dropped,
    are learned null rows, as in imagen-pytorch: a matrix of zeros is the null condition. In one: the mean of the rows
    that are not null, by learned weights; where all are, a learned null.
    With a `query`, Z_s (B, QUERY) of length 1, it is one row more, by a linear map of its own, and all in one.
    """

    def __init__(self, rows: int, width: int, wide: int, gain: float, pooled: bool, query: bool):
        super().__init__()
        self.gain, self.project = gain, nn.Linear(width, wide)
        self.query = nn.Linear(QUERY, wide) if query else None
        self.place = nn.Parameter(torch.randn(rows + query, wide))
        self.null = nn.Parameter(torch.randn(rows + query, wide))
        self.pooled = pooled
        if pooled and not query:
            self.weigh = nn.Linear(wide, 1)
            self.null_pooled = nn.Parameter(torch.randn(wide))

    def forward(self, rows: Tensor, drop: Tensor, query: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        known = (rows != 0).any(-1, keepdim=True) & ~drop[:, None, None]
        told = self.project(rows * self.gain)
        if self.query is not None and query is not None:
            told = torch.cat([told, self.query(query * QUERY**0.5)[:, None]], 1)
            known = torch.cat([known, ((query != 0).any(-1) & ~drop)[:, None, None]], 1)
        told = torch.where(known, told + self.place, self.null)
        if not self.pooled:
            return told, None
        if self.query is not None:
            return told, told[:, -1]
        weights = self.weigh(told).float().masked_fill(~known, -1e4).softmax(1)
        return told, torch.where(known.any(1), (weights * told).sum(1), self.null_pooled)


class Denoiser(nn.Module):
    """The U-Net with what it is told. beside: `bottom` and `prior`, in their order behind the noisy latent.

    given: "bottom" and "prior", latents (B, c, h, w), as far as they are in `beside`; "has_prior": (B,) bool, where the
    prior is none the learned null prior stands for it; "query": see `Condition`. unet: arguments of
    diffusers.UNet2DConditionModel.
    """

    def __init__(
        self,
        unet: Mapping[str, Any],
        latent_shape: tuple[int, int, int],
        condition_shape: tuple[int, int],
        beside: Sequence[str],
        condition_width: int,
        condition_gain: float,
        pooled: bool,
        query: bool,
    ):
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        super().__init__()
        channels, *sides = latent_shape
        self.beside = tuple(beside)
        self.condition = Condition(*condition_shape, condition_width, condition_gain, pooled, query)
        if "prior" in self.beside:
            self.null_prior = nn.Parameter(torch.zeros(latent_shape))
        self.unet = UNet2DConditionModel(
            sample_size=tuple(sides),
            in_channels=channels * (1 + len(self.beside)),
            out_channels=channels,
            cross_attention_dim=condition_width,
            class_embed_type="projection" if pooled else None,
            projection_class_embeddings_input_dim=condition_width if pooled else None,
            **unet,
        )

    def forward(
        self, noisy: Tensor, times: Tensor, condition: Tensor, drop: Tensor, given: Mapping[str, Tensor]
    ) -> Tensor:
        """What is predicted of noisy latents (B, c, h, w) at the steps `times` (B,)."""
        shown = [noisy]
        for name in self.beside:
            latent = given[name]
            if name == "prior":
                latent = torch.where(given["has_prior"][:, None, None, None], latent, self.null_prior)
            shown.append(latent)
        rows, pooled = self.condition(condition, drop, given.get("query"))
        return self.unet(torch.cat(shown, 1), times, rows, class_labels=pooled, return_dict=False)[0]


class LatentStage(Stage):
    """A latent diffusion stage: `face`, `bottom` or `upper` of a system.

    codec: whose latents these are. beside: what it is given on the channel axis. schedule: diffusers' DDPMScheduler.
    """

    preset: LatentPreset

    def __init__(
        self,
        stage: str,
        system: System,
        preset: LatentPreset,
        layout: Layout,
        device: torch.device,
        codec: LatentCodec,
    ):
        super().__init__(preset, device)
        self.name, self.system, self.layout, self.codec = stage, system, layout, codec
        self.from_matrix = bool(layout.blocks)
        self.field = "bottom_latent" if stage == "bottom" else "face_latent"
        self.prior = PRIORS[stage] if leans(system, stage) else None
        self.beside = ("bottom",) * (stage == "upper") + ("prior",) * bool(self.prior)
        self.schedule = scheduler(preset, "DDPMScheduler")
        network = Denoiser(
            preset.unet,
            codec.latent_shape,
            (ROWS, COLUMNS) if self.from_matrix else codec.token_shape,
            self.beside,
            preset.condition_width,
            preset.matrix_gain if self.from_matrix else 1.0,
            preset.pooled,
            not self.from_matrix,
        )
        self.network: nn.Module = network.to(memory_format=torch.channels_last).to(device)  # type: ignore[call-overload]
        use_tensor_cores(device)

    def inputs(self, fed: feed.Inputs) -> Inputs:
        """A feed's batch of encoded records as the U-Net takes it."""
        beside = fed.beside
        given = {}
        if "bottom" in self.beside:
            given["bottom"] = beside["bottom_latent"].float()
            if "drawn_bottom" in beside:
                given["drawn"] = beside["drawn_bottom"].float()
        if self.prior:
            given |= {"prior": beside[self.prior].float(), "has_prior": beside["has_prior"] > 0}
        if not self.from_matrix:
            given["query"] = beside["query"].float()
        condition = fed.matrix if self.from_matrix else beside["tokens"].float()
        return Inputs(condition, beside[self.field].float(), given)

    def noise(self, batch: Batch, seed: int, purpose: str = "noise") -> Noise:
        """What is random in this batch's loss; the same for the same seed, epoch and positions on any machine."""
        generator, preset = torch.Generator(self.device), self.preset
        uniforms, latents = [], []
        for position in batch.positions:
            generator.manual_seed(sample_seed(seed, batch.epoch, int(position), purpose))
            uniforms.append(torch.rand(4, generator=generator, device=self.device))
            latents.append(torch.randn(2, *self.codec.latent_shape, generator=generator, device=self.device))
        uniform, drop, drop_prior, drawn = torch.stack(uniforms, dim=1)
        latent, bottom = torch.stack(latents, dim=1)
        return Noise(
            1 - (1 - uniform) ** preset.time_power,
            latent,
            bottom,
            drop < preset.condition_drop,
            drop_prior < preset.prior_drop,
            drawn < preset.drawn_share,
        )

    def loss(self, inputs: Inputs, noise: Noise) -> Tensor:
        """|| U(sqrt(a) z + sqrt(1 - a) n, t, speech, given) - target ||^2 of each sample, (B,), weighted by min-SNR.

        target: the noise n, or v = sqrt(a) n - sqrt(1 - a) z (arXiv 2202.00512); a: of the step t.
        """
        times = (noise.time * self.preset.train_steps).long().clamp(max=self.preset.train_steps - 1)
        noisy = self.schedule.add_noise(inputs.target, noise.latent, times)
        prediction = self.predict(noisy, times, inputs.condition, noise.drop, self._given(inputs.given, noise))
        by_velocity = self.preset.prediction == "v_prediction"
        target = self.schedule.get_velocity(inputs.target, noise.latent, times) if by_velocity else noise.latent
        errors = F.mse_loss(prediction, target, reduction="none").mean((1, 2, 3))
        return errors * min_snr_weights(self.preset, self.schedule, times) if self.preset.gamma else errors

    def predict(
        self, noisy: Tensor, times: Tensor, condition: Tensor, drop: Tensor, given: Mapping[str, Tensor]
    ) -> Tensor:
        """What the U-Net says of noisy latents (B, c, h, w) at the steps `times` (B,), in float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            prediction = (compiled_run() if self.compiled else run)(self.network, noisy, times, condition, drop, given)
        return prediction.float()

    def columns(self, inputs: Inputs, seeds: Sequence[int]) -> list[Tensor]:
        """The prior and the bottom where there are any, what is drawn at each of `SCALES`, the true picture."""
        sampler, steps = self._short()
        told = [inputs.given[name] for name in ("prior", "bottom") if name in self.beside]
        drawn = [
            draw_latents(self, inputs.condition, inputs.given, seeds, scale, sampler, steps, len(seeds))
            for scale in SCALES
        ]
        return [self.codec.decode(latents) for latents in (*told, *drawn, inputs.target)]

    def columns_about(self) -> dict[str, Any]:
        sampler, steps = self._short()
        told = [name for name in ("prior", "bottom") if name in self.beside]
        return {
            "given": told,
            "cond_scales": SCALES,
            "sampler": sampler,
            "sampler_steps": steps,
            "truth": "last column, as the codec gives it back",
        }

    def _short(self) -> tuple[str, int]:
        return self.preset.sampler, min(self.preset.sampler_steps, SHORT)

    def _given(self, given: Mapping[str, Tensor], noise: Noise) -> dict[str, Tensor]:
        """What the U-Net is told in training: bottoms drawn or noised, and priors dropped."""
        told = {name: one for name, one in given.items() if name != "drawn"}
        if "bottom" in told:
            told["bottom"] = told["bottom"] + self.preset.bottom_noise * noise.bottom
        if "drawn" in given:
            told["bottom"] = torch.where(noise.drawn[:, None, None, None], given["drawn"], told["bottom"])
        if "prior" in told:
            told["has_prior"] = told["has_prior"] & ~noise.drop_prior
        return told


_DROPPED: dict[float, tuple[bool, ...]] = {0.0: (True,), 1.0: (False,)}
"""Whether the condition is dropped, in each prediction that a scale takes; others take both, in one batch."""


@torch.inference_mode()
def draw_latents(
    stage: LatentStage,
    condition: Tensor,
    given: Mapping[str, Tensor],
    seeds: Sequence[int],
    cond_scale: float = 1.0,
    sampler: str | None = None,
    steps: int | None = None,
    batch_size: int = 8,
) -> Tensor:
    """Latents (N, c, h, w) that a stage draws, one per seed, guided by null + (condition - null) x cond_scale.

    condition: (N, R, W) speech tokens or matrices. given: beside tokens "query" (N, QUERY); "bottom" and "prior"
    (N, c, h, w), as the stage has them, and "has_prior" (N,) bool; without a prior, the null prior.
    seeds: N numbers >= 0. sampler, steps: see `plan`.
    batch_size: how many at once; the U-Net works in a fixed shape, that number or the next power of two, padded, so
    that a latent is decided by its own seed and inputs and not by its batch.
    Raises UsageError for a query or a bottom that is missing, VoxportraitError where the device has no room.
    """
    told = _told(stage, given, len(seeds))
    drawn = []
    for first in range(0, len(seeds), batch_size):
        chosen = range(first, min(first + batch_size, len(seeds)))
        padded = [chosen[i % len(chosen)] for i in range(1 << (batch_size - 1).bit_length())]
        try:
            latents = _draw_batch(
                stage,
                condition[padded],
                {name: one[padded] for name, one in told.items()},
                [seeds[i] for i in padded],
                cond_scale,
                *plan(stage.preset, sampler, steps),
            )
        except torch.OutOfMemoryError:
            raise VoxportraitError(
                f"{stage.device} has no room for {len(padded)} portraits at once: take a smaller batch size"
            ) from None
        drawn.append(latents[: len(chosen)])
    return torch.cat(drawn)


def _told(stage: LatentStage, given: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """What a stage is given, with a place for a prior where there is none."""
    told = {}
    if not stage.from_matrix:
        if "query" not in given:
            raise UsageError(f"the stage {stage.name} hears the query beside the tokens, and none is given")
        told["query"] = given["query"]
    if "bottom" in stage.beside:
        if "bottom" not in given:
            raise UsageError(f"the stage {stage.name} draws from a bottom face, and none is given")
        told["bottom"] = given["bottom"]
    if "prior" in stage.beside:
        none = torch.zeros(size, *stage.codec.latent_shape, device=stage.device)
        told["prior"] = given.get("prior", none)
        every = torch.full((size,), "prior" in given, device=stage.device)
        told["has_prior"] = given.get("has_prior", every) & every
    return told


def _draw_batch(
    stage: LatentStage,
    condition: Tensor,
    given: Mapping[str, Tensor],
    seeds: Sequence[int],
    cond_scale: float,
    sampler: str,
    steps: int,
) -> Tensor:
    schedule = sampling_schedule(stage.preset, sampler)
    schedule.set_timesteps(steps, device=stage.device)
    dropped = _DROPPED.get(cond_scale, (False, True))
    condition = condition.repeat(len(dropped), 1, 1)
    drop = torch.tensor(dropped, device=stage.device).repeat_interleave(len(seeds))
    given = {name: one.repeat(len(dropped), *(1,) * (one.dim() - 1)) for name, one in given.items()}
    latents = torch.stack([noise_of(seed, stage) for seed in seeds]).to(stage.device) * schedule.init_noise_sigma
    for time in schedule.timesteps:
        noisy = schedule.scale_model_input(latents, time).repeat(len(dropped), 1, 1, 1)
        prediction, *null = stage.predict(noisy, time.expand(len(noisy)), condition, drop, given).chunk(len(dropped))
        if null:
            prediction = null[0] + (prediction - null[0]) * cond_scale
        latents = schedule.step(prediction, time, latents).prev_sample
    return latents


def noise_of(seed: int, stage: LatentStage) -> Tensor:
    """What a picture's drawing by a stage begins with, (c, h, w), on the CPU."""
    generator = torch.Generator().manual_seed(sample_seed(seed, 0, 0, f"{stage.name} portrait"))
    return torch.randn(*stage.codec.latent_shape, generator=generator)


def load_stage(checkpoint: Checkpoint, codec: LatentCodec, device: torch.device) -> LatentStage:
    """The moving average of a checkpoint, to draw with."""
    about = checkpoint.about
    settings = cast(LatentPreset, LatentPreset.from_json(about["settings"]))
    with torch.random.fork_rng(devices=[]):
        stage = LatentStage(about["stage"], system_named(about["system"]), settings, checkpoint.layout, device, codec)
    stage.network.load_state_dict(checkpoint.tensors("average", device))
    stage.network.requires_grad_(False)
    stage.compiled = False
    return stage
