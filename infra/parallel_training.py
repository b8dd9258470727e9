"""Several U-Nets trained at once, each by `voxportrait train` in a process of its own.

Small U-Nets hardly gain from a second core: two trainings side by side, one thread each, do nearly twice the work of
one after another.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import VoxportraitError


@dataclass(frozen=True)
class Training:
    """One call of `voxportrait train`. run: its folder, below `runs`; steps: how many it takes; batch_size: clips in
    each."""

    system: str
    stage: str
    run: Path
    steps: int
    batch_size: int

    def command(self, store: str, preset: str, seed: int) -> list[str]:
        options = {
            "store": store,
            "system": self.system,
            "stage": self.stage,
            "preset": preset,
            "runs": self.run.parent,
            "steps": self.steps,
            "batch-size": self.batch_size,
            "seed": seed,
            "missing": "zero",
        }
        return [sys.executable, "-m", "voxportrait", "train", *(f"--{name}={value}" for name, value in options.items())]

    @property
    def log(self) -> Path:
        return self.run.with_name(f"{self.run.name}.log")

    @property
    def step(self) -> int:
        """The last step that the run has reported."""
        metrics = self.run / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return next((json.loads(line)["step"] for line in reversed(lines) if line.endswith("}")), 0)


def train_all(
    trainings: Sequence[Training],
    store: str,
    preset: str,
    seed: int,
    progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> dict[str, float]:
    """Train all, as many at once as there are cores; returns the seconds of each run (0 where it was done already).

    A run's messages go to <run>.log beside its folder. When asked to stop, all save a checkpoint first. Raises
    VoxportraitError with the last message of one that failed; the others are stopped.
    """
    cores = os.cpu_count() or 1
    at_once = min(len(trainings), cores)
    threads = max(1, cores // at_once)
    waiting, seconds = list(trainings), {t.run.name: 0.0 for t in trainings if t.step >= t.steps}
    running: dict[Training, tuple[subprocess.Popen[bytes], float]] = {}
    try:
        while (waiting and not should_stop()) or running:
            while waiting and len(running) < at_once and not should_stop():
                training = waiting.pop(0)
                if training.run.name not in seconds:
                    running[training] = (
                        _start(training.command(store, preset, seed), training.log, threads),
                        time.time(),
                    )
            if should_stop():
                _stop(process for process, _ in running.values())
            for training, (process, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[training]
                seconds[training.run.name] = time.time() - began
                if process.returncode and not should_stop():
                    raise VoxportraitError(f"training {training.run.name} failed: {_last_line(training.log)}")
            progress(sum(training.step for training in trainings), sum(training.steps for training in trainings))
            time.sleep(0.5)
    finally:
        _stop(process for process, _ in running.values())
    return seconds


def _start(command: list[str], log: Path, threads: int) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)


def _stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end, and wait until they have saved what they do."""
    started = list(processes)
    for process in started:
        process.terminate()
    for process in started:
        process.wait()


def _last_line(log: Path) -> str:
    return next(iter(reversed(log.read_text().splitlines())), "it said nothing")
