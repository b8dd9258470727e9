"""Pictures as training takes them: the 8 px guide of a face."""

import numpy as np


def image_guide(face: np.ndarray, size: int = 8) -> np.ndarray:
    """The guide of a face: (..., H, W, 3) uint8 -> (..., size, size, 3) uint8, the mean over squares, rounded."""
    *lead, height, width, channels = face.shape
    squares = face.reshape(*lead, size, height // size, size, width // size, channels)
    return np.rint(squares.mean((-4, -2), dtype=np.float64)).astype(np.uint8)
