"""Where and how one video was recorded: pose, light, background, clothes and room."""

from dataclasses import dataclass

import numpy as np

from pipelines.population.look import Colour
from pipelines.population.people import Person, stream


@dataclass(frozen=True)
class Scene:
    """yaw, pitch, roll: of the head, radians; scale: size of the head, 1 as usual; shift: of the picture, as fractions
    of the frame; light: direction of the light (right, up, towards the camera); ambient: share of light from
    everywhere; warmth: red against blue; background, clothes: colours; backdrop: seed of what is blurred behind."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    shift: tuple[float, float]
    light: tuple[float, float, float]
    ambient: float
    warmth: float
    background: Colour
    backdrop: int
    clothes: Colour


NEUTRAL = Scene(0, 0, 0, 1, (0, 0), (0.4, 0.5, 0.8), 0.45, 0, (0.55, 0.60, 0.65), 0, (0.35, 0.40, 0.50))
"""Seen from the front in plain light."""


def draw_scene(person: Person, video: int) -> Scene:
    """The scene of the person's video with this number."""
    random = stream(person.seed, "scene", person.index, video)
    return Scene(
        yaw=random.normal() * 0.22,
        pitch=random.normal() * 0.09,
        roll=random.normal() * 0.05,
        scale=1 + 0.07 * random.normal(),
        shift=tuple(random.normal(size=2) * 5 / 224),
        light=(random.normal() * 0.6, 0.35 + 0.3 * random.random(), 0.9),
        ambient=0.35 + 0.25 * random.random(),
        warmth=random.normal() * 0.03,
        background=_muted(random, 0.2, 0.8, saturation=0.35),
        backdrop=int(random.integers(1 << 31)),
        clothes=_muted(random, 0.1, 0.7, saturation=0.6),
    )


def _muted(random: np.random.Generator, dark: float, light: float, saturation: float) -> Colour:
    colour = random.uniform(dark, light, 3)
    return tuple(saturation * colour + (1 - saturation) * colour.mean())
