"""Portraits of Fine-portraitist's systems side by side: what each leaned on, its bottom face, the whole, the truth."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.faces import read_pictures
from evaluation.families import EXCLUSIONS, Key, leaning_words, prior_of, rows_of
from evaluation.portraits import Drawing, read_picture
from evaluation.report import pictures
from evaluation.report.grids import known_words
from evaluation.sweep import best_scales
from featurestore.records import Records
from featurestore.store import Store

MOST_SPEAKERS, SIDE = 10, 128
"""Speakers on a sheet; pixels of a picture's side, at most."""

PARTS = {"prior": "retrieved face", "bottom": "bottom face", "picture": "portrait"}
"""What is shown of a drawing, in the order of its making."""


@dataclass(frozen=True)
class Column:
    """One picture of each drawing of a row. part: of `PARTS`; first: whether its system begins here; width: how many
    columns that has."""

    key: Key
    part: str
    first: bool
    width: int

    @property
    def told(self) -> str:
        words = leaning_words(self.key.system, self.key.exclusion)
        return ", ".join(filter(None, (f"scale {self.key.cond_scale:g}", words)))


def portraitist_grids(
    source: Store | Records, drawings: Sequence[Drawing], evaluation: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Sheets, speakers in rows: every system, of several exclusions the strictest; and where there are several, those
    beside each other; none without drawings.

    A sheet: {"title", "heads": [{"name", "about", "width"}], "columns": [word], "firsts": [bool], "speakers", "rows":
    [{"speaker", "words", "face", "cells": [{"picture", "alt", "words", "first"} or None]}]}.
    """
    if not drawings:
        return []
    shown = _best(rows_of(drawings), evaluation)
    strictest = {key.system: key for key in sorted(shown, key=lambda key: EXCLUSIONS.index(key.exclusion))}
    sheets = [("Every system", [key for key in shown if key in strictest.values()])]
    leaning = [key for key in shown if leaning_words(key.system, key.exclusion)]
    if len(leaning) > 1:
        sheets.append(("By what may be retrieved", leaning))
    return [_sheet(source, title, {key: shown[key] for key in keys}) for title, keys in sheets]


def hero(grids: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(speaker, true face, portrait) of each row of the first sheet, by its last system."""
    rows = grids[0]["rows"] if grids else []
    return [(row["speaker"], row["face"], row["cells"][-1]["picture"]) for row in rows if row["cells"][-1]]


def _best(rows: Mapping[Key, list[Drawing]], evaluation: Mapping[str, Any]) -> dict[Key, dict[str, Drawing]]:
    """The drawings by clip of each system and exclusion at its best scale, the smallest where nothing was judged."""
    best = {key: row["cond_scale"] for key, row in best_scales(evaluation).items()}
    chosen: dict[tuple[str, str | None], Key] = {}
    for key in rows:
        which = key.system, key.exclusion
        if key.cond_scale == best.get(which) or which not in chosen:
            chosen[which] = key
    return {key: {one.clip_id: one for one in rows[key]} for key in chosen.values()}


def _sheet(source: Store | Records, title: str, shown: Mapping[Key, Mapping[str, Drawing]]) -> dict[str, Any]:
    clip_ids = sorted({clip_id for group in shown.values() for clip_id in group})
    some = pictures.evenly(clip_ids, MOST_SPEAKERS)
    columns = list(_columns(shown))
    words, faces = known_words(source, some), read_pictures(source, some)
    priors = _priors(source, shown, some)
    return {
        "title": title,
        "heads": [{"name": one.key.system, "about": one.told, "width": one.width} for one in columns if one.first],
        "columns": [PARTS[one.part] for one in columns],
        "firsts": [one.first for one in columns],
        "speakers": len(clip_ids),
        "rows": [
            {
                "speaker": clip_id.split("/")[1],
                "words": words.get(clip_id, ""),
                "face": "" if face is None else pictures.jpeg(face, SIDE),
                "cells": [_cell(one, shown[one.key].get(clip_id), priors) for one in columns],
            }
            for clip_id, face in zip(some, faces, strict=True)
        ],
    }


def _columns(shown: Mapping[Key, Mapping[str, Drawing]]) -> Iterator[Column]:
    for key, group in shown.items():
        there = [part for part in PARTS if any(_has(one, part) for one in group.values())]
        for part in there:
            yield Column(key, part, part == there[0], len(there))


def _has(drawing: Drawing, part: str) -> bool:
    return part == "picture" or bool(_beside(drawing, part) or (part == "prior" and prior_of(drawing)))


def _priors(
    source: Store | Records, shown: Mapping[Key, Mapping[str, Drawing]], clip_ids: Sequence[str]
) -> dict[str, np.ndarray]:
    """The retrieved faces themselves, clip -> picture, of those that are in the source: beside a drawing lies only what
    its codec makes of one."""
    drawings = [group[clip_id] for group in shown.values() for clip_id in clip_ids if clip_id in group]
    asked = sorted({prior for one in drawings if (prior := prior_of(one))})
    found = read_pictures(source, asked) if asked else []
    return {clip_id: face for clip_id, face in zip(asked, found, strict=True) if face is not None}


def _beside(drawing: Drawing, part: str) -> Path | None:
    path = drawing.beside.get(part)
    return path if path and path.exists() else None


def _cell(column: Column, drawing: Drawing | None, priors: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    if drawing is None:
        return None
    speaker, system, prior = drawing.clip_id.split("/")[1], column.key.system, prior_of(drawing)
    path = drawing.picture if column.part == "picture" else _beside(drawing, column.part)
    face = priors.get(prior or "") if column.part == "prior" else None
    face = read_picture(path) if face is None and path else face
    if face is None:
        return None
    if column.part == "prior":
        similar = drawing.about["retrieval"].get("similarity") if prior else None
        words = " · ".join([*(prior or "").split("/")[1:2], *([] if similar is None else [f"{similar:.2f}"])])
        alt, note = f"face that {system} retrieved for {speaker}", ""
    else:
        words, alt = "", f"{PARTS[column.part]} of {speaker} by {system}"
        note = f"Generated by a {system} model. Not a photograph of anybody."
    return {"picture": pictures.jpeg(face, SIDE, note), "alt": alt, "words": words, "first": column.first}
