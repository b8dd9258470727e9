"""A person before the camera: one picture of a face with an expression, in a scene."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from pipelines.population.anatomy import head_points
from pipelines.population.camera import project, turn
from pipelines.population.hair import hair_curtain, hair_shell
from pipelines.population.head import CLOTH, load_head
from pipelines.population.look import Look, draw_look
from pipelines.population.mesh import Mesh, head_normals, join, sheet
from pipelines.population.paint import paint
from pipelines.population.people import Person
from pipelines.population.raster import rasterise
from pipelines.population.scene import Scene

GAMMA = 1.15
NO_ACTIONS: Mapping[str, float] = {}


@dataclass(frozen=True)
class Sitter:
    """A person ready to be drawn many times: vertices of the head at rest (V, 3) and the look."""

    points: np.ndarray
    look: Look

    @classmethod
    def of(cls, person: Person) -> "Sitter":
        return cls(head_points(person), draw_look(person))

    def mesh(self, actions: Mapping[str, float] = NO_ACTIONS) -> Mesh:
        """Head and hair with facial actions (anny's names -> strength 0..1); the head's V vertices come first."""
        head = load_head()
        points = self.points
        for name, strength in actions.items():
            points = points + head.actions[name] * np.float32(strength)
        normals = head_normals(points)
        skull = Mesh(points, normals, head.faces, head.surface, head.place, np.ones(len(points), np.float32))
        if self.look.hair_style == "bald":
            return skull
        shell = hair_shell(self.look, points, normals)
        return join([skull, shell, hair_curtain(self.look)] if self.look.hair_style == "long" else [skull, shell])


@dataclass(frozen=True)
class Portrait:
    """picture: (size, size, 3) uint8 RGB; face: (n, 2) x and y in pixels of the face's vertices."""

    picture: np.ndarray
    face: np.ndarray


def draw_portrait(
    sitter: Sitter,
    scene: Scene,
    actions: Mapping[str, float] = NO_ACTIONS,
    size: int = 224,
    oversampling: float = 1,
    margin: int = 0,
) -> Portrait:
    """Draw the sitter, shoulders and background.

    size: of the picture, pixels; oversampling: draw that many times larger and average; margin: pixels of the picture
    beyond each edge of the scene's frame. Expression: see `Sitter.mesh`.
    """
    mesh, turned = sitter.mesh(actions), turn(scene)
    body = _shoulders()
    points = np.concatenate([mesh.points @ turned.T, body.points])
    normals = np.concatenate([mesh.normals @ turned.T, body.normals])
    everything = join([mesh, body])
    large = round(size * oversampling)
    pixels = project(points, scene, large, large * margin / size)
    fragments = rasterise(pixels, everything.faces, everything.cover, large)
    canvas = _background(scene, large)
    canvas.reshape(-1, 3)[fragments.pixels] = paint(fragments, everything, normals, sitter.look, scene)
    canvas *= np.array((1 + scene.warmth, 1, 1 - scene.warmth), np.float32)
    if large != size:
        canvas = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    picture = (np.clip(canvas, 0, 1) ** np.float32(1 / GAMMA) * 255 + 0.5).astype(np.uint8)
    face = np.flatnonzero(load_head().face > 0.5)
    return Portrait(picture, pixels[face, :2] * (size / large))


@cache
def _shoulders() -> Mesh:
    """A torso that does not turn with the head, in the camera's axes: the upper part of an ellipsoid."""
    middle, radii = np.array((0, -0.285, -0.10)), np.array((0.20, 0.155, 0.10))
    around, down = np.meshgrid(np.linspace(0, 2 * np.pi, 28), np.linspace(0.02, np.pi * 0.6, 14))
    unit = np.stack([np.sin(down) * np.cos(around), np.cos(down), np.sin(down) * np.sin(around)], -1)
    return sheet(middle + radii * unit, unit / radii, CLOTH, np.zeros((*around.shape, 2)))


def _background(scene: Scene, size: int) -> np.ndarray:
    """(size, size, 3) a wall in the scene's light with blurred things before it."""
    blurred = np.random.default_rng(scene.backdrop).normal(size=(5, 5, 1)).astype(np.float32)
    things = cv2.resize(blurred, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
    down = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    across = np.linspace(-1, 1, size, dtype=np.float32)[None, :, None]
    sideways = scene.light[0] / np.linalg.norm(scene.light)
    brightness = 1.08 - 0.25 * down - 0.12 * (across - 0.5 * sideways) ** 2 + 0.09 * things
    return (brightness * np.array(scene.background, np.float32)).astype(np.float32)
