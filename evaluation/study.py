"""A study in one command: systems trained from an export, drawn on people they have not seen, and judged.

    study(Path("people.safetensors"), Path("study"), ["only-image-guide", "full-input"], "small", minutes=8)

Made for one GPU and few minutes: how fast each stage trains is measured first (of those that learn from the codec: when
that is trained), and its steps are chosen so that all is done in time. A study that was stopped goes on when it is
called again. What is written: study.json, study.md, sheet-<scale>.png, losses.png, and runs/ and portraits/. Importable
without Arrow, Lance or Ray.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.evaluate import evaluate
from evaluation.judges import Recogniser, recogniser
from evaluation.metrics import RANKS
from evaluation.planning import SHARES, Stage, Training, in_turn, loader, paces, plan, stages_of
from evaluation.portraits import Drawing
from evaluation.significance import above_chance
from evaluation.standing import standings, told
from evaluation.sweep import Source, leading, recalls, sweep
from featurestore.conditioning import system
from featurestore.errors import UsageError, VoxportraitError
from featurestore.loader import Loader
from featurestore.version import code_version
from training.cli import run_folder

TRAINING = 0.72
"""Share of the minutes that training may take; drawing and judging have the rest."""

MEASURING = 0.02
"""Share of the minutes that all measuring takes."""

SHOWN = 16
"""People on a sheet."""

Progress = Callable[[int, int, str], None]
"""(done, total, what)."""


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
    systems: names, of which all stages are trained. minutes: for all of it. draw_at_once: portraits in a batch.
    Returns {"export", "systems", "preset", "minutes", "scales", "seed", "device", "code", "command", "people",
    "seconds": {part: s}, "stages": [stage], "chance": {system: row of `chance`}, "standings": as `standings`,
    "evaluation": as `evaluate`}.
    Raises UsageError for an unknown name, a split that is not there, or a folder that holds another study;
    VoxportraitError where it was asked to stop.
    """
    began = time.monotonic()
    seconds: dict[str, float] = {}
    chosen = [system(name).name for name in systems]
    source, where = Source(export=export), _device(device)
    people = _people(source)
    asked = {"export": export.name, "systems": chosen, "preset": preset, "minutes": minutes, "seed": seed}
    work = _Work(export, out, asked, preset, where, seed, progress, should_stop)
    trainings = stages_of(chosen)
    planned, outcomes = list[Stage](), list[dict[str, Any]]()
    for some in in_turn(trainings):
        part = 60 * minutes * sum(SHARES[stage] for _, stage in some) / sum(SHARES[stage] for _, stage in trainings)
        with _timed(seconds, "measuring"):
            stages = work.planned(some, part * TRAINING, part * MEASURING)
        with _timed(seconds, "training"):
            outcomes += [work.train(stage) for stage in stages]
        planned += stages
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
    standing = standings(result)
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
        "standings": standing,
        "sheets": [sheet.name for sheet in sheets],
        "evaluation": result,
    }
    (out / "study.json").write_text(json.dumps(done, indent=1) + "\n")
    (out / "study.md").write_text(summary(done))
    return done


def recognisers() -> list[Recogniser]:
    """Those that can judge here: dlib where its library and weights are, and likeness of pixels, which is none."""
    from importlib.util import find_spec

    from pipelines import weights

    here = find_spec("dlib") is not None and weights.missing("dlib") is None
    return [*([recogniser("dlib")] if here else []), Recogniser("pixels", as_pixels)]


