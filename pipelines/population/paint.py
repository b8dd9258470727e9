"""Colours: what each fragment of a picture looks like, from the look, the place on the head and the light."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipelines.population.anatomy import smooth_step
from pipelines.population.hair import above_hairline
from pipelines.population.head import CLOTH, HAIR, LEFT_EYE, MOUTH_PARTS, RIGHT_EYE, SKIN, load_head
from pipelines.population.look import IRIS_COLOURS, Look
from pipelines.population.mesh import Mesh
from pipelines.population.raster import Fragments
from pipelines.population.scene import Scene
from pipelines.population.texture import mottle, strands

MOUTH_INSIDE, TONGUE = (0.16, 0.05, 0.05), (0.45, 0.20, 0.20)
EYE_WHITE = (0.93, 0.90, 0.88)
BLUSH = np.array((-0.01, 0.10, 0.09), np.float32)
THROUGH_SKIN = np.array((1.0, 0.82, 0.72), np.float32)
"""Light that has passed through skin comes out redder."""


Painter = Callable[[Fragments, np.ndarray, np.ndarray, "Light", Look, Scene], np.ndarray]


@dataclass(frozen=True)
class Light:
    """Light on n fragments: diffuse (n,) wrapped round the edge of the shadow; gloss (n,) the cosine to the mirrored
    light; upward (n,) the height of the normal; ambient the share of light that comes from everywhere."""

    diffuse: np.ndarray
    gloss: np.ndarray
    upward: np.ndarray
    ambient: float

    def __getitem__(self, chosen: np.ndarray) -> "Light":
        return Light(self.diffuse[chosen], self.gloss[chosen], self.upward[chosen], self.ambient)


def light_on(normals: np.ndarray, scene: Scene) -> Light:
    """The scene's light on surfaces with these normals: (n, 3) in the camera's axes, of any length."""
    unit = normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9)
    source = np.array(scene.light, np.float32) / np.float32(np.linalg.norm(scene.light))
    halfway = source + np.array((0, 0, 1), np.float32)
    diffuse = np.clip((unit @ source + 0.35) / 1.35, 0, None)
    return Light(diffuse, np.clip(unit @ (halfway / np.linalg.norm(halfway)), 0, 1), unit[:, 1], scene.ambient)


def paint(fragments: Fragments, mesh: Mesh, normals: np.ndarray, look: Look, scene: Scene) -> np.ndarray:
    """(n, 3) colours of the fragments, 0..1 and brighter; normals: (V, 3) of the mesh in the camera's axes."""
    light = light_on(fragments.of(normals), scene)
    surface = mesh.surface[fragments.corners[:, 0]]
    colours = np.empty((len(surface), 3), np.float32)
    painters: list[tuple[tuple[int, ...], Painter]] = [
        ((SKIN,), _skin),
        ((MOUTH_PARTS,), _mouth_parts),
        ((LEFT_EYE, RIGHT_EYE), _eyes),
        ((HAIR,), _hair),
        ((CLOTH,), _cloth),
    ]
    for surfaces, painter in painters:
        chosen = np.flatnonzero(np.isin(surface, surfaces))
        seen = fragments[chosen]
        angle, height = seen.of(mesh.place).T
        colours[chosen] = painter(seen, angle, height, light[chosen], look, scene)
    return colours


def _over(below: np.ndarray, colour, strength: np.ndarray) -> np.ndarray:
    """A colour laid over others with a strength (n,) of 0..1."""
    return below + strength[:, None] * (np.asarray(colour, np.float32) - below)


def _skin(seen: Fragments, angle, height, light: Light, look: Look, scene: Scene) -> np.ndarray:
    head = load_head()
    lips = seen.of(head.lips)
    inside = np.clip(seen.of(head.inside_mouth), 0, 1)
    noise = mottle(angle, height)
    skin = np.array(look.skin, np.float32) * (1 + 0.025 * noise[:, None])
    skin = _over(skin, look.lip, lips * look.lip_strength)
    skin = skin * (1 - _blush(angle, height)[:, None] * BLUSH)
    skin = _over(skin, look.brow_rgb, _brows(angle, height, look))
    if look.beard:
        skin = _over(skin, look.hair_rgb, _beard(angle, height, noise, look) * (1 - lips))
    if look.hair_style != "bald":
        skin = _over(
            skin, look.hair_rgb, _hair_roots(angle, height, look) * (1 - np.clip(seen.of(head.ears) * 3, 0, 1))
        )
    skin = skin * (1 - 0.12 * look.lid_shadow * seen.of(head.eyelids))[:, None]
    skin = _over(skin, MOUTH_INSIDE, inside)
    return _lit_skin(skin, light) + ((look.shine * light.gloss**22) * (1 - inside))[:, None]


