"""One picture of all portraits: a column a speaker, or of one clip's portraits: a column a scale."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evaluation.faces import read_faces, read_pictures
from evaluation.families import SLF, drawn_by, prior_of, rows_of
from evaluation.portraits import Drawing, read_picture, save, without_meaning
from featurestore.errors import VoxportraitError

if TYPE_CHECKING:
    from featurestore.records import Records
    from featurestore.store import Store

GAP = 6
"""White pixels between pictures."""
SIDE = 128
"""Pixels of a picture's side, at least."""
SHOWN, BELOW = ("prior", "bottom", "picture"), ("coarse", "bottom")
"""Pictures of a drawing that are rows among many people's, and what stands below the portrait of one."""
LETTERS = 16
"""Pixels of a letter's height."""


def portrait_sheet(source: "Store | Records", drawings: Sequence[Drawing], cond_scale: float, out: Path) -> Path:
    """Write the sheet of the drawings at one scale as PNG; a VoxportraitError if there are none.

    source: where the true faces are: the store, or records of the split that was drawn.
    Rows: the true faces; of SLF their guides with their 8 x 8 squares visible; then of each system, and each exclusion
    of its retrieval, the portraits, above them the priors that they lean on and the bottoms that they were completed
    from. Where untrained weights made an input of a portrait, a line below says which.
    """
    groups = [group for key, group in rows_of(drawings).items() if key.cond_scale == cond_scale]
    if not groups:
        raise VoxportraitError(f"there are no portraits at scale {cond_scale:g}")
    clips = sorted(drawing.clip_id for drawing in groups[0])
    drawn = [drawing for group in groups for drawing in group]
    rows: list[Sequence[np.ndarray | None]]
    if drawn_by(SLF, drawn):
        faces, guides = read_faces(source, clips)
        rows = [list(faces), list(guides)]
    else:
        rows = [read_pictures(source, clips)]
    above = len(rows)
    for group in groups:
        by_clip = {drawing.clip_id: drawing.files for drawing in group}
        for name in [name for name in SHOWN if name in group[0].files]:
            rows.append([read_picture(by_clip[clip][name]) if clip in by_clip else None for clip in clips])
    about = f"Portraits from row {above + 1} down are generated. Not photographs of anybody."
    if priors := {prior for drawing in drawn if (prior := prior_of(drawing))}:
        about += " Rows of priors are stored faces of others, as the codec gives them back."
    if (store := getattr(source, "store", None) if hasattr(source, "rows") else source) is not None:
        from featurestore import artifacts

        artifacts.note(store, "picture", {out: artifacts.row_ids_of(store, [*clips, *sorted(priors)])})
    return _write(_beside(rows, side_of(drawn)), drawn, about, out)


def scales_sheet(drawings: Sequence[Drawing], shown: Mapping[str, np.ndarray], out: Path) -> Path:
    """Write the portraits of one clip by one system as PNG: what is shown, the prior that was leaned on with its
    similarity, then scale by scale; below, what they were made from: what U-Net 1 drew, or the bottom face.

    shown: name -> (S, S, 3) uint8; of a small one the squares are visible.
    """
    ordered = sorted(drawings, key=lambda drawing: drawing.cond_scale)
    columns: list[tuple[str, np.ndarray, np.ndarray | None]] = [(name, one, None) for name, one in shown.items()]
    if prior := ordered[0].beside.get("prior"):
        similarity = ordered[0].about["retrieval"]["similarity"]
        columns.append((f"prior, {similarity:.2f}", read_picture(prior), None))
    for drawing in ordered:
        below = next((read_picture(drawing.beside[name]) for name in BELOW if name in drawing.beside), None)
        columns.append((f"scale {drawing.cond_scale:g}", read_picture(drawing.picture), below))
    names, *rows = zip(*columns, strict=True)
    some = [row for row in rows if any(one is not None for one in row)]
    sheet = _with_names(_beside(some, side_of(ordered)), names, side_of(ordered))
    return _write(sheet, ordered, "Portraits that are generated. Not photographs of anybody.", out)


def side_of(drawings: Sequence[Drawing]) -> int:
    """The side at which pictures stand on a sheet: the largest portrait's, at least `SIDE`."""
    return max(SIDE, *(len(read_picture(drawing.picture)) for drawing in drawings))


def _write(sheet: Image.Image, drawings: Sequence[Drawing], description: str, out: Path) -> Path:
    """Save a sheet with what made its portraits, and a line below it where untrained weights did."""
    untrained = sorted({key for drawing in drawings for key in drawing.about["untrained"]})
    if line := without_meaning(untrained):
        sheet = _with_line(sheet, line)
    about: dict[str, Any] = {"generated": True, "code": drawings[0].about["code"], "untrained": untrained}
    save(out, sheet, about | {"portraits": [drawing.about for drawing in drawings]}, description)
    return out


def _beside(rows: Sequence[Sequence[np.ndarray | None]], side: int) -> Image.Image:
    """Rows of pictures, each brought to one side, with gaps between them; white where there is none."""
    margin = ((0, GAP), (0, GAP), (0, 0))
    padded = [np.hstack([np.pad(_sized(one, side), margin, constant_values=255) for one in row]) for row in rows]
    return Image.fromarray(np.vstack(padded)[:-GAP, :-GAP])


def _sized(picture: np.ndarray | None, side: int) -> np.ndarray:
    """A picture at another side, with its pixels as squares where they fit in."""
    if picture is None:
        return np.full((side, side, 3), 255, np.uint8)
    times, rest = divmod(side, len(picture))
    if not rest:
        return np.kron(picture, np.ones((times, times, 1), np.uint8))
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def _with_names(picture: Image.Image, names: Sequence[str], side: int) -> Image.Image:
    """The picture with a name above each column."""
    taller = Image.new("RGB", (picture.width, picture.height + LETTERS + GAP), "white")
    taller.paste(picture, (0, LETTERS + GAP))
    font = ImageFont.load_default(LETTERS)
    for column, name in enumerate(names):
        ImageDraw.Draw(taller).text((column * (side + GAP), 0), name, "black", font)
    return taller


def _with_line(picture: Image.Image, line: str) -> Image.Image:
    """The picture with a line of text below it, wrapped to its width."""
    font = ImageFont.load_default(LETTERS)
    lines = wrap(line, max(20, int(picture.width / font.getlength("n"))))
    taller = Image.new("RGB", (picture.width, picture.height + GAP + len(lines) * (LETTERS + GAP)), "white")
    taller.paste(picture)
    ImageDraw.Draw(taller).multiline_text((0, picture.height + GAP), "\n".join(lines), "black", font, spacing=GAP)
    return taller
