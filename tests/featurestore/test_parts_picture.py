"""The picture of faces' parts: what is outside the bottom is black, and whose faces it shows is known."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from featurestore import artifacts, inprocess
from featurestore.cli import app
from featurestore.errors import UsageError
from featurestore.face_parts import bottom_mask
from featurestore.filling import Want
from featurestore.makers import Maker
from featurestore.parts_picture import panels
from featurestore.store import Store
from tests.featurestore.conftest import clip

LANDMARKS = np.load(Path(__file__).parent / "data" / "face_landmarks.npy")


@pytest.fixture
def face() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, (256, 256, 3), dtype=np.uint8)


def test_the_bottom_is_exactly_zero_above_its_line_and_the_face_below(face):
    whole, tinted, edged, bottom = panels(face, LANDMARKS)
    mask = bottom_mask(LANDMARKS, 256)
    assert not bottom[~mask].any()
    np.testing.assert_array_equal(bottom[mask], face[mask])
    np.testing.assert_array_equal(whole, face)
    assert (tinted != face).any()
    assert (edged != face).any()


def test_the_command_draws_some_faces_of_a_split_and_tells_the_store_whose(tmp_path, face):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(clip(n) for n in range(12))
    jpeg = cv2.imencode(".jpg", face)[1].tobytes()
    wants = [Want(key, Maker(key, "made-up", "numpy", trained=False)) for key in ("face", "face_parts")]
    inprocess.fill(store, wants, lambda *_: {"face": jpeg, "face_parts": LANDMARKS})
    out = tmp_path / "pictures" / "parts.png"
    draw = lambda *more: CliRunner().invoke(
        app, ["parts", "--store", store.uri, "--out", str(out), "--split", "train", *more]
    )
    assert draw("--most", "2").exit_code == 0
    with Image.open(out) as picture:
        assert picture.width == 960
    assert len(artifacts.made_from(store, "picture", out)) == 2
    refused = draw("--clip", "made/nobody/video/00001").exception
    assert isinstance(refused, UsageError)
    assert "nobody" in str(refused)
