"""The job: find what is missing, and fill it with Ray actors. A first run, a resume and a backfill are this same job.

The driver plans, hands out chunks, watches the actors and commits; actors decode, extract and write. Work in flight is
one chunk an actor. A chunk whose actor dies or exceeds a clip's deadline is run again clip by clip, and the clip that
does it again is quarantined alone.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from featurestore import journal
from featurestore.catalogue import constituent
from featurestore.clip import Clip
from featurestore.errors import VoxportraitError, choose
from featurestore.filling import Plan, Want, plan
from featurestore.jobs import Job
from featurestore.leases import Lease, LeaseHeld
from featurestore.store import Store, lance_errors
from pipelines.crew import Crew
from pipelines.extractors import Extractor
from pipelines.extractors.face import FaceCrop
from pipelines.extractors.media import MediaRecord
from pipelines.options import DEVICES, Options
from pipelines.readiness import Ready, lines, ready, resolve
from pipelines.recipe import Recipe
from pipelines.schedule import Progress, Schedule
from pipelines.worker import PARTS


@dataclass
class Summary:
    """What a job did.

    filled, seconds: by constituent; quarantined: by reason; left_out: constituent -> the model that is missing;
    untrained: constituents whose weights were never trained; stopped: it was asked to end early.
    """

    job_id: str = ""
    clips: int = 0
    resumed: int = 0
    filled: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    untrained: list[str] = field(default_factory=list)
    wall: float = 0.0
    stopped: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def wants_of(ready: Ready, recipe: Recipe) -> list[Want]:
    """What to plan for: each constituent with its maker, and what it cannot be made without."""
    inputs = input_makers(ready.extractors, recipe)
    return [
        Want(key, maker, extractor.requires, (*((p, inputs[p]) for p in PARTS[extractor.needs]), (key, maker.digest)))
        for extractor in ready.extractors
        for key, maker in extractor.makers().items()
        if key in ready.constituents
    ]


def detector_of(store: Store) -> str | None:
    """The detector that made the store's faces; None where there are none, or several made them."""
    made = store.table("makers").to_table(columns=["constituent", "model"], filter="constituent = 'face'")
    models = set(made["model"].to_pylist())
    return models.pop() if len(models) == 1 else None


def input_makers(extractors: Sequence[Extractor], recipe: Recipe) -> dict[str, str]:
    """Digests of the makers of what extractors share: the decoder gives `media` and `sound`, the detector `face`."""
    decoder = MediaRecord().makers()["media"].digest
    digests = {"media": decoder, "sound": decoder}
    if any(extractor.needs == "face" for extractor in extractors):
        digests["face"] = FaceCrop(recipe).makers()["face"].digest
    return digests


