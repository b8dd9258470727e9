"""A run: what it is, where it lives, and that a directory holds one run only."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from featurestore.conditioning import Layout, System
from featurestore.errors import UsageError, VoxportraitError
from featurestore.loader import Loader
from featurestore.version import code_version
from training.files import UNFINISHED, write_whole
from training.settings import Settings

_IDENTITY = ("system", "stage", "preset", "settings", "layout", "seed", "batch_size", "data")
"""What must be the same for a run to go on; steps and code may differ."""

_ASIDE = ("erasure_epoch", "held_out", "prior")
"""Of `data`, what the forgetting of others changes."""

_AT_ONCE = 1 << 16
"""Clips whose ids are asked for together."""


def describe_run(
    system: System, stage: str, preset: str, settings: Settings, layout: Layout, seed: int, steps: int, loader: Loader
) -> dict[str, Any]:
    """Everything that decides what a run becomes, as JSON: config.json of the run and part of each checkpoint."""
    about = {
        "system": system.name,
        "stage": stage,
        "preset": preset,
        "settings": asdict(settings),
        "layout": layout.to_json(),
        "layout_fingerprint": layout.fingerprint,
        "seed": seed,
        "steps": steps,
        "batch_size": loader.batch_size,
        "data": loader.describe(),
        "speakers": {"trained": _speakers(loader, "rows"), "held_out": _speakers(loader, "held_out")},
        "code": code_version(),
        "torch": str(torch.__version__),
    }
    return json.loads(json.dumps(about))


def _speakers(loader: Loader, which: str) -> int:
    """How many are behind the clips that are there: the first two parts of a clip's id say who it is."""
    rows = getattr(loader.records, which)
    pieces = (rows[first : first + _AT_ONCE] for first in range(0, len(rows), _AT_ONCE))
    return len({tuple(one.split("/", 2)[:2]) for piece in pieces for one in loader.records.clip_ids(piece) if one})


def open_run_directory(run: Path, about: dict[str, Any]):
    """Make the directory and write config.json, or check that it holds this very run.

    Raises UsageError naming the first thing in which the run there differs, VoxportraitError where that cannot be read.
    """
    config = run / "config.json"
    if config.exists():
        try:
            before = json.loads(config.read_text())
        except ValueError as error:
            raise VoxportraitError(
                f"{config} is damaged ({error}): a checkpoint.json of the run can stand in"
            ) from None
        for key in _IDENTITY:
            was, now = _decisive(before.get(key)), _decisive(about[key])
            if was != now:
                raise UsageError(
                    f"{run} holds another run: {_difference(key, was, now)}; take another directory or remove it"
                )
    elif run.exists() and any(path.suffix != UNFINISHED for path in run.iterdir()):
        raise UsageError(f"{run} is not empty and not a run: take another directory")
    run.mkdir(parents=True, exist_ok=True)
    write_whole(config, json.dumps(about, indent=1))


def _decisive(part: Any) -> Any:
    return {name: value for name, value in part.items() if name not in _ASIDE} if isinstance(part, dict) else part


def _difference(key: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        key, before, now = next(
            (f"{key}.{part}", before.get(part), now.get(part))
            for part in {**before, **now}
            if before.get(part) != now.get(part)
        )
    return f"its {key} is {str(before)[:80]}, not {str(now)[:80]}"
