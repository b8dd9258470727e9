"""How much faster portraits are drawn in few steps than in the ancestral sampler's 1,000, and what that costs.

The model is a run's, shown an export's clips, or one that is trained here on people in memory: coloured squares, whom a
voice tells apart, on clips that it did not see. Recall: the true face that is nearest in pixels is the person's own.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featurestore.console import bar
from featurestore.errors import UsageError, VoxportraitError
from featurestore.feed import Feed
from featurestore.loader import Loader
from featurestore.memory_records import MemoryRecords
from infra.bench.rounds import machine
from training.cascade import CascadeStage, shrink
from training.checkpoint import open_run
from training.cli import run_folder
from training.loop import train
from training.presets import GENERATION
from training.sampling import Portraitist, draw_stage, load_stage

LONG = ("ancestral", 1000)
GRID = (
    *(("dpm-solver++", steps) for steps in (4, 6, 8, 10, 15, 20, 25, 50)),
    *(("ddim", steps) for steps in (10, 20, 50, 100)),
)
DRAWS = 2_000
"""Of the bootstrap."""

PEOPLE, CLIPS, TRAINED = 8, 6, 250
"""Of the model that is trained here; one clip of each person is kept from it."""


@dataclass
class Model:
    """Stages to draw with, one after the other, and for whom. target: (N, 3, 128, 128) and guide in -1..1."""

    stages: tuple[CascadeStage, ...]
    matrix: Tensor
    target: Tensor
    guide: Tensor | None
    about: str


def run(
    runs: Path | None = None,
    export: Path | None = None,
    system: str = "full-input",
    pictures: int | None = None,
    cond_scale: float = 1.0,
    seed: int = 0,
    long: tuple[str, int] = LONG,
    grid: tuple[tuple[str, int], ...] = GRID,
    trained: int = TRAINED,
) -> dict[str, Any]:
    """Draws the same people with the same seeds by each sampler. runs, export: a trained system, and held-out clips.

    Returns curve: for each sampler and its steps pictures_per_second, psnr and recall; reference: the same of the long
    one, with the 95 % intervals of a bootstrap over pictures; fewest: the first by speed whose PSNR and recall do not
    lie below those intervals, None where there is none or the reference's recall is not above chance; speedup: its
    speed over the reference's.
    Raises UsageError where only one of runs and export is given.
    """
    if (runs is None) != (export is None):
        raise UsageError("--runs and --export go together: a trained system, and the clips that it is shown")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with bar("bench sample", timed=False) as progress:
        rows = 2 + len(grid)
        progress(0, rows, "model")
        if runs is not None and export is not None:
            model = given(runs, export, system, pictures, device)
        else:
            model = made_here(seed, trained, device)
        progress(1, rows, f"{long[0]}, {long[1]:,} steps")
        reference = _judge(model, long, cond_scale, seed)
        curve = []
        for number, (sampler, steps) in enumerate(grid, start=2):
            progress(number, rows, f"{sampler}, {steps} steps")
            curve.append(_judge(model, (sampler, steps), cond_scale, seed))
    low = {what: interval(reference[what], seed) for what in ("psnr", "recall")}
    told = low["recall"][0] > 1 / len(model.matrix)
    good = [one for one in curve if told and all(np.mean(one[what]) >= low[what][0] for what in low)]
    fewest = max(good, key=lambda one: one["pictures_per_second"], default=None)
    return {
        "pictures_per_second": {
            "reference": reference["pictures_per_second"],
            "fewest": fewest and fewest["pictures_per_second"],
        },
        "speedup": fewest and fewest["pictures_per_second"] / reference["pictures_per_second"],
        "fewest": fewest and _plain(fewest),
        "reference": {**_plain(reference), "intervals": low},
        "curve": [_plain(one) for one in curve],
        "pictures": len(model.matrix),
        "side": model.stages[-1].size,
        "model": model.about,
        "recall": "the nearest of the true faces in pixels is the person's own",
        "random_recall": 1 / len(model.matrix),
        "cond_scale": cond_scale,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": str(torch.__version__),
        **machine(),
    }


def given(runs: Path, export: Path, system: str, pictures: int | None, device: torch.device) -> Model:
    """Both stages of a system's runs, and people of an export's test split, the first clip of each."""
    from featurestore.exports import ExportRecords

    portraitist = Portraitist.load(run_folder(runs, system, "unet1"), run_folder(runs, system, "unet2"), str(device))
    records = ExportRecords(export, portraitist.layout, missing="zero", split="test")
    first: dict[str, int] = {}
    for row, clip in zip(records.rows.tolist(), records.clip_ids(records.rows), strict=True):
        first.setdefault(clip.rsplit("/", 2)[0], row)
    rows = np.array(list(first.values())[:pictures], np.uint64)
    if len(rows) < 2:
        raise VoxportraitError(
            f"{export} has {len(rows)} people of the split test: there is nobody to mistake them for"
        )
    loader = Loader(records, len(rows))
    about = f"{runs}, {system}, unseen people of {export}"
    return _shown(portraitist.stages, loader, rows, device, about)


def made_here(seed: int, steps: int, device: torch.device) -> Model:
    """U-Net 1 of a generation, at the smallest preset, trained on people in memory."""
    people = np.arange(PEOPLE * CLIPS) % PEOPLE
    held_out = range(PEOPLE * (CLIPS - 1), PEOPLE * CLIPS)
    random = np.random.default_rng(seed)
    faces = random.integers(0, 256, (PEOPLE, 2, 2, 3), np.uint8).repeat(64, 1).repeat(64, 2)
    voices = random.normal(0, 1, (PEOPLE, 192))
    heard = voices[people] + random.normal(0, 0.2, (len(people), 192))
    compact = {"ecapa": (200 * heard).astype(np.float16), "titanet": (heard / 10).astype(np.float16)}
    names = [f"squares/id{person:05d}/video/{clip:05d}" for clip, person in enumerate(people)]
    records = MemoryRecords(names, compact, faces[people], held_out=held_out)
    with tempfile.TemporaryDirectory() as folder:
        train(
            Path(folder) / "run", Loader(records, PEOPLE, seed), "no-image-guide", "unet1", "micro", steps=steps,
            seed=seed, device=device, validate_every=steps,
        )  # fmt: skip
        stage = load_stage(open_run(Path(folder) / "run"), GENERATION, device)
    about = f"U-Net 1 alone, preset micro, {steps} steps on {PEOPLE} people of coloured squares; clips it did not see"
    return _shown((stage,), Loader(records, PEOPLE), records.held_out, device, about)


def _shown(
    stages: tuple[CascadeStage, ...], loader: Loader, rows: np.ndarray, device: torch.device, about: str
) -> Model:
    feed = Feed(loader, stages[0].layout, device, allow_missing=True)
    fed = feed.move(next(loader.in_order(rows)).copy())
    guide = fed.guide * 2 - 1 if stages[0].low_size else None
    return Model(stages, fed.matrix, fed.target * 2 - 1, guide, about)


def _judge(model: Model, how: tuple[str, int], cond_scale: float, seed: int) -> dict[str, Any]:
    """Draws everybody. psnr, recall: (N,), of each picture."""
    _draw(model, (how[0], 1), cond_scale, seed)
    began = time.perf_counter()
    drawn = _draw(model, how, cond_scale, seed)
    if drawn.is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    squared = (
        (as_bytes(drawn)[:, None] - as_bytes(shrink(model.target, drawn.shape[-1]))[None]).square().mean((2, 3, 4))
    )
    own = torch.arange(len(drawn), device=drawn.device)
    return {
        "sampler": how[0],
        "steps": how[1],
        "pictures_per_second": len(drawn) / seconds,
        "psnr": (10 * torch.log10(255**2 / squared.diagonal().clamp(min=1e-3))).cpu().numpy(),
        "recall": (squared.argmin(1) == own).float().cpu().numpy(),
    }


@torch.inference_mode()
def _draw(model: Model, how: tuple[str, int], cond_scale: float, seed: int) -> Tensor:
    low, seeds = model.guide, [seed + number for number in range(len(model.matrix))]
    for stage in model.stages:
        low = draw_stage(stage, model.matrix, seeds, cond_scale, low, *how)
    assert low is not None
    return low


def as_bytes(pictures: Tensor) -> Tensor:
    """Pictures in -1..1 as they are kept, 0..255."""
    return ((pictures.float() + 1) * 127.5).round().clamp(0, 255)


def interval(values: np.ndarray, seed: int) -> list[float]:
    """95 % of the means of samples drawn from these values."""
    drawn = np.random.default_rng(seed).choice(values, (DRAWS, len(values)))
    return [float(edge) for edge in np.quantile(drawn.mean(1), (0.025, 0.975))]


def _plain(one: dict[str, Any]) -> dict[str, Any]:
    return {key: float(value.mean()) if isinstance(value, np.ndarray) else value for key, value in one.items()}
