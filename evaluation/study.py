"""A study in one command: systems trained from an export, drawn on people they have not seen, and judged.

    study(Path("people.safetensors"), Path("study"), ["only-image-guide", "full-input"], "small", minutes=8)

Made for one GPU and few minutes: how fast each stage trains is measured first, and its steps are chosen so that all is
done in time. A study that was stopped goes on when it is called again. What is written: study.json, study.md,
sheet-<scale>.png, losses.png, and runs/ and portraits/. Importable without Arrow, Lance or Ray.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.evaluate import evaluate
from evaluation.judges import Recogniser, recogniser
from evaluation.metrics import RANKS
from evaluation.portraits import Drawing
from evaluation.significance import above_chance
from evaluation.sweep import Source, leading, recalls, sweep
from featurestore.conditioning import LAYOUTS, system
from featurestore.errors import UsageError, VoxportraitError
from featurestore.loader import Loader
from featurestore.version import code_version

TRAINING = 0.72
"""Share of the minutes that training may take; drawing and judging have the rest."""

WEIGHTS = {1: 0.6, 2: 0.4}
"""How a system's time is divided: U-Net 1 learns what the matrix says, U-Net 2 how a face looks."""

WARM, MEASURING = 3, 0.02
"""Steps before a stage's speed is measured, and the share of the minutes that all measuring takes."""

SHOWN = 16
"""People on a sheet."""

Progress = Callable[[int, int, str], None]
"""(done, total, what)."""


@dataclass(frozen=True)
class Stage:
    """One stage of the study. pace: samples a second, measured before. seconds: that it was given."""

    system: str
    unet: int
    steps: int
    batch_size: int
    pace: float
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.system}-unet{self.unet}"


