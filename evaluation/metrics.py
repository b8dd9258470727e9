"""How good portraits are: retrieval in a gallery, and likeness to the true picture. Pure functions of arrays."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from featurestore.errors import choose

RANKS = (1, 3, 5, 10)
"""The k of recall at k that SLF reports."""

Z95 = 1.959963984540054
"""Two-sided 95 % point of the standard normal distribution."""


@dataclass(frozen=True)
class Share:
    """Hits among n, with Wilson's 95 % interval."""

    hits: int
    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Recall(Share):
    """Recall at k: the share of queries whose speaker is among the k nearest; random: what guessing gives."""

    random: float


@dataclass(frozen=True)
class Mean:
    """The mean of n values and its 95 % interval."""

    n: int
    value: float
    low: float
    high: float


def ranks(
    queries: np.ndarray, gallery: np.ndarray, truth: Sequence[int] | np.ndarray, metric: str = "l2"
) -> np.ndarray:
    """The place, from 1, of each query's own gallery entry when the gallery is sorted by distance to the query.

    queries: (N, D); gallery: (G, D); truth: (N,) rows of the gallery; metric: `l2` or `cosine`. Entries at the same
    distance count as nearer, so that an embedding that maps everything to one point finds nobody, and so do those at no
    distance: one that is not a number finds nobody either. Returns (N,) int.
    """
    if not len(queries):
        return np.empty(0, np.int64)
    distance = _DISTANCES[choose("metric", metric, _DISTANCES)]
    queries, gallery = np.asarray(queries, np.float64), np.asarray(gallery, np.float64)
    apart = (distance(query, gallery) for query in queries)
    return np.array([(~(row > row[own])).sum() for row, own in zip(apart, truth, strict=True)], np.int64)


def _cosine(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(query) * np.linalg.norm(gallery, axis=1)
    return 1 - (gallery * query).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)


_DISTANCES = {"l2": lambda query, gallery: ((gallery - query) ** 2).sum(1), "cosine": _cosine}
METRICS = tuple(_DISTANCES)
"""How two embeddings are compared."""


def recalls_of(places: np.ndarray, size: int, ks: Iterable[int] = RANKS) -> dict[int, Recall]:
    """k -> recall at k of places (see `ranks`) in a gallery of that size. A k that reaches the size says nothing and is
    left out; without places there are no recalls."""
    recalls = {}
    for k in (k for k in ks if k < size and len(places)):
        found = share(int((places <= k).sum()), len(places))
        recalls[k] = Recall(found.hits, found.n, found.value, found.low, found.high, k / size)
    return recalls


def share_of(right: np.ndarray) -> Share:
    """The share of (N,) truth values that are true, N at least 1."""
    return share(int(right.sum()), len(right))


def share(hits: int, n: int) -> Share:
    """Hits among n, at least 1, with the interval."""
    return Share(hits, n, hits / n, *wilson_interval(hits, n))


def wilson_interval(hits: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (1927); (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    middle = share + z**2 / (2 * n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    return (0.0 if hits == 0 else float(low)), (1.0 if hits == n else float(high))


def psnr(picture: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two (H, W, 3) uint8 pictures, OpenCV's (361.2 for equal ones)."""
    import cv2

    return float(cv2.PSNR(picture, truth))


def ssim(picture: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of two (H, W, 3) uint8 pictures, scikit-image's with its defaults (1 for equal ones)."""
    from skimage.metrics import structural_similarity

    return float(structural_similarity(picture, truth, channel_axis=2))


def mean_likeness(measure: Callable[[np.ndarray, np.ndarray], float], pictures: np.ndarray, truths: np.ndarray) -> Mean:
    """The mean of `psnr` or `ssim` over pairs of (N, H, W, 3) uint8 pictures, N at least 1."""
    return mean([measure(picture, truth) for picture, truth in zip(pictures, truths, strict=True)])


def root_mean_square(errors: Sequence[float] | np.ndarray) -> Mean:
    """The root of the mean square of at least one error, in its unit, with the bootstrap interval of `mean`."""
    squares = mean(np.asarray(errors, np.float64) ** 2)
    return Mean(squares.n, *(float(np.sqrt(value)) for value in (squares.value, squares.low, squares.high)))


def decade(age: float) -> str:
    """The paper's age group of an age in years: "20-29" for 20 <= age < 30; "100-109" holds all above."""
    first = min(max(int(age // 10), 0), 10) * 10
    return f"{first}-{first + 9}"


def mean(values: Sequence[float] | np.ndarray, seed: int = 0, resamples: int = 2000) -> Mean:
    """The mean of at least one value and its bootstrap percentile interval (Efron 1979), fixed by the seed."""
    values = np.asarray(values, np.float64)
    draws = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(values[draws].mean(1), (2.5, 97.5))
    return Mean(len(values), float(values.mean()), float(low), float(high))
