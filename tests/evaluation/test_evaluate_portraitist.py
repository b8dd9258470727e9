"""Evaluation of Fine-portraitist's portraits: of another size, in more galleries, by feature distances, for copies."""

import json

import numpy as np
import pytest
from PIL import Image

from evaluation.copying import training_rows
from evaluation.evaluate import evaluate
from evaluation.faces import Faces, read_pictures
from evaluation.families import family_of, rows_of
from evaluation.gallery import ANOTHER_VIDEO, EVERY_IMAGE, IDENTITY_MEAN, OTHER_IMAGES, SAME_FRAME, galleries
from evaluation.judges import AttributeJudge, Recogniser
from evaluation.likeness import feature_distances
from evaluation.portraits import Drawing
from evaluation.sweep import Source, best_rows
from featurestore.conditioning import LAYOUTS
from featurestore.errors import VoxportraitError
from featurestore.exporting import export
from featurestore.exports import ExportRecords
from tests.evaluation.conftest import TEST_SPEAKERS, face_of
from tests.evaluation.test_evaluate import BY_COLOUR, KEY, by_brightness, clips_of, true_drawings

PRIORS = {speaker: f"made/id{speaker - 6:05d}/video0/00001" for speaker in range(7, 12)}
"""Who each of the test speakers leans on."""


def drawings_of(store, folder, shown, system="fine-portraitist", exclusion="identity", side=64):
    """Drawings of the test speakers; shown: (speaker, prior's speaker) -> (128, 128, 3) what is drawn of them."""
    drawings = []
    folder.mkdir(parents=True, exist_ok=True)
    for clip_id in clips_of(store, SAME_FRAME).values():
        speaker = int(clip_id[7:12])
        prior = PRIORS[speaker]
        path = folder / f"{speaker}.png"
        Image.fromarray(shown(speaker, int(prior[7:12]))).resize((side, side), Image.Resampling.BOX).save(path)
        retrieval = {"exclusion": exclusion, "clip_id": exclusion and prior, "similarity": exclusion and 0.5}
        about = {"clip_id": clip_id, "system": system, "cond_scale": 1.0, "checkpoints": [], "retrieval": retrieval}
        drawings.append(Drawing(path, {}, about))
    return drawings


def own(speaker, prior):
    return face_of(speaker, 0)


def copied(speaker, prior):
    return face_of(prior, 0)


@pytest.fixture(scope="module")
def judged(store, tmp_path_factory):
    """True portraits by one system, copies of the prior by another under two policies, SLF's beside them."""
    folder = tmp_path_factory.mktemp("drawn")
    drawings = [
        *drawings_of(store, folder / "one", own, "one-stage", None),
        *drawings_of(store, folder / "video", copied, exclusion="video", side=128),
        *drawings_of(store, folder / "identity", own),
    ]
    (folder / "slf").mkdir()
    drawings += true_drawings(store, folder / "slf")
    return evaluate(store, drawings, BY_COLOUR, AttributeJudge("brightness", by_brightness))


def row_of(result, name, exclusion=None):
    (row,) = [row for row in result["systems"] if (row["name"], row["exclusion"]) == (name, exclusion)]
    return row


def test_rows_are_by_system_scale_and_exclusion_in_the_papers_order(judged):
    rows = [(row["name"], row["cond_scale"], row["exclusion"], row["family"]) for row in judged["systems"]]
    assert rows == [
        ("full-input", 1.0, None, "slf"),
        ("one-stage", 1.0, None, "fine-portraitist"),
        ("fine-portraitist", 1.0, "video", "fine-portraitist"),
        ("fine-portraitist", 1.0, "identity", "fine-portraitist"),
    ]
    assert best_rows(judged)["fine-portraitist"]["exclusion"] == "identity"


def test_each_family_is_judged_at_its_size_in_its_galleries_at_its_ranks(judged):
    slf, portraitist = judged["families"]["slf"], judged["families"]["fine-portraitist"]
    assert (slf["picture"], slf["side"], slf["galleries"]) == ("target", 128, [SAME_FRAME, ANOTHER_VIDEO])
    assert (portraitist["picture"], portraitist["side"]) == ("face", 256)
    sizes = {name: (one["speakers"], one["images"]) for name, one in judged["galleries"].items()}
    assert sizes == {
        SAME_FRAME: (5, 5), ANOTHER_VIDEO: (5, 5), EVERY_IMAGE: (5, 10), OTHER_IMAGES: (5, 10), IDENTITY_MEAN: (5, 5),
    }  # fmt: skip
    assert list(row_of(judged, "full-input")["recall"]) == [SAME_FRAME, ANOTHER_VIDEO]
    found = {name: list(by[KEY]) for name, by in row_of(judged, "fine-portraitist", "identity")["recall"].items()}
    assert found == {
        SAME_FRAME: ["1", "2"], ANOTHER_VIDEO: ["1", "2"], EVERY_IMAGE: ["1", "2", "5"],
        OTHER_IMAGES: ["1", "2", "5"], IDENTITY_MEAN: ["1", "2"],
    }  # fmt: skip
    assert judged["ranks"] == [1, 2, 3, 5]


