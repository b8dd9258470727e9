"""The sound itself, for models that take the spectrogram on the device (Fine-portraitist)."""

import numpy as np

from featurestore.catalogue import CATALOGUE
from featurestore.makers import Maker
from pipelines.decoding import FULL_SCALE, sound_maker
from pipelines.extractors.base import Extractor, Values
from pipelines.sample import Sample

SAMPLES = CATALOGUE["speech"].shape[0]


class Speech(Extractor):
    """`speech`: (96000,) int16, the first six seconds at 16 kHz."""

    name = "speech"
    makes = ("speech",)
    needs = "sound"

    def makers(self) -> dict[str, Maker]:
        return {"speech": Maker("speech", "PCM", "", parameters={"sound": sound_maker(), "samples": SAMPLES})}

    def extract(self, sample: Sample) -> Values:
        return {"speech": (sample.sound[:SAMPLES] * FULL_SCALE).astype(np.int16)}
