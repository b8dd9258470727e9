"""One picture of all portraits: a column a speaker, or of one clip's portraits: a column a scale."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evaluation.faces import read_faces
from evaluation.portraits import Drawing, by_system_and_scale, read_picture, save, without_meaning
from featurestore.errors import VoxportraitError

if TYPE_CHECKING:
    from featurestore.records import Records
    from featurestore.store import Store

GAP = 6
"""White pixels between pictures."""
SIDE = 128
"""Pixels of a portrait's side."""
LETTERS = 16
"""Pixels of a letter's height."""


def portrait_sheet(source: "Store | Records", drawings: Sequence[Drawing], cond_scale: float, out: Path) -> Path:
    """Write the sheet of the drawings at one scale as PNG; a VoxportraitError if there are none.

    source: where the true faces are: the store, or records of the split that was drawn.
    Rows: the true faces, their guides with their 8 x 8 squares visible, then a row a system. Where untrained weights
    made an input of a portrait, a line below says which.
    """
    groups = [group for (_, scale), group in by_system_and_scale(drawings).items() if scale == cond_scale]
    if not groups:
        raise VoxportraitError(f"there are no portraits at scale {cond_scale:g}")
    clips = sorted(drawing.clip_id for drawing in groups[0])
    faces, guides = read_faces(source, clips)
    rows = [list(faces), [_enlarged(guide) for guide in guides]]
    for group in groups:
        by_clip = {drawing.clip_id: read_picture(drawing.picture) for drawing in group}
        rows.append([by_clip.get(clip, np.full_like(faces[0], 255)) for clip in clips])
    sheet = _beside(rows)
    drawn = [drawing for group in groups for drawing in group]
    if (store := getattr(source, "store", None) if hasattr(source, "rows") else source) is not None:
        from featurestore import artifacts

        artifacts.note(store, "picture", {out: artifacts.row_ids_of(store, clips)})
    return _write(sheet, drawn, "Portraits from the third row down are generated. Not photographs of anybody.", out)


def scales_sheet(drawings: Sequence[Drawing], guide: np.ndarray | None, out: Path) -> Path:
    """Write the portraits of one clip by one system as PNG: guide, then scale by scale; below, what U-Net 1 drew.

    guide: (8, 8, 3) uint8, its squares visible; None where the system has none.
    """
    white = np.full((SIDE, SIDE, 3), 255, np.uint8)
    ordered = sorted(drawings, key=lambda drawing: drawing.cond_scale)
    upper = [read_picture(drawing.picture) for drawing in ordered]
    lower = [_enlarged(read_picture(drawing.coarse)) for drawing in ordered]
    names = [f"scale {drawing.cond_scale:g}" for drawing in ordered]
    if guide is not None:
        upper, lower, names = [_enlarged(guide), *upper], [white, *lower], ["image guide", *names]
    sheet = _with_names(_beside([upper, lower]), names)
    return _write(sheet, ordered, "Portraits that are generated. Not photographs of anybody.", out)


def _write(sheet: Image.Image, drawings: Sequence[Drawing], description: str, out: Path) -> Path:
    """Save a sheet with what made its portraits, and a line below it where untrained weights did."""
    untrained = sorted({key for drawing in drawings for key in drawing.about["untrained"]})
    if line := without_meaning(untrained):
        sheet = _with_line(sheet, line)
    about: dict[str, Any] = {"generated": True, "code": drawings[0].about["code"], "untrained": untrained}
    save(out, sheet, about | {"portraits": [drawing.about for drawing in drawings]}, description)
    return out


def _beside(rows: Sequence[Sequence[np.ndarray]]) -> Image.Image:
    """Rows of pictures of one size, with gaps between them."""
    margin = ((0, GAP), (0, GAP), (0, 0))
    padded = [np.hstack([np.pad(picture, margin, constant_values=255) for picture in row]) for row in rows]
    return Image.fromarray(np.vstack(padded)[:-GAP, :-GAP])


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """A small picture with its pixels as squares."""
    return np.kron(picture, np.ones((SIDE // len(picture), SIDE // len(picture), 1), np.uint8))


def _with_names(picture: Image.Image, names: Sequence[str]) -> Image.Image:
    """The picture with a name above each column."""
    taller = Image.new("RGB", (picture.width, picture.height + LETTERS + GAP), "white")
    taller.paste(picture, (0, LETTERS + GAP))
    font = ImageFont.load_default(LETTERS)
    for column, name in enumerate(names):
        ImageDraw.Draw(taller).text((column * (SIDE + GAP), 0), name, "black", font)
    return taller


def _with_line(picture: Image.Image, line: str) -> Image.Image:
    """The picture with a line of text below it, wrapped to its width."""
    font = ImageFont.load_default(LETTERS)
    lines = wrap(line, max(20, int(picture.width / font.getlength("n"))))
    taller = Image.new("RGB", (picture.width, picture.height + GAP + len(lines) * (LETTERS + GAP)), "white")
    taller.paste(picture)
    ImageDraw.Draw(taller).multiline_text((0, picture.height + GAP), "\n".join(lines), "black", font, spacing=GAP)
    return taller