def as_pixels(pictures: np.ndarray) -> np.ndarray:
    """(N, S, S, 3) uint8 -> (N, 3072) float32: the picture at 32 px, S a multiple of it. No recogniser: it sees light
    and background as well as the person."""
    times = pictures.shape[1] // 32
    small = pictures.reshape(len(pictures), 32, times, 32, times, 3).mean((2, 4), dtype=np.float32)
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
        *(line for one in done.get("standings", ()) for line in (*told(one), "")),
        "Training:",
        "",
        *_table(
            ["stage", "steps", "batch", "samples/s measured", "loss", "validation loss"],
            [
                (f"{one['system']}, {one['stage']}", one["step"], one["batch_size"], f"{one['pace']:g}",
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
    held = ExportRecords(source.export, pictures=(), missing="zero").about.splits
    if "test" not in held:
        raise UsageError(
            f"{source.export} holds {', '.join(held)} and nobody to draw: export it with "
            "--split train --split val --split test"
        )
    test = source.records(None, pictures=())
    trained = ExportRecords(source.export, pictures=(), missing="zero", held_out="val" if "val" in held else "test")
    return {"train": len(trained.rows), "val": len(test.held_out) if "val" in held else 0, "test": len(test.rows)}


@dataclass(frozen=True)
class _Work:
    """What planning and training share. asked: what decides the study."""

    export: Path
    out: Path
    asked: Mapping[str, Any]
    preset: str
    device: str
    seed: int
    progress: Progress
    should_stop: Callable[[], bool]

    def planned(self, trainings: Sequence[Training], seconds: float, measuring: float) -> list[Stage]:
        """These stages with their steps: as they were planned before, else as they fit into the seconds, less what was
        taken by measuring and by what they wait for. A UsageError where the folder holds another study."""
        known = self._known()
        names = [f"{name}-{stage}" for name, stage in trainings]
        if any(name not in known for name in names):
            began = time.monotonic()
            found = paces(trainings, self._loader, self.preset, self.device, measuring, self.should_stop)
            stages = plan(trainings, self.preset, found, max(1.0, seconds - (time.monotonic() - began)))
            known |= dict(zip(names, stages, strict=True))
            self.out.mkdir(parents=True, exist_ok=True)
            plan_file = {**self.asked, "stages": [asdict(stage) for stage in known.values()]}
            (self.out / "plan.json").write_text(json.dumps(plan_file, indent=1))
        return [known[name] for name in names]

    def train(self, stage: Stage) -> dict[str, Any]:
        """Train a stage to its end. A VoxportraitError where it was asked to stop."""
        from training.loop import train

        outcome = train(
            run_folder(self.out / "runs", stage.system, stage.stage),
            self._loader((stage.system, stage.stage)),
            stage.system,
            stage.stage,
            self.preset,
            seed=self.seed,
            steps=stage.steps,
            device=self.device,
            report_every=max(1, stage.steps // 50),
            validate_every=max(1, stage.steps // 4),
            progress=lambda done, total: self.progress(done, total, stage.name),
            should_stop=self.should_stop,
        )
        if not outcome["finished"]:
            raise VoxportraitError(
                f"stopped as asked at step {outcome['step']} of {outcome['steps']} of {stage.name}; run the same "
                "command again to go on"
            )
        return {name: outcome.get(name) for name in ("step", "loss", "validation_loss", "samples_per_second", "waited")}

    def _loader(self, training: Training) -> Loader:
        return loader(self.export, self.out / "runs", training, self.preset, self.seed, self.device)

    def _known(self) -> dict[str, Stage]:
        """The stages as they were planned before."""
        plan_file = self.out / "plan.json"
        if not plan_file.exists():
            return {}
        before = json.loads(plan_file.read_text())
        for key, value in self.asked.items():
            if before[key] != value:
                raise UsageError(
                    f"{self.out} holds another study: its {key} is {before[key]}, not {value}; take another folder"
                )
        return {f"{one['system']}-{one['stage']}": Stage(**one) for one in before["stages"]}


def _sheet(source: Source, drawings: Sequence[Drawing], scale: float, out: Path) -> Path:
    from evaluation.sheet import portrait_sheet

    first = sorted({drawing.clip_id for drawing in drawings})[:SHOWN]
    shown = [drawing for drawing in drawings if drawing.clip_id in first]
    return portrait_sheet(source.judged, shown, scale, out / f"sheet-{scale:g}.png")


def _draw_losses(out: Path, stages: Sequence[Stage]) -> None:
    """losses.png: the training and validation loss of each stage over its steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from training.metrics import read_metrics

    rows_of_two = -(-len(stages) // 2)
    figure = Figure(figsize=(8, 2.4 * rows_of_two), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, stage in zip(figure.subplots(rows_of_two, 2, squeeze=False).flat, stages, strict=False):
        rows = read_metrics(run_folder(out / "runs", stage.system, stage.stage))
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
    seconds[part] = seconds.get(part, 0.0) + time.monotonic() - began
