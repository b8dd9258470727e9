import numpy as np
import pytest
from PIL import Image

from evaluation.faces import read_faces
from evaluation.portraits import by_system_and_scale, read_drawings, read_picture
from evaluation.sheet import GAP, portrait_sheet
from featurestore.errors import VoxportraitError

STEP = 128 + GAP


def test_the_sheet_shows_face_guide_and_portrait_below_one_another(store, drawn, tmp_path):
    drawings = read_drawings(drawn)
    group = by_system_and_scale(drawings)["full-input", 3.0]
    with Image.open(portrait_sheet(store, drawings, 3.0, tmp_path / "sheet.png")) as picture:
        assert "generated" in picture.info["Description"]
        sheet = np.asarray(picture)
    assert sheet.shape[0] >= 3 * STEP - GAP
    assert sheet.shape[1:] == (len(group) * STEP - GAP, 3)
    for i, one in enumerate(group):
        column = sheet[:, i * STEP : i * STEP + 128]
        (face,), (guide,) = read_faces(store, [one.clip_id])
        np.testing.assert_array_equal(column[:128], face)
        np.testing.assert_array_equal(column[STEP : STEP + 128 : 16, ::16], guide)
        np.testing.assert_array_equal(column[2 * STEP : 2 * STEP + 128], read_picture(one.picture))


def test_untrained_inputs_are_named_on_the_sheet(store, drawn, tmp_path):
    drawings = read_drawings(drawn)
    assert all(drawing.about["untrained"] == ["ecapa"] for drawing in drawings)
    with Image.open(portrait_sheet(store, drawings, 3.0, tmp_path / "said.png")) as picture:
        assert "untrained weights, without meaning: ecapa" in picture.info["Description"]
        said = np.asarray(picture)
    for drawing in drawings:
        drawing.about["untrained"] = []
    with Image.open(portrait_sheet(store, drawings, 3.0, tmp_path / "silent.png")) as picture:
        assert "untrained" not in picture.info["Description"]
        silent = np.asarray(picture)
    np.testing.assert_array_equal(said[: len(silent)], silent)
    assert (said[len(silent) :] < 64).any()


def test_a_scale_without_portraits_is_an_error(store, drawn, tmp_path):
    with pytest.raises(VoxportraitError, match="scale 7"):
        portrait_sheet(store, read_drawings(drawn), 7.0, tmp_path / "sheet.png")
