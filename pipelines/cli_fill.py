"""`voxportrait extract` and `fill`."""

import inspect
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.clip import Clip
from featurestore.console import Json, Licences, RequireConsent, Store, bar, print_json, print_table, say

if TYPE_CHECKING:
    from featurestore.policy import Policy
    from pipelines.job import Summary
    from pipelines.options import Options
    from pipelines.recipe import Recipe
    from pipelines.schedule import Standing

Source = Annotated[str, typer.Argument(help="Its layout: voxceleb2, voxceleb1, avspeech, folder.", show_default=False)]
Root = Annotated[Path, typer.Argument(help="Its folder.", show_default=False)]
OnePerSpeaker = Annotated[
    bool, typer.Option("--one-video-per-speaker", help="SLF's evaluation set: one clip of each test speaker alone.")
]
Constituents = Annotated[
    str, typer.Option(help="What to fill, with commas between: constituents, `standard`, or `all` of the catalogue.")
]
Detector = Annotated[str, typer.Option(help="Who finds faces: retinaface, fastmtcnn, track, or auto.")]
WhichFace = Annotated[str, typer.Option("--face", help="The speaker's face of several: largest, or nearest the track.")]
Attributes = Annotated[str, typer.Option(help="Who says age, gender and ethnicity: corpus or deepface.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Ray actors; one a core by default.")]
Address = Annotated[str | None, typer.Option("--ray-address", help="A Ray cluster; this machine alone by default.")]
Device = Annotated[str, typer.Option(help="Where the models run: cpu, cuda, or auto: a GPU where there is one.")]
Deadline = Annotated[float, typer.Option(min=1, help="Seconds that one clip may take.")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for another job to leave the store.")]
JournalEvery = Annotated[
    float,
    typer.Option(min=0, help="Seconds of work that a kill may cost: finished clips go to the journal this often."),
]
Log = Annotated[
    Path | None,
    typer.Option(help="Write the job's JSON lines here, not to _logs in the store's folder.", dir_okay=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
Estimated = Annotated[
    bool, typer.Option("--estimate", help="Make a few clips, keep nothing, and say what all of them will take.")
]
EstimateClips = Annotated[int, typer.Option(min=1, help="How many clips an estimate makes.")]


@dataclass(frozen=True)
class Choices:
    """The options of `extract` and of `fill`."""

    store: Store
    constituents: Constituents = "standard"
    detector: Detector = "auto"
    face: WhichFace = "largest"
    attributes: Attributes = "corpus"
    require_consent: RequireConsent = False
    licence: Licences = None
    workers: Workers = None
    address: Address = None
    device: Device = "auto"
    deadline: Deadline = 120
    wait: Wait = 0
    journal_every: JournalEvery = 120
    log: Log = None
    dry_run: DryRun = False
    estimate: Estimated = False
    estimate_clips: EstimateClips = 8
    as_json: Json = False

    @property
    def names(self) -> list[str]:
        """The constituents that are named; `standard` and `all` may be among them."""
        from featurestore.errors import UsageError
        from pipelines.extractors import AVAILABLE, extractors_for, standard

        sets = {"standard": standard(), "all": AVAILABLE}
        named = [name.strip() for name in self.constituents.split(",") if name.strip()]
        if not named:
            raise UsageError("--constituents names none. Say constituents, `standard` or `all`.")
        names = list(dict.fromkeys(key for name in named for key in sets.get(name, (name,))))
        extractors_for(names)
        return names

    @property
    def options(self) -> "Options":
        from pipelines.options import Options

        return Options(
            workers=self.workers,
            address=self.address,
            device=self.device,
            deadline=self.deadline,
            journal_every=self.journal_every,
            wait=self.wait,
            log=self.log,
        )

    @property
    def recipe(self) -> "Recipe":
        from pipelines.recipe import Recipe

        return Recipe(self.detector, self.face, self.attributes)

    @property
    def policy(self) -> "Policy":
        from featurestore.policy import policy_of

        return policy_of(self.require_consent, self.licence)


def _chosen(run: Callable[..., None]) -> Callable[..., None]:
    """Give a command's `choices` the fields of `Choices` as its options."""
    signature = inspect.signature(run)
    own = [parameter for name, parameter in signature.parameters.items() if name != "choices"]
    options = [inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, annotation=f.type) for f in fields(Choices)]
    defaults = inspect.signature(Choices).parameters
    options = [option.replace(default=defaults[option.name].default) for option in options]

    @wraps(run)
    def command(**given: Any) -> None:
        mine = {parameter.name: given.pop(parameter.name) for parameter in own}
        run(**mine, choices=Choices(**given))

    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + options
    )
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *options)}
    return command


@_chosen
def extract(source: Source, root: Root, choices: Choices, one_video_per_speaker: OnePerSpeaker = False) -> None:
    """Register a corpus and fill what is missing.

    Each clip is opened and decoded once. Stopped or killed, the same command goes on where it was. Exit code 1 where it
    was stopped before the end.
    """
    from featurestore.compaction import compact_small
    from featurestore.store import Store as FeatureStore
    from pipelines.sources import read

    names = choices.names
    clips = read(source, root, one_video_per_speaker)
    if choices.dry_run or choices.estimate:
        _look_ahead(choices, names, clips)
        return
    opened = FeatureStore.open_or_create(choices.store)
    with bar("registering", "clips") as progress:
        registered = opened.register(clips, lambda seen: progress(seen, None), choices.wait, say)
    say(f"registered {registered.new:,} new clips; {registered.known:,} were known")
    if registered.refused:
        say(f"refused: {registered.refused:,} clips of people who were forgotten")
    if registered.changed:
        say(f"{registered.changed:,} clips have another licence or consent now")
    compact_small(opened)
    counts = {"registered": registered.new, "changed": registered.changed, "refused": registered.refused}
    _fill(opened, choices, names, counts)


