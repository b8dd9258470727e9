"""SpeechBrain: ECAPA-TDNN speaker embedding (Desplanques et al. 2020)."""

from importlib.metadata import version
from typing import Any

from featurestore.makers import Maker
from pipelines import weights
from pipelines.decoding import SOUND
from pipelines.extractors import Values
from pipelines.sample import Sample


class Ecapa:
    """`ecapa`: (192,) float32, the embedding of the whole 24 s, unscaled."""

    name = "ecapa"
    makes = ("ecapa",)
    needs = "sound"
    requires: tuple[str, ...] = ()

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

    def extract(self, sample: Sample) -> Values:
        import torch

        with torch.inference_mode():
            sound = torch.from_numpy(sample.sound).to(self._device)
            return {"ecapa": self._model.encode_batch(sound[None])[0, 0].cpu().numpy()}
