"""The codec: speech encoder, face encoder and face decoder, which are pre-trained together and then frozen.

codec = Frozen.load(Path("runs/fine-portraitist-codec"), "cuda")
latents = codec.encode(pictures)
tokens, query = codec.hear({"speech": pcm})
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featurestore.errors import UsageError
from training.checkpoint import open_run
from training.latent.adversary import Discriminator
from training.latent.presets import QUERY, CodecPreset
from training.latent.speech import Residual, SpeechEncoder, norm

SMALLEST = 4
"""Side to which a latent is brought before its query is read off."""


class FaceQuery(nn.Module):
    """(B, c, h, w) latents -> (B, QUERY) float32 of length 1."""

    def __init__(self, shape: tuple[int, int, int], width: int):
        super().__init__()
        channels, side, _ = shape
        levels: list[nn.Module] = []
        while side > SMALLEST:
            levels.append(Residual(width, width))
            side = -(-side // 2)
        self.stem = nn.Sequential(nn.GroupNorm(1, channels), nn.Conv2d(channels, width, 3, padding=1))
        self.levels = nn.Sequential(*levels, norm(width), nn.SiLU())
        self.out = nn.Linear(width * side * side, QUERY)

    def forward(self, latents: Tensor) -> Tensor:
        return F.normalize(self.out(self.levels(self.stem(latents)).flatten(1)).float(), dim=1)


class Codec(nn.Module):
    """All that is pre-trained.

    speech: `SpeechEncoder`; face: diffusers.AutoencoderKL; face_query: the face's side of the contrast; log_scale: of
    its temperature; discriminator: where there is an adversarial loss. latent_shape: (c, h, w).
    """

    def __init__(self, preset: CodecPreset):
        super().__init__()
        from diffusers import AutoencoderKL

        self.speech = SpeechEncoder(preset)
        self.face: Any = AutoencoderKL(**preset.autoencoder, sample_size=preset.side)
        self.latent_shape = latent_shape(preset)
        self.face_query = FaceQuery(self.latent_shape, preset.token_width)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(preset.temperature)))
        self.discriminator = Discriminator(preset.speech_widths[0]) if preset.adversarial else None


def latent_shape(preset: CodecPreset) -> tuple[int, int, int]:
    """(c, h, w): each level of the autoencoder but the last halves the sides.

    Raises UsageError where the side cannot be halved so often.
    """
    factor = 2 ** (len(preset.autoencoder["block_out_channels"]) - 1)
    if preset.side % factor:
        raise UsageError(f"the setting side is {preset.side}, and this autoencoder takes multiples of {factor}")
    return preset.autoencoder["latent_channels"], preset.side // factor, preset.side // factor


def resize(pictures: Tensor, side: int) -> Tensor:
    """(B, C, S, S) -> (B, C, side, side), S at least side: means over areas."""
    return pictures if pictures.shape[-1] == side else F.interpolate(pictures, (side, side), mode="area")


class Frozen:
    """A trained codec, which is not trained any more.

    about: of its checkpoint; run: its folder; weights: sha256 of the moving average that it is; preset; side: of its
    pictures; latent_shape: (c, h, w); token_shape: (T, W). What it says of a clip depends on that clip alone.
    """

    def __init__(self, codec: Codec, preset: CodecPreset, device: torch.device, about: Mapping[str, Any], run: Path):
        self.codec = codec.to(device).eval().requires_grad_(False)
        self.preset, self.device, self.about, self.run = preset, device, dict(about), run
        self.weights, self.side = "", preset.side
        self.latent_shape, self.token_shape = codec.latent_shape, (codec.speech.length, preset.token_width)

    @classmethod
    def load(cls, run: Path, device: str | torch.device) -> "Frozen":
        """The moving average of a run's newest checkpoint. Raises UsageError where the run has none, or is of another
        stage; VoxportraitError where the checkpoint is damaged."""
        checkpoint = open_run(run)
        if checkpoint.about["stage"] != "codec":
            raise UsageError(f"{run} is a run of the stage {checkpoint.about['stage']}, not of codec")
        preset: Any = CodecPreset.from_json(checkpoint.about["settings"])
        with torch.random.fork_rng(devices=[]):
            codec = Codec(preset)
        codec.load_state_dict(checkpoint.tensors("average", torch.device("cpu")))
        frozen = cls(codec, preset, torch.device(device), checkpoint.about, Path(run))
        with (checkpoint.folder / "average.safetensors").open("rb") as file:
            frozen.weights = hashlib.file_digest(file, "sha256").hexdigest()
        return frozen

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) in -1..1, S at least `side` -> (B, c, h, w) float32: the means of the posterior."""
        with _exactly():
            return self.codec.face.encode(resize(pictures.to(self.device).float(), self.side)).latent_dist.mean

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, 3, side, side) float32 in -1..1."""
        with _exactly():
            return self.codec.face.decode(latents.to(self.device).float()).sample.clamp(-1, 1)

    @torch.no_grad()
    def hear(self, beside: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What is stored of clips -> tokens (B, T, W) and queries (B, QUERY) of length 1, both float32.

        beside: `speech` (B, 96000) int16 and the constituents of the setting `fused`.
        """
        with _exactly():
            wanted = ("speech", *self.preset.fused)
            return self.codec.speech({key: beside[key].to(self.device) for key in wanted})


@contextmanager
def _exactly() -> Iterator[None]:
    """Full float32 on a GPU (no TF32), and convolutions by the same algorithm each time."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
