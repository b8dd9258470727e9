"""The speech encoder E_S: six seconds of PCM to tokens for cross-attention and to one query for retrieval.

Nothing in it looks at other samples: GroupNorm, no BatchNorm.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featurestore.catalogue import CATALOGUE, constituent
from featurestore.errors import UsageError, choose
from training.latent.audioclip import FULL_SCALE, AudioClip
from training.latent.presets import QUERY, CodecPreset

SAMPLES = CATALOGUE["speech"].shape[0]
WINDOW, HOP, FFT, POWER = 400, 160, 512, 0.3
FRAMES, BINS = (SAMPLES - WINDOW) // HOP + 1, FFT // 2 + 1
"""598 x 257."""
SILENCE = 1e-10
"""Added to a squared magnitude: far below half a step of 16 bits."""


def spectrogram(speech: Tensor) -> Tensor:
    """The power-compressed STFT: (B, 96000) int16 -> (B, 2, 598, 257) float32, real and imaginary part.

    X |X|^(0.3 - 1): the magnitude to the power 0.3, the phase kept. 16 kHz; Hann windows of 400 samples, one every 160,
    without padding at the ends, each with zeros to 512. Nothing in it is of what autocast rounds.
    """
    frames = (speech.float() / FULL_SCALE).unfold(1, WINDOW, HOP)
    spectrum = torch.view_as_real(torch.fft.rfft(frames * torch.hann_window(WINDOW, device=speech.device), FFT))
    power = spectrum.square().sum(-1, keepdim=True) + SILENCE
    return (spectrum * power ** ((POWER - 1) / 2)).permute(0, 3, 1, 2)


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(channels, 8), channels)


class Residual(nn.Module):
    """(B, before, H, W) -> (B, after, H/2, W/2), rounded up: two convolutions beside a mean over squares."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.body = nn.Sequential(
            *(norm(before), nn.SiLU(), nn.Conv2d(before, after, 3, stride=2, padding=1)),
            *(norm(after), nn.SiLU(), nn.Conv2d(after, after, 3, padding=1)),
        )
        self.beside = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.beside(F.avg_pool2d(x, 2, ceil_mode=True))


class AttentivePooling(nn.Module):
    """(B, T, W) -> (B, 2 W): mean and standard deviation over time, weighted by attention (arXiv 1803.10963)."""

    def __init__(self, width: int):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))

    def forward(self, tokens: Tensor) -> Tensor:
        weights = self.score(tokens).softmax(1)
        mean = (weights * tokens).sum(1)
        variance = (weights * (tokens - mean[:, None]).square()).sum(1)
        return torch.cat([mean, (variance + 1e-5).sqrt()], 1)


class Convolutional(nn.Module):
    """(B, 96000) int16 -> (B, T, width): a residual network over the STFT, each level half as long and as high."""

    def __init__(self, widths: Sequence[int], width: int):
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2)
        self.levels = nn.Sequential(*(Residual(*pair) for pair in pairwise(widths)))
        self.norm = norm(widths[-1])
        self.length, bins = FRAMES, BINS
        for _ in widths:
            self.length, bins = -(-self.length // 2), -(-bins // 2)
        self.out = nn.Linear(widths[-1] * bins, width)

    def forward(self, speech: Tensor) -> Tensor:
        parts = spectrogram(speech)
        magnitude = (parts.square().sum(1, keepdim=True) + SILENCE).sqrt()
        x = F.silu(self.norm(self.levels(self.stem(torch.cat([parts, magnitude], 1)))))
        return self.out(x.transpose(1, 2).flatten(2))


ENCODERS: dict[str, Callable[[CodecPreset], Any]] = {
    "convolutional": lambda preset: Convolutional(preset.speech_widths, preset.token_width),
    "audioclip": lambda preset: AudioClip(preset.token_width, SAMPLES),
}
"""What makes, of PCM, tokens (B, `length`, width)."""


class SpeechEncoder(nn.Module):
    """What is stored of a clip beside the matrix -> its tokens and its query.

    tokens (B, length, width) float32: what is heard, of mean 0 and variance 1, and a wave that tells its place; query
    (B, QUERY) float32 of length 1. Each of `fused` gives one token more, and is part of the query; a clip that lacks it
    gives zeros there.
    Raises UsageError for a fused constituent that is no vector.
    """

    positions: Tensor

    def __init__(self, preset: CodecPreset):
        super().__init__()
        width = preset.token_width
        self.fused = tuple(preset.fused)
        self.heard = ENCODERS[choose("speech encoder", preset.speech_encoder, ENCODERS)](preset)
        self.length = self.heard.length + len(self.fused)
        self.beside = nn.ModuleDict({key: nn.Linear(_numbers(key), width) for key in self.fused})
        self.register_buffer("positions", positions(self.length, width), persistent=False)
        self.pooling = AttentivePooling(width)
        self.query = nn.Linear((2 + len(self.fused)) * width, QUERY)

    def forward(self, beside: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        heard = F.layer_norm(self.heard(beside["speech"]).float(), (self.positions.shape[1],))
        others = [layer(direction(beside[key])) for key, layer in self.beside.items()]
        query = self.query(torch.cat([self.pooling(heard), *others], 1))
        tokens = torch.cat([heard, *(one[:, None] for one in others)], 1) + self.positions
        return tokens.float(), F.normalize(query.float(), dim=1)


def positions(length: int, width: int) -> Tensor:
    """(length, width): sines and cosines of each place, of wavelengths from 2 pi to 20,000 pi (arXiv 1706.03762)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width]


def direction(vectors: Tensor) -> Tensor:
    """(B, n) -> (B, n) float32 of length sqrt(n): embeddings are compared by their angle, and their lengths differ from
    model to model a hundredfold."""
    return F.normalize(vectors.float(), dim=1) * vectors.shape[1] ** 0.5


def _numbers(key: str) -> int:
    entry = constituent(key)
    if entry.kind != "vector":
        raise UsageError(f"the setting fused takes stored vectors (ecapa, titanet, ...), and {key} is a {entry.kind}")
    return entry.shape[0]
