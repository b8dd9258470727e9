"""Options that several commands of this room have."""

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[Path, typer.Option(help="Where the runs of `voxportrait train` live.")]
Portraits = Annotated[Path, typer.Option(help="The folder that `voxportrait sample` wrote.")]


def parse_scales(text: str) -> list[float]:
    """The numbers in "0,1.5,3"; a UsageError for what is not one."""
    from featurestore.errors import UsageError

    try:
        scales = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        scales = []
    if not scales or min(scales) < 0:
        raise UsageError(f"--scales takes numbers from 0 up with commas between, as in 1,3; not {text!r}")
    return scales
