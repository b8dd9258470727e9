"""The one training loop: set up or resume, step, report, save, in that order.

    train("runs/sr-1", loader, system="full-input", stage="unet1", preset="tiny")

A run directory holds config.json, metrics.jsonl, tensorboard/, samples/, checkpoints/ and README.md. Training again in
the same directory goes on from its newest checkpoint, to the bit on a CPU: all randomness after the first weights is a
function of (seed, epoch, position), and nothing asks torch's, numpy's or Python's global random state.
"""

import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featurestore.conditioning import Layout
from featurestore.conditioning import system as system_named
from featurestore.errors import VoxportraitError
from featurestore.feed import Feed
from featurestore.loader import Loader, Timing
from training import card, samples
from training.checkpoint import latest_checkpoint, read_checkpoint, restore, write_checkpoint
from training.data import check_run, note_pictures, note_run, rights_of
from training.device import device_named
from training.metrics import Metrics, read_metrics
from training.ranks import Ranks
from training.run import describe_run, open_run_directory
from training.settings import Settings
from training.stage import Stage
from training.stages import build, settings_of
from training.step import Learner, learning_rate, parts, shown

CHECKPOINT_EVERY = 1000
"""Steps between checkpoints, and so the most that a kill costs."""

VALIDATED = 2048
"""Held-out clips that are validated on, at most, evenly spread: a tenth of a large corpus would hold up training."""