def _mouth_parts(seen: Fragments, angle, height, light: Light, look: Look, scene: Scene) -> np.ndarray:
    return _lit_skin(np.tile(np.array(TONGUE, np.float32), (len(angle), 1)), light)


def _lit_skin(colour: np.ndarray, light: Light) -> np.ndarray:
    """Skin under the light, the edge of the shadow reddened by what passes through it."""
    diffuse = light.diffuse[:, None]
    reddened = diffuse + 0.12 * (1 - diffuse) * diffuse * (1 / THROUGH_SKIN - 0.5)
    around = (0.75 + 0.25 * light.upward)[:, None]
    return colour * (light.ambient * around + (1 - light.ambient) * 1.25 * reddened)


def _blush(angle, height) -> np.ndarray:
    """Strength of the red of cheeks and nose."""
    across = np.sin(angle) * 0.09
    cheeks = np.exp(-(((np.abs(across) - 0.042) / 0.018) ** 2) - ((height + 0.035) / 0.02) ** 2)
    return cheeks + 0.6 * np.exp(-((across / 0.014) ** 2) - ((height + 0.045) / 0.015) ** 2)


def _brows(angle, height, look: Look) -> np.ndarray:
    """Strength of the eyebrows, from the inner end to the outer, where they thin out."""
    along = (np.abs(np.sin(angle)) * 0.09 - 0.012) / 0.043
    on_brow = np.clip(along, 0, 1)
    middle = 0.0185 + look.brow_arch * 0.0065 * np.sin(on_brow * np.pi * 0.85) - 0.004 * along
    strength = np.exp(-(((height - middle) / (look.brow_thickness * (1 - 0.55 * on_brow))) ** 4))
    strength = strength * smooth_step(-0.1, 0.1, along) * smooth_step(1.08, 0.85, along)
    return 0.85 * np.clip(strength * (0.9 + 0.12 * strands(angle * 3, height * 3)), 0, 1)


def _beard(angle, height, noise, look: Look) -> np.ndarray:
    """Strength of the beard on jaw, chin and upper lip."""
    side = np.abs(angle)
    jaw = smooth_step(-0.045, -0.065, height) * smooth_step(1.6, 1.25, side) * smooth_step(-0.145, -0.125, height)
    moustache = np.exp(-(((height + 0.062) / 0.006) ** 2) - (np.sin(angle) * 0.09 / 0.026) ** 4)
    return np.clip(look.beard * np.maximum(jaw, moustache) * (0.95 + 0.05 * noise), 0, 1)


def _hair_roots(angle, height, look: Look) -> np.ndarray:
    """Strength of the hair on the scalp under the shell, frayed by its strands below the hairline."""
    above = above_hairline(look, angle, height) + 0.003 * strands(angle, height * 0.5)
    return 0.8 * smooth_step(-0.005, 0.006, above)


def _eyes(seen: Fragments, angle, height, light: Light, look: Look, scene: Scene) -> np.ndarray:
    across, _, up = seen.of(load_head().on_eye).T
    radius = np.hypot(across, up)
    eye = np.array(EYE_WHITE, np.float32) * (1 - 0.25 * smooth_step(0.5, 1.0, radius))[:, None]
    rim = 0.7 + 0.6 * smooth_step(0.15, 0.42, radius) * smooth_step(0.47, 0.38, radius)
    iris = np.array(IRIS_COLOURS[look.iris], np.float32) * rim[:, None]
    eye = eye + smooth_step(0.46, 0.40, radius)[:, None] * (iris - eye)
    eye = _over(eye, (0.03, 0.03, 0.03), smooth_step(0.21, 0.17, radius))
    eye = eye * (1 - 0.35 * smooth_step(0.1, 0.55, up))[:, None]
    glint = np.exp(-((across - 0.18) ** 2 + (up - 0.2) ** 2) / 0.006)
    return eye * (light.ambient + (1 - light.ambient) * 1.1 * light.diffuse)[:, None] + 0.8 * glint[:, None]


def _hair(seen: Fragments, angle, height, light: Light, look: Look, scene: Scene) -> np.ndarray:
    strand = strands(angle, height)
    lit = light.ambient * 0.9 + (1 - light.ambient) * 1.3 * light.diffuse
    sheen = 0.16 * light.gloss**10 * (1 + 0.5 * strand)
    colour = look.hair_rgb.astype(np.float32) * ((1 + 0.14 * strand) * lit)[:, None]
    return colour + sheen[:, None] * np.array((1, 0.95, 0.85), np.float32)


def _cloth(seen: Fragments, angle, height, light: Light, look: Look, scene: Scene) -> np.ndarray:
    lit = light.ambient + (1 - light.ambient) * 1.2 * light.diffuse
    return np.array(scene.clothes, np.float32) * lit[:, None]
