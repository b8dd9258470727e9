"""NVIDIA NeMo: TitaNet-L (Koluguri et al. 2022) and SpeakerNet (Koluguri et al. 2020) speaker embeddings."""

import logging
import re
import tarfile
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from featurestore.makers import Maker
from pipelines import weights
from pipelines.decoding import SAMPLE_RATE, SOUND_SECONDS, sound_maker
from pipelines.extractors.base import Network, Resources, Values
from pipelines.networks import inference, refused, weights_only
from pipelines.sample import Sample

MODELS = {
    "titanet": ("titanet_large", "titanet-l.nemo"),
    "speakernet": ("speakerverification_speakernet", "speakerverification_speakernet.nemo"),
}
"""The weights' name -> NeMo's name and the file."""

STEP_SECONDS = 1
CONFIG, CHECKPOINT = "model_config.yaml", "model_weights.ckpt"

_TARGET_KEYS = {"target", "_target_", "cls"}
_ALLOWED_TARGETS = re.compile(
    r"nemo\.collections\.asr\.models\.(label_models\.)?EncDecSpeakerLabelModel"
    r"|nemo\.collections\.asr\.modules\.(\w+\.)?"
    r"(AudioToMelSpectrogramPreprocessor|SpectrogramAugmentation|ConvASREncoder|SpeakerDecoder)"
    r"|nemo\.collections\.(asr|common)\.losses\.(\w+\.)?(AngularSoftmaxLoss|CrossEntropyLoss)"
)
"""What a .nemo file may construct: the parts of NeMo's speaker models. A prefix would not do: a name can reach any
function through the modules that NeMo imports."""


class Speaker(Network):
    """`titanet` (192,) and `speakernet` (256,) float32: the embedding of the whole 24 s, unscaled.

    `titanet_sliding`, `speakernet_sliding`: the mean of the embeddings of the 22 windows of 3 s, one every second. The
    SLF paper's Table 1 says sliding windows and gives one row; that the row is their mean is our reading.
    """

    needs = "sound"
    resources = Resources(memory=0.25, gpu=0.1, batch=16)

    def __init__(self, key: str):
        self.name = key
        self.makes = (key,)
        self._weights = key.removesuffix("_sliding")
        self._seconds = 3 if key.endswith("_sliding") else SOUND_SECONDS
        self.models = (self._weights,)

    def makers(self) -> dict[str, Maker]:
        model, _ = MODELS[self._weights]
        library = f"nemo_toolkit {version('nemo_toolkit')}"
        parameters = {"sound": sound_maker(), "window": self._seconds, "step": STEP_SECONDS, "windows": "mean"}
        digest, trained = weights.digest(self._weights), weights.is_trained(self._weights)
        return {self.name: Maker(self.name, model, library, digest, parameters, trained)}

    def load(self, device: str) -> None:
        _, file = MODELS[self._weights]
        self._device = device
        self._model = _load(self._weights, weights.ensure(self._weights) / file, device)

    def inputs(self, sample: Sample) -> np.ndarray:
        return sample.sound

    def infer(self, stack: np.ndarray) -> list[np.ndarray]:
        import torch

        sound = torch.from_numpy(stack).to(self._device)
        windows = sound.unfold(1, self._seconds * SAMPLE_RATE, STEP_SECONDS * SAMPLE_RATE)
        signal = windows.flatten(0, 1)
        length = torch.full(signal.shape[:1], signal.shape[1], device=self._device)
        with inference():
            _, embeddings = self._model(input_signal=signal, input_signal_length=length)
            return list(embeddings.reshape(*windows.shape[:2], -1).mean(1).cpu().numpy())

    def values(self, result: np.ndarray) -> Values:
        return {self.name: result}


def quiet_nemo() -> None:
    """Import NeMo (16 s) without its messages; no telemetry leaves the machine, as no exporter is set up."""
    logging.getLogger("nv_one_logger").setLevel(logging.CRITICAL)
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(logging.ERROR)
    nemo_logging.captureWarnings(False)


def _load(name: str, path: Path, device: str) -> Any:
    """The model in a .nemo file, ready to infer: `restore_from` gives it back in training mode."""
    quiet_nemo()
    import torch
    from nemo.collections.asr.models import EncDecSpeakerLabelModel

    _check_archive(name, path)
    with weights_only(name):
        return EncDecSpeakerLabelModel.restore_from(str(path), map_location=torch.device(device)).eval()


def _check_archive(name: str, path: Path) -> None:
    """Raises VoxportraitError unless the tar holds plain files, each once and inside it, and a config that is safe."""
    from omegaconf import OmegaConf

    try:
        with tarfile.open(path) as archive:
            files = [member for member in archive.getmembers() if not member.isdir()]
            places = [PurePosixPath(member.name) for member in files]
            for member, place in zip(files, places, strict=True):
                if not member.isreg() or place.is_absolute() or ".." in place.parts or places.count(place) > 1:
                    raise refused(name, f"{path} holds {member.name}, which is no plain file inside it")
            if not {CONFIG, CHECKPOINT} <= {str(place) for place in places}:
                raise refused(name, f"{path} has no {CONFIG} or no {CHECKPOINT}")
            config_file: Any = archive.extractfile(files[places.index(PurePosixPath(CONFIG))])
            config = OmegaConf.load(config_file)
    except tarfile.TarError as error:
        raise refused(name, f"{path} is no .nemo file") from error
    for target in _targets(OmegaConf.to_container(config, resolve=True)):
        if not _ALLOWED_TARGETS.fullmatch(str(target)):
            raise refused(name, f"{path} would construct {target}")


def _targets(node: Any) -> list[Any]:
    """Everything in the config that names a class or function to construct or call."""
    if isinstance(node, list):
        return [target for item in node for target in _targets(item)]
    if not isinstance(node, dict):
        return []
    here = [value for key, value in node.items() if key in _TARGET_KEYS]
    return here + [target for value in node.values() for target in _targets(value)]
