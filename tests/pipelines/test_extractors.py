"""Extractors: the libraries' own numbers, unscaled, in the catalogue's shapes, for one clip whatever came before."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from featurestore.catalogue import CATALOGUE
from featurestore.clip import Clip
from featurestore.errors import UsageError
from pipelines.decoding import Media
from pipelines.extractors import AVAILABLE, extractors_for
from pipelines.faces import Face, FaceFinder
from pipelines.recipe import Recipe
from pipelines.sample import Sample
from tests.conftest import TRAINED


@pytest.fixture(scope="module")
def sample(talking_head) -> Sample:
    finder = FaceFinder(Recipe())
    finder.load("cpu")
    return Sample(talking_head, finder.find)


def with_sound(sample: Sample, sound: np.ndarray) -> Sample:
    """The same clip with another sound."""
    other = Sample(sample.clip, nobody)
    other.sound = sound
    return other


def nobody(clip: Clip, media: Media) -> Face:
    raise AssertionError("no face was asked for")


@pytest.fixture(scope="module")
def values(sample) -> dict:
    made: dict[str, Any] = {}
    for extractor in extractors_for(TRAINED):
        extractor.load("cpu")
        made |= extractor.extract(sample)
    return made


def test_arrays_have_the_catalogue_s_shapes(values):
    arrays = {key: CATALOGUE[key] for key in TRAINED if CATALOGUE[key].shape}
    assert {key: values[key].shape for key in arrays} == {key: c.shape for key, c in arrays.items()}
    assert {key: values[key].dtype for key in arrays} == {
        key: np.dtype("float32" if c.dtype == "float16" else c.dtype) for key, c in arrays.items()
    }
    assert values["face_128_guide"].shape == (8, 8, 3)


def test_nothing_overflows_half_precision(values):
    for key in ("ecapa", "mel", "short_term", "face_embedding_dlib"):
        assert np.abs(values[key]).max() < np.finfo(np.float16).max
    full_scale = np.sign(np.sin(2 * np.pi * 440 * np.arange(384_000) / 16_000)).astype(np.float32)
    from pipelines.extractors.librosa import _mel

    assert _mel(full_scale).max() < 1_000


def test_media_and_corpus_values(values, talking_head):
    assert len(values["media_sha256"]) == 64
    assert values["media_duration"] > 1
    assert (values["age"], values["gender"]) == (talking_head.corpus_age, talking_head.corpus_gender)
    assert values["ethnicity"] == talking_head.corpus_ethnicity
    assert values["age_probability"] is None


def test_short_term_features_are_the_library_s(values, sample):
    from pyAudioAnalysis import ShortTermFeatures

    window = ShortTermFeatures.dc_normalize(sample.sound.astype(np.float64))[4_800 * 7 : 4_800 * 7 + 8_000]
    expected = [ShortTermFeatures.zero_crossing_rate(window), ShortTermFeatures.energy(window)]
    np.testing.assert_allclose(values["short_term"][7, :2], expected, rtol=1e-4)
    np.testing.assert_allclose(np.diff(values["short_term"][:, :34], axis=0), values["short_term"][1:, 34:], atol=1e-5)


def test_mel_is_unscaled_power(values, sample):
    quiet = with_sound(sample, sample.sound / 2)
    (mel,) = extractors_for(["mel"])
    np.testing.assert_allclose(mel.extract(quiet)["mel"], values["mel"] / 4, rtol=1e-3, atol=1e-6)


def test_speech_is_the_first_six_seconds(values, sample):
    np.testing.assert_array_equal(values["speech"] / 32_768, sample.sound[:96_000])


def test_a_clip_s_embedding_does_not_depend_on_what_came_before(values, sample):
    (ecapa,) = extractors_for(["ecapa"])
    ecapa.load("cpu")
    ecapa.extract(with_sound(sample, np.random.default_rng(0).normal(0, 0.1, 384_000).astype(np.float32)))
    np.testing.assert_array_equal(ecapa.extract(sample)["ecapa"], values["ecapa"])


def test_portraits_are_embedded_like_the_faces_they_show(values, sample):
    from pipelines.extractors.dlib import embed_faces

    embedded = embed_faces(np.stack([values["face_128"], values["face_128"][::-1]]))
    assert (embedded.shape, embedded.dtype) == ((2, 128), np.float32)
    distance = np.linalg.norm(embedded - values["face_embedding_dlib"], axis=1)
    assert distance[0] < 0.35 < distance[1]
    assert embed_faces(np.empty((0, 128, 128, 3), np.uint8)).shape == (0, 128)


def test_makers_are_cheap_and_the_same_in_every_process():
    code = """
import json, sys
from pipelines.extractors import extractors_for
from tests.conftest import TRAINED
digests = {key: maker.digest for x in extractors_for(TRAINED) for key, maker in x.makers().items()}
heavy = [name for name in ("torch", "speechbrain", "librosa", "dlib", "cv2", "matplotlib") if name in sys.modules]
print(json.dumps([digests, heavy]))
"""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    digests, heavy = json.loads(other.stdout)
    assert heavy == []
    assert digests == {key: maker.digest for x in extractors_for(TRAINED) for key, maker in x.makers().items()}
    assert set(digests) == set(TRAINED)
    assert len(set(digests.values())) == len(digests)


def test_an_extractor_that_makes_two_comes_once():
    assert [extractor.name for extractor in extractors_for(["face_128", "face"])] == ["face"]


def test_an_unknown_constituent_is_misuse():
    with pytest.raises(UsageError, match="Did you mean 'ecapa'"):
        extractors_for(["ekapa"])


def test_everything_in_the_catalogue_has_an_extractor_that_says_so():
    assert set(AVAILABLE) == set(CATALOGUE)
    for attributes in ("corpus", "deepface"):
        for key in AVAILABLE:
            (extractor,) = extractors_for([key], Recipe(attributes=attributes))
            assert key in extractor.makes
