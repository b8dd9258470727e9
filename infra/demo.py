"""The whole chain on synthetic people: corpus, extraction, training, portraits, evaluation, report.

Every step is the one that the command line runs on real data, and every step is idempotent: a demo that was stopped
goes on where it was, one that is finished does nothing twice.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from featurestore.console import bar, say
from featurestore.interrupt import stop_on_signal

SYSTEMS = ("full-input", "no-image-guide")
"""Super-resolution from the guide, and generation without one."""
PRESET = "tiny"
SCALES = (1.0, 3.0)


@dataclass(frozen=True)
class Size:
    """How large a demo is. steps: a U-Net's training steps, the preset's where it is None."""

    speakers: int = 40
    test_speakers: int = 12
    clips: int = 100
    seed: int = 0
    steps: int | None = None


@dataclass
class Demo:
    """A folder with corpus/, store/, runs/, portraits/ and report/, and what its steps took."""

    folder: Path
    size: Size = Size()
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Do all steps; returns what `summary.json` holds."""
        from featurestore.errors import VoxportraitError

        self.folder.mkdir(parents=True, exist_ok=True)
        with stop_on_signal() as should_stop:
            made = self._timed("corpus", self._corpus)
            job = self._timed("extract", lambda: self._extract(should_stop))
            for system in SYSTEMS:
                for unet in (1, 2):
                    if should_stop():
                        break
                    self._timed(f"train {system} unet{unet}", partial(self._train, system, unet, should_stop))
            if should_stop():
                raise VoxportraitError("stopped as asked; run the same command again to go on")
        drawings = self._timed("sample", self._sample)
        result = self._timed("evaluate", lambda: self._evaluate(drawings))
        page = self._timed("report", lambda: self._report(result, drawings, made, job))
        summary = self._summary(result, job)
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        say(f"\nThe report is {page}")
        return summary

    def _timed(self, name: str, step: Callable[[], Any]) -> Any:
        say(f"== {name}")
        began = time.monotonic()
        try:
            return step()
        finally:
            self.seconds[name] = round(time.monotonic() - began, 1)

    @property
    def store(self) -> Any:
        from featurestore.store import Store

        return Store.open_or_create(str(self.folder / "store"))

    def _corpus(self) -> dict[str, Any]:
        from pipelines.population.corpus import synthesize

        size = self.size
        with bar("synthetic clips", "clips") as progress:
            made = synthesize(
                self.folder / "corpus",
                size.speakers,
                size.clips,
                size.seed,
                test_speakers=size.test_speakers,
                progress=progress,
            )
        say(", ".join(f"{name} {value}" for name, value in made.items()))
        return made

    def _extract(self, should_stop: Callable[[], bool]) -> Any:
        """Register and fill in Ray actors that are gone afterwards."""
        import ray

        from featurestore.errors import VoxportraitError
        from pipelines.extractors import AVAILABLE
        from pipelines.job import fill
        from pipelines.sources import read

        registered = self.store.register(read("voxceleb2", self.folder / "corpus"))
        with bar("filling", "clips") as draw:

            def progress(done: int, total: int, rejected: Counter[str], doing: str) -> None:
                draw(done, total, doing)

            summary = fill(self.store, AVAILABLE, progress=progress, should_stop=should_stop)
        if ray.is_initialized():
            ray.shutdown()
        if summary.stopped:
            raise VoxportraitError("stopped as asked; run the same command again to go on")
        if summary.filled:
            rate = summary.clips / max(summary.wall, 1e-3)
            say(f"{registered.new} new clips, {summary.clips} filled in {summary.wall:.0f} s, {rate:.1f} a second")
        else:
            say("nothing to extract: every constituent of every clip is in the store already")
        return summary

    def _train(self, system: str, unet: int, should_stop: Callable[[], bool]) -> None:
        from featurestore.conditioning import LAYOUTS
        from featurestore.conditioning import system as system_named
        from training.cli import run_folder
        from training.data import loader_for
        from training.loop import train
        from training.presets import stage_preset

        layout = system_named(system).layout(LAYOUTS["slf"])
        loader = loader_for(str(self.folder / "store"), layout, stage_preset(PRESET, unet).batch_size, self.size.seed)
        run = run_folder(self.folder / "runs", system, unet)
        with bar(f"{system} U-Net {unet}", "steps") as progress:
            outcome = train(
                run,
                loader,
                system,
                unet,
                PRESET,
                seed=self.size.seed,
                steps=self.size.steps,
                progress=progress,
                should_stop=should_stop,
            )
        if outcome["already_finished"]:
            say(f"trained already: {outcome['step']} steps, loss {outcome['loss']:.4f}")
        else:
            say(f"{outcome['step']} steps in {outcome['seconds']:.0f} s, loss {outcome['loss']:.4f}")

    def _sample(self) -> list[Any]:
        from evaluation.portraits import draw_portraits
        from training.cli import run_folder
        from training.sampling import Portraitist

        drawings = []
        for system in SYSTEMS:
            runs = self.folder / "runs"
            portraitist = Portraitist.load(run_folder(runs, system, 1), run_folder(runs, system, 2))
            with bar(f"portraits, {system}", "portraits") as progress:
                drawings += draw_portraits(
                    self.store, portraitist, SCALES, self.folder / "portraits", progress=progress
                )
        return drawings

    def _evaluate(self, drawings: list[Any]) -> dict[str, Any]:
        from evaluation.evaluate import evaluate

        return evaluate(self.store, drawings)

    def _report(self, result: dict[str, Any], drawings: list[Any], made: dict[str, Any], job: Any) -> Path:
        from evaluation.report import build_report

        runs = sorted(folder.parent for folder in (self.folder / "runs").glob("*/config.json"))
        about = {"command": "make demo", "cores": os.cpu_count(), "seed": self.size.seed, "seconds": self.seconds}
        throughput = {"corpus": {**made, "seconds": self.seconds["corpus"]}, "extract": job.as_dict()}
        return build_report(
            self.store, runs, result, drawings, throughput, self.folder / "report" / "index.html", about
        )

    def _summary(self, result: dict[str, Any], job: Any) -> dict[str, Any]:
        info, coverage = self.store.info(), self.store.coverage()
        return {
            "clips": info["clips"],
            "speakers": info["speakers"],
            "filled": {key: n["filled"] for key, n in coverage["constituents"].items() if n["filled"]},
            "extracted_now": job.filled,
            "quarantined": info["quarantined"],
            "seconds": self.seconds,
            "metrics": {
                row["name"] + (f" x{row['cond_scale']:g}" if "cond_scale" in row else ""): _flat(row)
                for row in (*result["systems"], *result["references"])
            },
        }


def _flat(row: dict[str, Any]) -> dict[str, float]:
    """A row of the evaluation as name -> number: recall with its interval and random level, psnr, ssim."""
    numbers = {}
    for k, recall in row["recall"].items():
        numbers[f"R@{k}"] = recall["value"]
        numbers |= {f"R@{k}_{name}": recall[name] for name in ("low", "high", "random")}
    return numbers | {name: row[name]["value"] for name in ("psnr", "ssim") if row[name] is not None}
