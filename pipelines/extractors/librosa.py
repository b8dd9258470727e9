"""librosa: the mel spectrogram as SLF's released code takes it."""

from importlib.metadata import version

import numpy as np

from featurestore.makers import Maker
from pipelines.decoding import SAMPLE_RATE, SOUND
from pipelines.extractors.base import Extractor, Values
from pipelines.sample import Sample

MEL_RATE, WINDOW, HOP, BANDS = 22_050, 512, 4_800, 128


class Mel(Extractor):
    """`mel`: (111, 128) float32 power (not log) mel spectrogram, unscaled.

    The sound is resampled to 22,050 Hz, but the hop is 0.3 s of 16 kHz, as released: a frame covers 23 ms of every
    218 ms. Full-scale sound stays below 1,000, far inside float16; bands above 8 kHz hold nothing and become 0 there.
    """

    name = "mel"
    makes = ("mel",)
    needs = "sound"

    def makers(self) -> dict[str, Maker]:
        parameters = {"sound": SOUND, "rate": MEL_RATE, "n_fft": WINDOW, "hop": HOP, "bands": BANDS, "power": 2}
        return {"mel": Maker("mel", "melspectrogram", f"librosa {version('librosa')}", parameters=parameters)}

    def load(self, device: str) -> None:
        _mel(np.zeros(SAMPLE_RATE, np.float32))  # librosa imports and compiles at its first call, for seconds

    def extract(self, sample: Sample) -> Values:
        return {"mel": _mel(sample.sound)}


def _mel(sound: np.ndarray) -> np.ndarray:
    import librosa

    resampled = librosa.resample(sound, orig_sr=SAMPLE_RATE, target_sr=MEL_RATE)
    power = librosa.feature.melspectrogram(y=resampled, sr=MEL_RATE, n_fft=WINDOW, hop_length=HOP, n_mels=BANDS)
    return np.ascontiguousarray(power.T)
