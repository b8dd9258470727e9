"""`voxportrait sample`."""

from pathlib import Path
from typing import Annotated

import typer

from evaluation.cli.options import Runs, parse_scales
from featurestore.console import Json, Store, bar, print_json, say


def sample(
    store: Store,
    system: Annotated[str, typer.Option(help="Which system; both its U-Nets must be trained.")] = "full-input",
    runs: Runs = Path("runs"),
    scales: Annotated[str, typer.Option(help="Conditional scales, with commas between; 0 ignores the input.")] = "1,3",
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("portraits"),
    split: Annotated[str, typer.Option(help="Whose portraits: of each speaker of train, val or test.")] = "test",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    sampler: Annotated[str | None, typer.Option(help="Instead of the preset's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps a U-Net, instead of the preset's.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu.")] = None,
    age: Annotated[str | None, typer.Option(help="Instead of the stored: years, or unknown.")] = None,
    gender: Annotated[str | None, typer.Option(help="Instead of the stored: man, woman or unknown.")] = None,
    ethnicity: Annotated[str | None, typer.Option(help="Instead of the stored, or unknown.")] = None,
    language: Annotated[str | None, typer.Option(help="Instead of the stored, or unknown.")] = None,
    as_json: Json = False,
) -> None:
    """Draw portraits of speakers that were not trained on."""
    import featurestore
    from evaluation.portraits import draw_portraits
    from training.cli import run_folder
    from training.sampling import Portraitist

    numbers = parse_scales(scales)
    said = {"age": age, "gender": gender, "ethnicity": ethnicity, "language": language}
    attributes = {key: None if value == "unknown" else value for key, value in said.items() if value is not None}
    opened = featurestore.open(store)
    portraitist = Portraitist.load(run_folder(runs, system, 1), run_folder(runs, system, 2), device)
    with bar(system, "portraits") as progress:
        drawn = draw_portraits(
            opened,
            portraitist,
            numbers,
            out,
            split,
            seed,
            sampler=sampler,
            steps=steps,
            progress=progress,
            attributes=attributes,
        )
    if as_json:
        print_json([{"picture": str(one.picture), **one.about} for one in drawn])
    else:
        say(f"{len(drawn)} portraits in {out / system}")


COMMANDS = (sample,)
