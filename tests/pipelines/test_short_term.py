"""Short-term features: the library's own numbers, on whatever is heard."""

import numpy as np
import pytest
from pyAudioAnalysis.ShortTermFeatures import feature_extraction

from pipelines.decoding import FULL_SCALE, open_media
from pipelines.short_term import RATE, STEP, WINDOW, short_term_features

TIME = np.arange(24 * RATE) / RATE
NOISE = np.random.default_rng(0)
SOUNDS = {
    "silence": np.zeros(len(TIME)),
    "a constant": np.full(len(TIME), 5.0),
    "almost silence": NOISE.integers(-1, 2, len(TIME)),
    "tone": np.rint(10_000 * np.sin(2 * np.pi * 440 * TIME)),
    "a tone between bins": 10_000 * np.sin(2 * np.pi * 441.37 * TIME),
    "full scale": 32_767 * np.sign(np.sin(2 * np.pi * 100 * TIME)),
    "noise": NOISE.normal(0, 3_000, len(TIME)),
    "noise after silence": np.concatenate([np.zeros(5 * RATE), NOISE.normal(0, 3_000, 19 * RATE)]),
    "two frames and a rest": NOISE.normal(0, 3_000, WINDOW + STEP + 17),
}


def assert_equal_to_the_library(signal: np.ndarray) -> None:
    """1e-9 of each number; numbers that are themselves rounding errors (a difference of equals) are 0 to 1e-13."""
    expected = feature_extraction(signal, RATE, WINDOW, STEP, deltas=True)[0].T
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(short_term_features(signal), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", SOUNDS)
def test_features_are_the_library_s(name):
    assert_equal_to_the_library(SOUNDS[name])


def test_features_of_speech_are_the_library_s(talking_head):
    speech = open_media(talking_head.path).sound() * FULL_SCALE
    assert short_term_features(speech).shape == (79, 68)
    assert_equal_to_the_library(speech)
