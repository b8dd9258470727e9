"""People, faces and voices: functions of (seed, index), with the latents where they belong."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from featurestore.catalogue import ATTRIBUTES
from pipelines.population.anatomy import head_points
from pipelines.population.head import SKIN, load_head
from pipelines.population.look import draw_look
from pipelines.population.people import (
    LOWER_LATENTS,
    SHARED_LATENTS,
    UPPER_LATENTS,
    Person,
    draw_person,
    gender_label,
)
from pipelines.population.portrait import Sitter, draw_portrait
from pipelines.population.scene import NEUTRAL, draw_scene
from pipelines.population.voices import draw_voice, say, variant

SPLIT_BOTTOM, SPLIT_TOP = -0.022, -0.002


@pytest.fixture(scope="module")
def person() -> Person:
    return draw_person(0, 3)


@pytest.fixture(scope="module")
def crowd() -> list[Person]:
    return [draw_person(5, index) for index in range(1500)]


def moved_skin(person: Person, **change: Any) -> tuple[float, float]:
    """Greatest move in mm of the skin below and above the split when latents change."""
    head = load_head()
    move = 1000 * np.linalg.norm(head_points(replace(person, **change)) - head_points(person), axis=1)
    height, skin = head.place[:, 1], head.surface == SKIN
    return float(move[skin & (height < SPLIT_BOTTOM)].max()), float(move[skin & (height > SPLIT_TOP)].max())


def test_a_person_is_a_function_of_seed_and_index():
    assert draw_person(1, 2) == draw_person(1, 2)
    assert len({draw_person(seed, index).jaw for seed in (1, 2) for index in (1, 2)}) == 4
    assert draw_look(draw_person(1, 2)) == draw_look(draw_person(1, 2))


def test_labels_are_those_of_the_catalogue(crowd):
    assert {person.ethnicity for person in crowd} == {"black", "asian", "white"} < set(ATTRIBUTES["ethnicity"])
    assert {gender_label(person.gender) for person in crowd} == set(ATTRIBUTES["gender"])
    assert all(20 <= person.years <= 80 for person in crowd)
    assert replace(crowd[0], age=0.5).years == 50
    assert replace(crowd[0], african=0.2, asian=0.5, caucasian=0.3).ethnicity == "asian"


def test_upper_latents_are_independent_of_everything_below(crowd):
    latents = {name: np.array([getattr(person, name) for person in crowd]) for name in crowd[0].latents()}
    below = ("gender", "age", *SHARED_LATENTS, *LOWER_LATENTS)
    above = ("upper_gender", "upper_age", *UPPER_LATENTS)
    correlations = [abs(np.corrcoef(latents[a], latents[b])[0, 1]) for a in above for b in below]
    assert max(correlations) < 0.1


def test_gender_and_age_of_the_voice_stay_below_the_split(person):
    below, above = moved_skin(person, gender=1 - person.gender, age=1 - person.age)
    assert below > 2
    assert above == 0


def test_gender_and_age_of_the_upper_face_stay_above_the_split(person):
    below, above = moved_skin(person, upper_gender=1 - person.upper_gender, upper_age=1 - person.upper_age)
    assert below == 0
    assert above > 1


@pytest.mark.parametrize("latent", SHARED_LATENTS)
def test_shared_latents_move_the_lower_face(person, latent):
    below, above = moved_skin(person, **{latent: getattr(person, latent) + 1})
    assert below > 1
    assert above < below / 4


def test_hair_and_brows_follow_the_upper_gender_alone():
    person = draw_person(0, 3)
    looks = [draw_look(replace(person, index=i, upper_gender=0.9, upper_age=0.1)) for i in range(60)]
    assert all(look.hair_style != "long" for look in looks)
    looks = [draw_look(replace(person, index=i, gender=0.9, upper_gender=0.1)) for i in range(60)]
    assert sum(look.hair_style == "long" for look in looks) > 25


@pytest.mark.parametrize("latent", SHARED_LATENTS + LOWER_LATENTS + UPPER_LATENTS + ("upper_gender", "upper_age"))
def test_the_voice_hears_the_shared_latents_and_no_others(person, latent):
    changed = replace(person, **{latent: getattr(person, latent) * 0.5 + 0.3})
    assert (variant(draw_voice(changed)) != variant(draw_voice(person))) == (latent in SHARED_LATENTS)


def test_pitch_is_the_one_asked_for(crowd):
    """The median F0 of the speech is near the voice's, for a low and a high voice."""
    import librosa

    low, high = (pick(crowd[:200], key=lambda person: draw_voice(person).f0) for pick in (min, max))
    for person in (low, high):
        pitch = librosa.yin(say(person, 0).samples, fmin=50, fmax=500, sr=16000)
        assert np.median(pitch) == pytest.approx(draw_voice(person).f0, rel=0.2)


def test_speech_is_six_seconds_and_differs_from_video_to_video(person):
    first, second = say(person, 0), say(person, 1)
    assert first.samples.shape == (96000,)
    assert first.samples.dtype == np.float32
    assert np.abs(first.samples).max() == pytest.approx(0.8, abs=1e-3)
    assert first.text != second.text
    assert np.abs(np.corrcoef(first.samples, second.samples)[0, 1]) < 0.3


def test_pictures_are_the_same_again_and_have_no_holes(person):
    sitter, scene = Sitter.of(person), draw_scene(person, 0)
    picture = draw_portrait(sitter, scene).picture
    assert np.array_equal(picture, draw_portrait(Sitter.of(person), draw_scene(person, 0)).picture)
    assert not np.array_equal(picture, draw_portrait(sitter, draw_scene(person, 1)).picture)

    face = draw_portrait(sitter, replace(NEUTRAL, background=(0, 1, 0)), oversampling=2)
    left, top = face.face.min(0).astype(int)
    right, bottom = face.face.max(0).astype(int)
    middle = face.picture[top + 20 : bottom - 20, (left + right) // 2 - 25 : (left + right) // 2 + 25].astype(int)
    assert not (middle[..., 1] > middle[..., 0] + 60).any()
