"""pyAudioAnalysis's 34 short-term features and their deltas, of all frames at once (Giannakopoulos 2015, PLoS ONE).

The numbers are those of `ShortTermFeatures.feature_extraction(signal, 16000, 8000, 4800)`, several times as fast.
"""

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

RATE, WINDOW, STEP = 16_000, 8_000, 4_800
"""Hz; samples: a frame of 0.5 s every 0.3 s."""

FORMULAS = 1
"""Version of what is computed here, for makers' parameters."""

_BINS = WINDOW // 2
_BLOCKS = 10
_BLOCK = WINDOW // _BLOCKS
_ROLLOFF = 0.9
_MFCC = 13
_NOTES = 12
_EPSILON = np.finfo(np.float64).eps


def short_term_features(signal: np.ndarray) -> np.ndarray:
    """(n,) samples at 16 kHz on the scale of 16 bits -> (frames, 68) float64, in the library's order of features.

    Zero crossing rate, energy, entropy of energy; spectral centroid, spread, entropy, flux and rolloff; 13 MFCC; 12
    chroma and their standard deviation; then the difference of each from the frame before (0 in the first frame).
    """
    x = _normalised(signal)
    magnitude = np.abs(np.fft.rfft(sliding_window_view(x, WINDOW)[::STEP])[:, :_BINS]) / _BINS
    power = magnitude**2
    blocks = sliding_window_view(_block_sums(x**2, _BLOCK), _BLOCKS)[:: STEP // _BLOCK]
    chroma = _chroma(power)
    features = np.column_stack(
        [
            _zero_crossing_rate(x),
            blocks.sum(1) / WINDOW,
            _entropy(blocks),
            *_centroid_and_spread(magnitude),
            _entropy(_block_sums(power, _BINS // _BLOCKS)),
            _flux(magnitude),
            _rolloff(power),
            _mfcc(magnitude),
            chroma,
            chroma.std(1),
        ]
    )
    return np.hstack([features, np.diff(features, axis=0, prepend=features[:1])])


def _normalised(signal: np.ndarray) -> np.ndarray:
    """Without its mean, and with a peak of 1."""
    x = signal.astype(np.float64) / 2**15
    x -= x.mean()
    return x / (np.abs(x).max() + 1e-10)


def _block_sums(values: np.ndarray, size: int) -> np.ndarray:
    """(..., n) -> (..., n // size): sums of neighbours, a last block that is not full left out."""
    whole = values.shape[-1] // size * size
    return values[..., :whole].reshape(*values.shape[:-1], -1, size).sum(-1)


def _zero_crossing_rate(x: np.ndarray) -> np.ndarray:
    """Changes of sign between neighbours of a frame, a change to or from 0 counting half, over their number."""
    sign = (x > 0).astype(np.int8) - (x < 0)
    halves = np.cumsum(np.abs(np.diff(sign, prepend=sign[:1])), dtype=np.int64)
    return (halves[WINDOW - 1 :: STEP] - halves[: 1 - WINDOW : STEP]) / 2 / (WINDOW - 1)


def _entropy(energies: np.ndarray) -> np.ndarray:
    """(frames, blocks) energies -> entropy, in bits, of each block's share in its frame."""
    share = energies / (energies.sum(1, keepdims=True) + _EPSILON)
    return -(share * np.log2(share + _EPSILON)).sum(1)


def _centroid_and_spread(magnitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of frequency, weighted by magnitude, as shares of half the sampling rate."""
    frequency = np.arange(1, _BINS + 1) / _BINS
    peak = magnitude.max(1, keepdims=True)
    weight = magnitude / np.where(peak == 0, _EPSILON, peak)
    total = weight.sum(1) + _EPSILON
    centroid = weight @ frequency / total
    spread = np.sqrt(np.vecdot(weight, (frequency - centroid[:, None]) ** 2) / total)
    return centroid, spread


def _flux(magnitude: np.ndarray) -> np.ndarray:
    """Squared distance of a frame's normalised spectrum from that of the frame before; 0 in the first."""
    share = magnitude / (magnitude.sum(1, keepdims=True) + _BINS * _EPSILON)
    change = np.diff(share, axis=0)
    return np.concatenate([[0], np.vecdot(change, change)])


def _rolloff(power: np.ndarray) -> np.ndarray:
    """The share of the bins below which nine tenths of the energy lie."""
    below = np.cumsum(power, axis=1)
    return (below > _ROLLOFF * power.sum(1, keepdims=True) - _EPSILON).argmax(1) / _BINS


def _mfcc(magnitude: np.ndarray) -> np.ndarray:
    """(frames, 13): discrete cosine transform of the logarithm of the library's own 40 triangular filters' sums."""
    from scipy.fft import dct

    return dct(np.log10(magnitude @ _filter_bank() + _EPSILON), type=2, norm="ortho", axis=1)[:, :_MFCC]


def _chroma(power: np.ndarray) -> np.ndarray:
    """(frames, 12): energy by note of the octave, over all energy."""
    total = power.sum(1, keepdims=True)
    return power @ _chroma_map() / np.where(total == 0, _EPSILON, total)


@cache
def _filter_bank() -> np.ndarray:
    """(bins, 40)."""
    from pyAudioAnalysis.ShortTermFeatures import mfcc_filter_banks

    return np.ascontiguousarray(mfcc_filter_banks(RATE, _BINS)[0].T)


@cache
def _chroma_map() -> np.ndarray:
    """(bins, 12): what the library's chroma does with the power of each bin.

    It writes each bin's power to the place of its semitone, counted from 27.5 Hz, places below 0 from the array's end,
    so that of the bins of one semitone the last alone remains; divides place i by the number of bins that share bin
    i's semitone; and adds up every twelfth place.
    """
    from pyAudioAnalysis.ShortTermFeatures import chroma_features_init

    semitone, sharers = chroma_features_init(_BINS, RATE)
    last_bin_at = {place: index for index, place in enumerate(semitone % _BINS)}
    chroma = np.zeros((_BINS, _NOTES))
    for place, index in last_bin_at.items():
        chroma[index, place % _NOTES] = 1 / sharers[semitone[place]]
    return chroma
