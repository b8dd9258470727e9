"""The whole chain on synthetic people: corpus, extraction, training, portraits, evaluation, report.

Every step is the one that the command line runs on real data, and every step is idempotent: a demo that was stopped
goes on where it was, one that is finished does nothing twice.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from featurestore.console import bar, say
from featurestore.errors import VoxportraitError
from featurestore.interrupt import stop_on_signal

Result = TypeVar("Result")

SYSTEMS = ("full-input", "no-image-guide")
"""Super-resolution from the guide, and generation without one."""
PRESET = "tiny"
SCALES = (1.0, 3.0)


@dataclass(frozen=True)
class Size:
    """How large a demo is. steps: a U-Net's training steps, the preset's where it is None."""

    speakers: int = 52
    test_speakers: int = 12
    clips: int = 120
    seed: int = 0
    steps: int | None = None


@dataclass
class Demo:
    """A folder with corpus/, store/, runs/, portraits/, portraits.png and report/.

    seconds: of each step of this run. done: step -> {"seconds", "count", "unit"} of the run that did the step's work,
    kept in steps.json.
    """

    folder: Path
    size: Size = Size()
    seconds: dict[str, float] = field(default_factory=dict)
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Do all steps; returns what is written to summary.json."""
        from featurestore.store import Store

        self.folder.mkdir(parents=True, exist_ok=True)
        record = self.folder / "steps.json"
        if record.exists():
            self.done = json.loads(record.read_text())
        with stop_on_signal() as should_stop:
            self._step("corpus", "clips", self._corpus)
            self.store = Store.open_or_create(str(self.folder / "store"))
            job = self._step("extract", "clips", lambda: self._extract(should_stop))
            self._step("train", "", lambda: self._train(should_stop))
            drawings = self._step("sample", "portraits", self._sample)
        result = self._step("evaluate", "portraits", lambda: self._evaluate(drawings))
        record.write_text(json.dumps(self.done, indent=1) + "\n")
        page = self._step("report", "", lambda: self._report(result, drawings))
        summary = self._summary(result, job)
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        say(f"\nthe report is {page}")
        return summary

    def _step(self, name: str, unit: str, work: Callable[[], tuple[Result, int]]) -> Result:
        """Run a step that gives its result and how many things it made."""
        say(f"\n{name}")
        began = time.monotonic()
        result, count = work()
        self.seconds[name] = round(time.monotonic() - began, 1)
        if count:
            self.done[name] = {"seconds": self.seconds[name], "count": count, "unit": unit}
        return result

    def _corpus(self) -> tuple[None, int]:
        from pipelines.population.corpus import synthesize

        size, folder = self.size, self.folder / "corpus"
        before = len(list(folder.glob("*/mp4/*/*/*.mp4")))
        with bar("clips", "clips") as progress:
            synthesize(
                folder, size.speakers, size.clips, size.seed, test_speakers=size.test_speakers, progress=progress
            )
        made = len(list(folder.glob("*/mp4/*/*/*.mp4"))) - before
        say(f"{made} clips of {size.speakers} people written" if made else "the corpus is there already")
        return None, made

    def _extract(self, should_stop: Callable[[], bool]) -> tuple[Any, int]:
        """Register and fill in Ray actors that are gone afterwards."""
        from featurestore.ray_cluster import stop_ray
        from pipelines.extractors import standard
        from pipelines.job import fill
        from pipelines.schedule import Standing
        from pipelines.sources import read

        registered = self.store.register(read("voxceleb2", self.folder / "corpus"))
        with bar("filling", "clips") as draw:

            def progress(standing: Standing) -> None:
                draw(standing.done, standing.total, standing.doing)

            summary = fill(self.store, standard(), progress=progress, should_stop=should_stop, told=say)
        stop_ray()
        _end_if(summary.stopped)
        if summary.filled:
            say(f"{registered.new} new clips registered, {summary.clips} filled in {summary.wall:.0f} s")
        else:
            say("nothing to extract: every constituent of every clip is in the store already")
        return summary, summary.clips

    def _train(self, should_stop: Callable[[], bool]) -> tuple[None, int]:
        """Both U-Nets of both systems, each in a process of its own; each is a step of its own in the record."""
        from infra.parallel_training import Training, train_all
        from training.cli import run_folder
        from training.stages import UNETS, settings_of

        clips = self.store.table("clips").count_rows("split = 'train' AND face_128_maker IS NOT NULL")
        trainings = [
            Training(
                system,
                stage,
                run_folder(self.folder / "runs", system, stage),
                self.size.steps or settings_of(stage, PRESET).steps,
                max(1, min(clips, settings_of(stage, PRESET).batch_size)),
            )
            for stage in UNETS
            for system in SYSTEMS
        ]
        with bar("training", "steps") as draw:
            seconds = train_all(trainings, self.store.uri, PRESET, self.size.seed, draw, should_stop)
        _end_if(should_stop())
        for training in trainings:
            took = seconds[training.run.name]
            say(f"{training.run.name}: {training.step} steps" + (f" in {took:.0f} s" if took else ", trained already"))
            if took:
                self.done[f"train {training.run.name}"] = {"seconds": took, "count": training.steps, "unit": "steps"}
        return None, 0

    def _sample(self) -> tuple[list[Any], int]:
        from evaluation.portraits import draw_portraits
        from training.cli import run_folder
        from training.sampling import Portraitist

        drawings, began = [], time.time()
        for system in SYSTEMS:
            runs = self.folder / "runs"
            portraitist = Portraitist.load(run_folder(runs, system, "unet1"), run_folder(runs, system, "unet2"))
            with bar(f"portraits, {system}", "portraits") as progress:
                drawings += draw_portraits(
                    self.store, portraitist, SCALES, self.folder / "portraits", progress=progress
                )
        new = sum(drawing.picture.stat().st_mtime >= began for drawing in drawings)
        say(f"{new} portraits drawn, {len(drawings) - new} were there")
        return drawings, new

    def _evaluate(self, drawings: list[Any]) -> tuple[dict[str, Any], int]:
        from evaluation.evaluate import evaluate

        return evaluate(self.store, drawings), len(drawings)

    def _report(self, result: dict[str, Any], drawings: list[Any]) -> tuple[Path, int]:
        from evaluation.report import build_report
        from evaluation.sheet import portrait_sheet

        portrait_sheet(self.store, drawings, SCALES[0], self.folder / "portraits.png")
        runs = sorted(folder.parent for folder in (self.folder / "runs").glob("*/config.json"))
        size = self.size
        about = {
            "commands": ["make demo"],
            "machine": {"cores": os.cpu_count()},
            "seeds": {"corpus": size.seed, "training": size.seed, "portraits": 0},
        }
        page = self.folder / "report" / "index.html"
        return build_report(self.store, runs, result, drawings, self.done, page, about), 0

    def _summary(self, result: dict[str, Any], job: Any) -> dict[str, Any]:
        info, coverage = self.store.info(), self.store.coverage()
        rows = (*result["systems"], *result["references"])
        return {
            "clips": info["clips"],
            "speakers": info["speakers"],
            "filled": {key: n["filled"] for key, n in coverage["constituents"].items() if n["filled"]},
            "filled_in_this_run": job.filled,
            "quarantined": info["quarantined"],
            "seconds": self.seconds,
            "metrics": {_name(row): _numbers(row) for row in rows},
        }


def _end_if(stopped: bool) -> None:
    if stopped:
        raise VoxportraitError("stopped as asked; run the same command again to go on")


def _name(row: dict[str, Any]) -> str:
    return f"{row['name']} at scale {row['cond_scale']:g}" if "cond_scale" in row else row["name"]


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """A row of the evaluation as name -> number: recall with its interval and random level, psnr, ssim.

    Recall is of the gallery with the same frame, where the row was searched in it.
    """
    numbers = {}
    by_recogniser = row["recall"].get("same-frame", {})
    for k, recall in next(iter(by_recogniser.values()), {}).items():
        numbers[f"R@{k}"] = recall["value"]
        numbers |= {f"R@{k} {name}": recall[name] for name in ("low", "high", "random")}
    return numbers | {name: row[name]["value"] for name in ("psnr", "ssim") if row[name] is not None}
