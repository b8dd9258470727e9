"""pyAudioAnalysis: classical short-term features (Giannakopoulos 2015)."""

from importlib.metadata import version

import numpy as np

from featurestore.makers import Maker
from pipelines.decoding import FULL_SCALE, sound_maker
from pipelines.extractors.base import Extractor, Values
from pipelines.sample import Sample
from pipelines.short_term import FORMULAS, STEP, WINDOW, short_term_features


class ShortTerm(Extractor):
    """`short_term`: (79, 68) float32, 34 features and their deltas in windows of 0.5 s, every 0.3 s, unscaled."""

    name = "short_term"
    makes = ("short_term",)
    needs = "sound"

    def makers(self) -> dict[str, Maker]:
        library = f"pyAudioAnalysis {version('pyAudioAnalysis')}"
        parameters = {"sound": sound_maker(), "window": WINDOW, "step": STEP, "deltas": True, "formulas": FORMULAS}
        return {"short_term": Maker("short_term", "ShortTermFeatures", library, parameters=parameters)}

    def load(self, device: str) -> None:
        short_term_features(np.zeros(WINDOW))  # imports the library's tables, for seconds

    def extract(self, sample: Sample) -> Values:
        return {"short_term": short_term_features(sample.sound * FULL_SCALE).astype(np.float32)}
