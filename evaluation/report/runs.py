"""What the report says of training: the runs, and how large they are beside the paper's."""

import json
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from evaluation.families import ORDER
from evaluation.report.curves import loss_curve
from featurestore.conditioning import GROUPS, SYSTEMS, Layout
from featurestore.errors import UsageError

PAPER: dict[str, Any] = {"batch": 128, "clips": 402_440, "widths": (192, 128)}
"""How the SLF paper's cascade was trained."""

TASKS = {
    "codec": "faces to latents and back, beside speech",
    "face": "the face from speech",
    "bottom": "the bottom face from speech",
    "upper": "the whole face from its bottom",
}
"""What Fine-portraitist's stages do."""


def read_runs(runs: Iterable[Path]) -> list[dict[str, Any]]:
    """Each run: its settings, how far it is, its losses and their curve. A UsageError for a folder that is no run."""
    from training.checkpoint import latest_checkpoint
    from training.metrics import read_metrics
    from training.stages import STAGES, UNETS

    rows = []
    for run in map(Path, runs):
        if not (run / "config.json").exists():
            raise UsageError(f"{run} is not a run: it has no config.json")
        about, metrics = json.loads((run / "config.json").read_text()), read_metrics(run)
        stage = f"U-Net {UNETS[about['stage']]}" if about["stage"] in UNETS else about["stage"]
        step = max((row["step"] for row in metrics), default=0)
        rows.append(
            {
                **{name: about[name] for name in ("system", "preset", "steps", "batch_size", "seed", "code")},
                "stage": stage,
                "unet": UNETS.get(about["stage"]),
                "place": (ORDER.index(about["system"]), STAGES.index(about["stage"])),
                "torch": about.get("torch", ""),
                "layout": Layout.from_json(about["layout"]),
                "name": run.name,
                "task": _task(about["system"], about["stage"]),
                "width": about["settings"].get("architecture", {}).get("dim"),
                "step": step,
                "pictures": step * about["batch_size"],
                "parameters": _parameters(latest_checkpoint(run)),
                "clips": about["data"].get("clips"),
                "held_out": about["data"].get("held_out"),
                "absent": about["data"].get("absent", []),
                "untrained": about["data"].get("untrained", []),
                "loss": _last(metrics, "loss"),
                "validation_loss": _last(metrics, "validation_loss"),
                "samples_per_second": _last(metrics, "samples_per_second"),
                "waited": _last(metrics, "waited"),
                "curve": loss_curve(metrics, f"loss of {about['system']}, {stage}, over steps"),
            }
        )
    return sorted(rows, key=lambda row: row["place"])


def _task(system: str, stage: str) -> str:
    from training.presets import cascade_of
    from training.stages import UNETS

    if stage not in UNETS:
        return TASKS[stage]
    low, high = cascade_of(SYSTEMS[system]).sizes[UNETS[stage] - 1 : UNETS[stage] + 1]
    return f"{low} to {high} px" if low else f"{high} px from noise"


def sizes(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of SLF's runs by preset, the paper's own aside: how many U-Nets, and the ranges of pictures seen, of clips, and
    of how many times narrower than the paper's they are."""
    presets: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        if run["unet"] and run["preset"] != "paper":
            presets.setdefault(run["preset"], []).append(run)
    return [
        {
            "preset": preset,
            "stages": len(group),
            "pictures": _range(run["pictures"] for run in group),
            "clips": _range(run["clips"] for run in group),
            "narrower": _range(round(PAPER["widths"][run["unet"] - 1] / run["width"]) for run in group),
        }
        for preset, group in presets.items()
    ]


def _range(values: Iterable[int]) -> tuple[int, int]:
    values = list(values)
    return min(values), max(values)


def _parameters(checkpoint: Path | None) -> int | None:
    if checkpoint is None:
        return None
    from safetensors import safe_open

    with safe_open(checkpoint / "average.safetensors", framework="np") as tensors:
        return sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def _last(metrics: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return next((row[key] for row in reversed(metrics) if key in row), None)


def inputs_of(system: str, absent: Iterable[str] = ()) -> str:
    """What a system is given, in words: `voice, attributes, guide`; constituents that are absent do not count."""
    chosen, absent = SYSTEMS[system], set(absent)
    present = set(chosen.layout().constituents) - absent
    voice = {*GROUPS["speaker-embeddings"], *GROUPS["classical-features"], "language"}
    words = (
        ("voice", bool(present & voice)),
        ("attributes", bool(present & set(GROUPS["attributes"]))),
        ("8 px guide", chosen.image_guide),
    )
    return " + ".join(word for word, given in words if given) or "nothing"
