"""What the two papers printed, from `evaluation/published.json`, by this project's names."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from featurestore.conditioning import SYSTEMS

SPEAKERS = 118
"""The paper's gallery: one true face of each of 118 test speakers of VoxCeleb2."""

SELECTED = {
    "only-image-guide": "pure super-resolution",
    "full-input": "super-resolution SLF",
    "no-additional-attributes": "super-resolution SLF, no attributes",
    "no-image-guide": "face generation SLF",
    "only-audio": "face generation SLF, only audio",
}
"""Systems that the paper's Tables 2 to 4 have under a name of their own; Tables 5 to 7 have all eight."""

RECALLS = {"r1": "1", "r3": "3", "r5": "5", "r10": "10"}
PORTRAITIST_RECALLS = {"1": "r1", "2": "r2", "5": "r5"}


@cache
def _tables() -> dict[str, Any]:
    return json.loads((Path(__file__).parent.parent / "published.json").read_text())


def published() -> dict[str, Any]:
    """The SLF paper's tables; shares in percent, ages in years, PSNR in dB."""
    return _tables()["slf"]


def portraitist() -> dict[str, Any]:
    """The Fine-portraitist paper's tables; shares in percent."""
    return _tables()["fine_portraitist"]


def portraitist_rows(table: str) -> list[dict[str, Any]]:
    """The rows of its Table II, III or IV: method, year, l1, l2, cos, gender, age, r1, r2, r5."""
    return [dict(zip(portraitist()["columns"], row, strict=True)) for row in portraitist()[table]]


def systems() -> dict[str, dict[str, Any]]:
    """System -> its row of Tables 2 to 7."""
    return {name: row for row in _rows("ablation_systems") if (name := _name(row["system"])) in SYSTEMS}


def scales() -> dict[str, dict[float, dict[str, Any]]]:
    """System -> scale -> its row of Table 8."""
    table: dict[str, dict[float, dict[str, Any]]] = {}
    for row in _rows("table_8_cond_scale"):
        table.setdefault(_name(row["system"]), {})[float(row["cond_scale"])] = row
    return table


def significance(without: str) -> float | None:
    """The paper's S, in percent, of the full system against this one; None where it has none."""
    number = systems()[without]["number"] if without in systems() else None
    found = published()["significance_S_percent"].items()
    return next((float(value) for key, value in found if key.endswith(f"(2 vs {number})")), None)


def recall(row: Mapping[str, Any], k: str) -> float | None:
    """A row's recall at k in percent."""
    return next((row.get(key) for key, rank in RECALLS.items() if rank == k), None)


def _rows(table: str) -> list[dict[str, Any]]:
    data = published()[table]
    return [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]


def _name(system: str) -> str:
    return system.replace(" ", "-")
