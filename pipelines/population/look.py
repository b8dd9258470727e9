"""What a person looks like beside the shape of the head: skin, hair, brows, beard, eyes."""

from dataclasses import dataclass

import numpy as np

from pipelines.population.people import Person, normal, stream

Colour = tuple[float, float, float]
"""Red, green and blue, 0..1."""

SKIN_DARK, SKIN_LIGHT = np.array([0.36, 0.215, 0.145]), np.array([0.98, 0.76, 0.64])
SKIN_TONE_OF_ANCESTRY = (0.20, 0.78, 0.90)
HAIR_COLOURS = {
    "black": (0.07, 0.055, 0.05),
    "dark brown": (0.16, 0.10, 0.07),
    "brown": (0.33, 0.20, 0.11),
    "blond": (0.62, 0.47, 0.28),
    "red": (0.42, 0.17, 0.08),
}
GREY_HAIR = (0.62, 0.61, 0.60)
IRIS_COLOURS = {
    "brown": (0.16, 0.09, 0.05),
    "hazel": (0.28, 0.16, 0.07),
    "green": (0.30, 0.36, 0.22),
    "blue": (0.30, 0.45, 0.60),
}
HAIR_STYLES = ("bald", "cropped", "short", "long")


@dataclass(frozen=True)
class Look:
    """Hair, brows and eyes follow the upper face's gender and age; lips and beard those of the lower.

    hair_style: one of `HAIR_STYLES`; hair_colour, iris: names of `HAIR_COLOURS` and `IRIS_COLOURS`; grey: share of grey
    hair 0..1; hair_volume: metres from the scalp; hairline: its height over the eyes, metres; hairline_peak: how far it
    dips in the middle; hair_parting: angle from the front where long hair begins; hair_length: metres below the eyes;
    beard: 0 (shaven) to 1; brow_thickness: metres; brow_arch: relative; lid_shadow, shine, lip_strength: 0..2.
    """

    skin: Colour
    lip: Colour
    lip_strength: float
    lid_shadow: float
    shine: float
    hair_style: str
    hair_colour: str
    grey: float
    hair_volume: float
    hairline: float
    hairline_peak: float
    hair_parting: float
    hair_length: float
    brow_thickness: float
    brow_arch: float
    beard: float
    iris: str

    @property
    def hair_rgb(self) -> np.ndarray:
        return np.array(HAIR_COLOURS[self.hair_colour]) * (1 - self.grey) + np.array(GREY_HAIR) * self.grey

    @property
    def brow_rgb(self) -> np.ndarray:
        """Brows are darker than the hair and grey later."""
        return np.array(HAIR_COLOURS[self.hair_colour]) * 0.8 * (1 - 0.6 * self.grey) + 0.3 * self.grey


def draw_look(person: Person) -> Look:
    """The person's look: a function of the person alone."""
    random = stream(person.seed, "look", person.index)
    light_ancestry = person.caucasian > 0.5
    tone = float(np.clip(np.dot(person.ancestry, SKIN_TONE_OF_ANCESTRY) + 0.06 * normal(random), 0.05, 1))
    skin = ((1 - tone) * SKIN_DARK + tone * SKIN_LIGHT) * (1 + 0.04 * normal(random))
    lip = skin * (0.86, 0.62, 0.60) + (0.05, 0.01, 0.02) + 0.03 * normal(random) * np.array((1, -0.5, -0.4))
    hair_weights = (0.15, 0.30, 0.25, 0.20, 0.10) if light_ancestry else (0.60, 0.24, 0.10, 0.03, 0.03)
    iris_weights = (0.25, 0.25, 0.25, 0.25) if light_ancestry else (0.75, 0.25, 0, 0)
    man_above = person.has_mans_upper_face
    style = str(random.choice(HAIR_STYLES, p=_style_weights(person)))
    volume = 0.0035 + 0.002 * random.random() if style == "cropped" else 0.009 + 0.012 * random.random()
    receding = 0.010 * max(0.0, person.upper_age - 0.3) if man_above else 0.0
    return Look(
        skin=tuple(np.clip(skin, 0, 1)),
        lip=tuple(np.clip(lip, 0, 1)),
        lip_strength=0.55 + 0.2 * random.random() if person.is_man else 0.85 + 0.15 * random.random(),
        lid_shadow=random.random() + (0.0 if man_above else 1.0),
        shine=0.07 + 0.08 * random.random(),
        hair_style=style,
        hair_colour=str(random.choice(list(HAIR_COLOURS), p=hair_weights)),
        grey=float(np.clip((person.upper_age - 0.55) * 2.2, 0, 1) * random.uniform(0.4, 1)),
        hair_volume=volume,
        hairline=0.068 + 0.006 * normal(random) + receding,
        hairline_peak=0.006 * normal(random),
        hair_parting=1.15 + 0.25 * random.random(),
        hair_length=0.05 + 0.12 * random.uniform(0.2, 1),
        brow_thickness=float(
            np.clip(0.0036 + 0.0007 * person.brow_thickness + (0.0006 if man_above else -0.0005), 0.002, 0.0058)
        ),
        brow_arch=float(np.clip(0.8 + 0.5 * person.brow_arch, -0.3, 1.9)),
        beard=random.uniform(0.25, 0.8) if person.is_man and random.random() < 0.35 else 0.0,
        iris=str(random.choice(list(IRIS_COLOURS), p=iris_weights)),
    )


def _style_weights(person: Person) -> tuple[float, float, float, float]:
    if not person.has_mans_upper_face:
        return 0.0, 0.05, 0.25, 0.70
    bald = 0.08 + 0.20 * person.upper_age
    return bald, 0.30, 0.70 - bald, 0.0