def train(
    run: str | os.PathLike[str],
    loader: Loader,
    system: str = "full-input",
    stage: str = "unet1",
    preset: str = "tiny",
    *,
    layout: Layout | None = None,
    choices: Mapping[str, Any] | None = None,
    seed: int = 0,
    steps: int | None = None,
    device: str | torch.device | None = None,
    micro_batch: int | None = None,
    ranks: Ranks = Ranks(),
    checkpoint_every: int = CHECKPOINT_EVERY,
    report_every: int = 20,
    validate_every: int = 200,
    sample_every: int = 0,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train a stage of a system until its steps are done or `should_stop` says so, and save.

    loader: of this rank's part of the global batches. layout: that the system takes its inputs from, instead of its
    own. choices: settings instead of the preset's; steps: likewise. device: `cuda` where there is
    one, else `cpu`. micro_batch: samples that go through the network at once, all of a worker's batch where it is None;
    halved where the device has no memory for them. ranks: of several workers the first one writes the run.
    sample_every: steps between grids of held-out clips, and one at the end; 0 for none. progress: called with
    (done, total).
    Returns what was reached: see `outcome_of`; and of this call seconds, steps_per_second, samples_per_second and
    waited (share of the time spent waiting for data).
    Raises UsageError for an unknown name, a device that is not there or a directory that holds another run,
    VoxportraitError where loss or weights are no longer finite.
    """
    # set up
    run, layout = Path(run), system_named(system).layout(layout)
    settings = settings_of(stage, preset, choices)
    steps = settings.steps if steps is None else steps
    where = device_named(device)
    about = begin(run, loader, system, stage, preset, settings, layout=layout, seed=seed, steps=steps, ranks=ranks)
    ranks.same("clips", loader.records.identity, "the store changes while they open it; train on a snapshot")
    torch.manual_seed(seed)
    built = build(system, stage, settings, layout, where, loader.records)
    learner = Learner(built, ranks, micro_batch)

    # resume
    step, folder = 0, latest_checkpoint(run)
    ranks.same("checkpoint", str(folder and folder.name), f"put {run} where all machines see it")
    if folder is not None:
        checkpoint = read_checkpoint(folder, layout)
        step = checkpoint.about["step"]
        if step >= steps:
            return outcome_of(run, steps, already_finished=True)
        restore(checkpoint, built.network, learner.average, learner.optimizer)
        learner.micro_batch = learner.micro_batch or checkpoint.about.get("micro_batch")

    # train
    feed = Feed(loader, layout, where, dropout_seed=seed, allow_missing=True)
    feed.load_state_dict(loader.order.state(*divmod(step, loader.batches_per_epoch)))
    book = _Book(run, about, built, learner, feed, seed, step) if ranks.is_first else None
    meter = _Meter(feed.timing, ranks)
    if progress:
        progress(step, steps)
    stopping = 0.0
    with closing(iter(feed)) as batches:
        while step < steps and not stopping:
            fed = next(batches)
            clips, stopping = ranks.sums(len(fed.batch), should_stop is not None and should_stop())
            loss = learner.step(fed, seed, step, steps, int(clips))
            step += 1
            meter.add(loss, int(clips))
            if progress:
                progress(step, steps)

            # report and save
            last = step == steps or stopping > 0
            saves = last or step % checkpoint_every == 0
            if saves or step % report_every == 0:
                reported = meter.report(step, learning_rate(settings, step - 1, steps))
                if book:
                    book.report(step, reported)
            if saves and not learner.is_sound():
                raise VoxportraitError(f"weights are no longer finite at step {step}: {_CALMER}")
            if book and (step % validate_every == 0 or step == steps):
                book.validate(step)
            if book and sample_every and (step % sample_every == 0 or step == steps):
                book.draw(step)
            if book and saves:
                book.save(step)
    if book:
        book.close()
    ranks.wait()
    return {**outcome_of(run, steps), **meter.totals()}


def begin(
    run: Path,
    loader: Loader,
    system: str,
    stage: str,
    preset: str,
    settings: Settings,
    *,
    layout: Layout,
    seed: int,
    steps: int,
    ranks: Ranks = Ranks(),
) -> dict[str, Any]:
    """Make a run's directory, or check that it holds this very run; returns what the run is, for its checkpoints.

    layout: the system's. Raises UsageError where the directory holds another run, VoxportraitError where the run was
    trained on somebody who was forgotten since.
    """
    about = describe_run(system_named(system), stage, preset, settings, layout, seed, steps, loader)
    if ranks.is_first:
        check_run(run, loader)
        about["rights"] = rights_of(loader)
        open_run_directory(run, about)
        note_run(run, loader)
    ranks.wait()
    return about


def outcome_of(run: Path, steps: int, already_finished: bool = False) -> dict[str, Any]:
    """Where a run stands: run, finished, already_finished, step, steps, checkpoint, and the last reported loss and
    validation_loss."""
    folder, rows = latest_checkpoint(run), read_metrics(run)
    step = read_checkpoint(folder).about["step"] if folder else 0
    return {
        "run": str(run),
        "finished": step >= steps,
        "already_finished": already_finished,
        "step": step,
        "steps": steps,
        "checkpoint": str(folder) if folder else None,
        "loss": next((row["loss"] for row in reversed(rows) if "loss" in row), None),
        "validation_loss": next((row["validation_loss"] for row in reversed(rows) if "validation_loss" in row), None),
    }


@torch.no_grad()
def validation_loss(stage: Stage, feed: Feed, seed: int, micro_batch: int | None = None) -> float | None:
    """The mean loss over held-out clips, the same ones with the same noise each time; None where there are none."""
    losses, clips = [], 0
    for fed in feed.validation(VALIDATED):
        inputs, noise = stage.inputs(fed), stage.noise(fed.batch, seed, "validation")
        if stage.shows:
            inputs = stage.meet(inputs, shown(stage, inputs, len(fed.batch), micro_batch), 0)
        losses += [stage.loss(inputs[rows], noise[rows]).sum() for rows in parts(len(fed.batch), micro_batch)]
        clips += len(fed.batch)
    return torch.stack(losses).sum().item() / clips if losses else None


@torch.no_grad()
def measures(stage: Stage, feed: Feed) -> dict[str, float]:
    """What a stage reports of held-out clips beside their loss."""
    with closing(feed.validation(VALIDATED)) as batches:
        return stage.measure(stage.inputs(fed) for fed in batches)


class _Book:
    """All that is written of a run while it is trained, by one worker alone. step: behind which it goes on.

    The averaged network is never compiled: its batches have too many shapes for a graph of each.
    """

    def __init__(
        self, run: Path, about: dict[str, Any], stage: Stage, learner: Learner, feed: Feed, seed: int, step: int
    ):
        self.run, self.about, self.learner, self.feed, self.seed = run, about, learner, feed, seed
        self.averaged = stage.with_network(learner.average)
        self.averaged.compiled = False
        self.metrics = Metrics(run, step)

    def report(self, step: int, values: dict[str, float]) -> None:
        self.metrics.write(step, **values)

    def validate(self, step: int) -> None:
        held_out = validation_loss(self.averaged, self.feed, self.seed, self.learner.micro_batch)
        if held_out is not None:
            self.metrics.write(step, validation_loss=held_out, **measures(self.averaged, self.feed))

    def draw(self, step: int) -> None:
        """A grid of held-out clips as PNG and for TensorBoard; both are noted as pictures of these clips. A device that
        has no memory for it goes without."""
        try:
            grid = samples.draw(self.averaged, self.feed, self.seed)
        except torch.OutOfMemoryError:
            warnings.warn(f"{self.averaged.device} has no memory for a grid at step {step}", stacklevel=2)
            return
        if grid is not None:
            path = samples.write(self.run, step, grid, self.about)
            boards = self.metrics.show(step, "samples", grid.picture)
            note_pictures([path, *boards], grid.rows, self.feed.loader)

    def save(self, step: int) -> None:
        learner = self.learner
        about = {**self.about, "micro_batch": learner.micro_batch, "workers": learner.ranks.size}
        write_checkpoint(self.run, step, about, learner.stage.network, learner.average, learner.optimizer)
        card.write(self.run)

    def close(self) -> None:
        self.metrics.close()


_CALMER = "train with a lower learning rate"


@dataclass
class _Meter:
    """Adds up losses on the device, and where the time went. samples: of the global batches."""

    timing: Timing
    ranks: Ranks
    losses: list[Tensor] = field(default_factory=list)
    samples: int = 0
    steps: int = 0
    began: float = field(default_factory=time.perf_counter)

    def add(self, loss: Tensor, samples: int) -> None:
        self.losses.append(loss)
        self.samples += samples
        self.steps += 1

    def report(self, step: int, rate: float) -> dict[str, float]:
        """For the metrics, of all workers. Raises VoxportraitError where the loss is no longer finite."""
        (loss,) = self.ranks.sums(torch.stack(self.losses).mean().item())
        self.losses.clear()
        if not math.isfinite(loss):
            raise VoxportraitError(f"the loss is {loss} before step {step}: {_CALMER}")
        totals = self.totals()
        return {
            "loss": loss,
            "learning_rate": rate,
            "samples_per_second": totals["samples_per_second"],
            "waited": totals["waited"],
        }

    def totals(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.began
        return {
            "seconds": seconds,
            "steps_per_second": self.steps / seconds,
            "samples_per_second": self.samples / seconds,
            "waited": self.timing.share,
        }
