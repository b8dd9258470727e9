"""The parts of faces and their bottoms as a picture: what Fine-portraitist learns from, to be looked at.

draw(faces, landmarks, names).savefig("parts.png")
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from featurestore.face_parts import PARTS, bottom_mask, part_masks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "mouth": (214, 64, 69),
    "eyes": (66, 105, 208),
    "eyebrows": (120, 80, 180),
    "nose": (230, 160, 30),
    "jaw": (20, 140, 120),
}
LINE = (255, 64, 160)
"""The edge of the bottom face."""


def draw(faces: np.ndarray, landmarks: np.ndarray, names: Sequence[str]) -> "Figure":
    """A row a face: the face, its parts in colours, the edge of its bottom, and the bottom alone.

    faces: (N, S, S, 3) uint8; landmarks: (N, 468, 2) as stored; names: a line for each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(8, 2.05 * len(faces) + 0.7), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    titles = ("face", "parts", "edge of the bottom", "bottom")
    for row, (face, points, name) in enumerate(zip(faces, landmarks, names, strict=True)):
        for column, picture in enumerate(panels(face, points)):
            axes = figure.add_subplot(len(faces), 4, 4 * row + column + 1)
            axes.imshow(picture)
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(titles[column], fontsize=9)
            if column == 0:
                axes.set_ylabel(name, fontsize=7)
    handles = [Patch(color=f"#{bytes(COLOURS[part]).hex()}", label=part) for part in PARTS]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(PARTS), fontsize=8, frameon=False)
    return figure


def panels(face: np.ndarray, landmarks: np.ndarray) -> list[np.ndarray]:
    """The four pictures of a face, (S, S, 3) uint8 each. The last is exactly 0 outside the bottom."""
    size = len(face)
    tinted = face.astype(np.float32)
    for part, mask in part_masks(landmarks, size).items():
        tinted[mask] = 0.45 * tinted[mask] + 0.55 * np.array(COLOURS[part])
    bottom = bottom_mask(landmarks, size)
    edged = face.copy()
    edged[_edge(bottom)] = LINE
    return [face, tinted.round().astype(np.uint8), edged, face * bottom[..., None]]


def _edge(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask that have one outside it beside them, and those around them."""
    import cv2

    kernel = np.ones((3, 3), np.uint8)
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, kernel).astype(bool)
