"""The part study (Fine-portraitist, Table I): which parts of a drawn face are nearer to the truth because of speech.

    study = part_study(told, untold, anothers, "landmarks", {"gender": Within(genders, fellows)})
    study["parts"]["jaw"]["t"], study["within"]["gender"]["woman"]["parts"]["jaw"]["p_holm"]

told, untold, anothers: part -> (N,) the distance of N drawn parts from the true ones, drawn with speech, without it,
and from somebody else's; a part's accuracy is minus its distance. Pure functions of arrays: `part_looks` measures
pictures, `voice_heads` known heads.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metrics import Z95
from featurestore.errors import VoxportraitError

BOTTOM, UPPER = ("jaw", "mouth", "nose"), ("eyes", "eyebrows")
PARTS = (*BOTTOM, *UPPER)
"""The paper's, in its order: those that speech should tell, and those that it should not."""

LEVEL = 0.05
"""Below it a p is significant, two-sided."""

LEAST = 3
"""Pairs without which there is no test."""

EITHER = "either"
"""In `within`: all groups together, each compared in its own."""

Distances = Mapping[str, np.ndarray]
"""Part -> (N,) distances from the true part, NaN where one of the pictures shows no face."""


@dataclass(frozen=True)
class Within:
    """What tells speech from the group alone: without it, a part may gain only because speech tells man from woman.

    names: (N,) each one's group, "" where it is not known; anothers: the distances of what was drawn from the speech of
    another of the same group, or their mean over a few (see `others`), NaN where there is nobody.
    """

    names: Sequence[str]
    anothers: Distances


def part_study(
    told: Distances,
    untold: Distances,
    anothers: Distances,
    measure: str,
    within: Mapping[str, Within] | None = None,
) -> dict[str, Any]:
    """The study by one measure, as JSON: what `compare` says of told against untold, and

    measure: its name. another: what `compare` says against anothers, of what was drawn from somebody else's speech.
    within: grouping -> group -> the same against another's of the same group, and all of them as `EITHER`; a group of
    fewer than three is left out.

    Against no speech it is the paper's test, and asks whether the generator draws better faces when it is told. It may
    find a difference where speech says nothing: what is drawn without speech may be nearer or farther on the whole.
    Against somebody else's speech it asks whether a face is nearer to its own speaker: the same pictures on both sides,
    so that without information the two are alike.
    Raises VoxportraitError where fewer than three pairs can be compared.
    """
    return {
        "measure": measure,
        **compare(told, untold),
        "another": compare(told, anothers),
        "within": {grouping: _groups(told, one) for grouping, one in (within or {}).items()},
    }


def compare(told: Distances, untold: Distances) -> dict[str, Any]:
    """Is each part nearer in `told` than in `untold`? Pairs of which one is NaN are left out, and counted.

    n, left_out, and of each part the paired t-test (SciPy's, two-sided): t (positive: nearer with speech), p,
    p_bonferroni and p_holm over the parts, mean_difference of the accuracy with its 95 % interval low to high, in the
    measure's unit; d: Cohen's, the mean difference in its own standard deviations, with d_low and d_high (normal,
    standard error (1/n + d^2/2n)^1/2); told, untold: the mean distances; significant: by each p.
    """
    both = np.array([[told[part], untold[part]] for part in PARTS], np.float64)
    here = np.asarray(np.isfinite(both).all((0, 1)))
    n = int(np.count_nonzero(here))
    if n < LEAST:
        raise VoxportraitError(f"{n} of {here.size} pairs of portraits show faces: the part study needs {LEAST}")
    rows = [_paired(*pair) for pair in both[:, :, here]]
    p = np.array([row["p"] for row in rows])
    corrected = {"p_bonferroni": np.minimum(p * len(p), 1).tolist(), "p_holm": holm(p).tolist()}
    for i, row in enumerate(rows):
        row |= {name: values[i] for name, values in corrected.items()}
        row["significant"] = {name: row[name] < LEVEL for name in ("p", *corrected)}
    return {"n": n, "left_out": here.size - n, "parts": dict(zip(PARTS, rows, strict=True))}


def holm(p: np.ndarray) -> np.ndarray:
    """p-values after Holm's step-down correction (1979), in the order given."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(stepped, 1)[np.argsort(order)]


def others(groups: Sequence[str], seed: int = 0, count: int = 1) -> np.ndarray:
    """(count, N) for each of N the numbers of others of the same group, no one twice; -1 where there are no more, or
    the group is "".

    Everybody is as often another as he has others, so that a picture that is good in general counts as often for as
    against, and cancels in the mean.
    """
    names, random = np.asarray(groups), np.random.default_rng(seed)
    found = np.full((count, len(names)), -1)
    for name in np.unique(names[names != ""]):
        circle = random.permutation(np.flatnonzero(names == name))
        for step, row in enumerate(found[: len(circle) - 1], 1):
            row[circle] = np.roll(circle, step)
    return found


def says(row: Mapping[str, Any], by: str = "p_holm") -> str:
    """What a part's row says: `nearer`, `farther` or `no difference`."""
    return "no difference" if not row["significant"][by] else "nearer" if row["t"] > 0 else "farther"


@cache
def published() -> dict[str, Any]:
    """Table I of the paper: n, critical t, and of each part t and d = t / n^1/2 with its interval."""
    table = json.loads(Path(__file__).with_name("published.json").read_text())
    told = table["fine_portraitist"]["table_1_paired_t"]
    n = told["n"]
    rows = {part: {"t": told[part], **_effect(told[part] / np.sqrt(n), n)} for part in PARTS}
    return {"n": n, "critical": told["critical"], "parts": rows}


def _groups(told: Distances, within: Within) -> dict[str, Any]:
    names = np.asarray(within.names)
    found = np.isfinite([within.anothers[part] for part in PARTS]).all(0)
    found &= np.isfinite([told[part] for part in PARTS]).all(0)
    groups = {name: found & (names == name) for name in sorted({*names.tolist()} - {""})}
    rows = groups | ({EITHER: found & (names != "")} if len(groups) > 1 else {})
    return {
        name: compare(*({part: values[part][which] for part in PARTS} for values in (told, within.anothers)))
        for name, which in rows.items()
        if which.sum() >= LEAST
    }


def _paired(told: np.ndarray, untold: np.ndarray) -> dict[str, Any]:
    from scipy.stats import ttest_rel

    difference = untold - told
    mean, spread = float(difference.mean()), float(difference.std(ddof=1))
    means = {"told": float(told.mean()), "untold": float(untold.mean()), "mean_difference": mean}
    if spread == 0:
        return {"t": 0.0, "p": 1.0, **means, "low": mean, "high": mean, **_effect(0.0, len(told))}
    test = ttest_rel(untold, told)
    low, high = map(float, test.confidence_interval(1 - LEVEL))
    found = {"t": float(test.statistic), "p": float(test.pvalue)}
    return {**found, **means, "low": low, "high": high, **_effect(mean / spread, len(told))}


def _effect(d: float, n: int) -> dict[str, float]:
    half = Z95 * np.sqrt(1 / n + d**2 / (2 * n))
    return {"d": float(d), "d_low": float(d - half), "d_high": float(d + half)}
