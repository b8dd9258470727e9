"""Collaborative pre-training: speech encoder, face encoder and face decoder, by contrast and reconstruction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from featurestore import feed
from featurestore.conditioning import Layout
from featurestore.draws import sample_seed
from featurestore.errors import UsageError
from featurestore.records import Batch
from training.fast_unet import use_tensor_cores
from training.latent.adversary import fooling, telling_apart
from training.latent.codec import Codec, resize
from training.latent.contrast import PARTS, contrast, scale_of, speaker_numbers
from training.latent.perceptual import Perceptual, weights_file
from training.latent.presets import QUERY, CodecPreset
from training.stage import Stage

LOOKED_AT = 8
"""Of the held-out clips of a batch, LPIPS is measured of every so many: it costs more than all the rest."""


@dataclass
class Inputs:
    """A batch on the device.

    beside: `speech` (B, 96000) int16, and what is fused. pictures: (B, 2, 3, S, S) in -1..1, the face and its bottom.
    speakers: (B, `PARTS`), equal where the speakers are. first: of these samples among everybody, (N, `shows`).
    """

    beside: dict[str, Tensor]
    pictures: Tensor
    speakers: Tensor
    first: int = 0
    everybody: Tensor = field(default_factory=lambda: torch.zeros(0, 2 * QUERY + PARTS))

    def __getitem__(self, rows: slice) -> "Inputs":
        return replace(
            self,
            beside={key: values[rows] for key, values in self.beside.items()},
            pictures=self.pictures[rows],
            speakers=self.speakers[rows],
            first=self.first + rows.indices(len(self.pictures))[0],
        )

    def __len__(self) -> int:
        return len(self.pictures)


class CodecStage(Stage):
    """The codec with how it is pre-trained.

    loss = contrast InfoNCE + reconstruction |x - x'| + perceptual LPIPS + kl KL + adversarial (-D(x')), and the
    discriminator's own: each weighted by the setting of its name, those of pictures the mean over face and bottom.
    """

    preset: CodecPreset
    network: Codec
    name = "codec"
    shows = 2 * QUERY + PARTS

    def __init__(self, preset: CodecPreset, layout: Layout, device: torch.device):
        """Raises UsageError where the layout lacks what the preset fuses, VoxportraitError for missing weights."""
        super().__init__(preset, device)
        self.network = Codec(preset).to(device)
        if lacking := [key for key in ("speech", *preset.fused) if key not in layout.beside]:
            raise UsageError(
                f"the codec takes {lacking[0]} as it is stored, and beside the matrix the layout {layout.label} has "
                f"{', '.join(layout.beside) or 'nothing'}: give a --layout whose `beside` names it"
            )
        self.perceptual = Perceptual.load(device=device) if preset.perceptual else None
        self.shows = CodecStage.shows if preset.contrast else 0
        use_tensor_cores(device)

    def inputs(self, fed: feed.Inputs) -> Inputs:
        pictures = [resize(fed.pictures[name], self.preset.side) * 2 - 1 for name in ("face", "bottom")]
        return Inputs(
            {key: fed.beside[key] for key in ("speech", *self.preset.fused)},
            torch.stack(pictures, 1).contiguous(),
            torch.tensor(speaker_numbers(fed.batch.clip_ids), device=self.device),
        )

    def noise(self, batch: Batch, seed: int, purpose: str = "noise") -> Tensor:
        """(B, 2, c, h, w) normal: of the posteriors of the face and of its bottom."""
        generator = torch.Generator(self.device)
        draws = []
        for position in batch.positions:
            generator.manual_seed(sample_seed(seed, batch.epoch, int(position), purpose))
            draws.append(torch.randn(2, *self.network.latent_shape, generator=generator, device=self.device))
        return torch.stack(draws)

    def shown(self, inputs: Inputs) -> Tensor:
        """Speech query, face query, and who speaks."""
        with self._autocast():
            face = self.network.face.encode(inputs.pictures[:, 0]).latent_dist.mean
            return torch.cat([self.network.speech(inputs.beside)[1], self.network.face_query(face), inputs.speakers], 1)

    def meet(self, inputs: Inputs, everybody: Tensor, first: int) -> Inputs:
        return replace(inputs, everybody=everybody, first=first)

    def loss(self, inputs: Inputs, noise: Tensor) -> Tensor:
        preset, network, size = self.preset, self.network, len(inputs)
        real = inputs.pictures.transpose(0, 1).flatten(0, 1)
        with self._autocast():
            posterior = network.face.encode(real).latent_dist
            mean, log_variance = posterior.mean.float(), posterior.logvar.float()
            drawn = network.face.decode(mean + (log_variance / 2).exp() * noise.transpose(0, 1).flatten(0, 1)).sample
            losses = preset.reconstruction * (drawn.float() - real).abs().mean((1, 2, 3))
            divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum((1, 2, 3)) / 2
            losses = losses + preset.kl * divergence
            if self.perceptual:
                losses = losses + preset.perceptual * self.perceptual(drawn, real)
            if network.discriminator:
                losses = losses + preset.adversarial * fooling(network.discriminator, drawn)
                losses = losses + telling_apart(network.discriminator, real, drawn)
            of_pictures = losses.view(2, size).mean(0)
            if not preset.contrast:
                return of_pictures
            _, speech = network.speech(inputs.beside)
            face = network.face_query(mean[:size])
        queries = inputs.everybody[:, :QUERY], inputs.everybody[:, QUERY : 2 * QUERY]
        own = slice(inputs.first, inputs.first + size)
        told = contrast(speech, face, scale_of(network.log_scale), inputs.everybody[:, 2 * QUERY :], own, queries)
        return of_pictures + preset.contrast * told

    @torch.no_grad()
    def columns(self, inputs: Inputs, seeds: Sequence[int]) -> list[Tensor]:
        """The face, its reconstruction, the bottom, its reconstruction."""
        pairs = zip(inputs.pictures.unbind(1), self._again(inputs).unbind(1), strict=True)
        return [picture for pair in pairs for picture in pair]

    def columns_about(self) -> dict[str, Any]:
        return {"columns": ["face", "reconstruction", "bottom", "reconstruction"]}

    @torch.no_grad()
    def measure(self, batches: Iterator[Inputs]) -> dict[str, float]:
        """psnr, bottom_psnr: of reconstructions, in dB; lpips, bottom_lpips: where its weights are there, of some.

        speech_to_face_r1, _r5: how often a clip's speech finds its speaker, among all held-out speakers by the mean of
        their faces' queries, first or among the first five; speech_to_face_r1_chance, _r5_chance: by chance.
        """
        looks = self._looks
        errors, distances, shown = [], [], []
        for inputs in batches:
            again = self._again(inputs)
            errors.append((again - inputs.pictures).square().mean((2, 3, 4)))
            if looks:
                some = slice(None, None, LOOKED_AT)
                pairs = zip(again[some].unbind(1), inputs.pictures[some].unbind(1), strict=True)
                distances.append(torch.stack([looks(*pair) for pair in pairs], 1))
            shown.append(self.shown(inputs))
        if not shown:
            return {}
        psnr = (10 * torch.log10(4 / torch.cat(errors).clamp(min=1e-10))).mean(0).tolist()
        told = dict(zip(("psnr", "bottom_psnr"), psnr, strict=True))
        if looks:
            told |= zip(("lpips", "bottom_lpips"), torch.cat(distances).mean(0).tolist(), strict=True)
        return told | retrieval(torch.cat(shown))

    def _again(self, inputs: Inputs) -> Tensor:
        """(B, 2, 3, S, S): pictures by encoder and decoder."""
        with self._autocast():
            latents = self.network.face.encode(inputs.pictures.flatten(0, 1)).latent_dist.mean
            return self.network.face.decode(latents).sample.float().clamp(-1, 1).view_as(inputs.pictures)

    @cached_property
    def _looks(self) -> Perceptual | None:
        """For figures: the loss's own, or where the weights are there."""
        return self.perceptual or (Perceptual.load(device=self.device) if weights_file().exists() else None)

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


def retrieval(shown: Tensor) -> dict[str, float]:
    """Speech to face among the speakers of what clips show, (N, 2 QUERY + PARTS); see `CodecStage.measure`."""
    speech, face = shown[:, :QUERY], shown[:, QUERY : 2 * QUERY]
    speakers, who = shown[:, 2 * QUERY :].unique(dim=0, return_inverse=True)
    gallery = torch.zeros(len(speakers), QUERY, device=shown.device).index_add_(0, who, face)
    similarity = speech @ torch.nn.functional.normalize(gallery, dim=1).T
    place = (similarity > similarity.gather(1, who[:, None])).sum(1)
    told = {}
    for first in (1, 5):
        told[f"speech_to_face_r{first}"] = (place < first).float().mean().item()
        told[f"speech_to_face_r{first}_chance"] = min(1.0, first / len(speakers))
    return told