def study(
    export: Path,
    out: Path,
    systems: Sequence[str],
    preset: str = "small",
    minutes: float = 8.0,
    scales: Sequence[float] = (1.0, 3.0),
    device: str | None = None,
    seed: int = 0,
    draw_at_once: int = 64,
    progress: Progress = lambda done, total, what: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Do what is not yet done, and return what study.json says.

    export: a file of `store export` with the splits train, val and test; what it lacks is zero in the matrix.
    systems: names, of which both U-Nets are trained. minutes: for all of it. draw_at_once: portraits in a batch.
    Returns {"export", "systems", "preset", "minutes", "scales", "seed", "device", "code", "command", "people",
    "seconds": {part: s}, "stages": [stage], "chance": {system: row of `chance`}, "evaluation": as `evaluate`}.
    Raises UsageError for an unknown name, a split that is not there, or a folder that holds another study;
    VoxportraitError where it was asked to stop.
    """
    began = time.monotonic()
    seconds: dict[str, float] = {}
    chosen = [system(name).name for name in systems]
    source, where = Source(export=export), _device(device)
    people = _people(source)
    asked = {"export": export.name, "systems": chosen, "preset": preset, "minutes": minutes, "seed": seed}
    plan_file = out / "plan.json"
    with _timed(seconds, "measuring"):
        planned = _planned(plan_file, asked)
        if planned is None:
            paces = _paces(export, chosen, preset, where, seed, 60 * minutes * MEASURING, should_stop)
            planned = plan(chosen, preset, paces, max(1.0, 60 * minutes * TRAINING - (time.monotonic() - began)))
            plan_file.parent.mkdir(parents=True, exist_ok=True)
            plan_file.write_text(json.dumps({**asked, "stages": [asdict(stage) for stage in planned]}, indent=1))
    with _timed(seconds, "training"):
        outcomes = [
            _train(export, out / "runs", stage, preset, where, seed, progress, should_stop) for stage in planned
        ]
    with _timed(seconds, "drawing"):
        drawings = sweep(
            source,
            chosen,
            out / "runs",
            scales,
            out / "portraits",
            where,
            progress=lambda done, total, what: progress(done, total, f"portraits, {what}"),
            seed=seed,
            batch_size=draw_at_once,
        )
    with _timed(seconds, "judging"):
        judges = recognisers()
        result = evaluate(source.judged, drawings, judges)
        sheets = [_sheet(source, drawings, scale, out) for scale in scales]
        _draw_losses(out, planned)
    seconds["all"] = time.monotonic() - began
    done = {
        **asked,
        "scales": list(scales),
        "device": _device_name(where),
        "code": code_version(),
        "command": " ".join(["voxportrait", *sys.argv[1:]]) if sys.argv[1:2] == ["study"] else "",
        "people": people,
        "seconds": {part: round(took, 1) for part, took in seconds.items()},
        "stages": [{**asdict(stage), **outcome} for stage, outcome in zip(planned, outcomes, strict=True)],
        "chance": {name: chance(result, name) for name in chosen},
        "sheets": [sheet.name for sheet in sheets],
        "evaluation": result,
    }
    (out / "study.json").write_text(json.dumps(done, indent=1) + "\n")
    (out / "study.md").write_text(summary(done))
    return done


def plan(systems: Sequence[str], preset: str, paces: Mapping[tuple[str, int], float], seconds: float) -> list[Stage]:
    """Share seconds out over the stages of the systems.

    paces: samples a second by (cascade's name, U-Net's number). A stage has at least one step.
    """
    from training.presets import cascade_of, stage_preset

    stages = []
    for name in systems:
        for unet, weight in WEIGHTS.items():
            given = seconds / len(systems) * weight
            pace, size = paces[cascade_of(system(name)).name, unet], stage_preset(preset, unet).batch_size
            stages.append(Stage(name, unet, max(1, int(given * pace / size)), size, round(pace, 1), round(given, 1)))
    return stages


def recognisers() -> list[Recogniser]:
    """Those that can judge here: dlib where its library and weights are, and likeness of pixels, which is none."""
    from importlib.util import find_spec

    from pipelines import weights

    here = find_spec("dlib") is not None and weights.missing("dlib") is None
    return [*([recogniser("dlib")] if here else []), Recogniser("pixels", as_pixels)]


def as_pixels(pictures: np.ndarray) -> np.ndarray:
    """(N, 128, 128, 3) uint8 -> (N, 3072) float32: the picture at 32 px. No recogniser: it sees light and background
    as well as the person."""
    small = pictures.reshape(len(pictures), 32, 4, 32, 4, 3).mean((2, 4), dtype=np.float32)
    return small.reshape(len(pictures), -1) / 255


def chance(evaluation: Mapping[str, Any], name: str) -> dict[str, Any]:
    """How surely a system beats guessing, over all its scales but 0 and all ranks, by the leading recogniser.

    p: the smallest binomial probability of so many hits by guessing, times the number of tries, so that trying many
    scales and ranks wins nothing (Bonferroni).
    Returns {"gallery", "recogniser", "scale", "k", "hits", "n", "random", "tries", "p"}.
    """
    gallery, by = leading(evaluation)
    tries = [
        {
            "scale": row["cond_scale"],
            "k": int(k),
            "hits": found["hits"],
            "n": found["n"],
            "random": found["random"],
            "p": above_chance(found["hits"], found["n"], int(k), evaluation["galleries"][gallery]["speakers"]),
        }
        for row in evaluation["systems"]
        if row["name"] == name and row["cond_scale"] > 0
        for k, found in recalls(row, gallery, by).items()
    ]
    if not tries:
        return {"gallery": gallery, "recogniser": by, "tries": 0, "p": None}
    best: dict[str, Any] = min(tries, key=lambda one: one["p"])
    return {
        "gallery": gallery,
        "recogniser": by,
        **best,
        "tries": len(tries),
        "p": min(1.0, best["p"] * len(tries)),
    }


def summary(done: Mapping[str, Any]) -> str:
    """A study as Markdown."""
    evaluation = done["evaluation"]
    gallery, by = leading(evaluation)
    ks = [k for k in evaluation["ranks"] if k in RANKS]
    people, took = done["people"], done["seconds"]
    head = ["system", "scale", *(f"R@{k}" for k in ks), "PSNR", "SSIM"]
    lines = [
        f"# A study of {', '.join(done['systems'])}",
        "",
        f"Preset `{done['preset']}` on {done['device']}: {people['train']} clips of others trained on, "
        f"{evaluation['galleries'][gallery]['speakers']} unseen people drawn and searched for. "
        f"Seconds: {took['training']:.0f} training, {took['drawing']:.0f} drawing, {took['judging']:.0f} judging; "
        f"{took['all']:.0f} in all.",
        "",
        f"Faces are compared by {by}" + (", which is no recogniser." if by.startswith("pixels") else "."),
        f"Gallery: {evaluation['galleries'][gallery]['about']}.",
        "",
        *_table(head, _result_rows(evaluation, gallery, by, ks)),
        "",
        "Above chance? The best of all scales and ranks, its probability by guessing times the number of tries:",
        "",
        *_table(
            ["system", "scale", "rank", "hits", "by guessing", "tries", "p"],
            [
                (name, f"{one['scale']:g}", one["k"], f"{one['hits']} of {one['n']}", f"{one['random']:.1%}",
                 one["tries"], f"{one['p']:.2g}")
                for name, one in done["chance"].items() if one["tries"]
            ],
        ),
        "",
        "Training:",
        "",
        *_table(
            ["stage", "steps", "batch", "samples/s measured", "loss", "validation loss"],
            [
                (f"{one['system']}, U-Net {one['unet']}", one["step"], one["batch_size"], f"{one['pace']:g}",
                 _number(one["loss"]), _number(one["validation_loss"]))
                for one in done["stages"]
            ],
        ),
    ]  # fmt: skip
    if untrained := sorted({key for row in evaluation["systems"] for key in row["untrained"]}):
        lines += ["", f"Made with untrained weights, without meaning: {', '.join(untrained)}."]
    return "\n".join([*lines, "", "All portraits are generated. They are not photographs of anybody.", ""])


def _result_rows(evaluation: Mapping[str, Any], gallery: str, by: str, ks: Sequence[int]) -> Iterator[list[str]]:
    for row in (*evaluation["systems"], *evaluation["references"]):
        found = recalls(row, gallery, by)
        cells = [f"{found[str(k)]['value']:.1%}" if str(k) in found else "" for k in ks]
        likeness = ["" if row[name] is None else f"{row[name]['value']:.2f}" for name in ("psnr", "ssim")]
        yield [row["name"], f"{row['cond_scale']:g}" if "cond_scale" in row else "", *cells, *likeness]
    speakers = evaluation["galleries"][gallery]["speakers"]
    yield ["guessing", "", *(f"{k / speakers:.1%}" for k in ks), "", ""]


def _table(head: Sequence[str], rows: Any) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(map(str, row))} |" for row in cells]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _people(source: Source) -> dict[str, int]:
    """Clips by split; a UsageError where nobody is left to draw."""
    from featurestore.exports import ExportRecords

    assert source.export is not None
    held = ExportRecords(source.export, missing="zero").about.splits
    if "test" not in held:
        raise UsageError(
            f"{source.export} holds {', '.join(held)} and nobody to draw: export it with "
            "--split train --split val --split test"
        )
    test = source.records(None)
    trained = ExportRecords(source.export, missing="zero", held_out="val" if "val" in held else "test")
    return {"train": len(trained.rows), "val": len(test.held_out) if "val" in held else 0, "test": len(test.rows)}


def _loader(export: Path, name: str, unet: int, preset: str, seed: int) -> Loader:
    from training.data import loader_from_export
    from training.presets import stage_preset

    layout, size = system(name).layout(LAYOUTS["slf"]), stage_preset(preset, unet).batch_size
    return loader_from_export(export, layout, size, seed, missing="zero")


def _paces(
    export: Path,
    systems: Sequence[str],
    preset: str,
    device: str,
    seed: int,
    seconds: float,
    should_stop: Callable[[], bool],
) -> dict[tuple[str, int], float]:
    """Samples a second of each kind of stage that the systems have."""
    from training.presets import cascade_of

    kinds = {(cascade_of(system(name)).name, unet): name for name in systems for unet in WEIGHTS}
    paces = {}
    for kind, name in kinds.items():
        if should_stop():
            raise VoxportraitError("stopped as asked before training; run the same command again")
        loader = _loader(export, name, kind[1], preset, seed)
        paces[kind] = pace(loader, name, kind[1], preset, device, seconds / len(kinds))
    return paces


def pace(loader: Loader, name: str, unet: int, preset: str, device: str, seconds: float) -> float:
    """Samples a second at which a stage trains, measured for so many seconds on steps that are thrown away."""
    import torch

    from featurestore.feed import Feed
    from training.cascade import CascadeStage as Trained
    from training.presets import cascade_of, stage_preset
    from training.step import Learner

    chosen, settings = system(name), stage_preset(preset, unet)
    layout = chosen.layout(LAYOUTS["slf"])
    learner = Learner(Trained(unet, cascade_of(chosen), settings, layout, torch.device(device)))
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


def _train(
    export: Path,
    runs: Path,
    stage: Stage,
    preset: str,
    device: str,
    seed: int,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    from training.cli import run_folder
    from training.loop import train

    outcome = train(
        run_folder(runs, stage.system, f"unet{stage.unet}"),
        _loader(export, stage.system, stage.unet, preset, seed),
        stage.system,
        f"unet{stage.unet}",
        preset,
        seed=seed,
        steps=stage.steps,
        device=device,
        report_every=max(1, stage.steps // 50),
        validate_every=max(1, stage.steps // 4),
        progress=lambda done, total: progress(done, total, stage.name),
        should_stop=should_stop,
    )
    if not outcome["finished"]:
        raise VoxportraitError(
            f"stopped as asked at step {outcome['step']} of {outcome['steps']} of {stage.name}; run the same command "
            "again to go on"
        )
    return {name: outcome.get(name) for name in ("step", "loss", "validation_loss", "samples_per_second", "waited")}


def _planned(plan_file: Path, asked: Mapping[str, Any]) -> list[Stage] | None:
    """The stages as they were planned before; a UsageError where that was another study."""
    if not plan_file.exists():
        return None
    before = json.loads(plan_file.read_text())
    for key, value in asked.items():
        if before[key] != value:
            raise UsageError(
                f"{plan_file.parent} holds another study: its {key} is {before[key]}, not {value}; take another folder"
            )
    return [Stage(**stage) for stage in before["stages"]]


def _sheet(source: Source, drawings: Sequence[Drawing], scale: float, out: Path) -> Path:
    from evaluation.sheet import portrait_sheet

    first = sorted({drawing.clip_id for drawing in drawings})[:SHOWN]
    shown = [drawing for drawing in drawings if drawing.clip_id in first]
    return portrait_sheet(source.judged, shown, scale, out / f"sheet-{scale:g}.png")


def _draw_losses(out: Path, stages: Sequence[Stage]) -> None:
    """losses.png: the training and validation loss of each stage over its steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from training.cli import run_folder
    from training.metrics import read_metrics

    figure = Figure(figsize=(4 * len(WEIGHTS), 2.4 * len(stages) / len(WEIGHTS)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, stage in zip(figure.subplots(len(stages) // 2, 2, squeeze=False).flat, stages, strict=True):
        rows = read_metrics(run_folder(out / "runs", stage.system, f"unet{stage.unet}"))
        for key, label in (("loss", "training"), ("validation_loss", "validation")):
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                axes.plot(
                    *zip(*points, strict=True), label=label, marker="o" if len(points) < 6 else None, markersize=3
                )
        axes.set_title(stage.name, fontsize=9)
        axes.set_yscale("log")
        axes.legend(fontsize=7)
    figure.savefig(out / "losses.png", dpi=100)


def _device(device: str | None) -> str:
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def _device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "a CPU"


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[part] = time.monotonic() - began
