"""The job: find what is missing, and fill it with Ray actors. A first run, a resume and a backfill are this same job.

The driver plans, hands out chunks, watches the actors and commits; actors decode, extract and write. Work in flight is
one chunk an actor. A chunk whose actor dies or exceeds a clip's deadline is run again clip by clip, and the clip that
does it again is quarantined alone.
"""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from featurestore import journal
from featurestore.catalogue import constituent
from featurestore.clip import Clip
from featurestore.compaction import tidy
from featurestore.errors import VoxportraitError, choose
from featurestore.filling import Plan, Want, claimed, claims, plan
from featurestore.jobs import Job
from featurestore.leases import Lease, LeaseHeld
from featurestore.policy import Policy
from featurestore.schema import clip_rows
from featurestore.store import Store, lance_errors
from pipelines.crew import Crew
from pipelines.extractors import Extractor
from pipelines.extractors.face import FaceCrop
from pipelines.extractors.media import MediaRecord
from pipelines.joblog import JobLog, log_path
from pipelines.options import DEVICES, Options
from pipelines.readiness import Ready, lines, ready, resolve
from pipelines.recipe import Recipe
from pipelines.schedule import Progress, Schedule, Standing
from pipelines.worker import PARTS

PREPARING = 20.0
"""Seconds to wait for another job that makes its plan."""


@dataclass
class Summary:
    """What a job did.

    filled, seconds, gpu_seconds: by constituent, as `Schedule` says; quarantined: by reason; left_out: constituent ->
    the model that is missing; untrained: constituents whose weights were never trained; not_allowed: clips that the
    policy left out; log: the file of its JSON lines; stopped: it was asked to end early.
    """

    job_id: str = ""
    clips: int = 0
    resumed: int = 0
    filled: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    gpu_seconds: dict[str, float] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    untrained: list[str] = field(default_factory=list)
    not_allowed: int = 0
    wall: float = 0.0
    log: str = ""
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
    policy: Policy | None = None,
) -> Summary:
    """Fill what clips lack of `constituents`, and come back when nothing is missing that can be made.

    A constituent whose model is missing is left out, and the others are filled. One whose live values another maker
    made is filled into a candidate beside them. Clips that `policy` does not allow are left out. told: called with a
    line for a person about each of these, about untrained models, and about a job that is waited for. Raises LeaseHeld
    when another job is at work in the store.
    """
    for key in constituents:
        constituent(key)
    options, policy = options or Options(), policy or Policy()
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
    with lance_errors("preparing the table"):
        lease, todo = _prepare(store, wants, policy, options.wait, told, should_stop)
    summary = Summary(left_out=able.left_out, untrained=able.untrained, not_allowed=todo.not_allowed)
    if todo.not_allowed:
        told(f"not allowed: {todo.not_allowed:,} clips have no consent or no licence that was asked for")
    if lease is None:
        return summary
    for key, column in todo.columns.items():
        if column != key and todo.missing[key]:
            told(
                f"{key}: another model or version made the values that are there; the new ones go beside them as "
                f"{column}. Then: voxportrait store promote {key}"
            )
    with lance_errors("writing to the store"), closing_lease(lease):
        job = Job(store, "fill", policy)
        log = JobLog(job, options.log or log_path(store.place, job.job_id), constituents=able.constituents)

        def seen(standing: Standing) -> None:
            log(standing)
            if progress:
                progress(standing)

        digests = {want.constituent: want.maker.digest for want in wants} | input_makers(able.extractors, recipe)
        crew = Crew(able.extractors, recipe, digests, options)
        schedule = Schedule(store, wants, crew, todo, lease, job.job_id, seen, should_stop, told)
        summary.job_id, summary.log, state = job.job_id, str(log.path), "failed"
        try:
            schedule.run()
            state = "interrupted" if schedule.stopped else "finished"
        finally:
            log.end(state, schedule.standing())
    report = schedule.report
    summary.clips, summary.resumed = report.clips, schedule.resumed
    summary.filled, summary.seconds = dict(schedule.filled), dict(report.seconds)
    summary.gpu_seconds, summary.losses = schedule.gpu_seconds, dict(report.losses)
    summary.quarantined = dict(report.rejected)
    summary.wall, summary.stopped = schedule.wall, schedule.stopped
    summary.left_out = able.left_out | schedule.left_out
    try:
        if journal.pending(store.place) and not schedule.stopped:
            with lance_errors("clearing the journal"):
                _clear(store, plan(store, wants, policy, claimed(store)).leftover)
        tidy(store)
    except VoxportraitError as error:
        told(f"the job is done, but {error}")
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
    policy: Policy,
    wait: float,
    told: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> tuple[Lease | None, Plan]:
    """Make the columns and enter the makers that are wanted; lease the fragments that lack something, and plan them.

    No lease where nothing is lacking. wait: seconds until LeaseHeld is raised; another job that only prepares is
    waited for in any case.
    """
    until, waited = time.monotonic() + wait, False
    while True:
        try:
            with Lease(store.place, ["columns"], "preparing a fill", PREPARING) as preparing:
                todo = plan(store, wants, policy, claimed(store))
                preparing.check()
                store.ensure_columns(todo.columns)
                store.enter_makers(want.maker for want in wants)
                if not todo.fragments:
                    _clear(store, todo.leftover)
                    return None, todo
                resources = [f"fragment:{fragment}" for fragment in todo.fragments]
                resources += claims(wants, todo.columns, uuid.uuid4().hex)
                lease = Lease(store.place, resources, "filling").acquire()
                try:
                    again = plan(store, wants, policy, claimed(store))  # nobody else can change these fragments now
                    again.only(todo.fragments)
                    journal.remove(store.place, again.leftover)
                except BaseException:
                    lease.release()
                    raise
                return lease, again
        except LeaseHeld as held:
            if time.monotonic() >= until or should_stop():
                raise
            if not waited:
                told(f"waiting: {held}")
            waited = True
            time.sleep(min(2.0, wait))


