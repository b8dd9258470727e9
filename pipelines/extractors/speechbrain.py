"""SpeechBrain: ECAPA-TDNN speaker embedding (Desplanques et al. 2020)."""

from importlib.metadata import version
from typing import Any

import numpy as np

from featurestore.makers import Maker
from pipelines import weights
from pipelines.decoding import SOUND
from pipelines.extractors.base import Network, Resources, Values
from pipelines.sample import Sample


class Ecapa(Network):
    """`ecapa`: (192,) float32, the embedding of the whole 24 s, unscaled."""

    name = "ecapa"
    makes = ("ecapa",)
    needs = "sound"
    models = ("ecapa",)
    resources = Resources(memory=0.6, gpu=0.1, batch=16)

    def makers(self) -> dict[str, Maker]:
        return {
            "ecapa": Maker(
                "ecapa",
                "spkrec-ecapa-voxceleb",
                f"speechbrain {version('speechbrain')}",
                weights.digest("ecapa"),
                {"sound": SOUND},
            )
        }

    def load(self, device: str) -> None:
        from speechbrain.inference.classifiers import EncoderClassifier
        from speechbrain.utils.fetching import LocalStrategy

        folder = str(weights.ensure("ecapa"))
        self._device = device
        self._model: Any = EncoderClassifier.from_hparams(
            source=folder,
            savedir=folder,
            overrides={"pretrained_path": folder},
            local_strategy=LocalStrategy.NO_LINK,
            run_opts={"device": device},
        )
        self._model.eval()

    def inputs(self, sample: Sample) -> np.ndarray:
        return sample.sound

    def infer(self, stack: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return self._model.encode_batch(torch.from_numpy(stack).to(self._device))[:, 0].cpu().numpy()

    def values(self, result: np.ndarray) -> Values:
        return {"ecapa": result}