@_chosen
def fill(choices: Choices) -> None:
    """Fill what a store's clips lack. Exit code 1 where it was stopped before the end."""
    from featurestore.store import Store as FeatureStore

    names = choices.names
    if choices.dry_run or choices.estimate:
        _look_ahead(choices, names, [])
        return
    _fill(FeatureStore.open(choices.store), choices, names, {})


def _look_ahead(choices: Choices, names: list[str], clips: Iterable[Clip]) -> None:
    """Say what would be done, or what it would take."""
    if choices.dry_run:
        _show_plan(choices, names, clips)
    else:
        _show_estimate(choices, names, clips)


def _show_plan(choices: Choices, names: list[str], clips: Iterable[Clip]) -> None:
    from pipelines.job import preview
    from pipelines.readiness import lines

    planned = preview(choices.store, names, clips, choices.recipe, choices.policy)
    if choices.as_json:
        print_json(planned)
        return
    say(f"{planned['new']:,} new clips, {planned['clips']:,} registered, {planned['not_allowed']:,} not allowed")
    columns = ("constituent", "into", "to fill", "filled", "quarantined")
    print_table(columns, planned["constituents"])
    for line in lines(planned["left_out"]):
        say(line)
    if any(row[0] != row[1] for row in planned["constituents"]):
        say("another model or version made some of the values that are there: new ones go beside them, as candidates")


def _show_estimate(choices: Choices, names: list[str], clips: Iterable[Clip]) -> None:
    from pipelines.estimate import estimate
    from pipelines.readiness import lines

    with redirect_stdout(sys.stderr):
        found = estimate(
            choices.store, names, clips, choices.options, choices.recipe, choices.policy, choices.estimate_clips
        )
    if choices.as_json:
        print_json(found)
        return
    for line in lines(found["left_out"]):
        say(line)
    if not found["measured"]:
        say("nothing to fill")
        return
    rows: list[tuple[Any, ...]] = [
        (key, cost["missing"], f"{cost['seconds']:.3f}", round(cost["bytes"]), _size(cost["missing"] * cost["bytes"]))
        for key, cost in found["constituents"].items()
    ]
    rows += [(part, None, f"{seconds:.3f}", None, None) for part, seconds in found["shared"].items()]
    print_table(("constituent", "clips", "seconds a clip", "bytes a clip", "bytes in all"), rows)
    say(
        f"{found['clips']:,} clips, {found['seconds']:.2f} s each: {_time(found['hours'])} on the "
        f"{found['workers']} workers that fit here ({_time(found['worker_hours'])} of work, "
        f"{_time(found['gpu_hours'])} on GPUs), {_size(found['bytes'])} to store. "
        f"Measured on {found['measured']} clips."
    )
    for reason, number in found["rejected"].items():
        say(f"of these would go to quarantine: {number:,} x {reason}")


def _size(count: float) -> str:
    """Bytes for a person."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def _time(hours: float) -> str:
    """A time for a person."""
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def _fill(store: Any, choices: Choices, names: list[str], known: dict[str, Any]) -> None:
    from featurestore.errors import VoxportraitError
    from featurestore.interrupt import stop_on_signal
    from featurestore.ray_cluster import stop_ray
    from pipelines.job import fill as run

    with bar("filling", timed=False) as draw, stop_on_signal() as should_stop, redirect_stdout(sys.stderr):

        def progress(standing: "Standing") -> None:
            draw(standing.done, standing.total, note_of(standing))

        try:
            summary = run(store, names, choices.options, progress, should_stop, choices.recipe, say, choices.policy)
        finally:
            stop_ray()  # while its own messages still go to standard error
    if choices.as_json:
        print_json(known | summary.as_dict())
    else:
        _print_summary(summary)
    if summary.stopped:
        raise VoxportraitError("stopped as asked; what was finished is kept. Run the same command again to go on.")


def note_of(standing: "Standing") -> str:
    """A job's numbers in a line: rate, time left, quarantined by reason, and what takes the longest."""
    parts = []
    if standing.rate and standing.left is not None:
        minutes, seconds = divmod(round(standing.left), 60)
        parts.append(f"{standing.rate:.3g} clips/s, {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left")
    if standing.doing != "filling" or not parts:
        parts.insert(0, standing.doing)
    report = standing.report
    if report.rejected:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in report.rejected.most_common(4))
        parts.append(f"quarantined: {reasons}")
    if report.clips:
        slowest = report.seconds.most_common(3)
        parts.append("a clip: " + ", ".join(f"{key} {spent / report.clips:.2g} s" for key, spent in slowest))
    return "; ".join(parts)


def _print_summary(summary: "Summary") -> None:
    if not summary.job_id:
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
    if rows:
        print_table(("constituent", "filled", "seconds in all", "numbers 0 or infinite in float16"), rows)
    for reason, number in summary.quarantined.items():
        say(f"quarantined: {number:,} x {reason} (voxportrait store quarantine says which)")
    say(f"log: {summary.log}")
