"""Evaluation of portraits whose likeness is known, by an embedding that can be worked out: a picture's colours."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from evaluation.evaluate import enlarged, evaluate
from evaluation.faces import first_clips, read_faces, second_clips
from evaluation.portraits import Drawing, read_drawings
from featurestore.errors import VoxportraitError
from featurestore.store import Store
from tests.evaluation.conftest import TEST_SPEAKERS, face_of


def colours(pictures):
    return pictures.reshape(len(pictures), 8, 16, 128, 3).mean((2, 3)).reshape(len(pictures), -1)


@pytest.fixture
def perfect(store, tmp_path):
    """Drawings that are the true faces themselves."""
    drawings = []
    for speaker, clip_id in first_clips(store).items():
        path = tmp_path / f"{speaker.replace('/', '-')}.png"
        Image.fromarray(face_of(int(speaker[-5:]), 0)).save(path)
        about = {"clip_id": clip_id, "system": "full-input", "cond_scale": 1.0, "checkpoints": []}
        drawings.append(Drawing(path, path, about))
    return drawings


def test_perfect_portraits_are_found_and_alike(store, perfect):
    result = evaluate(store, perfect, colours)
    assert result["gallery"]["speakers"] == TEST_SPEAKERS
    assert result["ranks"] == [1, 3]
    (row,) = result["systems"]
    assert (row["name"], row["cond_scale"], row["image_guide"], row["n"]) == ("full-input", 1.0, True, TEST_SPEAKERS)
    assert {k: r["value"] for k, r in row["recall"].items()} == {"1": 1.0, "3": 1.0}
    assert row["recall"]["3"]["random"] == 3 / TEST_SPEAKERS
    assert row["ssim"]["value"] == pytest.approx(1)
    assert row["psnr"]["value"] > 100


def test_references_stand_beside_the_systems(store, perfect):
    references = {row["name"]: row for row in evaluate(store, perfect, colours)["references"]}
    assert list(references) == ["another video", "enlarged guide", "average face"]
    assert references["another video"]["recall"]["1"]["value"] == 1
    assert references["another video"]["psnr"] is None
    assert references["enlarged guide"]["recall"]["1"]["value"] == 1
    assert references["average face"]["recall"]["1"]["hits"] == 1


def test_portraits_of_the_wrong_people_are_not_found(store, perfect):
    swapped = [replace(one, about=other.about) for one, other in zip(perfect, perfect[1:] + perfect[:1], strict=True)]
    (row,) = evaluate(store, swapped, colours)["systems"]
    assert row["recall"]["1"]["hits"] == 0
    assert row["psnr"]["value"] < 20


def test_drawn_portraits_are_evaluated_by_system_and_scale(store, drawn):
    result = evaluate(store, read_drawings(drawn), colours)
    rows = [(row["name"], row["cond_scale"], row["image_guide"]) for row in result["systems"]]
    assert rows == [("full-input", 1.0, True), ("full-input", 3.0, True), ("only-audio", 2.0, False)]


def test_without_a_guided_system_the_guide_is_no_reference(store, drawn):
    voices = [one for one in read_drawings(drawn) if one.system == "only-audio"]
    names = [row["name"] for row in evaluate(store, voices, colours)["references"]]
    assert names == ["another video", "average face"]


def test_portraits_of_two_checkpoints_are_not_mixed(store, perfect):
    other = replace(perfect[0], about={**perfect[0].about, "checkpoints": [{"step": 7}]})
    with pytest.raises(VoxportraitError, match="different checkpoints"):
        evaluate(store, [other, *perfect[1:]], colours)


def test_portraits_of_a_clip_that_is_gone_are_refused(store, perfect):
    gone = replace(perfect[0], about={**perfect[0].about, "clip_id": "made/id09999/video0/00001"})
    with pytest.raises(VoxportraitError, match="id09999"):
        evaluate(store, [gone], colours)


def test_an_empty_store_gives_an_empty_result(tmp_path):
    empty = Store.open_or_create(str(tmp_path / "empty"))
    assert evaluate(empty, [], colours) == {
        "gallery": {"speakers": 0, "embedding": "colours", "clip_ids": []},
        "ranks": [],
        "systems": [],
        "references": [],
    }


def test_faces_come_in_the_order_asked_for(store):
    first, second = first_clips(store), second_clips(store)
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
