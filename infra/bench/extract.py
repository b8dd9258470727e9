"""How fast one worker makes every constituent, and its decoding and short-term features against their yardsticks.

Yardsticks: `subprocess_decode.py` (three ffmpeg processes and a PNG, as the released SLF extraction works) and
pyAudioAnalysis's own `feature_extraction`.
"""

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.clip import Clip
from featurestore.console import bar
from pipelines.decoding import FULL_SCALE, SAMPLE_RATE, open_media
from pipelines.extractors import AVAILABLE
from pipelines.population.corpus import synthesize
from pipelines.readiness import ready, resolve
from pipelines.recipe import Recipe
from pipelines.sources import read
from pipelines.worker import Worker

ROUNDS = 5


def run(clips: int = 8) -> dict[str, Any]:
    """One worker, one thread, models loaded and warm; ratios are medians of alternating rounds on the same clips.

    Returns clips_per_second, seconds_per_clip by constituent (`media`, `sound` and `face` are opening, decoding and
    finding), ratios (decode_vs_subprocess is None without ffmpeg), untrained and left_out constituents.
    """
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder, bar("bench extract", "steps") as progress:
        synthesize(Path(folder) / "corpus", max(1, clips // 2), clips, seed=0, test_speakers=0)
        found = list(read("voxceleb2", Path(folder) / "corpus"))
        progress(1, 4)
        recipe = resolve(Recipe())
        able = ready(AVAILABLE, recipe)
        worker = Worker(able.extractors, recipe=recipe)
        worker.load()
        worker.fill(found[0], frozenset(able.constituents))
        progress(2, 4)
        per_clip, elapsed = _extraction(worker, found, frozenset(able.constituents))
        progress(3, 4)
        ratios = {
            "decode_vs_subprocess": _decode_ratio([clip.path for clip in found], folder),
            "short_term_vs_library": _short_term_ratio([open_media(clip.path).sound() for clip in found]),
        }
        progress(4, 4)
    return {
        "clips_per_second": len(found) / elapsed,
        "seconds_per_clip": per_clip,
        "ratios": ratios,
        "clips": len(found),
        "untrained": able.untrained,
        "left_out": sorted(able.left_out),
    }


def _extraction(worker: Worker, clips: Sequence[Clip], wanted: frozenset[str]) -> tuple[dict[str, float], float]:
    """Seconds a clip by constituent, and of all clips together, in groups of the worker's size."""
    seconds: Counter[str] = Counter()
    began = time.perf_counter()
    for first in range(0, len(clips), worker.group):
        group = clips[first : first + worker.group]
        for outcome in worker.fill_group(group, [wanted] * len(group), range(len(group))):
            if outcome.rejected:
                raise AssertionError(f"a synthetic clip was rejected: {outcome.rejected[0]}")
            seconds.update(outcome.seconds)
    elapsed = time.perf_counter() - began
    return {name: total / len(clips) for name, total in seconds.most_common()}, elapsed


def _decode_ratio(paths: Sequence[str], folder: str) -> float | None:
    """24 s of sound and one frame of a clip: seconds by processes, over seconds in this one."""
    if shutil.which("ffmpeg") is None:
        return None
    from infra.bench.subprocess_decode import decode

    def in_process(path: str) -> None:
        media = open_media(path)
        media.sound()
        media.frame(10)

    return _ratio(lambda path: decode(path, folder), in_process, paths)


def _short_term_ratio(sounds: Sequence[np.ndarray]) -> float:
    """79 frames of 34 features and their deltas: seconds by the library, over seconds by the vectorised formulas."""
    from pyAudioAnalysis import ShortTermFeatures

    from pipelines.extractors.pyaudioanalysis import STEP, WINDOW
    from pipelines.short_term import short_term_features

    loud = [sound * FULL_SCALE for sound in sounds]
    return _ratio(
        lambda sound: ShortTermFeatures.feature_extraction(sound, SAMPLE_RATE, WINDOW, STEP), short_term_features, loud
    )


def _ratio(yardstick: Callable[[Any], Any], ours: Callable[[Any], Any], inputs: Sequence[Any]) -> float:
    """Median over rounds of the time of `yardstick` over that of `ours`, all inputs each, in turn."""
    ratios = []
    for _ in range(ROUNDS):
        times = []
        for method in (yardstick, ours):
            began = time.perf_counter()
            for one in inputs:
                method(one)
            times.append(time.perf_counter() - began)
        ratios.append(times[0] / times[1])
    return float(np.median(ratios))
