"""Masks of the parts of a face, from the 468 landmarks of MediaPipe's Face Mesh (Kartynnik et al. 2019).

    masks = part_masks(landmarks, 256)
    masks["mouth"] | masks["jaw"]
    bottom_mask(landmarks, 256)

Landmarks are (468, 2), x and y as fractions of the picture, as the constituent `face_parts` stores them. Outlines are
MediaPipe's published ones. Left and right are the picture's.
"""

import cv2
import numpy as np

# fmt: off
OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149,
        150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)
LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
LEFT_LOWER_LID, LEFT_UPPER_LID = (33, 7, 163, 144, 145, 153, 154, 155, 133), (173, 157, 158, 159, 160, 161, 246)
RIGHT_LOWER_LID, RIGHT_UPPER_LID = (362, 382, 381, 380, 374, 373, 390, 249, 263), (466, 388, 387, 386, 385, 384, 398)
LEFT_EYEBROW = (46, 53, 52, 65, 55, 107, 66, 105, 63, 70)
RIGHT_EYEBROW = (276, 283, 282, 295, 285, 336, 296, 334, 293, 300)
NOSE = (168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 98, 97, 326, 327, 294, 278, 344, 440, 275, 45, 220, 115, 48, 64)
# fmt: on
EYES = (LEFT_LOWER_LID + LEFT_UPPER_LID, RIGHT_LOWER_LID + RIGHT_UPPER_LID)
EYEBROWS = (LEFT_EYEBROW, RIGHT_EYEBROW)
MOUTH_CORNERS, EYE_CORNERS = (61, 291), (33, 263)

PARTS = ("mouth", "eyes", "eyebrows", "nose", "jaw")
"""In the order in which they take their pixels: one that two outlines share belongs to the first."""

_SUBPIXEL_BITS = 4


def part_masks(landmarks: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """`PARTS` -> (size, size) bool; no pixel is in two of them.

    mouth: within the lips' outer line; eyes: between the lids; nose: from its root to its base and wings; jaw: the
    face's oval below the line through the corners of the mouth, without the mouth.
    """
    points = _pixels(landmarks, size)
    outlines = {
        "mouth": _fill([points[list(LIPS)]], size),
        "eyes": _fill([points[list(eye)] for eye in EYES], size),
        "eyebrows": _fill([points[list(eyebrow)] for eyebrow in EYEBROWS], size),
        "nose": _nose(points, size),
        "jaw": _oval(points, size) & _below(points[list(MOUTH_CORNERS)], _down(points), size),
    }
    taken = np.zeros((size, size), bool)
    masks = {}
    for part in PARTS:
        masks[part] = outlines[part] & ~taken
        taken |= outlines[part]
    return masks


def bottom_mask(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Fine-portraitist's bottom face, (size, size) bool: what of the face is told by speech.

    Within the face's oval, everything below the line of the lower eyelids, and the nose up to its root.
    """
    points = _pixels(landmarks, size)
    lids = points[list(LEFT_LOWER_LID + RIGHT_LOWER_LID)]
    return _oval(points, size) & _below(lids, _down(points), size) | _nose(points, size)


def _pixels(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Fractions of the picture -> pixels, whose centres are whole numbers."""
    return np.asarray(landmarks, np.float32) * size - 0.5


def _down(points: np.ndarray) -> np.ndarray:
    """The face's own downward direction, of length 1: across the line from eye to eye."""
    left, right = points[list(EYE_CORNERS)]
    x, y = (right - left) / max(np.linalg.norm(right - left), 1e-6)
    return np.array([-y, x], np.float32)


def _oval(points: np.ndarray, size: int) -> np.ndarray:
    return _fill([points[list(OVAL)]], size)


def _nose(points: np.ndarray, size: int) -> np.ndarray:
    return _fill([cv2.convexHull(points[list(NOSE)])[:, 0]], size)


def _below(line: np.ndarray, down: np.ndarray, size: int) -> np.ndarray:
    """All below a line that runs from left to right and goes on straight to both sides."""
    across = np.array([down[1], -down[0]])
    far = 3 * size
    first, last = line[0] - far * across, line[-1] + far * across
    return _fill([np.array([first, *line, last, last + far * down, first + far * down])], size)


def _fill(outlines: list[np.ndarray], size: int) -> np.ndarray:
    """(size, size) bool: within any of the polygons, their edges included."""
    canvas = np.zeros((size, size), np.uint8)
    for outline in outlines:
        cv2.fillPoly(canvas, [np.rint(outline * 2**_SUBPIXEL_BITS).astype(np.int32)], 1, shift=_SUBPIXEL_BITS)
    return canvas.astype(bool)
