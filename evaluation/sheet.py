"""One picture of all portraits: a column a speaker; true face, guide, and each system's portrait below one another."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from evaluation.faces import read_faces
from evaluation.portraits import Drawing, by_system_and_scale, read_picture
from featurestore import artifacts
from featurestore.errors import VoxportraitError
from featurestore.store import Store

GAP = 6
"""White pixels between pictures."""
LETTERS = 16
"""Pixels of a letter's height."""


def portrait_sheet(store: Store, drawings: Sequence[Drawing], cond_scale: float, out: Path) -> Path:
    """Write the sheet of the drawings at one scale as PNG; a VoxportraitError if there are none.

    Rows: the true faces, their guides with their 8 x 8 squares visible, then a row a system. Where untrained weights
    made an input of a portrait, a line below says which.
    """
    groups = [group for (_, scale), group in by_system_and_scale(drawings).items() if scale == cond_scale]
    if not groups:
        raise VoxportraitError(f"there are no portraits at scale {cond_scale:g}")
    clips = sorted(drawing.clip_id for drawing in groups[0])
    faces, guides = read_faces(store, clips)
    rows = [list(faces), [np.kron(guide, np.ones((16, 16, 1), np.uint8)) for guide in guides]]
    for group in groups:
        by_clip = {drawing.clip_id: read_picture(drawing.picture) for drawing in group}
        rows.append([by_clip.get(clip, np.full_like(faces[0], 255)) for clip in clips])
    margin = ((0, GAP), (0, GAP), (0, 0))
    padded = [np.hstack([np.pad(picture, margin, constant_values=255) for picture in row]) for row in rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet = Image.fromarray(np.vstack(padded)[:-GAP, :-GAP])
    description = "Portraits from the third row down are generated. Not photographs of anybody."
    untrained = sorted({key for group in groups for drawing in group for key in drawing.about["untrained"]})
    if untrained:
        line = f"Made with untrained weights, without meaning: {', '.join(untrained)}."
        sheet, description = _with_line(sheet, line), f"{description} {line}"
    entries = PngInfo()
    entries.add_text("Description", description)
    artifacts.note(store, "picture", {out: artifacts.row_ids_of(store, clips)})
    sheet.save(out, "PNG", optimize=True, pnginfo=entries)
    return out


def _with_line(picture: Image.Image, line: str) -> Image.Image:
    """The picture with a line of text below it, wrapped to its width."""
    font = ImageFont.load_default(LETTERS)
    lines = wrap(line, max(20, int(picture.width / font.getlength("n"))))
    taller = Image.new("RGB", (picture.width, picture.height + GAP + len(lines) * (LETTERS + GAP)), "white")
    taller.paste(picture)
    ImageDraw.Draw(taller).multiline_text((0, picture.height + GAP), "\n".join(lines), "black", font, spacing=GAP)
    return taller
