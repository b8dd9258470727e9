"""Hair: a shell over the scalp, cut off at the hairline, and a curtain of long hair behind the face."""

import numpy as np

from pipelines.population.anatomy import smooth_step
from pipelines.population.head import HAIR, SKIN, load_head
from pipelines.population.look import Look
from pipelines.population.mesh import Mesh, head_normals, sheet

TAPER = 0.030
"""Metres above the hairline at which the shell has its full volume."""


def above_hairline(look: Look, angle: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Metres above the hairline, negative below it, at places on the head."""
    side = np.abs(angle)
    line = look.hairline - look.hairline_peak * np.exp(-((angle / 0.35) ** 2))
    line = line - 0.018 * smooth_step(0.35, 0.95, side) - 0.075 * smooth_step(0.95, 1.35, side)
    line = line - 0.055 * smooth_step(1.35, 1.9, side)
    return height - line


def hair_shell(look: Look, points: np.ndarray, normals: np.ndarray) -> Mesh:
    """The scalp of a head (V points, V normals) lifted by the hair's volume, tapering to the hairline."""
    head = load_head()
    above = above_hairline(look, *head.place.T)
    scalp = (head.surface == SKIN) & (head.inside_mouth < 0.1)
    lift = smooth_step(0, TAPER, above) * scalp * (1 - np.clip(head.ears * 3, 0, 1)) * look.hair_volume
    lifted = points + normals * lift[:, None] + lift[:, None] * (0, 0, 0.35)
    cover = np.where(scalp & (head.ears < 0.3), above - 0.001, -0.05).astype(np.float32)
    return Mesh(
        points=lifted.astype(np.float32),
        normals=head_normals(lifted.astype(np.float32)),
        faces=head.faces[(cover[head.faces] > 0).any(1)],
        surface=np.full(len(points), HAIR, np.uint8),
        place=head.place,
        cover=cover,
    )


def hair_curtain(look: Look) -> Mesh:
    """Long hair hanging round the back and the sides, from the parting on."""
    angle, height = np.meshgrid(
        np.linspace(look.hair_parting, 2 * np.pi - look.hair_parting, 40), np.linspace(0.06, -look.hair_length, 16)
    )
    wide = 0.083 + look.hair_volume + 0.012 * np.sin((0.06 - height) * 14)
    deep = 0.10 + look.hair_volume
    narrowing = np.sqrt(np.clip(1 - (height / 0.115) ** 2 * (height > 0), 0.05, 1))
    points = np.stack([wide * narrowing * np.sin(angle), 0.035 - deep * narrowing * np.cos(angle), height], -1)
    normals = np.stack([np.sin(angle) / wide, -np.cos(angle) / deep, 0 * angle], -1)
    return sheet(points, normals, HAIR, np.stack([(angle + np.pi) % (2 * np.pi) - np.pi, height], -1))
