"""The population holds what it promises: real ECAPA embeddings tell the lower face and nothing of the upper.

The embeddings are a checked-in fixture; `make_voices_fixture.py` makes it, and the slow test makes a part of it again.
"""

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict

from pipelines.population.people import UPPER_LATENTS, draw_person
from tests.pipelines.make_voices_fixture import FIXTURE, SEED, load_ecapa, mean_embedding


@pytest.fixture(scope="module")
def voices() -> dict[str, np.ndarray]:
    with np.load(FIXTURE) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def told_by_the_voice(voices) -> dict[str, float]:
    """R2 of each latent by ridge regression from the embedding, five folds, people held out."""
    truth = voices["latents"]
    ridge = RidgeCV(np.logspace(-3, 2, 11), alpha_per_target=True)
    folds = KFold(5, shuffle=True, random_state=0)
    guess = cross_val_predict(ridge, voices["embeddings"].astype(float), truth, cv=folds)
    scores = 1 - ((guess - truth) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)
    return dict(zip(map(str, voices["names"]), scores, strict=True))


def test_the_fixture_is_of_the_people_as_they_are_now(voices):
    assert voices["embeddings"].shape == (200, 192)
    people = [draw_person(SEED, index).latents() for index in range(200)]
    assert list(people[0]) == list(voices["names"])
    np.testing.assert_allclose(voices["latents"], [list(person.values()) for person in people], rtol=1e-6)


@pytest.mark.parametrize("latent", ["jaw", "mouth", "nose", "gender", "age"])
def test_the_voice_tells_the_lower_face(told_by_the_voice, latent):
    assert told_by_the_voice[latent] > 0.3


@pytest.mark.parametrize("latent", [*UPPER_LATENTS, "upper_gender", "upper_age"])
def test_the_voice_tells_nothing_of_the_upper_face(told_by_the_voice, latent):
    assert told_by_the_voice[latent] < 0.05


@pytest.mark.slow
def test_the_fixture_can_be_made_again(voices):
    from pipelines.weights import ensure

    encoder = load_ecapa(ensure("ecapa"))
    for index in (0, 57, 113, 199):
        again, stored = mean_embedding(encoder, index), voices["embeddings"][index].astype(float)
        cosine = again @ stored / (np.linalg.norm(again) * np.linalg.norm(stored))
        assert cosine > 0.999
