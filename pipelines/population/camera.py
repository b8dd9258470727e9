"""The camera: a head turned, put before it and projected to pixels."""

import numpy as np

from pipelines.population.scene import Scene

FOCAL_LENGTH = 3.05
"""In widths of the frame, at a distance of 1 m."""


def turn(scene: Scene) -> np.ndarray:
    """(3, 3) from the head's axes (right, back, up) to the camera's (right, up, towards the camera)."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (scene.yaw, scene.pitch, scene.roll))
    axes = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (roll @ pitch @ yaw @ axes).astype(np.float32)


def project(points: np.ndarray, scene: Scene, size: int, margin: float = 0) -> np.ndarray:
    """(n, 3) in the camera's axes, metres -> (n, 3) x and y in pixels, y down, and the distance in metres.

    size: of the picture; margin: how much of it lies beyond each edge of the scene's frame.
    """
    frame = size - 2 * margin
    distance = 1 - points[:, 2]
    zoom = frame * FOCAL_LENGTH * scene.scale / distance
    x = margin + frame * (0.50 + scene.shift[0]) + points[:, 0] * zoom
    y = margin + frame * (0.49 + scene.shift[1]) - points[:, 1] * zoom
    return np.stack([x, y, distance], 1).astype(np.float32)
