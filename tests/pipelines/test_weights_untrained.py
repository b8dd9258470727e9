"""Checkpoints that were never trained: marked, never put over others, and gone when real ones come."""

import pytest

from featurestore.errors import VoxportraitError
from pipelines import weights
from pipelines.untrained import WRITERS


def write_toy(folder):
    (folder / "a.pth").write_bytes(b"never trained")
    (folder / "b.yaml").write_text("settings: 1\n")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of a toy model of parameters and settings, which `write_toy` can write."""
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path))
    files = (weights.ModelFile("a.pth"), weights.ModelFile("b.yaml", learned=False))
    monkeypatch.setitem(weights.MODELS, "toy", weights.Model("toy", "a toy", "CC0-1.0", "nowhere", (), files))
    monkeypatch.setitem(WRITERS, "toy", (f"{__name__}:write_toy",))
    return tmp_path / "toy"


def test_untrained_files_are_marked_until_real_ones_come(place):
    assert weights.write_untrained("toy") == place == weights.ensure("toy")
    assert not weights.is_trained("toy")
    assert _states() == ["untrained", "untrained"]
    assert [row["trained"] for row in weights.status() if row["name"] == "toy"] == [False]
    identity = weights.digest("toy")
    assert weights.write_untrained("toy") == place
    assert weights.digest("toy") == identity
    assert list(place.parent.iterdir()) == [place]

    (place / "a.pth").write_bytes(b"trained")
    assert weights.is_trained("toy")
    assert _states() == ["unpinned", "untrained"]
    assert weights.digest("toy") != identity


def test_nothing_else_is_overwritten(place):
    place.mkdir()
    (place / "a.pth").write_bytes(b"trained")
    with pytest.raises(VoxportraitError, match=r"a\.pth .* will not be overwritten"):
        weights.write_untrained("toy")
    assert (place / "a.pth").read_bytes() == b"trained"
    assert weights.is_trained("toy")


def test_a_pinned_model_may_be_untrained_but_not_pass_for_the_pinned_one(place, monkeypatch):
    pinned = weights.digest("face_landmarks")
    monkeypatch.setitem(WRITERS, "face_landmarks", (f"{__name__}:write_landmarks",))
    folder = weights.write_untrained("face_landmarks")
    assert weights.ensure("face_landmarks") == folder
    assert not weights.is_trained("face_landmarks")
    assert weights.digest("face_landmarks") != pinned
    assert {row["state"] for row in weights.verify(["face_landmarks"])} == {"untrained"}
    assert weights.fetch(["face_landmarks"]) == ["face_landmarks"]
    assert weights.is_trained("face_landmarks")
    assert weights.digest("face_landmarks") == pinned
    assert {row["state"] for row in weights.verify(["face_landmarks"])} == {"good"}


def write_landmarks(folder):
    for file in weights.MODELS["face_landmarks"].files:
        (folder / file.name).write_bytes(b"never trained")


def test_an_unreadable_mark_lets_nothing_pass_for_trained(place):
    weights.write_untrained("toy")
    (place / "UNTRAINED.json").write_text("{")
    for ask in (weights.is_trained, weights.digest, weights.ensure):
        with pytest.raises(VoxportraitError, match=r"UNTRAINED\.json cannot be read"):
            ask("toy")


@pytest.mark.parametrize("name", ["fastmtcnn", "dlib"])
def test_models_that_nothing_writes_say_so(name):
    with pytest.raises(VoxportraitError, match=r"no untrained form.*titanet"):
        weights.write_untrained(name)


def test_every_writer_is_of_a_model():
    assert set(WRITERS) <= set(weights.MODELS)


def _states():
    return [row["state"] for row in weights.verify(["toy"])]
