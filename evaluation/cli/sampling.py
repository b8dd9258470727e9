"""`voxportrait sample`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evaluation.cli.options import Export, Runs, Split, Store, parse_scales, source_of
from featurestore.console import Json, Licences, RequireConsent, bar, print_json, print_table, say

if TYPE_CHECKING:
    from featurestore.policy import Policy
    from featurestore.records import Records
    from training.portraitist import AnyPortraitist

FEW = 4
"""Portraits of which each is told on whose face it leans."""


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
    system: Annotated[str, typer.Option(help="Which system; all its stages must be trained.")] = "full-input",
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
        int | None, typer.Option(min=1, help="Steps a stage, instead of the preset's; ancestral takes 1,000.")
    ] = None,
    exclusion: Annotated[
        str | None,
        typer.Option(help="Fine-portraitist leans on nobody's face of the same clip, video or identity, as is usual."),
    ] = None,
    no_prior: Annotated[bool, typer.Option("--no-prior", help="It leans on nobody's face: the null prior.")] = False,
    require_consent: RequireConsent = False,
    licences: Licences = None,
    batch_size: Annotated[int, typer.Option(min=1, max=256, help="Portraits that are drawn at once.")] = 8,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu.")] = None,
    age: Annotated[str | None, typer.Option(help="Years, or unknown; instead of the stored, if there is one.")] = None,
    gender: Annotated[str | None, typer.Option(help="man, woman or unknown, likewise.")] = None,
    ethnicity: Annotated[str | None, typer.Option(help="A label, or unknown, likewise.")] = None,
    language: Annotated[str | None, typer.Option(help="A label, or unknown, instead of what is heard.")] = None,
    show: Annotated[Path | None, typer.Option(help="Draw nothing: print what made this picture.")] = None,
    as_json: Json = False,
) -> None:
    """Draw portraits of speakers that were not trained on: from a recording, or from a store's clips.

    Fine-portraitist leans on the face of the training clip whose speech is nearest: of --store or --export, also beside
    --audio; --require-consent and --licence say on whose it may lean.
    """
    from evaluation.portraits import Drawing, draw, other_code, read_about, without_meaning
    from evaluation.recording import check_inputs, draw_each, hear
    from featurestore.conditioning import given
    from featurestore.conditioning import system as system_named
    from featurestore.errors import UsageError
    from featurestore.policy import policy_of
    from training.latent.denoising import leans
    from training.portraitist import load
    from training.stages import STAGES

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
        if clip or (export is not None and not any(leans(system_named(system), stage) for stage in STAGES)):
            raise UsageError("--audio and --image-guide draw from files: leave --export and --clip out")
        check_inputs(system_named(system), recordings, image_guide)
    elif store is None and export is None:
        raise UsageError("say what to draw from: --audio voice.wav, --store with people's clips, or --export")
    say(f"loading {system} of {runs}")
    loaded, policy = load(runs, system, device), policy_of(require_consent, licences)
    portraitist = _leaning(loaded, store, export, exclusion, policy, no_prior)
    options: dict[str, Any] = {"seed": seed, "sampler": sampler, "steps": steps, "attributes": attributes}
    if from_files:
        heard = hear(portraitist, recordings, image_guide, tuple(attributes), say)
        records: Records = heard.records
        names, options["sources"] = heard.names, heard.sources
    else:
        source = source_of(store, export, split, policy)
        records = source.records(portraitist.layout, portraitist.missing, pictures=portraitist.pictures)
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
    for line in _leaned_on([about["portraits"][0] for about in made] if sheets else made):
        say(line)
    if line := without_meaning(key for about in made for key in about["untrained"]):
        say(line)
    if as_json:
        name, paths = ("sheet", sheets) if sheets else ("picture", [one.picture for one in drawings])
        print_json([{name: str(path), **about} for path, about in zip(paths, made, strict=True)])


def _leaning(
    portraitist: "AnyPortraitist",
    store: str | None,
    export: Path | None,
    exclusion: str | None,
    policy: "Policy",
    no_prior: bool,
) -> "AnyPortraitist":
    """The portraitist that knows on whose faces it may lean; nothing is opened for one that leans on nobody's."""
    import featurestore
    from evaluation.priors import leaning

    opened = featurestore.open(store) if store and getattr(portraitist, "leans", False) and not no_prior else None
    return leaning(portraitist, opened, export, exclusion, policy, no_prior, say)


def _leaned_on(made: Sequence[Mapping[str, Any]]) -> list[str]:
    """On whose faces pictures lean, a line each; one for all where they are many."""
    known = [(about["clip_id"], about["retrieval"]) for about in made if about.get("retrieval")]
    if len(known) <= FEW:
        return [f"{who} leans on the face of {one['clip_id']}: similarity {one['similarity']}" for who, one in known]
    faces = len({one["clip_id"] for _, one in known})
    mean = sum(one["similarity"] for _, one in known) / len(known)
    return [f"they lean on {faces} faces; mean similarity {mean:.3f}"]


def _plain(value: Any) -> str:
    """A value of a picture's description for a person."""
    import json

    return value if isinstance(value, str) else json.dumps(value)


COMMANDS = (sample,)
