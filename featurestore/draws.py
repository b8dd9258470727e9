"""What is random in training: functions of (seed, epoch, position), so that any machine draws the same."""

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from featurestore.conditioning import Layout

_GOLDEN, _FIRST, _SECOND = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


def epoch_order(clips: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: (clips,) int64, every number below `clips` once: as one random word for each sorts them.

    Not numpy's own permutation, which may differ from version to version.
    """
    return np.argsort(_words(seed, epoch, np.arange(clips), "order"), kind="stable")


def sample_seed(seed: int, epoch: int, position: int, purpose: str) -> int:
    """A 63-bit seed for one sample and one purpose."""
    return int(_words(seed, epoch, np.array([position]), purpose)[0] >> np.uint64(1))


def uniforms(seed: int, epoch: int, positions: np.ndarray, purpose: str, count: int = 1) -> np.ndarray:
    """Numbers in [0, 1) for the samples at these positions: (B, count) float64, independent of each other."""
    words = _words(seed, epoch, positions, purpose)[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return (_mixed(words) >> np.uint64(11)) * 2.0**-53


def attribute_dropout(layout: "Layout", seed: int, epoch: int, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Which values are dropped in training: constituent -> (B,) bool, independent, with the layout's probability."""
    chances = sorted(layout.dropout.items())
    draws = uniforms(seed, epoch, np.asarray(positions), "dropout", max(1, len(chances)))
    return {key: draws[:, i] < probability for i, (key, probability) in enumerate(chances)}


def _words(seed: int, epoch: int, positions: np.ndarray, purpose: str) -> np.ndarray:
    """(B,) uint64: one well-mixed word for each position."""
    word = np.zeros(1, np.uint64)
    for part in (seed, epoch, zlib.crc32(purpose.encode())):
        word = _mixed(word + np.array([part], np.int64).view(np.uint64) + _GOLDEN)
    return _mixed(word + positions.astype(np.uint64) * _GOLDEN)


def _mixed(words: np.ndarray) -> np.ndarray:
    """SplitMix64's output function (Steele, Lea and Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))
