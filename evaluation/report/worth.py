"""What each input is worth: the SLF paper's significance."""

from collections.abc import Mapping
from typing import Any

from evaluation.report import paper
from evaluation.report.cells import Cell, Group, Line, Table, spoken
from evaluation.report.comparing import Comparison
from evaluation.significance import band


def significance(evaluation: Mapping[str, Any], comparison: Comparison) -> Table | None:
    """What each input is worth by the paper's Equations 3 and 4; None where no pair of systems was judged."""
    entries = [one for one in evaluation.get("significance", ()) if one["recogniser"] == comparison.recogniser]
    if not entries:
        return None
    scales = sorted({float(equal["scale"]) for one in entries for equal in one.get("at_equal_scales", ())})
    groups = []
    for about in dict.fromkeys(one["about"] for one in entries):
        chosen = [one for one in entries if one["about"] == about]
        lines = []
        if (value := paper.significance(chosen[0]["without"])) is not None:
            lines.append(Line("paper", "paper", [Cell(f"{value:.0f}", note=band(value)), *(None for _ in scales)]))
        for one in chosen:
            best = one.get("at_best") or {}
            equal = {float(found["scale"]): found for found in one.get("at_equal_scales", ())}
            words = f"here, {spoken(one['gallery'])}"
            about_best = f"best scales {best['scale_all']:g} and {best['scale_without']:g}" if best else ""
            cells = [_worth(best), *(_worth(equal.get(scale)) for scale in scales)]
            lines.append(Line("here", words, cells, about_best))
        groups.append(Group(lines, about, f"{chosen[0]['all']} against {chosen[0]['without']}"))
    return Table(
        "significance",
        "S, in percent",
        ["best scales", *(f"both at {scale:g}" for scale in scales)],
        groups,
        "the paper's",
        comparison.of("people", "recogniser", "galleries", "few"),
        "S weighs by how much recall grows when an input is given: R@1 ten times, R@3 five, R@5 three, R@10 once "
        "(Equations 3 and 4). Bands: to 20 minor, 40 moderate, 60 considerable, 80 significant, above that profound. "
        "Not defined where the system without the input finds nobody. Intervals are bootstrapped over speakers, and "
        "missing where too few resamples are defined; where one reaches below 0, the input may be worth nothing.",
        numeric=True,
    )


def _worth(found: Mapping[str, Any] | None) -> Cell | None:
    """A significance with its interval and its band; None where it was not had."""
    if not found:
        return None
    if found.get("value") is None:
        return Cell("–", note="not defined")
    ends = found.get("low"), found.get("high")
    interval = "" if None in ends else " to ".join(f"{end:.0f}".replace("-", "−") for end in ends)
    value = f"{found['value']:.0f}".replace("-", "−")
    return Cell(value, interval, note=found.get("band") or band(found["value"]))
