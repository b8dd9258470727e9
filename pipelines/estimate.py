"""What a fill will take: a few clips are made here, and thrown away."""

import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import psutil

from featurestore import filling, journal
from featurestore.clip import Clip
from featurestore.errors import VoxportraitError
from featurestore.filling import CHUNK_CLIPS, Plan, Want
from featurestore.policy import Policy
from featurestore.store import Store
from pipelines.actor import pin_threads
from pipelines.batching import PLACES
from pipelines.crew import Crew
from pipelines.faults import Unfit
from pipelines.job import detector_of, input_makers, judged, lacking, wants_of
from pipelines.options import Options
from pipelines.readiness import ready, resolve
from pipelines.recipe import Recipe
from pipelines.worker import PARTS, Outcome, Worker

OVERHEAD = 1.04
"""Bytes written a byte of values, as `voxportrait bench store` measures it."""

_RAY_SHARE = 0.7
"""Of the free memory: what Ray gives to workers, the rest is for what they hand over."""

Task = tuple[Clip, frozenset[str]]
"""A clip, and what it lacks."""


def estimate(
    uri: str,
    constituents: Sequence[str],
    clips: Iterable[Clip] = (),
    options: Options | None = None,
    recipe: Recipe = Recipe(),
    policy: Policy | None = None,
    number: int = 8,
) -> dict[str, Any]:
    """What filling will take, measured on `number` clips spread over those that lack something. Writes nothing.

    clips: of a source; those that the store does not know yet count as to be filled. Returns {"clips": to be filled,
    "measured": clips, "constituents": {key: {"missing", "seconds", "bytes"} of one clip}, "shared": {part: seconds of
    one clip} for opening the file, decoding its sound and finding its face, "seconds": of one clip in all,
    "worker_hours", "workers": that fit on this machine, "hours": on them, "gpu_hours", "bytes": in all,
    "rejected": {reason: clips of the measured}, "left_out"}. A worker has one thread, as in a job.
    """
    options, policy, store = options or Options(), policy or Policy(), Store(uri)
    recipe = resolve(recipe, detector_of(store) if store.exists() else None)
    able = ready(constituents, recipe)
    wants = wants_of(able, recipe)
    todo, known = Plan(), set[str]()
    if store.exists():
        store = Store.open(uri)
        todo = filling.plan(store, wants, policy)
        known = set(store.table("clips").to_table(columns=["clip_id"])["clip_id"].to_pylist())
    new, missing, fresh = _of_source(clips, known, wants, policy, number)
    missing.update(todo.missing)
    total = todo.work + new
    found: dict[str, Any] = {"clips": total, "measured": 0, "left_out": able.left_out}
    if not total:
        return found
    tasks = fresh[: round(number * new / total)]
    registered = _of_store(store, todo, number) if todo.work else []
    tasks += random.Random(0).sample(registered, min(number - len(tasks), len(registered)))

    crew = Crew(able.extractors, recipe, input_makers(able.extractors, recipe), options).on([node := _this_node()])
    workers = crew.size([node], -(-total // CHUNK_CLIPS))
    worker = Worker(able.extractors, crew.options.device, recipe)
    found["left_out"] |= worker.load()
    pin_threads(1)
    try:
        worker.fill(*tasks[0])  # the first clip of all takes longer
        outcomes = _made(worker, tasks)
    except Unfit as fault:
        raise VoxportraitError(f"{fault.reason}: {fault.message}") from fault
    per_clip = {key: _cost(key, tasks, outcomes) for key in able.constituents}
    seconds = fmean(sum(outcome.seconds.values()) for outcome in outcomes)
    inference = fmean(sum(outcome.inference.values()) for outcome in outcomes)
    shared = {part: fmean(o.seconds[part] for o in outcomes) for part in PARTS if part not in per_clip}
    return found | {
        "measured": len(tasks),
        "constituents": {key: {"missing": missing[key]} | cost for key, cost in per_clip.items()},
        "shared": {part: value for part, value in shared.items() if value},
        "seconds": seconds,
        "worker_hours": total * seconds / 3600,
        "workers": workers,
        "hours": total * seconds / 3600 / workers,
        "gpu_hours": total * inference * crew.resources["GPU"] / 3600,
        "bytes": round(OVERHEAD * sum(missing[key] * cost["bytes"] for key, cost in per_clip.items())),
        "rejected": dict(Counter(rejection.reason for outcome in outcomes for rejection in outcome.rejected)),
    }


def _of_source(
    clips: Iterable[Clip], known: set[str], wants: Sequence[Want], policy: Policy, number: int
) -> tuple[int, Counter[str], list[Task]]:
    """Of the clips that are new and allowed: how many, what they lack, and some of them, each as likely as another."""
    count, missing, chosen, draw = 0, Counter[str](), list[Task](), random.Random(0)
    for clip, is_allowed in judged(clips, policy):
        if clip.clip_id in known or not is_allowed:
            continue
        count += 1
        lacks = lacking(clip, wants)
        missing.update(lacks)
        place = len(chosen) if len(chosen) < number else draw.randrange(count)
        if place < number:
            chosen[place : place + 1] = [(clip, frozenset(lacks))]
    return count, missing, chosen


def _of_store(store: Store, todo: Plan, number: int) -> list[Task]:
    """Some of the registered clips that lack something, spread over the store."""
    fragments = [fragment for fragment in todo.fragments if todo.chunks(fragment)]
    tasks: dict[str, Task] = {}
    for place in np.linspace(0, len(fragments) - 1, min(number, len(fragments))).astype(int):
        for chunk in todo.chunks(fragments[place])[: -(-number // len(fragments))]:
            clips, _ = filling.read_clips(store, chunk)
            tasks |= {clip.clip_id: (clip, wanted) for clip, wanted in zip(clips, chunk.wanted, strict=True)}
    return list(tasks.values())


def _this_node() -> dict[str, float]:
    """What Ray would find on this machine."""
    import torch

    memory = _RAY_SHARE * psutil.virtual_memory().available
    return {"CPU": len(os.sched_getaffinity(0)), "GPU": torch.cuda.device_count(), "memory": memory}


def _made(worker: Worker, tasks: Sequence[Task]) -> list[Outcome]:
    """The tasks through the worker, in groups of its size."""
    outcomes = []
    for first in range(0, len(tasks), worker.group):
        group = tasks[first : first + worker.group]
        places = [i % PLACES for i in range(len(group))]
        outcomes += worker.fill_group([clip for clip, _ in group], [wanted for _, wanted in group], places)
    return outcomes


def _cost(key: str, tasks: Sequence[Task], outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Seconds and stored bytes of a constituent of one clip; 0 where none of the clips lacks it."""
    of_it = [outcome for (_, wanted), outcome in zip(tasks, outcomes, strict=True) if key in wanted]
    table, _ = journal.chunk_table(range(len(of_it)), [key], [outcome.values for outcome in of_it], {key: 0}, [])
    table = table.drop_columns(["_rowid"]).filter(table[f"{key}_maker"].is_valid())
    size = table.combine_chunks().nbytes / len(table) if len(table) else 0.0
    return {"seconds": fmean(o.seconds[key] for o in of_it) if of_it else 0.0, "bytes": size}