def fill(
    store: Store,
    constituents: Sequence[str],
    options: Options | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    recipe: Recipe = Recipe(),
    told: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Fill what clips lack of `constituents`, and come back when nothing is missing that can be made.

    A constituent whose model is missing is left out, and the others are filled. One whose live values another maker
    made is filled into a candidate beside them. told: called with a line for a person about each of these, about
    untrained models, and about a job that is waited for. Raises LeaseHeld when another job is at work in the store.
    """
    for key in constituents:
        constituent(key)
    options = options or Options()
    choose("device", options.device, DEVICES)
    recipe = resolve(recipe, detector_of(store))
    able = ready(constituents, recipe)
    for line in lines(able.left_out):
        told(line)
    if not able.constituents:
        raise VoxportraitError("nothing of what was asked for can be made here")
    if able.untrained:
        told(f"untrained weights make {', '.join(able.untrained)}: the store marks every such value")
    wants = wants_of(able, recipe)
    summary = Summary(left_out=able.left_out, untrained=able.untrained)
    with lance_errors("preparing the table"):
        lease, todo = _prepare(store, wants, options.wait, told, should_stop)
    if lease is None:
        return summary
    for key, column in todo.columns.items():
        if column != key and todo.missing[key]:
            told(
                f"{key}: another model or version made the values that are there; the new ones go beside them as "
                f"{column}. Then: voxportrait store promote {key}"
            )
    with closing_lease(lease), lance_errors("writing to the store"):
        job = Job(store, "fill")
        digests = {want.constituent: want.maker.digest for want in wants} | input_makers(able.extractors, recipe)
        crew = Crew(able.extractors, recipe, digests, options)
        schedule = Schedule(store, wants, crew, todo, lease, job.job_id, progress, should_stop, told)
        summary.job_id, state = job.job_id, "failed"
        try:
            report = schedule.run()
            state = "interrupted" if schedule.stopped else "finished"
        finally:
            report = schedule.report
            summary.clips, summary.resumed = report.clips, schedule.resumed
            summary.filled, summary.seconds = dict(schedule.filled), dict(report.seconds)
            summary.quarantined, summary.losses = dict(report.rejected), dict(report.losses)
            summary.wall, summary.stopped = schedule.wall, schedule.stopped
            summary.left_out = able.left_out | schedule.left_out
            counts = {"clips": report.clips, "filled": summary.filled, "quarantined": summary.quarantined}
            job.end(state, {**counts, "float16_losses": summary.losses}, summary.seconds | {"wall": summary.wall})
    return summary


@contextmanager
def closing_lease(lease: Lease) -> Iterator[None]:
    """Give a lease back at the end."""
    try:
        yield
    finally:
        lease.release()


def _prepare(
    store: Store,
    wants: Sequence[Want],
    wait: float,
    told: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> tuple[Lease | None, Plan]:
    """Make the columns and enter the makers that are wanted; lease the fragments that lack something, and plan them.

    No lease where nothing is lacking. wait: seconds until LeaseHeld is raised.
    """
    until, waited = time.monotonic() + wait, False
    while True:
        try:
            with Lease(store.place, ["columns"], "preparing a fill"):
                todo = plan(store, wants)
                store.ensure_columns(todo.columns)
                store.enter_makers(want.maker for want in wants)
                todo = plan(store, wants)
                if not todo.fragments:
                    journal.remove(store.place, todo.leftover)
                    return None, todo
                resources = [f"fragment:{fragment}" for fragment in todo.fragments]
                lease = Lease(store.place, resources, "filling").acquire()
                again = plan(store, wants)  # now that nobody else can change these fragments
                again.only(todo.fragments)
                journal.remove(store.place, again.leftover)
                return lease, again
        except LeaseHeld as held:
            if time.monotonic() >= until or should_stop():
                raise
            if not waited:
                told(f"waiting: {held}")
            waited = True
            time.sleep(min(2.0, wait))


def preview(uri: str, constituents: Sequence[str], clips: Iterable[Clip], recipe: Recipe = Recipe()) -> dict[str, Any]:
    """What `extract` would do: new clips, and (constituent, column, to fill, filled, quarantined) rows.

    Writes nothing; the store need not exist. column: the constituent's, or a candidate's where another maker's values
    are live. left_out: constituent -> the model that is missing.
    """
    store = Store(uri)
    recipe = resolve(recipe, detector_of(store) if store.exists() else None)
    able = ready(constituents, recipe)
    wants = wants_of(able, recipe)
    known: set[str] = set()
    todo = Plan()
    if store.exists():
        store = Store.open(uri)
        known = set(store.table("clips").to_table(columns=["clip_id"])["clip_id"].to_pylist())
        todo = plan(store, wants)
    new, fresh = 0, Counter[str]()
    for clip in clips:
        if clip.clip_id not in known:
            new += 1
            fresh.update(w.constituent for w in wants if all(getattr(clip, c) is not None for c in w.requires))
    rows = [
        (
            key,
            todo.columns.get(key, key),
            todo.missing.get(key, 0) + fresh[key],
            todo.filled.get(key, 0),
            todo.quarantined.get(key, 0),
        )
        for key in (want.constituent for want in wants)
    ]
    return {"new": new, "clips": len(known), "constituents": rows, "left_out": able.left_out}
