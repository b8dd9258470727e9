"""librosa: the mel spectrogram as SLF's released code takes it, and one that looks at all of the sound."""

from importlib.metadata import version

import numpy as np

from featurestore.makers import Maker
from pipelines.decoding import SAMPLE_RATE, sound_maker
from pipelines.extractors.base import Extractor, Values
from pipelines.sample import Sample

BANDS = 128
MEL_RATE, MEL_WINDOW, MEL_HOP = 22_050, 512, 4_800
LOG_HOP = 3_490
LOG_WINDOW, LOG_FFT = 2 * LOG_HOP, 8_192
LOG_FLOOR = 1e-10


class Mel(Extractor):
    """`mel`: (111, 128) float32 power (not log) mel spectrogram, unscaled.

    The sound is resampled to 22,050 Hz, but the hop is 0.3 s of 16 kHz, as released: a frame covers 23 ms of every
    218 ms. Full-scale sound stays below 1,000, far inside float16; bands above 8 kHz hold nothing and become 0 there.
    """

    name = "mel"
    makes = ("mel",)
    needs = "sound"

    def makers(self) -> dict[str, Maker]:
        window = {"rate": MEL_RATE, "n_fft": MEL_WINDOW, "hop": MEL_HOP}
        return {"mel": _maker("mel", window | {"bands": BANDS, "power": 2})}

    def load(self, device: str) -> None:
        _mel(np.zeros(SAMPLE_RATE, np.float32))  # librosa imports and compiles at its first call, for seconds

    def extract(self, sample: Sample) -> Values:
        return {"mel": _mel(sample.sound)}


class LogMel(Extractor):
    """`mel_log`: (111, 128) float32 natural logarithm of the power mel spectrogram at 16 kHz, bands up to 8 kHz.

    Hann windows of 6,980 samples (436 ms) every 3,490, the first and the last centred on the sound's ends: each half
    overlaps the next, so that every sample counts. Power is raised to 1e-10 first: values lie between -24 and 16.
    """

    name = "mel_log"
    makes = ("mel_log",)
    needs = "sound"

    def makers(self) -> dict[str, Maker]:
        window = {"rate": SAMPLE_RATE, "n_fft": LOG_FFT, "window": LOG_WINDOW, "hop": LOG_HOP, "floor": LOG_FLOOR}
        return {"mel_log": _maker("mel_log", window | {"bands": BANDS, "power": 2, "log": "e"})}

    def load(self, device: str) -> None:
        _log_mel(np.zeros(SAMPLE_RATE, np.float32))

    def extract(self, sample: Sample) -> Values:
        return {"mel_log": _log_mel(sample.sound)}


def _maker(key: str, parameters: dict) -> Maker:
    parameters = {"sound": sound_maker()} | parameters
    return Maker(key, "melspectrogram", f"librosa {version('librosa')}", parameters=parameters)


def _mel(sound: np.ndarray) -> np.ndarray:
    import librosa

    resampled = librosa.resample(sound, orig_sr=SAMPLE_RATE, target_sr=MEL_RATE)
    power = librosa.feature.melspectrogram(y=resampled, sr=MEL_RATE, n_fft=MEL_WINDOW, hop_length=MEL_HOP, n_mels=BANDS)
    return np.ascontiguousarray(power.T)


def _log_mel(sound: np.ndarray) -> np.ndarray:
    import librosa

    power = librosa.feature.melspectrogram(
        y=sound, sr=SAMPLE_RATE, n_fft=LOG_FFT, win_length=LOG_WINDOW, hop_length=LOG_HOP, n_mels=BANDS
    )
    return np.ascontiguousarray(np.log(np.maximum(power, np.float32(LOG_FLOOR))).T)
