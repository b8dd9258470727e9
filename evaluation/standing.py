"""Which system is the better one: the order of those of one family, as it was found.

Two orders: by the distance of a recogniser's features to the true face's, and by recall. They need not agree, and what
was found is said whatever it is.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from evaluation.families import FAMILIES, FINE_PORTRAITIST, Family, part_of
from evaluation.sweep import best_rows, leading, recalls

DISTANCE = "cosine"
"""Of `likeness.feature_distances`, what the order is of."""

CLAIMED = {FINE_PORTRAITIST.name: ("fine-portraitist", "two-stage", "one-stage")}
"""The paper's own order, the best first (its Table IV)."""


def standings(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The order of each family of which more than one system was judged.

    [{"family", "claimed": the paper's order or [], "by", "gallery", "by_distance", "by_recall": the best first, each
    {"system", "scale", "value", "low", "high"}}], of each system the scale with the best recall.
    """
    found = []
    for family in FAMILIES:
        part = part_of(evaluation, family)
        best = best_rows(part) if part else {}
        if len(best) > 1:
            found.append(_standing(family, part, best))
    return found


def _standing(family: Family, part: Mapping[str, Any], best: Mapping[str, Any]) -> dict[str, Any]:
    gallery, by = leading(part)
    name = part["recognisers"][by]["name"]
    distances, shares = [], []
    for system, row in best.items():
        known = {"system": system, "scale": row["cond_scale"]}
        if features := row.get("features", {}).get(name):
            distances.append({**known, **_interval(features[DISTANCE])})
        if first := recalls(row, gallery, by).get("1"):
            shares.append({**known, **_interval(first)})
    return {
        "family": family.name,
        "claimed": [one for one in CLAIMED.get(family.name, ()) if one in best],
        "by": by,
        "gallery": gallery,
        "by_distance": sorted(distances, key=lambda one: one["value"]),
        "by_recall": sorted(shares, key=lambda one: -one["value"]),
    }


def _interval(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value[key] for key in ("value", "low", "high")}


def told(standing: Mapping[str, Any]) -> list[str]:
    """A standing in sentences: the orders, how sure they are, and whether they are the paper's."""
    by = f"{standing['by']}{', which is no recogniser' if standing['by'].startswith('pixels') else ''}"
    lines = []
    for key, measure, percent in (
        ("by_distance", f"{DISTANCE} distance of features to the true face", False),
        ("by_recall", f"R@1, {standing['gallery']}", True),
    ):
        if order := standing[key]:
            parts = "".join(f"{_sign(order, i)}{one['system']} {_number(one, percent)}" for i, one in enumerate(order))
            lines.append(f"Order found by {measure} ({by}), the best first: {parts}.{_sure(order)}")
            if claimed := standing["claimed"]:
                same = [one["system"] for one in order] == claimed and " = " not in parts
                lines.append(f"That is {'' if same else 'not '}the paper's order ({', '.join(claimed)}).")
    return lines


def _sign(order: Sequence[Mapping[str, Any]], i: int) -> str:
    """What stands before the i-th of an order."""
    return "" if i == 0 else " = " if order[i]["value"] == order[i - 1]["value"] else ", "


def _number(one: Mapping[str, Any], percent: bool) -> str:
    value, low, high = (f"{one[key]:.1%}" if percent else f"{one[key]:.4f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _sure(order: Sequence[Mapping[str, Any]]) -> str:
    """Which neighbours in an order have intervals that overlap: their order may be chance."""
    alike = [
        f"{one['system']} and {other['system']}"
        for one, other in pairwise(order)
        if max(one["low"], other["low"]) <= min(one["high"], other["high"])
    ]
    return f" The intervals of {'; of '.join(alike)} overlap: their order may be chance." if alike else ""
