"""SpeechBrain: ECAPA-TDNN speaker embedding (Desplanques et al. 2020) and spoken language."""

import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.catalogue import ATTRIBUTES
from featurestore.errors import VoxportraitError
from featurestore.makers import Maker
from pipelines import weights
from pipelines.decoding import sound_maker
from pipelines.extractors.base import Network, Resources, Values
from pipelines.networks import inference, refused, weights_only
from pipelines.sample import Sample

LOGIT_SCALE = 30
"""The language model's scores are cosines; it was trained on their softmax after multiplying them by this."""

_ALLOWED_TAGS = re.compile(
    r"!ref|tag:yaml\.org,2002:(map|seq|str|int|float|bool|null)"
    r"|!new:speechbrain\.lobes\.features\.Fbank"
    r"|!new:speechbrain\.processing\.features\.InputNormalization"
    r"|!new:speechbrain\.lobes\.models\.(ECAPA_TDNN\.(ECAPA_TDNN|Classifier)|Xvector\.(Xvector|Classifier))"
    r"|!new:speechbrain\.dataio\.encoder\.CategoricalEncoder"
    r"|!new:speechbrain\.utils\.parameter_transfer\.Pretrainer"
    r"|!name:torch\.nn\.LeakyReLU"
)
"""What a hyperparams.yaml may construct: the classes of SpeechBrain's classifiers, by their full names, because a
name such as `speechbrain.lobes.features.torch.hub.load` reaches anything from inside the library."""


class Ecapa(Network):
    """`ecapa`: (192,) float32, the embedding of the whole 24 s, unscaled."""

    name = "ecapa"
    makes = ("ecapa",)
    needs = "sound"
    models = ("ecapa",)
    resources = Resources(memory=0.25, gpu=0.1, batch=16)

    def makers(self) -> dict[str, Maker]:
        return {"ecapa": _maker("ecapa", "spkrec-ecapa-voxceleb", {"sound": sound_maker()})}

    def load(self, device: str) -> None:
        self._model = _load("ecapa", device)

    def inputs(self, sample: Sample) -> np.ndarray:
        return sample.sound

    def infer(self, stack: np.ndarray) -> list[np.ndarray]:
        import torch

        with inference():
            return list(self._model.encode_batch(torch.from_numpy(stack))[:, 0].cpu().numpy())

    def values(self, result: np.ndarray) -> Values:
        return {"ecapa": result}


class Language(Network):
    """`language`: the label of CommonLanguage's 45 that the whole 24 s are closest to, and its probability in 0..1.

    The probability is the softmax that the model was trained with: of its cosines times 30 (additive angular margin).
    """

    name = "language"
    makes = ("language",)
    needs = "sound"
    models = ("language",)
    resources = Resources(memory=0.25, gpu=0.1, batch=16)

    def makers(self) -> dict[str, Maker]:
        parameters = {"sound": sound_maker(), "logit_scale": LOGIT_SCALE}
        return {"language": _maker("language", "lang-id-commonlanguage_ecapa", parameters)}

    def load(self, device: str) -> None:
        """Raises VoxportraitError if the model's labels are not the catalogue's."""
        self._model = _load("language", device)
        encoder = self._model.hparams.label_encoder
        encoder.ignore_len()
        if other := set(encoder.lab2ind) ^ set(ATTRIBUTES["language"]):
            raise VoxportraitError(
                f"model language: its labels are not the 45 of lang-id-commonlanguage_ecapa "
                f"({', '.join(map(str, sorted(other, key=str)[:3]))} differ). Put the official label_encoder.txt there."
            )

    def inputs(self, sample: Sample) -> np.ndarray:
        return sample.sound

    def infer(self, stack: np.ndarray) -> list[tuple[str, float]]:
        import torch

        with inference():
            cosines, _, _, labels = self._model.classify_batch(torch.from_numpy(stack))
            probabilities = (LOGIT_SCALE * cosines).softmax(-1).amax(-1)
        return list(zip(labels, probabilities.tolist(), strict=True))

    def values(self, result: tuple[str, float]) -> Values:
        label, probability = result
        return {"language": label, "language_probability": probability}


def _maker(name: str, model: str, parameters: dict[str, Any]) -> Maker:
    library = f"speechbrain {version('speechbrain')}"
    return Maker(name, model, library, weights.digest(name), parameters, weights.is_trained(name))


def quiet_speechbrain() -> None:
    """Before SpeechBrain is imported: no messages, and it leaves PyTorch's precision and compiler as they are."""
    os.environ.setdefault("SB_LOG_LEVEL", "WARNING")
    os.environ.setdefault("SB_DISABLE_QUIRKS", "allow_tf32,disable_jit_profiling")


def _load(name: str, device: str) -> Any:
    """The EncoderClassifier in the model's folder, of the files in it alone."""
    quiet_speechbrain()
    from speechbrain.inference.classifiers import EncoderClassifier
    from speechbrain.utils.fetching import FetchConfig, LocalStrategy

    folder = weights.ensure(name)
    _check_hyperparameters(name, folder / "hyperparams.yaml")
    with weights_only(name):
        return EncoderClassifier.from_hparams(
            source=str(folder),
            savedir=str(folder),
            overrides={"pretrained_path": str(folder)},
            local_strategy=LocalStrategy.NO_LINK,
            fetch_config=FetchConfig(allow_network=False),
            run_opts={"device": device},
        )


def _check_hyperparameters(name: str, path: Path) -> None:
    """Raises VoxportraitError if the file would construct or call anything but SpeechBrain's own classifier parts."""
    import ruamel.yaml

    try:
        todo = [ruamel.yaml.YAML(typ="safe", pure=True).compose(path.read_text())]
    except ruamel.yaml.YAMLError as error:
        raise refused(name, f"{path} is no YAML") from error
    seen = set()
    while todo:
        node = todo.pop()
        if isinstance(node, tuple):
            todo += node
        elif node is not None and id(node) not in seen:
            seen.add(id(node))
            if not _ALLOWED_TAGS.fullmatch(str(node.tag)):
                raise refused(name, f"{path} would construct {node.tag}")
            todo += node.value if isinstance(node.value, list) else []
