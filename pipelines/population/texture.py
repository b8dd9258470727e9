"""Two tiling noise pictures and how they lie on the head: mottled skin and strands of hair."""

from functools import cache

import cv2
import numpy as np

ROWS, COLUMNS = 256, 512


def mottle(angle: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Smooth noise of standard deviation 1 at places on the head (angle in radians, height in metres)."""
    return _sample(_noise(sideways=2.2, upwards=2.2), angle, height)


def strands(angle: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Noise drawn out upwards, standard deviation 1: hair combed from the crown."""
    return _sample(_noise(sideways=0.9, upwards=14), angle, height)


@cache
def _noise(sideways: float, upwards: float) -> np.ndarray:
    white = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    noise = cv2.GaussianBlur(white, (0, 0), sigmaX=sideways, sigmaY=upwards, borderType=cv2.BORDER_REFLECT)
    return noise / noise.std()


def _sample(noise: np.ndarray, angle: np.ndarray, height: np.ndarray) -> np.ndarray:
    row = np.clip((height * 800 + 128).astype(np.int32), 0, ROWS - 1)
    column = np.clip(((angle / np.pi + 1) * COLUMNS / 2).astype(np.int32), 0, COLUMNS - 1)
    return noise[row, column]
