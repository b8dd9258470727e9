"""The head every face is made from: `head.npz` (see `build_head.py`) as arrays, and what is computed from its mean."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

SKIN, LEFT_EYE, RIGHT_EYE, MOUTH_PARTS, HAIR, CLOTH = range(6)
"""What a vertex belongs to; the first four are the asset's, hair and cloth are added when a face is drawn."""

EYE_RADIUS = 0.0155


@dataclass(frozen=True)
class Head:
    """V vertices (metres, z up, the face towards -y) and what may be done to them.

    faces: (F, 3); corners: (2, 2, 3, V, 3) meshes of man and woman, young and old, african, asian and caucasian;
    shapes: name -> (2, V, 3), the move at +1 and at -1; actions: name -> (V, 3); weight: (V, 3) from thin to heavy;
    surface: (V,); lips, face, ears, eyelids, inside_mouth: (V,) masks 0..1; place: (V, 2) angle around the head
    (0 in front, radians) and height above the eyes (metres) on the mean head, where faces are painted; on_eye: (V, 3)
    position from the middle of the eye ball in units of its radius.
    """

    faces: np.ndarray
    corners: np.ndarray
    shapes: dict[str, np.ndarray]
    actions: dict[str, np.ndarray]
    weight: np.ndarray
    surface: np.ndarray
    lips: np.ndarray
    face: np.ndarray
    ears: np.ndarray
    eyelids: np.ndarray
    inside_mouth: np.ndarray
    place: np.ndarray
    on_eye: np.ndarray

    def between_eyes(self, points: np.ndarray) -> np.ndarray:
        """(3,) the point between the eyes of a mesh; the left eye alone says it, heads are symmetric."""
        return points[self.surface == LEFT_EYE].mean(0) * (0, 1, 1)


@cache
def load_head() -> Head:
    """The asset, read once a process."""
    with np.load(Path(__file__).with_name("head.npz")) as asset:
        parts = dict(asset)
    moves = parts["moves"].astype(np.float32) * parts["scales"][:, None, None]
    names = [str(name) for name in parts["shape_names"]]
    signed, others = moves[: 2 * len(names)].reshape(len(names), 2, -1, 3), moves[2 * len(names) :]
    mean, surface = parts["corners"].mean(0), parts["surface"]
    left_eye = mean[surface == LEFT_EYE].mean(0)
    on_eye = np.zeros_like(mean)
    for eye, middle in ((LEFT_EYE, left_eye), (RIGHT_EYE, left_eye * (-1, 1, 1))):
        on_eye[surface == eye] = (mean[surface == eye] - middle) / EYE_RADIUS
    angle = np.arctan2(mean[:, 0], -(mean[:, 1] + 0.06))
    masks = {name: parts[name] for name in ("lips", "face", "ears", "eyelids", "inside_mouth")}
    return Head(
        faces=parts["faces"].astype(np.int32),
        corners=parts["corners"].reshape(2, 2, 3, *mean.shape),
        shapes=dict(zip(names, signed, strict=True)),
        actions={str(name): move for name, move in zip(parts["action_names"], others[:-1], strict=True)},
        weight=others[-1],
        surface=surface,
        place=np.stack([angle, mean[:, 2] - left_eye[2]], 1).astype(np.float32),
        on_eye=on_eye,
        **masks,
    )
