"""Evaluation of portraits whose likeness is known, by an embedding that can be worked out: a picture's colours."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from evaluation.evaluate import enlarged, evaluate
from evaluation.faces import Faces, read_faces
from evaluation.gallery import ANOTHER_VIDEO, SAME_FRAME, galleries
from evaluation.judges import Recogniser
from evaluation.portraits import Drawing, read_drawings
from featurestore.errors import VoxportraitError
from featurestore.store import Store
from tests.evaluation.conftest import TEST_SPEAKERS, face_of


def colours(pictures):
    return pictures.reshape(len(pictures), 8, 16, 128, 3).mean((2, 3)).reshape(len(pictures), -1)


BY_COLOUR = [Recogniser("colours", colours)]
KEY = "colours-l2"


def clips_of(store, gallery):
    return {one.name: one for one in galleries(Faces.of(store).rows)}[gallery].clips


@pytest.fixture
def perfect(store, tmp_path):
    """Drawings that are the true faces themselves."""
    drawings = []
    for speaker, clip_id in clips_of(store, SAME_FRAME).items():
        path = tmp_path / f"{speaker.replace('/', '-')}.png"
        Image.fromarray(face_of(int(speaker[-5:]), 0)).save(path)
        about = {"clip_id": clip_id, "system": "full-input", "cond_scale": 1.0, "checkpoints": []}
        drawings.append(Drawing(path, path, about))
    return drawings


def test_perfect_portraits_are_found_and_alike(store, perfect):
    result = evaluate(store, perfect, BY_COLOUR)
    assert {name: one["speakers"] for name, one in result["galleries"].items()} == {
        SAME_FRAME: TEST_SPEAKERS,
        ANOTHER_VIDEO: TEST_SPEAKERS,
    }
    assert result["recognisers"] == {KEY: {"name": "colours", "metric": "l2", "untrained": False}}
    assert result["ranks"] == [1, 3]
    (row,) = result["systems"]
    assert (row["name"], row["cond_scale"], row["image_guide"], row["n"]) == ("full-input", 1.0, True, TEST_SPEAKERS)
    for gallery in (SAME_FRAME, ANOTHER_VIDEO):
        recall = row["recall"][gallery][KEY]
        assert {k: r["value"] for k, r in recall.items()} == {"1": 1.0, "3": 1.0}
        assert recall["3"]["random"] == 3 / TEST_SPEAKERS
    assert row["ssim"]["value"] == pytest.approx(1)
    assert row["psnr"]["value"] > 100


def test_references_stand_beside_the_systems(store, perfect):
    references = {row["name"]: row for row in evaluate(store, perfect, BY_COLOUR)["references"]}
    assert list(references) == ["another video", "enlarged guide", "average face"]
    assert references["another video"]["recall"][SAME_FRAME][KEY]["1"]["value"] == 1
    assert references["another video"]["psnr"] is None
    assert references["enlarged guide"]["recall"][SAME_FRAME][KEY]["1"]["value"] == 1
    assert references["average face"]["recall"][SAME_FRAME][KEY]["1"]["hits"] == 1


def test_portraits_of_the_wrong_people_are_not_found(store, perfect):
    swapped = [replace(one, about=other.about) for one, other in zip(perfect, perfect[1:] + perfect[:1], strict=True)]
    (row,) = evaluate(store, swapped, BY_COLOUR)["systems"]
    assert row["recall"][SAME_FRAME][KEY]["1"]["hits"] == 0
    assert row["psnr"]["value"] < 20


def test_drawn_portraits_are_evaluated_by_system_and_scale(store, drawn):
    result = evaluate(store, read_drawings(drawn), BY_COLOUR)
    rows = [(row["name"], row["cond_scale"], row["image_guide"]) for row in result["systems"]]
    assert rows == [("full-input", 1.0, True), ("full-input", 3.0, True), ("only-audio", 2.0, False)]


def test_without_a_guided_system_the_guide_is_no_reference(store, drawn):
    voices = [one for one in read_drawings(drawn) if one.system == "only-audio"]
    names = [row["name"] for row in evaluate(store, voices, BY_COLOUR)["references"]]
    assert names == ["another video", "average face"]


def test_portraits_of_two_checkpoints_are_not_mixed(store, perfect):
    other = replace(perfect[0], about={**perfect[0].about, "checkpoints": [{"step": 7}]})
    with pytest.raises(VoxportraitError, match="different checkpoints"):
        evaluate(store, [other, *perfect[1:]], BY_COLOUR)


def test_portraits_of_a_clip_that_is_gone_are_refused(store, perfect):
    gone = replace(perfect[0], about={**perfect[0].about, "clip_id": "made/id09999/video0/00001"})
    with pytest.raises(VoxportraitError, match="id09999"):
        evaluate(store, [gone], BY_COLOUR)


def test_a_store_without_faces_is_refused(tmp_path):
    empty = Store.open_or_create(str(tmp_path / "empty"))
    with pytest.raises(VoxportraitError, match="no clip"):
        evaluate(empty, [], BY_COLOUR)


def test_faces_come_in_the_order_asked_for(store):
    first, second = clips_of(store, SAME_FRAME), clips_of(store, ANOTHER_VIDEO)
    assert list(first) == sorted(first)
    assert [c.split("/")[2] for c in second.values()] == ["video1"] * TEST_SPEAKERS
    clip_ids = list(first.values())[::-1]
    faces, guides = read_faces(store, clip_ids)
    for face, guide, clip_id in zip(faces, guides, clip_ids, strict=True):
        np.testing.assert_array_equal(face, face_of(int(clip_id[7:12]), 0))
        np.testing.assert_array_equal(guide, face[8::16, 8::16])


def test_enlarging_keeps_plain_colours():
    guides = np.full((2, 8, 8, 3), 77, np.uint8)
    np.testing.assert_array_equal(enlarged(guides), np.full((2, 128, 128, 3), 77))
