"""Options that several commands of this room have."""

from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[Path, typer.Option(help="Where the runs of `voxportrait train` live.")]
Portraits = Annotated[Path, typer.Option(help="The folder that `voxportrait sample` wrote.")]

MOST_SCALE = 100
"""No conditional scale is larger."""


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
    return list(dict.fromkeys(scales))


def _scales(part: str) -> list[float]:
    first, between, rest = part.partition("..")
    if not between:
        return [float(part)]
    last, by, step = rest.partition(":")
    start, end, stride = Fraction(first), Fraction(last), Fraction(step if by else 1)
    if not (0 <= start <= end <= MOST_SCALE and stride >= Fraction(1, MOST_SCALE)):
        raise ValueError(part)
    return [float(start + i * stride) for i in range(int((end - start) / stride) + 1)]
