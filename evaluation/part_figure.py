"""A part study for people: a forest plot of the effects with their intervals, and a table of all numbers."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evaluation.part_study import EITHER, LEVEL, PARTS, says

COLUMNS = (
    "measure",
    "against",
    "n",
    "part",
    *("t", "p", "p_bonferroni", "p_holm", "d", "d_low", "d_high"),
    *("mean_difference", "low", "high", "told", "untold", "says"),
)
"""Of the table."""

NO_SPEECH, ANOTHERS = "no speech", "another's speech"
COLOURS = {NO_SPEECH: "#555555", ANOTHERS: "#20639b", "another's, same gender": "#e07b39"}
"""Of the comparisons that the picture shows."""


def comparisons(study: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Against what, and what `part_study.compare` says: no speech, somebody else's, that of the same group."""
    yield NO_SPEECH, study
    yield ANOTHERS, study["another"]
    for grouping, groups in study["within"].items():
        for name, found in groups.items():
            yield f"another's, same {grouping}" + ("" if name == EITHER else f": {name}"), found


def write_table(result: Mapping[str, Any], out: Path) -> Path:
    """Write every comparison as CSV, a row a part; the paper's come last, with what it prints."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for study in result["studies"]:
            for against, found in comparisons(study):
                for part, row in found["parts"].items():
                    common = {"measure": study["measure"], "against": against, "n": found["n"], "part": part}
                    writer.writerow({**common, **row, "says": says(row)})
        paper = result["published"]
        for part, row in paper["parts"].items():
            writer.writerow({"measure": "published", "against": NO_SPEECH, "n": paper["n"], "part": part, **row})
    return out


def draw_forest(result: Mapping[str, Any], out: Path) -> Path:
    """Write the effects (Cohen's d, 95 %) as PNG: a panel a measure, the paper's last, each with its t beside it.

    Filled marks are significant after Holm's correction (the paper's: above its critical t).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    studies, paper = result["studies"], result["published"]
    figure = Figure(figsize=(2.2 + 3.1 * (len(studies) + 1), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(studies) + 1, sharey=True, squeeze=False)[0]
    for panel, study in zip(panels, studies, strict=False):
        shown = [(against, found) for against, found in comparisons(study) if against in COLOURS]
        for shift, (against, found) in zip((-0.25, 0.0, 0.25), shown, strict=False):
            _marks(panel, found, COLOURS[against], shift, f"against {against}, n = {found['n']}")
        panel.set_title(study["measure"], fontsize=10)
    filled = {part: {**row, "filled": row["t"] > paper["critical"]} for part, row in paper["parts"].items()}
    _marks(panels[-1], {"parts": filled}, COLOURS[NO_SPEECH], 0.0, f"against no speech, n = {paper['n']:,}")
    panels[-1].set_title("published (Table I)", fontsize=10)
    for panel in panels:
        panel.axvline(0, color="#999999", linewidth=0.8)
        panel.set_xlabel("effect of speech, Cohen's d", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False)
        panel.margins(x=0.28)
    panels[0].set_yticks(range(len(PARTS)), PARTS, fontsize=9)
    panels[0].set_ylim(len(PARTS) - 0.5, -0.5)
    untrained = f" Untrained weights made: {', '.join(result['untrained'])}." if result["untrained"] else ""
    filled_is = f"filled: p < {LEVEL:g} after Holm (published: t > {paper['critical']:g})"
    figure.suptitle(
        f"{result['generator']}: {result['with']} against {result['without']}; {filled_is}.{untrained}", fontsize=8
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    return out


def _marks(panel: Any, found: Mapping[str, Any], colour: str, shift: float, label: str) -> None:
    for place, part in enumerate(PARTS):
        row = found["parts"][part]
        filled = row["filled"] if "filled" in row else row["significant"]["p_holm"]
        panel.errorbar(
            row["d"],
            place + shift,
            xerr=[[row["d"] - row["d_low"]], [row["d_high"] - row["d"]]],
            fmt="o",
            markersize=5,
            color=colour,
            markerfacecolor=colour if filled else "white",
            label=label if not place else None,
        )
        panel.annotate(
            f"t = {row['t']:.2f}",
            (row["d_high"], place + shift),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=colour,
        )
