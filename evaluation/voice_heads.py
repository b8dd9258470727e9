"""The part study where the truth is known: synthetic people drawn from their voices by the simplest generator there is.

    people = [draw_person(0, index) for index in range(400)]
    generator = VoiceHeads.fit(voices[:200], people[:200])
    drawn = [generator.draw(voice, like=person) for voice, person in zip(voices[200:], people[200:])]
    head_distances(head_landmarks(people[200:]), head_landmarks(drawn))["jaw"]

It has everything of a person to learn, upper face and lower alike, and learns what the voice tells. In the population
the lower face follows the voice and the upper does not, by construction (`pipelines.population`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.part_looks import PART_POINTS
from evaluation.part_portraits import borrowed, studies
from evaluation.part_study import PARTS, published
from pipelines.population.anatomy import head_points
from pipelines.population.head import SKIN, load_head
from pipelines.population.people import Person, draw_person, gender_label
from pipelines.population.portrait import Portrait, Sitter, draw_portrait
from pipelines.population.scene import NEUTRAL, Scene

if TYPE_CHECKING:
    from evaluation.part_looks import PartLooks

HEADS = "mean distance of a part's landmarks on the known heads at rest, mm"
"""What `head_distances` are."""

SHARES = ("gender", "age", "upper_gender", "upper_age", "weight")
"""Latents that go from 0 to 1."""


@dataclass(frozen=True)
class VoiceHeads:
    """Ridge regression from features of the voice to every latent of a person; its strength is chosen for each latent
    by leave-one-out. nobody: (L,) the mean person of those it was fitted on: what is drawn without a voice."""

    latents: tuple[str, ...]
    ridge: Any
    nobody: np.ndarray

    @classmethod
    def fit(cls, voices: np.ndarray, people: Sequence[Person]) -> "VoiceHeads":
        """voices: (N, D) of N people."""
        from sklearn.linear_model import RidgeCV

        latents = np.array([list(person.latents().values()) for person in people])
        ridge = RidgeCV(np.logspace(-3, 2, 11), alpha_per_target=True).fit(voices.astype(np.float64), latents)
        return cls(tuple(people[0].latents()), ridge, latents.mean(0))

    def draw(self, voice: np.ndarray | None, like: Person) -> Person:
        """Who speaks with this voice, (D,); without one, nobody.

        What no latent tells (skin, hair, beard) is drawn anew, by a number of `like`'s that nothing else depends on,
        the same with a voice and without.
        """
        values = self.nobody if voice is None else self.ridge.predict(voice[None].astype(np.float64))[0]
        told = dict(zip(self.latents, map(float, values), strict=True))
        return Person(like.seed + 1, like.index, **told | {name: float(np.clip(told[name], 0, 1)) for name in SHARES})


def head_landmarks(people: Sequence[Person]) -> np.ndarray:
    """(N, 468, 3) landmarks of known heads at rest, mm from the point that heads have in common, behind the eyes."""
    marks = head_marks()
    return np.stack([1000 * head_points(person)[marks] for person in people])


def head_distances(landmarks: np.ndarray, others: np.ndarray) -> dict[str, np.ndarray]:
    """Part -> (N,) mm between the landmarks of N heads and N others. Neither size nor turn is taken away."""
    apart = np.linalg.norm(landmarks - others, axis=2)
    return {part: apart[:, list(PART_POINTS[part])].mean(1) for part in PARTS}


@cache
def head_marks() -> np.ndarray:
    """(468,) the vertex of the skin that lies at each landmark of Face Mesh, seen on a middling head from the front."""
    from pipelines.extractors.landmarks import FaceMesh
    from pipelines.population.camera import project, turn
    from pipelines.population.mesh import head_normals

    middling = _middling()
    size, head, points = 448, load_head(), head_points(middling)
    shown = draw_portrait(Sitter.of(middling), NEUTRAL, size=size)
    marks, _ = FaceMesh().find(shown.picture, _box(shown))
    towards_camera = (head_normals(points) @ turn(NEUTRAL).T)[:, 2] > 0.1
    seen = np.flatnonzero(towards_camera & (head.surface == SKIN) & (head.inside_mouth < 0.5))
    pixels = project(points[seen] @ turn(NEUTRAL).T, NEUTRAL, size)[:, :2]
    return seen[np.linalg.norm(pixels[None] - marks[:, None], axis=2).argmin(1)]


def photograph(person: Person, scene: Scene = NEUTRAL) -> np.ndarray:
    """(256, 256, 3) uint8 in the geometry of `face`, cut by the true box of the face, as a detector's would."""
    from pipelines.faces import PICTURE_SIZE, cut_face

    shown = draw_portrait(Sitter.of(person), scene)
    return cut_face(shown.picture, _box(shown), PICTURE_SIZE)


def hear(seed: int, count: int, progress: Callable[[int], None] | None = None) -> np.ndarray:
    """(count, 192) unit ECAPA embeddings of the first utterance of each of a population's people."""
    from pipelines.extractors.speechbrain import Ecapa
    from pipelines.population.voices import require_espeak, say

    require_espeak()
    network, heard = Ecapa(), []
    network.load("cpu")
    for index in range(count):
        heard += network.infer(say(draw_person(seed, index), 0).samples[None])
        if progress:
            progress(index + 1)
    return np.array([one / np.linalg.norm(one) for one in heard])


def study_heads(
    voices: np.ndarray,
    people: Sequence[Person],
    looks: "PartLooks | None" = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The study of `VoiceHeads`, as JSON: fitted on the first half of the people, drawn for the second.

    voices: (N, D) of N people. By the known heads, and by the measures of `looks` on photographs in plain light.
    progress: called with (photographs looked at, of how many).
    """
    half = len(people) // 2
    generator = VoiceHeads.fit(voices[:half], people[:half])
    unseen = people[half:]
    told = [generator.draw(voice, person) for voice, person in zip(voices[half:], unseen, strict=True)]
    untold = [generator.draw(None, person) for person in unseen]
    genders = [gender_label(person.gender) for person in unseen]
    heads, told_heads, plain_heads = (head_landmarks(some) for some in (unseen, told, untold))
    whose = borrowed(genders, seed)
    drawn_heads = [told_heads, plain_heads, *(told_heads[row] for row in whose)]
    measured = [{"heads": head_distances(heads, drawn)} for drawn in drawn_heads]
    if looks is not None:
        truths, shots, plain = ([photograph(person) for person in some] for some in (unseen, told, untold))
        for number, drawn in enumerate([shots, plain, *([shots[other] for other in row] for row in whose)]):

            def counted(done: int, before: int = number * len(unseen)) -> None:
                if progress:
                    progress(before + done, len(measured) * len(unseen))

            measured[number] |= looks.distances(zip(truths, drawn, strict=True), counted)
    about = {
        "generator": "ridge regression from the voice to the latents of synthetic people",
        "with": "the voice",
        "without": "nobody's voice: the mean person",
        "fitted_on": half,
        "seed": seed,
        "untrained": [],
    }
    return {
        **about,
        "studies": studies(measured, whose, genders),
        "published": published(),
    }


def _middling() -> Person:
    latents = dict.fromkeys(draw_person(0, 0).latents(), 0.0) | dict.fromkeys(SHARES, 0.5)
    return Person(0, 0, **latents | dict.fromkeys(("african", "asian", "caucasian"), 1 / 3))


def _box(shown: Portrait) -> Any:
    from pipelines.detectors import Box

    (left, top), (right, bottom) = shown.face.min(0), shown.face.max(0)
    return Box(float(left), float(top), float(right - left), float(bottom - top), 1.0)
