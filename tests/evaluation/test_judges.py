"""Judges on rendered people: recognisers find them again, untrained ones say so, what is not there is said."""

import numpy as np
import pytest

from evaluation.fid import FEATURES, RELIABLE, Fid
from evaluation.judges import deepface_attributes, recogniser, recogniser_names
from evaluation.metrics import ranks
from evaluation.truth import FROM_CORPUS
from featurestore.errors import UsageError, VoxportraitError
from pipelines import weights
from pipelines.detectors import Box
from pipelines.extractors.corpus import CorpusAttribute
from pipelines.extractors.dlib import TARGET_BOX, DlibFaces
from pipelines.faces import Face
from pipelines.population.people import draw_person
from pipelines.population.portrait import Sitter, draw_portrait
from pipelines.population.scene import draw_scene

PEOPLE = 6


@pytest.fixture(scope="module")
def pictures():
    """(2, 6, 128, 128, 3): six people as `face_128`, in two scenes."""

    def target(person, video):
        drawn = draw_portrait(Sitter.of(person), draw_scene(person, video), size=256)
        (left, top), (right, bottom) = drawn.face.min(0), drawn.face.max(0)
        return Face(0, Box(left, top, right - left, bottom - top, 1.0), drawn.picture).target_128

    people = [draw_person(7, index) for index in range(PEOPLE)]
    return np.stack([[target(person, video) for person in people] for video in (0, 1)])


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A models folder with what packages carry and one model that was never trained."""
    (tmp_path / "dlib").symlink_to(weights.ensure("dlib"))
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path))
    weights.write_untrained("deepid")
    return tmp_path


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_dlib_finds_people_again_in_another_scene(pictures, metric):
    dlib = recogniser("dlib", metric)
    assert (dlib.key, dlib.untrained) == (f"dlib-{metric}", False)
    embedded = [dlib.embed(some) for some in pictures]
    assert (ranks(embedded[0], embedded[1], range(PEOPLE), metric) == 1).sum() >= 5


def test_dlib_s_batches_are_its_single_answers(pictures):
    faces = DlibFaces()
    together = faces.embed_all(pictures[0], TARGET_BOX)
    np.testing.assert_array_equal(together[4], faces.embed(pictures[0, 4], TARGET_BOX))
    assert faces.embed_all([], TARGET_BOX).shape == (0, 128)


def test_an_untrained_recogniser_says_so(pictures, models):
    deepid = recogniser("deepid", "cosine", "cpu")
    assert deepid.untrained
    embedded = deepid.embed(pictures[0])
    assert embedded.shape == (PEOPLE, 160)
    np.testing.assert_allclose(deepid.embed(pictures[0, 2:3])[0], embedded[2], rtol=1e-4, atol=1e-6)


def test_what_is_not_there_is_said(models):
    with pytest.raises(VoxportraitError, match=r"arcface_weights\.pth"):
        recogniser("arcface")
    with pytest.raises(UsageError, match="Known: dlib, vgg_face, facenet"):
        recogniser("eigenfaces")
    with pytest.raises(UsageError, match="metric 'l1'"):
        recogniser("dlib", "l1")
    assert recogniser_names()[0] == "dlib"
    deepface_attributes.cache_clear()
    judge = deepface_attributes("cpu")
    deepface_attributes.cache_clear()
    assert judge.judge(np.zeros((2, 128, 128, 3), np.uint8)) == {}
    assert set(judge.absent) == {"age", "gender", "ethnicity"}
    assert "models fetch gender" in judge.absent["gender"] or "gender_model_weights.pth" in judge.absent["gender"]


def test_the_corpus_s_own_makers_are_known():
    for key, digest in FROM_CORPUS.items():
        assert CorpusAttribute(key).makers()[key].digest == digest


def test_fid_tells_faces_from_noise(pictures):
    fid = Fid.load("cpu")
    noise = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    real, other, wild = (fid.features(some) for some in (pictures[0, :3], pictures[1, :3], noise))
    assert real.shape == (3, FEATURES)
    near, far = ((real.mean(0) - some.mean(0)) ** 2 for some in (other, wild))
    assert 5 * near.sum() < far.sum()


def test_the_distance_is_the_one_of_two_gaussians():
    """In four dimensions, against its formula with a matrix's own square root."""
    from scipy.linalg import sqrtm

    fid, random = Fid(lambda pictures: pictures), np.random.default_rng(0)
    one, other = random.normal(0, 1, (50, 4)), random.normal(1, 2, (60, 4))
    a, b = np.cov(one.T), np.cov(other.T)
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    told = fid.judge(one, other) or {}
    assert told["value"] == pytest.approx(expected, rel=1e-6)
    assert (told["n"], told["reference"], told["reliable"]) == (50, 60, False)
    assert fid.judge(one[:1], other) is None
    many = random.normal(0, 1, (RELIABLE, 2))
    same = fid.judge(many, many) or {}
    assert same["reliable"]
    assert same["value"] == pytest.approx(0, abs=1e-6)
