"""How much an input matters: the SLF paper's significance (its Equations 3 and 4), with intervals, and two tests.

    significance({1: 16.9, 3: 30.5, 5: 33.9, 10: 45.8}, {1: 9.3, 3: 16.1, 5: 23.7, 10: 34.7})     # 75.0
    band(75.0)                                                                                   # "significant"

`all` is the system with the input, `without` the one that lacks it. Pure functions of numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

WEIGHTS = {1: 10, 3: 5, 5: 3, 10: 1}
"""Equation 4: k -> the weight of the relative increase of recall at k; they are divided by their sum, 19."""

BANDS = (
    (0.0, "negligible"),
    (20.0, "minor"),
    (40.0, "moderate"),
    (60.0, "considerable"),
    (80.0, "significant"),
    (float("inf"), "profound"),
)
"""Up to which significance, in percent, each name holds: the paper's."""


@dataclass(frozen=True)
class Comparison:
    """A question that the paper asks: what the system `all` gains by an input that `without` lacks."""

    about: str
    all: str
    without: str


COMPARISONS = (
    Comparison("image guide", "full-input", "no-image-guide"),
    Comparison("audio", "full-input", "no-audio"),
    Comparison("speaker embeddings", "full-input", "no-speaker-embedding"),
    Comparison("attributes", "full-input", "no-additional-attributes"),
)
"""The four of the paper."""


@dataclass(frozen=True)
class Significance:
    """S in percent with its 95 % bootstrap interval and its band. Where it is undefined, value and band are None and
    `reason` says why; where too many resamples are, low and high are None."""

    value: float | None
    low: float | None
    high: float | None
    band: str | None
    reason: str | None = None


def relative_increase(with_input: float, without: float) -> float | None:
    """Equation 3, R_inc(k) = (R_all - R_without) / R_without x 100, in percent; None where R_without is 0."""
    return None if without == 0 else (with_input - without) / without * 100


def significance(with_input: Mapping[int, float], without: Mapping[int, float]) -> float | None:
    """Equation 4, S = (10 R_inc(1) + 5 R_inc(3) + 3 R_inc(5) + R_inc(10)) / 19, in percent.

    with_input, without: k -> recall at k, in any unit, for k = 1, 3, 5 and 10. None where an increase is undefined.
    """
    increases = {k: relative_increase(with_input[k], without[k]) for k in WEIGHTS}
    known = {k: value for k, value in increases.items() if value is not None}
    if len(known) < len(WEIGHTS):
        return None
    return sum(WEIGHTS[k] * known[k] for k in WEIGHTS) / sum(WEIGHTS.values())


def band(value: float) -> str:
    """The name of a significance in percent."""
    return next(name for most, name in BANDS if value <= most)


def compare(
    with_input: Sequence[int] | np.ndarray,
    without: Sequence[int] | np.ndarray,
    gallery: int,
    speakers: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> Significance:
    """S of two systems that were asked for the same clips, with a paired bootstrap interval over speakers.

    with_input, without: (N,) the place, from 1, at which each clip's speaker was found, in the same order; gallery: its
    size; speakers: of each clip, where somebody has several: speakers are drawn anew, with all their clips. The
    interval is of the resamples in which S is defined; None where it is undefined in more than one in twenty.
    """
    places = np.stack([np.asarray(with_input), np.asarray(without)])
    if gallery <= max(WEIGHTS):
        return _undefined(f"a gallery of {gallery} gives no recall at {max(WEIGHTS)}")
    if not places.size:
        return _undefined("the two systems have no speaker in common")
    hits = np.stack([places <= k for k in WEIGHTS], 1).astype(np.float64)
    recalls = hits.mean(2)
    value = significance(*(dict(zip(WEIGHTS, row.tolist(), strict=True)) for row in recalls))
    if value is None:
        k = next(k for k, recall in zip(WEIGHTS, recalls[1], strict=True) if recall == 0)
        return _undefined(f"recall at {k} without it is 0: an increase over nothing has no size")
    people, own = np.unique(np.arange(places.shape[1]) if speakers is None else speakers, return_inverse=True)
    of_each = np.stack([np.bincount(own, one, len(people)) for one in hits.reshape(-1, places.shape[1])])
    draws = np.random.default_rng(seed).integers(0, len(people), (resamples, len(people)))
    clips = np.bincount(own)[draws].sum(1)
    again = (of_each[:, draws].sum(2) / clips).reshape(2, len(WEIGHTS), resamples)
    weights = np.array(list(WEIGHTS.values()))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        values = ((again[0] - again[1]) / again[1] * 100 * weights).sum(0) / weights.sum()
    values = values[(again[1] > 0).all(0)]
    if len(values) < 0.95 * resamples:
        share = 1 - len(values) / resamples
        return Significance(value, None, None, band(value), f"no interval: undefined in {share:.0%} of the resamples")
    low, high = np.percentile(values, (2.5, 97.5)).tolist()
    return Significance(value, low, high, band(value))


def _undefined(reason: str) -> Significance:
    return Significance(None, None, None, None, reason)


def above_chance(hits: int, n: int, k: int, gallery: int) -> float:
    """The probability of at least so many hits at k among n by guessing: exact binomial, one-sided, p = k / gallery.

    Queries must be independent: one for each speaker.
    """
    from scipy.stats import binomtest

    return float(binomtest(hits, n, k / gallery, alternative="greater").pvalue)


def fisher(hits: int, n: int, other_hits: int, other_n: int) -> float:
    """Fisher's exact test, two-sided: two shares of different people are equal."""
    from scipy.stats import fisher_exact

    return float(fisher_exact([[hits, n - hits], [other_hits, other_n - other_hits]])[1])


def mcnemar(one: Sequence[bool] | np.ndarray, other: Sequence[bool] | np.ndarray) -> float:
    """McNemar's exact test, two-sided: two systems that were asked for the same people hit equally often.

    one, other: (N,) hits in the same order. 1 where they never differ.
    """
    from scipy.stats import binomtest

    one, other = np.asarray(one, bool), np.asarray(other, bool)
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
