"""The two mel spectrograms: the one of the release looks at a tenth of the sound, the matched one at all of it."""

import numpy as np
import pytest

from pipelines.extractors.librosa import LOG_FLOOR, _log_mel, _mel

TIME = np.arange(384_000) / 16_000
FIRST, LAST = 0, 383_999


def tone(frequency: float) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * TIME).astype(np.float32)


def click(place: int) -> np.ndarray:
    sound = np.zeros(384_000, np.float32)
    sound[place] = 0.5
    return sound


def test_the_logarithm_has_a_floor_and_stays_small():
    silence, loud = _log_mel(np.zeros(384_000, np.float32)), _log_mel(np.sign(tone(440)))
    assert silence.shape == loud.shape == (111, 128)
    assert silence.dtype == np.float32
    np.testing.assert_allclose(silence, np.log(LOG_FLOOR), rtol=1e-6)
    assert -24 < loud.min() < loud.max() < 16


def test_half_the_amplitude_is_a_quarter_of_the_power_in_every_frame():
    quiet, loud = _log_mel(tone(440) / 2), _log_mel(tone(440))
    np.testing.assert_allclose((loud - quiet).max(1), np.log(4), atol=1e-3)


def test_a_higher_tone_lies_in_a_higher_band():
    bands = [int(_log_mel(tone(frequency))[50].argmax()) for frequency in (200, 440, 1_000, 4_000, 7_500)]
    assert bands == sorted(bands)
    assert bands[0] < 10
    assert bands[-1] > 120


@pytest.mark.parametrize("place", [FIRST, 1_745, 5_235, 100_000, 200_001, LAST])
def test_no_sample_is_overlooked(place):
    assert _log_mel(click(place)).max() > np.log(LOG_FLOOR) + 5
    assert np.argmax(_log_mel(click(place)).max(1)) == pytest.approx(place / 3_490, abs=0.51)


def test_the_released_one_overlooks_most():
    assert _mel(click(1_745)).max() < LOG_FLOOR < _mel(click(FIRST)).max()
