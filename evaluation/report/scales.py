"""Every measure over the conditional scale, as in the paper's Figure 8, with the paper's own points."""

from collections.abc import Callable, Mapping
from typing import Any

from evaluation.report import paper
from evaluation.report.cells import ATTRIBUTES
from evaluation.report.curves import Series, scale_curve, series_key
from evaluation.sweep import leading, recalls
from featurestore.conditioning import SYSTEMS

Measure = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""A row of the evaluation -> {"value", "low", "high"}, None where it was not had."""


def scale_panels(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """{"panels": [{"title", "unit", "svg"}], "legend": [{"system", "svg"}], "published": bool}, the last saying whether
    the paper's points are there; None where no system was judged at more than one scale."""
    places = {name: place for place, name in enumerate(SYSTEMS)}
    drawn: dict[str, list[Mapping[str, Any]]] = {}
    for row in evaluation.get("systems", ()):
        drawn.setdefault(row["name"], []).append(row)
    if max(map(len, drawn.values()), default=0) < 2:
        return None
    panels, published, shown = [], False, set(drawn)
    for title, unit, factor, column, measure, guessing in _measures(evaluation):
        ours = {
            name: [
                (float(row["cond_scale"]), factor * found["value"], factor * found["low"], factor * found["high"])
                for row in rows
                if (found := measure(row))
            ]
            for name, rows in drawn.items()
        }
        series = [Series(places[name], points) for name, points in ours.items() if points]
        if not series:
            continue
        if column:
            for name, rows in paper.scales().items():
                points = [(scale, row[column], None, None) for scale, row in rows.items() if row[column] is not None]
                series.append(Series(places[name], points, published=True))
                published, shown = True, shown | {name}
        label = f"{title} over the conditional scale"
        panels.append({"title": title, "unit": unit, "svg": scale_curve(series, label, guessing)})
    legend = [{"system": name, "svg": series_key(places[name])} for name in SYSTEMS if name in shown]
    return {"panels": panels, "legend": legend, "published": published} if panels else None


def _measures(
    evaluation: Mapping[str, Any],
) -> list[tuple[str, str, float, str, Measure, float | None]]:
    """Title, unit, factor to it, the paper's column ("" where it has none), the measure, and guessing's level."""
    leader, recogniser = leading(evaluation)
    found: list[tuple[str, str, float, str, Measure, float | None]] = []
    for gallery, about in evaluation["galleries"].items():
        for k in [k for k in (1, 5) if k in evaluation["ranks"]] or evaluation["ranks"][:1]:
            column = next((key for key, rank in paper.RECALLS.items() if rank == str(k) and gallery == leader), "")

            def measure(row: Mapping[str, Any], gallery: str = gallery, k: int = k) -> Mapping[str, Any] | None:
                return recalls(row, gallery, recogniser).get(str(k))

            title = f"R@{k}, {gallery.replace('-', ' ')}"
            guessing = 100 * k / about["speakers"] if about["speakers"] else None
            found.append((title, "%", 100.0, column, measure, guessing))
    for key, name in ATTRIBUTES.items():
        found.append((name.capitalize(), "%", 100.0, key, _judged(key), None))
    found.append(("Age, RMSE", "years", 1.0, "age_rmse", _judged("age_rmse"), None))
    found.append(("PSNR", "dB", 1.0, "psnr", lambda row: row.get("psnr"), None))
    found.append(("SSIM", "", 1.0, "ssim", lambda row: row.get("ssim"), None))
    return found


def _judged(key: str) -> Measure:
    return lambda row: row.get("attributes", {}).get(key, {}).get("judged")
