"""Portraits side by side: a system a column, as in the paper's Figure 6, and a scale a row, as in its Figure 7."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.faces import LABELS, Faces, read_faces
from evaluation.portraits import Drawing, by_system_and_scale, read_picture
from evaluation.report import pictures
from evaluation.report.data import attributes
from evaluation.report.runs import inputs_of
from evaluation.sweep import best_rows
from featurestore.conditioning import ATTRIBUTES, SYSTEMS
from featurestore.records import Records
from featurestore.store import Store

MOST_SPEAKERS = 16
"""Test speakers in the grid of systems."""
MOST_IN_A_ROW = 8
"""And in a grid of scales."""
FEW_SYSTEMS = 3
"""Systems up to which the first U-Net's pictures are shown beside the portraits."""
SHOWN_OVER_SCALES = ("full-input", "speaker-embedding-only", "no-image-guide", "only-image-guide")
"""Systems whose scales are shown, those that the paper swept first; at most two of them, or others."""


def systems_grid(
    source: Store | Records, drawings: Sequence[Drawing], evaluation: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Test speakers in rows: true face, guide, and each system's portrait at its best scale; None without portraits.

    Where nothing was judged a system's scale is the paper's, if it was drawn, else its largest.
    """
    if not drawings:
        return None
    drawn = by_system_and_scale(drawings)
    scales = chosen_scales(drawn, evaluation)
    columns = [
        {
            "system": system,
            "scale": scale,
            "inputs": inputs_of(system, drawn[system, scale][0].about.get("absent", ())),
        }
        for system, scale in scales.items()
    ]
    shown_of = [drawn[system, scale] for system, scale in scales.items()]
    clip_ids = sorted({drawing.clip_id for drawing in drawings})
    shown = pictures.evenly(clip_ids, MOST_SPEAKERS)
    faces, guides = read_faces(source, shown)
    words = known_words(source, shown)
    coarse = len(columns) <= FEW_SYSTEMS
    rows = [
        {
            "speaker": clip_id.split("/")[1],
            "words": words.get(clip_id, ""),
            "face": pictures.jpeg(face),
            "guide": pictures.png(guide),
            "portraits": [_portrait(group, clip_id, coarse) for group in shown_of],
        }
        for clip_id, face, guide in zip(shown, faces, guides, strict=True)
    ]
    guided = any(SYSTEMS[system].image_guide for system in scales)
    return {"columns": columns, "rows": rows, "speakers": len(clip_ids), "guided": guided, "coarse": coarse}


def scale_grids(source: Store | Records, drawings: Sequence[Drawing]) -> list[dict[str, Any]]:
    """For at most two systems, with the guide and without if there are both: speakers in columns, scales in rows."""
    drawn = by_system_and_scale(drawings)
    scales: dict[str, list[float]] = {}
    for system, scale in drawn:
        scales.setdefault(system, []).append(scale)
    several = [name for name in (*SHOWN_OVER_SCALES, *SYSTEMS) if len(scales.get(name, ())) > 1]
    kinds = {SYSTEMS[name].image_guide: name for name in reversed(several)}
    return [_scale_grid(source, name, scales[name], drawn) for _, name in sorted(kinds.items(), reverse=True)]


def _scale_grid(
    source: Store | Records, system: str, scales: Sequence[float], drawn: Mapping[tuple[str, float], Sequence[Drawing]]
) -> dict[str, Any]:
    clip_ids = sorted(drawing.clip_id for drawing in drawn[system, scales[0]])
    shown = pictures.evenly(clip_ids, MOST_IN_A_ROW)
    faces, guides = read_faces(source, shown)
    return {
        "system": system,
        "inputs": inputs_of(system, drawn[system, scales[0]][0].about.get("absent", ())),
        "speakers": [clip_id.split("/")[1] for clip_id in shown],
        "faces": [pictures.jpeg(face) for face in faces],
        "guides": [pictures.png(guide) for guide in guides] if SYSTEMS[system].image_guide else [],
        "rows": [
            {"scale": scale, "portraits": [_portrait(drawn[system, scale], clip_id, False) for clip_id in shown]}
            for scale in scales
        ],
    }


def chosen_scales(drawn: Mapping[tuple[str, float], Any], evaluation: Mapping[str, Any]) -> dict[str, float]:
    """System -> the scale it is shown at: its best, else the paper's, else its largest."""
    best = {name: float(row["cond_scale"]) for name, row in best_rows(evaluation).items()}
    chosen = {}
    for system in dict.fromkeys(system for system, _ in drawn):
        scales = [scale for name, scale in drawn if name == system]
        wanted = [scale for scale in (best.get(system), SYSTEMS[system].cond_scale) if scale in scales]
        chosen[system] = float(next(iter(wanted), max(scales)))
    return chosen


def known_words(source: Store | Records, clip_ids: Sequence[str]) -> dict[str, str]:
    """Clip -> what is known of its speaker, in words: `woman, 34`."""
    if isinstance(source, Store):
        return attributes(source, list(clip_ids))
    faces = Faces.of(source, picture="target" if "target" in source.fields else "face")
    known, words = faces.read_rows(faces.rows_of(clip_ids), LABELS), {}
    for i, clip_id in enumerate(clip_ids):
        gender = int(known["gender"][i]) if "gender" in known else -1
        age = float(known["age"][i]) if "age" in known else np.nan
        told = [ATTRIBUTES["gender"][gender] if gender >= 0 else "", "" if np.isnan(age) else f"{age:.0f}"]
        words[clip_id] = ", ".join(filter(None, told))
    return words


def _portrait(drawings: Sequence[Drawing], clip_id: str, coarse: bool) -> dict[str, str] | None:
    """The portrait that was drawn of a clip, if one was."""
    drawing = next((drawing for drawing in drawings if drawing.clip_id == clip_id), None)
    if drawing is None:
        return None
    note = f"Generated by a {drawing.system} model at scale {drawing.cond_scale:g}. Not a photograph of anybody."
    return {
        "picture": pictures.jpeg(read_picture(drawing.picture), note=note),
        "coarse": pictures.png(read_picture(drawing.coarse)) if coarse else "",
    }
