"""How a study's minutes are shared out: which stages are trained, how fast each is, how many steps fit.

plan(stages_of(["two-stage", "fine-portraitist"]), "small", paces, seconds=340)
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from featurestore.conditioning import system
from featurestore.errors import VoxportraitError
from featurestore.loader import Loader
from training.cli import run_folder
from training.data import Opening, Source
from training.stages import UNETS, build, settings_of

SHARES = {"unet1": 0.6, "unet2": 0.4, "codec": 1.0, "face": 1.0, "bottom": 0.5, "upper": 0.5}
"""How time is divided, a system having 1: U-Net 1 learns what the matrix says, U-Net 2 how a face looks; the codec, of
which there is one for all, has as much as a system."""

AFTER = {"face": 1, "bottom": 1, "upper": 2}
"""How many stages before it a stage learns from; none where it is not here."""

WARM = 3
"""Steps before a stage's speed is measured."""

Training = tuple[str, str]
"""A system and a stage of it."""
Kind = tuple[str, str]
"""Stages of one kind are equally fast: what sets a system apart here, and the stage."""


@dataclass(frozen=True)
class Stage:
    """One stage of a study. pace: samples a second, measured before. seconds: that it was given."""

    system: str
    stage: str
    steps: int
    batch_size: int
    pace: float
    seconds: float

    @property
    def name(self) -> str:
        return run_folder(Path(), self.system, self.stage).name


def stages_of(systems: Sequence[str]) -> list[Training]:
    """What is trained of these systems, in order: the codec once for all."""
    codec = [("fine-portraitist", "codec")] if any("codec" in system(name).stages for name in systems) else []
    return [*codec, *((name, stage) for name in systems for stage in system(name).stages if stage != "codec")]


def in_turn(trainings: Sequence[Training]) -> list[list[Training]]:
    """Stages in groups, each of which can be opened when those before it are trained: what learns from the codec, and
    what may learn from the bottom stage's drawings."""
    groups = [[one for one in trainings if AFTER.get(one[1], 0) == turn] for turn in range(3)]
    return [group for group in groups if group]


def kind_of(training: Training) -> Kind:
    """What decides how fast a stage is."""
    from training.latent.denoising import leans
    from training.presets import cascade_of

    name, stage = training
    if stage in UNETS:
        return cascade_of(system(name)).name, stage
    return "leaning" if leans(system(name), stage) else "", stage


def plan(trainings: Sequence[Training], preset: str, paces: Mapping[Kind, float], seconds: float) -> list[Stage]:
    """Share seconds out over stages, each of which has at least one step. paces: samples a second by `kind_of`."""
    whole = sum(SHARES[stage] for _, stage in trainings)
    stages = []
    for name, stage in trainings:
        given = seconds * SHARES[stage] / whole
        pace, size = paces[kind_of((name, stage))], settings_of(stage, preset).batch_size
        stages.append(Stage(name, stage, max(1, int(given * pace / size)), size, round(pace, 1), round(given, 1)))
    return stages


def loader(export: Path, runs: Path, training: Training, preset: str, seed: int, device: str) -> Loader:
    """Of what a stage learns from: an export's clips, what they lack as zeros; those with speech, where it hears it."""
    name, stage = training
    settings, layout = settings_of(stage, preset), system(name).layout()
    source = Source(export=export, missing="zero" if stage in UNETS else "skip")
    run = run_folder(runs, name, stage)
    return Opening(source, name, stage, layout, settings.batch_size, seed, run, device, settings)()


def paces(
    trainings: Sequence[Training],
    opened: Callable[[Training], Loader],
    preset: str,
    device: str,
    seconds: float,
    should_stop: Callable[[], bool],
) -> dict[Kind, float]:
    """Samples a second of each kind of stage. opened: gives a stage's loader; seconds: for all measuring."""
    kinds = {kind_of(one): one for one in trainings}
    found = {}
    for kind, training in kinds.items():
        if should_stop():
            raise VoxportraitError("stopped as asked before training; run the same command again")
        found[kind] = pace(opened(training), training, preset, device, seconds / len(kinds))
    return found


def pace(loader: Loader, training: Training, preset: str, device: str, seconds: float) -> float:
    """Samples a second at which a stage trains, measured for so many seconds on steps that are thrown away."""
    import torch

    from featurestore.feed import Feed
    from training.step import Learner

    name, stage = training
    settings, layout = settings_of(stage, preset), system(name).layout()
    learner = Learner(build(name, stage, settings, layout, torch.device(device), loader.records))
    samples, began = 0, 0.0
    with closing(iter(Feed(loader, layout, device, dropout_seed=0, allow_missing=True))) as batches:
        for step in count():
            if step == WARM:
                began = time.monotonic()
            fed = next(batches)
            learner.step(fed, 0, step, 1_000_000).item()
            if step >= WARM:
                samples += len(fed.batch)
                if (took := time.monotonic() - began) >= seconds:
                    return samples / took
    raise AssertionError("a feed does not end")
