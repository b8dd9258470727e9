"""The one training loop: set up or resume, step, report, save, in that order.

    train("runs/sr-1", loader, system="full-input", unet=1, preset="tiny")

A run directory holds config.json, metrics.jsonl, tensorboard/ and checkpoints/. Training again in the same directory
goes on from its newest checkpoint, to the bit on a CPU: all randomness is a function of (seed, epoch, position).
"""

import copy
import math
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featurestore.conditioning import LAYOUTS, Layout
from featurestore.conditioning import system as system_named
from featurestore.errors import VoxportraitError
from featurestore.feed import Feed, Inputs
from featurestore.loader import Loader, Timing
from training.checkpoint import latest_checkpoint, read_checkpoint, restore, write_checkpoint
from training.data import check_run, note_run
from training.metrics import Metrics, read_metrics
from training.presets import StagePreset, cascade_of, stage_preset
from training.run import describe_run, open_run_directory
from training.stage import Stage


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
    device: str | None = None,
    checkpoint_every: int = 1000,
    report_every: int = 20,
    validate_every: int = 200,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train U-Net 1 or 2 of a system's cascade until its steps are done or `should_stop` says so, and save.

    steps: instead of the preset's. device: `cuda` where there is one, else `cpu`. progress: called with (done, total).
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
    check_run(run, loader)
    open_run_directory(run, about)
    note_run(run, loader)
    torch.manual_seed(seed)
    stage = Stage(unet, cascade_of(chosen), settings, layout, where)
    average = copy.deepcopy(stage.network).requires_grad_(False)
    optimizer = torch.optim.Adam(stage.network.parameters(), lr=settings.learning_rate, betas=settings.betas)

    # resume
    step, folder = 0, latest_checkpoint(run)
    if folder is not None:
        checkpoint = read_checkpoint(folder, layout)
        step = checkpoint.about["step"]
        if step >= steps:
            return _outcome(run, step, steps, folder, already_finished=True)
        restore(checkpoint, stage.network, average, optimizer)

    # train
    feed = Feed(loader, layout, where, dropout_seed=seed, allow_missing=True)
    feed.load_state_dict(loader.order.state(*divmod(step, loader.batches_per_epoch)))
    metrics, meter = Metrics(run, step), _Meter(feed.timing)
    if progress:
        progress(step, steps)
    with closing(iter(feed)) as batches:
        while step < steps:
            fed = next(batches)
            loss = train_step(stage, average, optimizer, fed, seed, step, steps)
            step += 1
            meter.add(loss, len(fed.batch))
            if progress:
                progress(step, steps)

            # report and save
            stopping = should_stop is not None and should_stop()
            last = step == steps or stopping
            if step % report_every == 0 or last:
                _report(metrics, meter, step, learning_rate(settings, step - 1, steps))
            if step % validate_every == 0 or step == steps:
                held_out = validation_loss(stage.with_network(average), feed, seed)
                if held_out is not None:
                    metrics.write(step, validation_loss=held_out)
            if step % checkpoint_every == 0 or last:
                folder = write_checkpoint(run, step, about, stage.network, average, optimizer)
            if stopping:
                break
    metrics.close()
    return {**_outcome(run, step, steps, folder), **meter.totals()}


def train_step(
    stage: Stage,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    fed: Inputs,
    seed: int,
    step: int,
    steps: int,
) -> Tensor:
    """One step: loss, gradients, Adam, moving average. Returns the loss without waiting for the device."""
    settings = stage.preset
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(settings, step, steps)
    optimizer.zero_grad(set_to_none=True)
    loss = stage.loss(stage.inputs(fed), stage.noise(fed.batch, seed))
    loss.backward()
    if settings.clip:
        nn.utils.clip_grad_norm_(stage.network.parameters(), settings.clip)
    optimizer.step()
    update_average(average, stage.network, settings.ema_decay, step)
    return loss.detach()


def learning_rate(settings: StagePreset, step: int, steps: int) -> float:
    """Linear up over `warmup` steps, then along a cosine down to `final_rate` of the preset's rate."""
    up = min(1.0, (step + 1) / max(1, settings.warmup))
    down = settings.final_rate + (1 - settings.final_rate) * (1 + math.cos(math.pi * step / steps)) / 2
    return settings.learning_rate * up * down


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int):
    """average <- d average + (1 - d) weights, with d = min(decay, (1 + step) / (10 + step))."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), share)


@torch.no_grad()
def validation_loss(stage: Stage, feed: Feed, seed: int) -> float | None:
    """The mean loss over the held-out batches, with the same noise each time; None where there are none."""
    losses, clips = [], 0
    for fed in feed.validation():
        noise = stage.noise(fed.batch, seed, "validation")
        losses.append(stage.loss(stage.inputs(fed), noise) * len(fed.batch))
        clips += len(fed.batch)
    return torch.stack(losses).sum().item() / clips if losses else None


@dataclass
class _Meter:
    """Adds up losses on the device, and where the time went."""

    timing: Timing
    losses: list[Tensor] = field(default_factory=list)
    samples: int = 0
    steps: int = 0
    began: float = field(default_factory=time.perf_counter)

    def add(self, loss: Tensor, samples: int):
        self.losses.append(loss)
        self.samples += samples
        self.steps += 1

    def mean_loss(self) -> float:
        mean = torch.stack(self.losses).mean().item()
        self.losses.clear()
        return mean

    def totals(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.began
        return {
            "seconds": seconds,
            "steps_per_second": self.steps / seconds,
            "samples_per_second": self.samples / seconds,
            "waited": self.timing.share,
        }


def _report(metrics: Metrics, meter: _Meter, step: int, rate: float):
    loss = meter.mean_loss()
    if not math.isfinite(loss):
        raise VoxportraitError(f"the loss is {loss} before step {step}: train with a lower learning rate")
    totals = meter.totals()
    metrics.write(
        step,
        loss=loss,
        learning_rate=rate,
        samples_per_second=totals["samples_per_second"],
        waited=totals["waited"],
    )


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
