"""Triangle meshes with what the painter needs to know of each vertex."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.sparse import csr_matrix

from pipelines.population.head import load_head


@dataclass(frozen=True)
class Mesh:
    """points, normals: (n, 3); faces: (m, 3); surface: (n,) what it is (`head.SKIN`, ...); place: (n, 2) angle and
    height on the head; cover: (n,) drawn only where it is above 0, pixel by pixel."""

    points: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    surface: np.ndarray
    place: np.ndarray
    cover: np.ndarray


def join(meshes: list[Mesh]) -> Mesh:
    """One mesh of several, their vertices in order."""
    starts = np.cumsum([0] + [len(mesh.points) for mesh in meshes[:-1]])
    return Mesh(
        points=np.concatenate([mesh.points for mesh in meshes]),
        normals=np.concatenate([mesh.normals for mesh in meshes]),
        faces=np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]).astype(np.int32),
        surface=np.concatenate([mesh.surface for mesh in meshes]),
        place=np.concatenate([mesh.place for mesh in meshes]),
        cover=np.concatenate([mesh.cover for mesh in meshes]),
    )


def sheet(points: np.ndarray, normals: np.ndarray, surface: int, place: np.ndarray) -> Mesh:
    """A two-sided sheet from a grid of points: points and normals (rows, columns, 3), place (rows, columns, 2)."""
    rows, columns = points.shape[:2]
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    below, right, across = corner + columns, corner + 1, corner + columns + 1
    front = np.concatenate([np.stack([corner, below, right], 1), np.stack([right, below, across], 1)])
    unit = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
    return Mesh(
        points=points.reshape(-1, 3).astype(np.float32),
        normals=unit.reshape(-1, 3).astype(np.float32),
        faces=np.concatenate([front, front[:, ::-1]]).astype(np.int32),
        surface=np.full(rows * columns, surface, np.uint8),
        place=place.reshape(-1, 2).astype(np.float32),
        cover=np.ones(rows * columns, np.float32),
    )


def head_normals(points: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals of the head's vertices, averaged over their triangles by area."""
    a, b, c = (points[corner] for corner in load_head().faces.T)
    normals = _triangles_of_vertex() @ np.cross(b - a, c - a)
    return normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)


@cache
def _triangles_of_vertex() -> csr_matrix:
    head = load_head()
    count = len(head.faces)
    ones = np.ones(3 * count, np.float32)
    return csr_matrix((ones, (head.faces.T.ravel(), np.tile(np.arange(count), 3))), (len(head.surface), count))