def test_guessing_knows_how_many_images_of_a_speaker_there_are(judged):
    recall = row_of(judged, "one-stage")["recall"]
    assert recall[EVERY_IMAGE][KEY]["1"]["random"] == pytest.approx(2 / 10)
    assert recall[EVERY_IMAGE][KEY]["2"]["random"] == pytest.approx(1 - (8 * 7) / (10 * 9))
    assert recall[OTHER_IMAGES][KEY]["1"]["random"] == pytest.approx(1 / 9)
    assert recall[IDENTITY_MEAN][KEY]["1"]["random"] == 1 / 5


def test_portraits_are_enlarged_and_true_ones_found_in_every_gallery(judged):
    for name, exclusion in (("one-stage", None), ("fine-portraitist", "identity")):
        row = row_of(judged, name, exclusion)
        assert all(by[KEY]["1"]["value"] == 1 for by in row["recall"].values())
        assert row["psnr"]["value"] > 20
    assert row_of(judged, "fine-portraitist", "video")["recall"][IDENTITY_MEAN][KEY]["1"]["value"] < 1


def test_feature_distances_are_those_of_the_recogniser(judged, store):
    near, far = (row_of(judged, "fine-portraitist", by)["features"]["colours"] for by in ("identity", "video"))
    assert set(near) == {"l1", "l2", "cosine", "degrees"}
    assert all(near[key]["value"] < far[key]["value"] / 5 for key in near)
    assert far["l2"]["low"] <= far["l2"]["value"] <= far["l2"]["high"]
    assert far["l2"]["n"] == TEST_SPEAKERS
    references = {(row["name"], row["family"]): row for row in judged["references"]}
    assert "features" not in references["true face", "fine-portraitist"]
    assert references["another video", "fine-portraitist"]["features"]["colours"]["l2"]["value"] == pytest.approx(
        20 * np.sqrt(24), rel=0.02
    )


def test_distances_are_worked_out_by_hand():
    found = feature_distances(np.array([[3.0, 4.0], [np.nan, 0]]), np.array([[4.0, 3.0], [1, 1]]))
    assert {key: one["n"] for key, one in found.items()} == dict.fromkeys(("l1", "l2", "cosine", "degrees"), 1)
    assert found["l1"]["value"] == 2
    assert found["l2"]["value"] == pytest.approx(np.sqrt(2))
    assert found["cosine"]["value"] == pytest.approx(1 - 24 / 25)
    assert found["degrees"]["value"] == pytest.approx(np.degrees(np.arccos(24 / 25)))
    assert feature_distances(np.full((1, 2), np.nan), np.ones((1, 2))) == {}


def test_ages_within_ten_years_are_counted(judged):
    told = row_of(judged, "fine-portraitist", "identity")["attributes"]["age_within_10"]["judged"]
    assert (told["hits"], told["n"]) == (TEST_SPEAKERS, TEST_SPEAKERS)


def test_a_copy_is_told_from_a_portrait(judged):
    drawn, copy = (row_of(judged, "fine-portraitist", by) for by in ("identity", "video"))
    assert drawn["prior"] == {
        "n": 5, "gone": 0, "own": 0, "faces": 5, "similarity": {"n": 5, "value": 0.5, "low": 0.5, "high": 0.5},
    }  # fmt: skip
    assert drawn["copying"][KEY]["nearer_to_prior"]["value"] == 0
    for asked in ("nearer_to_prior", "prior_is_nearest", "prior_person_is_nearest"):
        assert copy["copying"][KEY][asked]["value"] == 1, asked
    assert copy["copying"][KEY]["nearest"] == {
        f"made/id{speaker:05d}/video0/00001": prior for speaker, prior in PRIORS.items()
    }
    alone = row_of(judged, "one-stage")
    assert alone["prior"]["n"] == 0
    assert alone["copying"][KEY]["nearer_to_prior"] is None
    assert len(alone["copying"][KEY]["nearest"]) == TEST_SPEAKERS
    assert "copying" not in row_of(judged, "full-input")
    faces = judged["families"]["fine-portraitist"]["training_faces"]["colours"]
    assert faces == {"n": 12, "about": "all 12 faces"}


