"""The one training loop: set up or resume, step, report, save, in that order.

    train("runs/sr-1", loader, system="full-input", unet=1, preset="tiny")

A run directory holds config.json, metrics.jsonl, tensorboard/ and checkpoints/. Training again in the same directory
goes on from its newest checkpoint, to the bit on a CPU: all randomness is a function of (seed, epoch, position).
"""

import math
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featurestore.conditioning import LAYOUTS, Layout
from featurestore.conditioning import system as system_named
from featurestore.errors import VoxportraitError
from featurestore.feed import Feed
from featurestore.loader import Loader, Timing
from training.checkpoint import latest_checkpoint, read_checkpoint, restore, write_checkpoint
from training.data import check_run, note_run
from training.metrics import Metrics, read_metrics
from training.presets import cascade_of, stage_preset
from training.ranks import Ranks
from training.run import describe_run, open_run_directory
from training.stage import Stage
from training.step import Learner, learning_rate


def train(
    run: str | os.PathLike[str],
    loader: Loader,
    system: str = "full-input",
    unet: int = 1,
    preset: str = "tiny",
    *,
    layout: Layout = LAYOUTS["slf"],
    seed: int = 0,
    steps: int | None = None,
    device: str | torch.device | None = None,
    micro_batch: int | None = None,
    ranks: Ranks = Ranks(),
    checkpoint_every: int = 1000,
    report_every: int = 20,
    validate_every: int = 200,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train U-Net 1 or 2 of a system's cascade until its steps are done or `should_stop` says so, and save.

    loader: of this rank's part of the global batches. steps: instead of the preset's. device: `cuda` where there is
    one, else `cpu`. micro_batch: samples that go through the network at once, all of a worker's batch where it is None;
    halved where the device has no memory for them. ranks: of several workers the first one writes the run.
    progress: called with (done, total).
    Returns what was reached: finished, already_finished, step, steps, checkpoint, and of this call seconds,
    steps_per_second, samples_per_second and waited (share of the time spent waiting for data); of the whole run
    the last reported loss and validation_loss.
    Raises UsageError for an unknown name or a directory that holds another run, VoxportraitError where the loss is no
    longer finite.
    """
    # initialise
    chosen, settings, run = system_named(system), stage_preset(preset, unet), Path(run)
    steps = settings.steps if steps is None else steps
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    layout = chosen.layout(layout)
    about = describe_run(chosen, unet, preset, settings, layout, seed, steps, loader)
    if ranks.is_first:
        check_run(run, loader)
        open_run_directory(run, about)
        note_run(run, loader)
    ranks.wait()
    torch.manual_seed(seed)
    stage = Stage(unet, cascade_of(chosen), settings, layout, where)
    learner = Learner(stage, ranks, micro_batch)

    # resume
    step, folder = 0, latest_checkpoint(run)
    if folder is not None:
        checkpoint = read_checkpoint(folder, layout)
        step = checkpoint.about["step"]
        if step >= steps:
            return _outcome(run, step, steps, folder, already_finished=True)
        restore(checkpoint, stage.network, learner.average, learner.optimizer)
        learner.micro_batch = learner.micro_batch or checkpoint.about.get("micro_batch")

    # train
    feed = Feed(loader, layout, where, dropout_seed=seed, allow_missing=True)
    feed.load_state_dict(loader.order.state(*divmod(step, loader.batches_per_epoch)))
    metrics, meter = Metrics(run, step) if ranks.is_first else None, _Meter(feed.timing, ranks)
    if progress:
        progress(step, steps)
    with closing(iter(feed)) as batches:
        while step < steps:
            fed = next(batches)
            asked = should_stop is not None and should_stop()
            samples, stopping = ranks.sums(len(fed.batch), asked)
            loss = learner.step(fed, seed, step, steps, int(samples))
            step += 1
            meter.add(loss, int(samples))
            if progress:
                progress(step, steps)

            # report and save
            last = step == steps or stopping
            if step % report_every == 0 or last:
                reported = meter.report(step, learning_rate(settings, step - 1, steps))
                if metrics:
                    metrics.write(step, **reported)
            if metrics and (step % validate_every == 0 or step == steps):
                held_out = validation_loss(stage.with_network(learner.average), feed, seed)
                if held_out is not None:
                    metrics.write(step, validation_loss=held_out)
            if metrics and (step % checkpoint_every == 0 or last):
                about["micro_batch"] = learner.micro_batch
                folder = write_checkpoint(run, step, about, stage.network, learner.average, learner.optimizer)
            if stopping:
                break
    if metrics:
        metrics.close()
    ranks.wait()
    return {**_outcome(run, step, steps, folder), **meter.totals()}


@torch.no_grad()
def validation_loss(stage: Stage, feed: Feed, seed: int) -> float | None:
    """The mean loss over the held-out batches, with the same noise each time; None where there are none."""
    losses, clips = [], 0
    for fed in feed.validation():
        noise = stage.noise(fed.batch, seed, "validation")
        losses.append(stage.loss(stage.inputs(fed), noise).sum())
        clips += len(fed.batch)
    return torch.stack(losses).sum().item() / clips if losses else None


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
            raise VoxportraitError(f"the loss is {loss} before step {step}: train with a lower learning rate")
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


def _outcome(
    run: Path, step: int, steps: int, checkpoint: Path | None, already_finished: bool = False
) -> dict[str, Any]:
    rows = read_metrics(run)
    return {
        "run": str(run),
        "finished": step >= steps,
        "already_finished": already_finished,
        "step": step,
        "steps": steps,
        "checkpoint": str(checkpoint) if checkpoint else None,
        "loss": next((row["loss"] for row in reversed(rows) if "loss" in row), None),
        "validation_loss": next((row["validation_loss"] for row in reversed(rows) if "validation_loss" in row), None),
    }
