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
    assert sheet.shape == (3 * STEP - GAP, len(group) * STEP - GAP, 3)
    for i, one in enumerate(group):
        column = sheet[:, i * STEP : i * STEP + 128]
        (face,), (guide,) = read_faces(store, [one.clip_id])
        np.testing.assert_array_equal(column[:128], face)
        np.testing.assert_array_equal(column[STEP : STEP + 128 : 16, ::16], guide)
        np.testing.assert_array_equal(column[2 * STEP : 2 * STEP + 128], read_picture(one.picture))


def test_a_scale_without_portraits_is_an_error(store, drawn, tmp_path):
    with pytest.raises(VoxportraitError, match="scale 7"):
        portrait_sheet(store, read_drawings(drawn), 7.0, tmp_path / "sheet.png")