def _clear(store: Store, leftover: Mapping[str, frozenset[int]]) -> None:
    """Remove what a job that was killed after its commit left in the journal, unless another is at work there."""
    if not leftover:
        return
    resources = [f"fragment:{fragment}" for fragment in sorted(frozenset[int]().union(*leftover.values()))]
    with suppress(LeaseHeld), Lease(store.place, resources, "clearing the journal"):
        journal.remove(store.place, leftover)


def preview(
    uri: str,
    constituents: Sequence[str],
    clips: Iterable[Clip],
    recipe: Recipe = Recipe(),
    policy: Policy | None = None,
) -> dict[str, Any]:
    """What `extract` would do: new clips, and (constituent, column, to fill, filled, quarantined) rows.

    Writes nothing; the store need not exist. column: the constituent's, or a candidate's where another maker's values
    are live. left_out: constituent -> the model that is missing; not_allowed: clips that the policy leaves out.
    """
    store, policy = Store(uri), policy or Policy()
    recipe = resolve(recipe, detector_of(store) if store.exists() else None)
    able = ready(constituents, recipe)
    wants = wants_of(able, recipe)
    known: set[str] = set()
    todo = Plan()
    if store.exists():
        store = Store.open(uri)
        known = set(store.table("clips").to_table(columns=["clip_id"])["clip_id"].to_pylist())
        todo = plan(store, wants, policy)
    new, not_allowed, fresh = 0, todo.not_allowed, Counter[str]()
    for clip, is_allowed in judged(clips, policy):
        if clip.clip_id in known:
            continue
        new += 1
        if is_allowed:
            fresh.update(lacking(clip, wants))
        else:
            not_allowed += 1
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
    found = {"new": new, "clips": len(known), "not_allowed": not_allowed}
    return found | {"constituents": rows, "left_out": able.left_out}


def judged(clips: Iterable[Clip], policy: Policy) -> Iterator[tuple[Clip, bool]]:
    """Clips of a source, and whether the policy allows each."""
    clips = iter(clips)
    while batch := list(islice(clips, 1024)):
        yield from zip(batch, policy.allows(clip_rows(batch)).tolist(), strict=True)


def lacking(clip: Clip, wants: Sequence[Want]) -> list[str]:
    """The constituents that a clip which is not registered yet will lack."""
    return [want.constituent for want in wants if all(getattr(clip, column) is not None for column in want.requires)]