def test_the_retrieved_faces_are_a_reference_once_an_exclusion(judged):
    rows = [row for row in judged["references"] if row["name"] == "retrieved face"]
    assert [row["exclusion"] for row in rows] == ["video", "identity"]
    copies = row_of(judged, "fine-portraitist", "video")
    assert rows[0]["recall"][SAME_FRAME][KEY]["1"]["hits"] == copies["recall"][SAME_FRAME][KEY]["1"]["hits"]


def test_few_training_faces_are_taken_evenly_and_with_every_prior(store, tmp_path):
    drawings = drawings_of(store, tmp_path, copied)
    result = evaluate(store, drawings, BY_COLOUR, training_faces=4)
    faces = result["families"]["fine-portraitist"]["training_faces"]["colours"]
    assert faces == {"n": 7, "about": "7 of 12 faces, evenly, and every retrieved one"}
    assert result["systems"][0]["copying"][KEY]["prior_is_nearest"]["value"] == 1


def test_a_prior_that_is_not_here_is_counted_and_left_out(store, tmp_path):
    drawings = drawings_of(store, tmp_path, own)
    drawings[0].about["retrieval"]["clip_id"] = "made/id00099/video0/00001"
    (row,) = evaluate(store, drawings, BY_COLOUR)["systems"]
    assert (row["prior"]["n"], row["prior"]["gone"]) == (5, 1)
    assert row["copying"][KEY]["nearer_to_prior"]["n"] == 4


def test_ranks_may_be_chosen(store, tmp_path):
    result = evaluate(store, drawings_of(store, tmp_path, own), BY_COLOUR, ranks=(1, 4))
    assert list(result["systems"][0]["recall"][SAME_FRAME][KEY]) == ["1", "4"]
    assert result["ranks"] == [1, 4]


def test_an_export_with_the_pictures_says_what_its_store_says(store, tmp_path):
    drawings = drawings_of(store, tmp_path / "drawn", copied)
    layout, both = LAYOUTS["slf"].only("age", "gender"), ("train", "test")
    path, lacking = tmp_path / "faces.safetensors", tmp_path / "lacking.safetensors"
    export(store, path, layout, ("face",), missing="zero", splits=both)
    found = evaluate(Source(export=path).judged, drawings, BY_COLOUR)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(evaluate(store, drawings, BY_COLOUR)))
    export(store, lacking, layout, missing="zero", splits=both)
    with pytest.raises(VoxportraitError, match=r"holds no picture 'face'.*--pictures face"):
        evaluate(ExportRecords(lacking, missing="zero", split="test"), drawings, BY_COLOUR)


def test_pictures_are_read_of_any_split_and_none_of_what_is_gone(store, tmp_path):
    asked = ["made/id00001/video0/00001", "made/id09999/video0/00001", "made/id00008/video1/00001"]
    path = tmp_path / "faces.safetensors"
    export(store, path, LAYOUTS["slf"].only("age"), ("face",), missing="zero", splits=("train", "test"))
    stored, exported = read_pictures(store, asked), read_pictures(Source(export=path).judged, asked)
    for one, other in zip(stored, exported, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.shape == (256, 256, 3)
            assert np.abs(one.astype(int) - other).mean() < 1
    assert stored[1] is None


def test_images_of_the_own_video_are_passed_over():
    clip_ids = ["a/x/1/1", "a/x/1/2", "a/x/2/1", "a/y/1/1"]
    every, others, mean = galleries(clip_ids, names=(EVERY_IMAGE, OTHER_IMAGES, IDENTITY_MEAN))
    seen, place = np.array([[0.0], [0.2], [9.0], [3.0]]), {clip_id: i for i, clip_id in enumerate(clip_ids)}

    def find(gallery):
        return gallery.find(np.array([[0.1], [0.1]]), ["a/x/1/1", "a/y/1/1"], seen, place, "l2")

    assert find(every).place.tolist() == [1, 3]
    assert find(others).place.tolist() == [2, 0]
    assert find(others).among.tolist() == [2, 3]
    assert find(mean).place.tolist() == [2, 1]
    assert [len(one) for one in (every, others, mean)] == [4, 4, 2]


def test_training_faces_are_of_those_who_were_trained_on(store):
    """Of portraits of the training split themselves, it is that split."""
    test, train = Faces.of(store, picture="face"), Faces.of(store, "train", "face")
    assert training_rows(test) == training_rows(train) == train.rows


def test_drawings_without_a_word_on_retrieval_are_one_row(store, tmp_path):
    drawings = drawings_of(store, tmp_path, own, "two-stage", None)
    for one in drawings:
        one.about.pop("retrieval")
    assert list(rows_of(drawings)) == [("two-stage", 1.0, None)]
    assert family_of("two-stage").name == "fine-portraitist"
    assert evaluate(store, drawings, [Recogniser("colours", BY_COLOUR[0].embed)])["systems"][0]["prior"]["n"] == 0
