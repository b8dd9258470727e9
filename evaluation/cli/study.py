"""`voxportrait study`."""

from pathlib import Path
from typing import Annotated

import typer

from evaluation.cli.options import parse_scales
from featurestore.console import Json, bar, print_json, say


def study(
    export: Annotated[
        Path, typer.Option(help="A file of `store export` with the splits train, val and test.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Where figures, sheets, runs and portraits go.")] = Path("study"),
    systems: Annotated[
        str, typer.Option(help="Which systems, with commas between.")
    ] = "only-image-guide,full-input,no-image-guide,speaker-embedding-only",
    preset: Annotated[str, typer.Option(help="How large: micro, tiny, small, paper.")] = "small",
    minutes: Annotated[float, typer.Option(min=0.05, help="For all of it; training has what the rest leaves.")] = 8.0,
    scales: Annotated[str, typer.Option(help="Conditional scales, with commas between.")] = "1,3",
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    draw_at_once: Annotated[int, typer.Option(min=1, help="Portraits that are drawn together.")] = 64,
    as_json: Json = False,
) -> None:
    """Train systems from an export, draw people they have not seen, and judge the portraits: in one command.

    A study that was stopped goes on when the same command is run again.
    """
    from evaluation.study import study as run
    from featurestore.interrupt import stop_on_signal

    with bar("study") as draw, stop_on_signal() as should_stop:
        done = run(
            export,
            out,
            [name.strip() for name in systems.split(",") if name.strip()],
            preset,
            minutes,
            parse_scales(scales),
            device,
            seed,
            draw_at_once,
            draw,
            should_stop,
        )
    if as_json:
        print_json(done)
    else:
        say((out / "study.md").read_text())


COMMANDS = (study,)
