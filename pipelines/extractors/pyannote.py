"""pyannote.audio: x-vector speaker embeddings in sliding windows (pyannote/embedding; Coria et al. 2020)."""

import logging
import os
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.makers import Maker
from pipelines import weights
from pipelines.decoding import SAMPLE_RATE, SOUND_SECONDS, sound_maker
from pipelines.extractors.base import Network, Resources, Values
from pipelines.networks import inference, refused, weights_only
from pipelines.sample import Sample


def _every(duration: float) -> list[float]:
    """The starts of all windows of that duration in the sound, at steps of a third of it; all in seconds."""
    step = duration / 3
    return [i * step for i in range(int((SOUND_SECONDS - duration) / step) + 1)]


_LONG: dict[float, list[float]] = {duration: _every(duration) for duration in (6, 12, 24)}
WINDOWS: dict[str, dict[float, list[float]]] = {
    "pyannote": {3: [1, 3, 5, 7, 9, *range(11, 22)], **_LONG},
    "pyannote_all": {duration: _every(duration) for duration in (0.75, 1.5, 3)} | _LONG,
}
"""Duration -> starts of the windows, in seconds and in the order of the rows."""

_ARCHITECTURES = (
    ("pyannote.audio.models.embedding", "XVectorSincNet"),
    ("pyannote.audio.models.embedding.xvector", "XVectorSincNet"),
)
_PARAMETERS = {"sample_rate", "num_channels", "sincnet", "dimension", "task"}
"""What the checkpoint may say of the network. Lightning imports and calls what it finds under other keys."""
_PARAMETERS_KEYS = ("hyper_parameters", "hparams", "module_arguments")
"""Where Lightning looks for them: the name of today, and those of its first versions."""


class Pyannote(Network):
    """`pyannote`: (31, 512) float32, the windows that the layouts use; `pyannote_all`: (177, 512), all of them.

    Windows of .75, 1.5, 3, 6, 12 and 24 s at steps of a third: 94, 46, 22, 10, 4 and 1. `pyannote` has, of 3 s, those
    that start at 1, 3, 5, 7, 9 and 11 to 21 s, and all longer ones. Unscaled.
    """

    needs = "sound"
    models = ("pyannote",)
    resources = Resources(memory=0.25, gpu=0.1, batch=16)

    def __init__(self, key: str):
        self.name = key
        self.makes = (key,)

    def makers(self) -> dict[str, Maker]:
        windows = {str(duration): starts for duration, starts in WINDOWS[self.name].items()}
        library = f"pyannote.audio {version('pyannote.audio')}"
        parameters = {"sound": sound_maker(), "windows": windows}
        trained = weights.is_trained("pyannote")
        return {
            self.name: Maker(self.name, "pyannote/embedding", library, weights.digest("pyannote"), parameters, trained)
        }

    def load(self, device: str) -> None:
        self._device = device
        self._model = _load(weights.ensure("pyannote") / "pytorch_model.bin", device)

    def inputs(self, sample: Sample) -> np.ndarray:
        return sample.sound

    def infer(self, stack: np.ndarray) -> list[np.ndarray]:
        import torch

        sound = torch.from_numpy(stack).to(self._device)
        with inference():
            rows = [self._windows(sound, duration, starts) for duration, starts in WINDOWS[self.name].items()]
            return list(torch.cat(rows, 1).cpu().numpy())

    def values(self, result: np.ndarray) -> Values:
        return {self.name: result}

    def _windows(self, sound: Any, duration: float, starts: list[float]) -> Any:
        """(B, samples) -> (B, windows, 512), all windows of one duration in one pass."""
        import torch

        length = int(duration * SAMPLE_RATE)
        firsts = (int(start * SAMPLE_RATE) for start in starts)
        cut = torch.stack([sound[:, first : first + length] for first in firsts], 1)
        return self._model(cut.reshape(-1, 1, length)).reshape(*cut.shape[:2], -1)


def _load(path: Path, device: str) -> Any:
    """The model in the checkpoint. Quiet: the official one was trained with versions that nobody has any more."""
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    logging.getLogger("lightning.pytorch.utilities.migration").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
        from pyannote.audio import Model
        from pyannote.audio.core.model import Introspection
        from pyannote.audio.core.task import Problem, Resolution, Specifications
        from torch.torch_version import TorchVersion

        old_names = (
            (EarlyStopping, "pytorch_lightning.callbacks.early_stopping.EarlyStopping"),
            (ModelCheckpoint, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
        )
        plain = (Introspection, Problem, Resolution, Specifications, TorchVersion)
        with weights_only("pyannote", *plain, *old_names):
            _check(torch.load(path, map_location="cpu", weights_only=True), path)
            model: Any = Model.from_pretrained(path, map_location=device)
    return model.to(device).eval()


def _check(content: Any, path: Path) -> None:
    """Raises VoxportraitError for a checkpoint that would have anything but the x-vector network imported or called."""
    try:
        architecture = content["pyannote.audio"]["architecture"]
        made = architecture["module"], architecture["class"]
        given = set().union(*(content.get(key, {}) for key in _PARAMETERS_KEYS))
    except (KeyError, TypeError, AttributeError) as error:
        raise refused("pyannote", f"{path} is no checkpoint of pyannote.audio") from error
    if made not in _ARCHITECTURES:
        raise refused("pyannote", f"{path} would import {'.'.join(map(str, made))}")
    if others := sorted(map(str, given - _PARAMETERS)):
        raise refused("pyannote", f"{path} has parameters that are not the network's ({', '.join(others)})")
