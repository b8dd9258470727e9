"""Options that several commands of this room have."""

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.console import say

if TYPE_CHECKING:
    from evaluation.sweep import Source
    from featurestore.policy import Policy

Store = Annotated[
    str | None,
    typer.Option(
        "--store", envvar="VOXPORTRAIT_STORE", help="The store: a folder or an object-store URI.", show_default=False
    ),
]
Export = Annotated[
    Path | None,
    typer.Option(
        help="A file of `store export` instead; --store beside it says whether it still holds.", show_default=False
    ),
]
Split = Annotated[str, typer.Option(help="Whose portraits: of each speaker of train, val or test.")]

Runs = Annotated[Path, typer.Option(help="Where the runs of `voxportrait train` live.")]
Portraits = Annotated[Path, typer.Option(help="The folder that `voxportrait sample` wrote.")]

MOST_SCALE = 100
"""No conditional scale is larger."""


def source_of(store: str | None, export: Path | None, split: str, policy: "Policy | None" = None) -> "Source":
    """Where people's data comes from. Of an export alone a line says what is not known of it."""
    import featurestore
    from evaluation.sweep import Source
    from featurestore.clip import SPLITS
    from featurestore.errors import UsageError, choose

    choose("split", split, SPLITS)
    if store is None and export is None:
        raise UsageError("say whose portraits: --store, or --export for a file of voxportrait store export")
    if export is not None and store is None:
        from featurestore.exports import ExportRecords

        say(ExportRecords(export, pictures=(), missing="zero", split=split).told)
    return Source(featurestore.open(store) if store else None, export, split, policy)


def keep(result: Mapping[str, Any], source: "Source", path: Path) -> None:
    """Write an evaluation as JSON. It names clips: a store is told, so that forgetting one of them removes it."""
    if source.store is not None:
        from evaluation.evaluate import clips_named
        from featurestore import artifacts

        artifacts.note(source.store, "picture", {path: artifacts.row_ids_of(source.store, clips_named(result))})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def parse_scales(text: str) -> list[float]:
    """The numbers in "0,1.5,3", in the range "0..8" (0, 1, ... 8), or in "0..8:2", every second of it.

    Raises UsageError for what is none of these.
    """
    from featurestore.errors import UsageError

    try:
        scales = [scale for part in text.split(",") if part.strip() for scale in _scales(part)]
    except (ValueError, ZeroDivisionError):
        scales = []
    if not scales or not 0 <= min(scales) <= max(scales) <= MOST_SCALE:
        raise UsageError(
            f"--scales takes numbers from 0 to {MOST_SCALE} with commas between, or a range with or without a step: "
            f"1,3 or 0..8 or 0..8:0.5; not {text!r}"
        )
    return list(dict.fromkeys(abs(scale) for scale in scales))


def parse_ranks(text: str | None) -> tuple[int, ...]:
    """The k of recall at k in "1,2,5", in order; none where there is no text. A UsageError for what is none."""
    from featurestore.errors import UsageError

    try:
        ranks = sorted({int(part) for part in (text or "").split(",") if part.strip()})
    except ValueError:
        ranks = [0]
    if ranks and ranks[0] < 1:
        raise UsageError(f"--ranks takes whole numbers from 1 up with commas between: 1,2,5; not {text!r}")
    return tuple(ranks)


def _scales(part: str) -> list[float]:
    first, between, rest = part.partition("..")
    if not between:
        return [float(part)]
    last, by, step = rest.partition(":")
    start, end, stride = Fraction(first), Fraction(last), Fraction(step if by else 1)
    if not (0 <= start <= end <= MOST_SCALE and stride >= Fraction(1, MOST_SCALE)):
        raise ValueError(part)
    return [float(start + i * stride) for i in range(int((end - start) / stride) + 1)]
