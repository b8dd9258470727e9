"""People and their latents: everything that is true of a person, drawn from (seed, index) and nothing else."""

from dataclasses import asdict, dataclass
from zlib import crc32

import numpy as np

SHARED_LATENTS = ("jaw", "chin", "mouth", "nose")
"""Shape the lower face and the voice."""
LOWER_LATENTS = ("lips", "nose_length")
"""Shape the lower face alone."""
UPPER_LATENTS = (
    "eye_size",
    "eye_spacing",
    "eye_opening",
    "eye_tilt",
    "brow_height",
    "brow_depth",
    "brow_thickness",
    "brow_arch",
    "forehead_height",
    "forehead_depth",
    "cheekbones",
    "ear_size",
    "head_width",
)
"""Shape the upper face alone; nothing of them is in the voice."""

_ETHNICITY_OF_ANCESTRY = {"african": "black", "asian": "asian", "caucasian": "white"}


@dataclass(frozen=True)
class Person:
    """One person. Shape latents are standard normal, clipped to 2.2.

    gender: 0 (woman) to 1 (man), age: 0 to 1 (20 to 80 years): of the voice and the lower face, and what is told of the
    person; upper_gender, upper_age: a second, independent draw for everything above the nose, hair and brows included,
    without which gender and age would carry the voice into the upper face; african, asian, caucasian: shares of
    ancestry, summing to 1; weight: 0 (thin) to 1 (heavy).
    """

    seed: int
    index: int
    gender: float
    age: float
    upper_gender: float
    upper_age: float
    african: float
    asian: float
    caucasian: float
    weight: float
    jaw: float
    chin: float
    mouth: float
    nose: float
    lips: float
    nose_length: float
    eye_size: float
    eye_spacing: float
    eye_opening: float
    eye_tilt: float
    brow_height: float
    brow_depth: float
    brow_thickness: float
    brow_arch: float
    forehead_height: float
    forehead_depth: float
    cheekbones: float
    ear_size: float
    head_width: float

    @property
    def years(self) -> float:
        """Age in years."""
        return years(self.age)

    @property
    def is_man(self) -> bool:
        return self.gender > 0.5

    @property
    def has_mans_upper_face(self) -> bool:
        return self.upper_gender > 0.5

    @property
    def ancestry(self) -> tuple[float, float, float]:
        """Shares of african, asian and caucasian ancestry."""
        return self.african, self.asian, self.caucasian

    @property
    def ethnicity(self) -> str:
        """The label of the largest share of ancestry, among `featurestore.catalogue.ATTRIBUTES["ethnicity"]`."""
        return _ETHNICITY_OF_ANCESTRY[max(_ETHNICITY_OF_ANCESTRY, key=lambda ancestry: getattr(self, ancestry))]

    def latents(self) -> dict[str, float]:
        """Every latent by name."""
        return {name: value for name, value in asdict(self).items() if name not in ("seed", "index")}


def years(age: float) -> float:
    """Age 0..1 in years."""
    return 20 + 60 * age


def gender_label(gender: float) -> str:
    """`man` or `woman`, as in `featurestore.catalogue.ATTRIBUTES`."""
    return "man" if gender > 0.5 else "woman"


def stream(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """Random numbers for one purpose: the same for the same arguments, independent for any others."""
    return np.random.default_rng([seed, crc32(purpose.encode()), *key])


def normal(random: np.random.Generator) -> float:
    """One standard normal number, clipped to 2.2."""
    return float(np.clip(random.normal(), -2.2, 2.2))


def draw_person(seed: int, index: int) -> Person:
    """The person with this index in the population of this seed."""
    random = stream(seed, "person", index)
    gender, age = _gender_and_age(random)
    upper_gender, upper_age = _gender_and_age(random)
    african, asian, caucasian = map(float, random.dirichlet([0.22] * 3))
    weight = 0.5 + 0.18 * normal(random)
    latents = {name: normal(random) for name in SHARED_LATENTS + LOWER_LATENTS + UPPER_LATENTS}
    return Person(
        seed, index, gender, age, upper_gender, upper_age, african, asian, caucasian, weight=weight, **latents
    )


def _gender_and_age(random: np.random.Generator) -> tuple[float, float]:
    gender = (0.92 if random.random() < 0.5 else 0.08) + 0.06 * normal(random)
    return float(np.clip(gender, 0, 1)), float(random.beta(1.3, 1.8))
