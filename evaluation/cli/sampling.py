"""`voxportrait sample`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evaluation.cli.options import Export, Runs, Split, Store, parse_scales, source_of
from featurestore.console import Json, bar, print_json, print_table, say

if TYPE_CHECKING:
    from featurestore.records import Records


def sample(
    store: Store = None,
    export: Export = None,
    audio: Annotated[
        list[str] | None, typer.Option(help="Draw from this sound file or video; may be said again for another.")
    ] = None,
    image_guide: Annotated[
        str | None, typer.Option(help="A photo of the person, or a picture of 8 x 8; beside --audio.")
    ] = None,
    clip: Annotated[
        list[str] | None, typer.Option(help="This clip, not the first of each speaker; may be said again.")
    ] = None,
    system: Annotated[str, typer.Option(help="Which system; both its U-Nets must be trained.")] = "full-input",
    runs: Runs = Path("runs"),
    scales: Annotated[
        str, typer.Option(help="Conditional scales: 0,1.5,3 or a range as 0..8; 0 ignores the input.")
    ] = "1,3",
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("portraits"),
    split: Split = "test",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    sampler: Annotated[
        str | None, typer.Option(help="ddim, dpm-solver++ or ancestral, instead of the preset's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps a U-Net, instead of the preset's; ancestral takes 1,000.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=256, help="Portraits that are drawn at once.")] = 8,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu.")] = None,
    age: Annotated[str | None, typer.Option(help="Years, or unknown; instead of the stored, if there is one.")] = None,
    gender: Annotated[str | None, typer.Option(help="man, woman or unknown, likewise.")] = None,
    ethnicity: Annotated[str | None, typer.Option(help="A label, or unknown, likewise.")] = None,
    language: Annotated[str | None, typer.Option(help="A label, or unknown, instead of what is heard.")] = None,
    show: Annotated[Path | None, typer.Option(help="Draw nothing: print what made this picture.")] = None,
    as_json: Json = False,
) -> None:
    """Draw portraits of speakers that were not trained on: from a recording, or from a store's clips."""
    from evaluation.portraits import Drawing, draw, other_code, read_about, without_meaning
    from evaluation.recording import check_inputs, draw_each, hear
    from featurestore.conditioning import given
    from featurestore.conditioning import system as system_named
    from featurestore.errors import UsageError
    from training.cli import run_folder
    from training.sampling import Portraitist

    if show is not None:
        about = read_about(show)
        if as_json:
            print_json(about)
        else:
            print_table(["of the picture", ""], ([key, _plain(value)] for key, value in about.items()))
        return
    numbers = parse_scales(scales)
    said = {"age": age, "gender": gender, "ethnicity": ethnicity, "language": language}
    attributes = {key: None if value == "unknown" else value for key, value in said.items() if value is not None}
    given({}, attributes)
    recordings = list(dict.fromkeys(audio or ()))
    from_files = bool(recordings or image_guide)
    if from_files:
        if export is not None or clip:
            raise UsageError("--audio and --image-guide draw from files: leave --export and --clip out")
        check_inputs(system_named(system), recordings, image_guide)
    elif store is None and export is None:
        raise UsageError("say what to draw from: --audio voice.wav, --store with people's clips, or --export")
    say(f"loading {system} of {runs}")
    portraitist = Portraitist.load(run_folder(runs, system, "unet1"), run_folder(runs, system, "unet2"), device)
    options: dict[str, Any] = {"seed": seed, "sampler": sampler, "steps": steps, "attributes": attributes}
    if from_files:
        heard = hear(portraitist, recordings, image_guide, tuple(attributes), say)
        records: Records = heard.records
        names, options["sources"] = heard.names, heard.sources
    else:
        missing = portraitist.about[0]["data"].get("missing", "zero")
        records = source_of(store, export, split).records(portraitist.layout, missing)
        names = {clip_id: clip_id.replace("/", "-") for clip_id in clip or ()}
    sheets, drawings = list[Path](), list[Drawing]()
    with bar(system, "portraits") as progress:
        if names:
            sheets = draw_each(records, portraitist, numbers, out, names, progress, **options)
        else:
            drawings = draw(records, portraitist, numbers, out, batch_size=batch_size, progress=progress, **options)
    for sheet in sheets:
        say(f"{len(set(numbers))} portraits in {sheet.parent}, side by side in {sheet}")
    if drawings:
        say(f"{len(drawings)} portraits in {out / system}")
        if line := other_code(drawings):
            say(line)
    made = [read_about(sheet) for sheet in sheets] or [one.about for one in drawings]
    if line := without_meaning(key for about in made for key in about["untrained"]):
        say(line)
    if as_json:
        name, paths = ("sheet", sheets) if sheets else ("picture", [one.picture for one in drawings])
        print_json([{name: str(path), **about} for path, about in zip(paths, made, strict=True)])


def _plain(value: Any) -> str:
    """A value of a picture's description for a person."""
    import json

    return value if isinstance(value, str) else json.dumps(value)


COMMANDS = (sample,)
