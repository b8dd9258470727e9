"""AudioCLIP's audio encoder in place of our own (Guzhov et al. 2021, arXiv 2106.13043), where its weights are there.

What is expected: <models folder>/audioclip/audioclip.pt2, a program of torch.export with a dynamic batch, from sound
(B, 96000) float32 in -1..1 at 16 kHz to features (B, T, D) or (B, D) float32, and beside it SHA256SUMS; that AudioCLIP
wants its sound at 44.1 kHz and in 16 bits is the program's part. Official: https://github.com/AndreyGuzhov/AudioCLIP.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featurestore.errors import VoxportraitError
from featurestore.models import models_folder
from featurestore.program_file import read_program

FULL_SCALE = 1 << 15


class AudioClip(nn.Module):
    """(B, samples) int16 -> (B, T, width): the frozen encoder's features through a layer that is trained.

    The encoder is no part of the weights: their state says its file's sha256, and is refused with another file.
    """

    digest: Tensor

    def __init__(self, width: int, samples: int):
        super().__init__()
        self.path = audioclip_file()
        self.sha256 = hashlib.sha256(self.path.read_bytes()).digest()
        features = self._features(torch.zeros(2, samples, dtype=torch.int16))
        self.length = features.shape[1]
        self.out = nn.Linear(features.shape[2], width)
        self.register_buffer("digest", torch.tensor(list(self.sha256), dtype=torch.uint8))

    def forward(self, speech: Tensor) -> Tensor:
        return self.out(self._features(speech))

    @torch.no_grad()
    def _features(self, speech: Tensor) -> Tensor:
        with torch.autocast(speech.device.type, enabled=False):
            features = _program(self.path, self.sha256, str(speech.device))(speech.float() / FULL_SCALE)
        return features[:, None] if features.ndim == 2 else features

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *more: Any) -> None:
        if not torch.equal(state[f"{prefix}digest"].cpu(), self.digest.cpu()):
            raise VoxportraitError(
                f"{self.path} is not the encoder that this codec was trained with: its sha256 differs"
            )
        super()._load_from_state_dict(state, prefix, *more)


def audioclip_file() -> Path:
    """Where the program lies. Raises VoxportraitError where it is not there."""
    path = models_folder() / "audioclip" / "audioclip.pt2"
    if not path.is_file():
        raise VoxportraitError(
            f"{path} is not there: put AudioCLIP's audio encoder there as a program of torch.export, from sound "
            "(B, 96000) float32 at 16 kHz to (B, T, D) float32, with its SHA256SUMS; or train with "
            "--set speech_encoder=convolutional"
        )
    return path


@cache
def _program(path: Path, sha256: bytes, device: str) -> Any:
    """sha256: of the file, so that another one is read anew."""
    return read_program(path, device)
