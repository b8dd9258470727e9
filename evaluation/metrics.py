"""How good portraits are: retrieval in a gallery, and likeness to the true picture. Pure functions of arrays."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import comb

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


@dataclass(frozen=True)
class Found:
    """Where queries' own entries are in a gallery, (N,) each. place: of the nearest right one, from 1; 0 where there is
    none. right: the entries that would be right; among: all that there are to choose from."""

    place: np.ndarray
    right: np.ndarray
    among: np.ndarray

    def of(self, mask: np.ndarray) -> "Found":
        """Those of (N,) bool."""
        return Found(self.place[mask], self.right[mask], self.among[mask])

    def hits(self, k: int) -> int:
        """Queries whose speaker is among the k nearest."""
        return int(((self.place > 0) & (self.place <= k)).sum())

    def recalls(self, ks: Iterable[int] = RANKS) -> dict[int, Recall]:
        """k -> recall at k of those who are in the gallery, beside what guessing finds: the probability that k entries
        drawn at random hold a right one, 1 - C(wrong, k) / C(all, k), which is k / size where one is right. A k that
        finds somebody for certain says nothing and is left out; without queries there are no recalls."""
        here = self.of(self.place > 0)
        if not len(here.place):
            return {}
        pairs = Counter(zip(here.right.tolist(), here.among.tolist(), strict=True))
        recalls = {}
        for k in (k for k in ks if all(k <= among - right for right, among in pairs)):
            found = share(here.hits(k), len(here.place))
            random = sum(many * _by_guessing(k, *pair) for pair, many in pairs.items()) / len(here.place)
            recalls[k] = Recall(found.hits, found.n, found.value, found.low, found.high, random)
        return recalls


def _by_guessing(k: int, right: int, among: int) -> float:
    return k / among if right == 1 else 1 - comb(among - right, k) / comb(among, k)


def find(
    queries: np.ndarray,
    gallery: np.ndarray,
    people: np.ndarray,
    own: Sequence[int] | np.ndarray,
    passed: tuple[np.ndarray, np.ndarray] | None = None,
    metric: str = "l2",
) -> Found:
    """The place, from 1, of each query's nearest own entry among the entries of others.

    queries: (N, D); gallery: (G, D); people: (G,) whose each entry is; own: (N,) who each query is of; passed: (G,) and
    (N,) numbers, and entries that have the query's are passed over; metric: `l2` or `cosine`. Entries at the same
    distance count as nearer, so that an embedding that maps everything to one point finds nobody, and so do those at no
    distance: one that is not a number finds nobody either.
    """
    own = np.asarray(own, np.int64)
    place, right, among = (np.zeros(len(own), np.int64) for _ in range(3))
    for i, (row, even) in enumerate(_distances(queries, gallery, metric)):
        mine = people == own[i]
        others = ~mine
        if passed is not None:
            mine = mine & (passed[0] != passed[1][i])
        right[i] = mine.sum()
        among[i] = right[i] + others.sum()
        if right[i]:
            nearest = np.where(np.isnan(row[mine]), np.inf, row[mine]).min()
            place[i] = 1 + (~(row[others] > nearest + even)).sum()
    return Found(place, right, among)


def ranks(
    queries: np.ndarray, gallery: np.ndarray, truth: Sequence[int] | np.ndarray, metric: str = "l2"
) -> np.ndarray:
    """`find` where each query has one right entry: (N,) int. truth: (N,) rows of the gallery."""
    return find(queries, gallery, np.arange(len(gallery)), truth, None, metric).place


def nearest(queries: np.ndarray, gallery: np.ndarray, metric: str = "l2") -> tuple[np.ndarray, np.ndarray]:
    """Each query's nearest of at least one entry: its row (N,) int and how far it is (N,), squared for `l2`; infinity
    where nothing is near or a number."""
    rows, far = np.zeros(len(queries), np.int64), np.full(len(queries), np.inf)
    for i, (row, _) in enumerate(_distances(queries, gallery, metric)):
        known = np.where(np.isnan(row), np.inf, row)
        rows[i], far[i] = known.argmin(), known.min()
    return rows, far


def apart(one: np.ndarray, other: np.ndarray, metric: str = "l2") -> np.ndarray:
    """How far (N, D) vectors are from (N, D) others, row by row, as `nearest` measures it: (N,)."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if choose("metric", metric, METRICS) == "l2":
        return ((one - other) ** 2).sum(1)
    return 1 - (_of_length_one(one) * _of_length_one(other)).sum(1)


def _distances(queries: np.ndarray, gallery: np.ndarray, metric: str) -> Iterator[tuple[np.ndarray, float]]:
    """Each query's distances to the gallery, (G,), and the difference of two equal ones that rounding may make."""
    choose("metric", metric, METRICS)
    queries, gallery = np.asarray(queries, np.float64), np.asarray(gallery, np.float64)
    if metric == "cosine":
        queries, gallery = _of_length_one(queries), _of_length_one(gallery)
    mine, theirs = (queries**2).sum(1), (gallery**2).sum(1)
    largest = np.nanmax(theirs, initial=0)
    for first in range(0, len(queries), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        products = queries[part] @ gallery.T
        rows = 1 - products if metric == "cosine" else np.maximum(mine[part, None] - 2 * products + theirs, 0)
        for row, length in zip(rows, mine[part], strict=True):
            yield row, ROUNDING * (largest + np.nan_to_num(length))


def _of_length_one(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)


METRICS = ("l2", "cosine")
"""How two embeddings are compared."""

AT_ONCE, ROUNDING = 64, 1e-11
"""Queries that are compared together; the part of squared lengths by which equal distances may differ in float64."""


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
