"""A rasteriser of triangles in numpy: which triangle is seen in each pixel, and where on it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fragments:
    """What is seen: pixels (n,) as row * width + column; corners (n, 3) the vertices of the triangle seen there;
    weights (n, 3) its barycentric coordinates."""

    pixels: np.ndarray
    corners: np.ndarray
    weights: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> "Fragments":
        return Fragments(self.pixels[chosen], self.corners[chosen], self.weights[chosen])

    def of(self, values: np.ndarray) -> np.ndarray:
        """A vertex attribute (V,) or (V, k) at the fragments: (n,) or (n, k)."""
        a, b, c = self.corners.T
        u, v, w = self.weights.T if values.ndim == 1 else self.weights.T[:, :, None]
        return u * values[a] + v * values[b] + w * values[c]


def rasterise(points: np.ndarray, faces: np.ndarray, cover: np.ndarray, size: int) -> Fragments:
    """Draw triangles into a square of `size` pixels with a depth buffer.

    points: (V, 3) x and y in pixels, y down, and the distance from the camera (below 2); faces: (F, 3), those turned
    away are left out; cover: (V,) a pixel is drawn only where its interpolated cover is above 0.
    """
    x, y = points[faces, 0], points[faces, 1]
    left, right = np.ceil(x.min(1) - 0.5).clip(0), np.floor(x.max(1) - 0.5).clip(max=size - 1)
    top, bottom = np.ceil(y.min(1) - 0.5).clip(0), np.floor(y.max(1) - 0.5).clip(max=size - 1)
    doubled_area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    drawn = np.flatnonzero((doubled_area < -1e-6) & (right >= left) & (bottom >= top))
    left, right, top, bottom = (side[drawn].astype(np.int32) for side in (left, right, top, bottom))
    triangle, column, row = _boxes(left, top, right - left + 1, bottom - top + 1)

    # A linear function over a triangle is a constant and a slope along x and y.
    x, y, inverse = x[drawn], y[drawn], 1 / doubled_area[drawn]
    second = _plane((y[:, 2] - y[:, 0]) * inverse, (x[:, 0] - x[:, 2]) * inverse, x[:, 0], y[:, 0])
    third = _plane((y[:, 0] - y[:, 1]) * inverse, (x[:, 1] - x[:, 0]) * inverse, x[:, 0], y[:, 0])
    across, down = column + np.float32(0.5), row + np.float32(0.5)
    b = _evaluate(second, triangle, across, down)
    c = _evaluate(third, triangle, across, down)
    inside = np.flatnonzero((b >= -1e-5) & (c >= -1e-5) & (b + c <= 1.00001))
    triangle, b, c, pixel = triangle[inside], b[inside], c[inside], (row * size + column)[inside]

    kept = faces[drawn]
    if (cover <= 0).any():
        covered = np.flatnonzero(_mix(cover[kept], triangle, b, c) > 0)
        triangle, b, c, pixel = triangle[covered], b[covered], c[covered], pixel[covered]
    depth = _mix(points[kept, 2], triangle, b, c)
    seen = _nearest(pixel, depth, size * size)
    b, c = b[seen], c[seen]
    return Fragments(pixel[seen], kept[triangle[seen]], np.stack([1 - b - c, b, c], 1).astype(np.float32))


def _boxes(left, top, width, height) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Box number, column and row of every pixel of every box."""
    count = width * height
    box = np.repeat(np.arange(len(count), dtype=np.int32), count)
    within = np.arange(len(box), dtype=np.int32) - np.repeat(np.cumsum(count) - count, count).astype(np.int32)
    row = within // width[box]
    return box, left[box] + within - row * width[box], top[box] + row


def _plane(along_x, along_y, x, y) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slopes and constant of linear functions that are 0 at (x, y), each (n,)."""
    return along_x, along_y, -(along_x * x + along_y * y)


def _evaluate(planes, which, x, y) -> np.ndarray:
    along_x, along_y, constant = planes
    return along_x[which] * x + along_y[which] * y + constant[which]


def _mix(values, triangle, b, c) -> np.ndarray:
    """Values (triangles, 3) at barycentric coordinates b and c."""
    first, second, third = values[triangle].T
    return first + b * (second - first) + c * (third - first)


def _nearest(pixel: np.ndarray, depth: np.ndarray, pixels: int) -> np.ndarray:
    """The index of the nearest candidate in each pixel that has one, in order of pixels."""
    nearness = ((2.0 - depth) * 1e8).astype(np.int64) << 28
    best = np.zeros(pixels, np.int64)
    np.maximum.at(best, pixel, nearness | np.arange(len(pixel)))
    return best[best > 0] & ((1 << 28) - 1)
