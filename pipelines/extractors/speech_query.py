"""Fine-portraitist's speech encoder, trained here and exported: what its retrieval asks with and is asked for."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from featurestore.makers import Maker
from featurestore.program_file import read_program
from pipelines import weights
from pipelines.decoding import sound_maker
from pipelines.extractors.base import Network, Resources, Values
from pipelines.extractors.speech import SAMPLES, Speech
from pipelines.networks import inference
from pipelines.sample import Sample
from pipelines.weights.sums import untrained


class SpeechQuery(Network):
    """`speech_query`: (512,) float32 of length 1, of the same six seconds as `speech`; compared by the cosine."""

    name = "speech_query"
    makes = ("speech_query",)
    needs = "sound"
    models = ("speech_query",)
    resources = Resources(memory=0.5, gpu=0.1, batch=16, cpu_batch=4)

    def makers(self) -> dict[str, Maker]:
        digest, trained = weights.digest("speech_query"), weights.is_trained("speech_query")
        parameters = {"sound": sound_maker(), "samples": SAMPLES}
        library = f"torch {version('torch')}"
        return {"speech_query": Maker("speech_query", "Fine-portraitist E_S", library, digest, parameters, trained)}

    def load(self, device: str) -> None:
        """Raises VoxportraitError for a program whose sha256 nobody vouched for."""
        folder = weights.ensure("speech_query")
        self._device = device
        self._model: Any = read_program(folder / "speech_query.pt2", device, untrained(folder).values())

    def inputs(self, sample: Sample) -> np.ndarray:
        return Speech().extract(sample)["speech"]

    def infer(self, stack: np.ndarray) -> Sequence[np.ndarray]:
        import torch

        with inference():
            return list(self._model(torch.from_numpy(stack).to(self._device)).float().cpu().numpy())

    def values(self, result: np.ndarray) -> Values:
        return {"speech_query": result}
