"""pyAudioAnalysis: classical short-term features (Giannakopoulos 2015)."""

from importlib.metadata import version

import numpy as np

from featurestore.makers import Maker
from pipelines.decoding import FULL_SCALE, SAMPLE_RATE, SOUND
from pipelines.extractors.base import Extractor, Values
from pipelines.sample import Sample

WINDOW, STEP = 8_000, 4_800


class ShortTerm(Extractor):
    """`short_term`: (79, 68) float32, 34 features and their deltas in windows of 0.5 s, every 0.3 s, unscaled."""

    name = "short_term"
    makes = ("short_term",)
    needs = "sound"

    def makers(self) -> dict[str, Maker]:
        library = f"pyAudioAnalysis {version('pyAudioAnalysis')}"
        parameters = {"sound": SOUND, "window": WINDOW, "step": STEP, "deltas": True}
        return {"short_term": Maker("short_term", "ShortTermFeatures", library, parameters=parameters)}

    def load(self, device: str) -> None:
        from pyAudioAnalysis import ShortTermFeatures

        self._features = ShortTermFeatures.feature_extraction

    def extract(self, sample: Sample) -> Values:
        features, _ = self._features(sample.sound * FULL_SCALE, SAMPLE_RATE, WINDOW, STEP)
        return {"short_term": np.ascontiguousarray(features.T, np.float32)}
