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
    """The numbers in "0,1.5,3", in "0..8", which are 0, 1, ... 8, or in "0..8:2", every second of them; a UsageError for
    what is none of these."""
    from featurestore.errors import UsageError

    try:
        scales = [scale for part in text.split(",") if part.strip() for scale in _scales(part)]
    except ValueError:
        scales = []
    if not scales or not 0 <= min(scales) <= max(scales) <= MOST_SCALE:
        raise UsageError(
            f"--scales takes numbers from 0 to {MOST_SCALE} with commas between, or a range: 1,3 or 0..8:2; not {text!r}"
        )
    return list(dict.fromkeys(scales))


def _scales(part: str) -> list[float]:
    first, between, rest = part.partition("..")
    if not between:
        return [float(part)]
    last, by, step = rest.partition(":")
    numbers = Fraction(first), Fraction(last), Fraction(step if by else 1)
    if numbers[2] <= 0:
        raise ValueError(step)
    return [float(numbers[0] + i * numbers[2]) for i in range(int((numbers[1] - numbers[0]) / numbers[2]) + 1)]
