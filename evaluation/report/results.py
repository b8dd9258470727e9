"""What the report says of training and of portraits: runs, galleries, the table of results."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from evaluation.faces import read_faces
from evaluation.portraits import Drawing, by_system_and_scale, read_picture
from evaluation.report import pictures
from evaluation.report.curves import loss_curve
from evaluation.report.data import attributes
from featurestore.conditioning import GROUPS, SYSTEMS, Layout
from featurestore.errors import UsageError
from featurestore.store import Store

MOST_SPEAKERS = 24
"""Test speakers whose portraits are shown."""

PAPER: dict[str, Any] = {"batch": 128, "clips": 402_440, "widths": (192, 128)}
"""How the SLF paper's cascade was trained."""


def read_runs(runs: Iterable[Path]) -> list[dict[str, Any]]:
    """Each run: its settings, how far it is, its losses and their curve. A UsageError for a folder that is no run."""
    from training.checkpoint import latest_checkpoint
    from training.metrics import read_metrics
    from training.presets import cascade_of

    rows = []
    for run in map(Path, runs):
        if not (run / "config.json").exists():
            raise UsageError(f"{run} is not a run: it has no config.json")
        about, metrics = json.loads((run / "config.json").read_text()), read_metrics(run)
        sizes = cascade_of(SYSTEMS[about["system"]]).sizes
        low, high = sizes[about["unet"] - 1 : about["unet"] + 1]
        step = max((row["step"] for row in metrics), default=0)
        rows.append(
            {
                **{name: about[name] for name in ("system", "unet", "preset", "steps", "batch_size", "seed", "code")},
                "torch": about.get("torch", ""),
                "layout": Layout.from_json(about["layout"]),
                "name": run.name,
                "task": f"{low} to {high} px" if low else f"{high} px from noise",
                "width": about["settings"]["architecture"].get("dim"),
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
                "curve": loss_curve(metrics),
            }
        )
    order = list(SYSTEMS)
    return sorted(rows, key=lambda row: (order.index(row["system"]), row["unet"]))


def sizes(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By preset, the paper's own aside: how many U-Nets, and the ranges of pictures seen, of clips, and of how many
    times narrower than the paper's they are."""
    presets: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        if run["preset"] != "paper":
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


def gallery(store: Store, drawings: Sequence[Drawing]) -> dict[str, Any] | None:
    """Test speakers in rows: true face, guide, and for each system and scale the coarse picture and the portrait."""
    if not drawings:
        return None
    drawn = by_system_and_scale(drawings)
    columns = [
        {"system": system, "scale": scale, "inputs": inputs_of(system, group[0].about.get("absent", ()))}
        for (system, scale), group in drawn.items()
    ]
    clip_ids = sorted({d.clip_id for d in drawings})
    shown = pictures.evenly(clip_ids, MOST_SPEAKERS)
    faces, guides = read_faces(store, shown)
    words = attributes(store, shown)
    rows = [
        {
            "speaker": clip_id.split("/")[1],
            "words": words.get(clip_id, ""),
            "face": pictures.jpeg(face),
            "guide": pictures.png(guide),
            "portraits": [_portrait(group, clip_id) for group in drawn.values()],
        }
        for clip_id, face, guide in zip(shown, faces, guides, strict=True)
    ]
    inputs = {column["system"]: column["inputs"] for column in columns}
    widths = Counter(column["system"] for column in columns)
    systems = [{"system": name, "inputs": inputs[name], "columns": width} for name, width in widths.items()]
    guided = any(SYSTEMS[system].image_guide for system, _ in drawn)
    return {"columns": columns, "systems": systems, "rows": rows, "speakers": len(clip_ids), "guided": guided}


def _portrait(drawings: Sequence[Drawing], clip_id: str) -> dict[str, str] | None:
    """The portrait that was drawn of a clip, if one was."""
    drawing = next((drawing for drawing in drawings if drawing.clip_id == clip_id), None)
    if drawing is None:
        return None
    picture, coarse = read_picture(drawing.picture), read_picture(drawing.coarse)
    note = f"Generated by a {drawing.system} model at scale {drawing.cond_scale:g}. Not a photograph of anybody."
    return {"picture": pictures.jpeg(picture, note=note), "coarse": pictures.png(coarse)}


def results(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """The table of results: references first, then systems by scale; None where nothing was evaluated."""
    if not evaluation.get("systems") and not evaluation.get("references"):
        return None
    ranks = [str(k) for k in evaluation["ranks"]]
    size = evaluation["gallery"]["speakers"]
    systems: dict[str, list[Mapping[str, Any]]] = {}
    for row in evaluation["systems"]:
        systems.setdefault(row["name"], []).append(row)
    found = [row["recall"][ranks[0]]["value"] for row in evaluation["systems"] if ranks]
    return {
        "ranks": ranks,
        "random": {k: int(k) / size for k in ranks},
        "references": evaluation["references"],
        "systems": systems,
        "first_try": (min(found), max(found)) if found else None,
        **evaluation["gallery"],
    }


def published(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """The SLF paper's numbers of the systems that were evaluated here; None where there are none."""
    data = json.loads((Path(__file__).parent.parent / "published.json").read_text())
    here = {row["name"] for row in evaluation.get("systems", ())}
    rows = [dict(zip(data["columns"], row, strict=True)) for row in data["rows"] if row[0] in here]
    return {**data, "rows": rows} if rows else None
