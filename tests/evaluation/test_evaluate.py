"""Evaluation of portraits whose likeness is known, by an embedding that can be worked out: a picture's colours."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from evaluation.evaluate import JUDGED, TRUTH, enlarged, evaluate
from evaluation.faces import Faces, read_faces
from evaluation.gallery import ANOTHER_VIDEO, SAME_FRAME, galleries
from evaluation.judges import AttributeJudge, Recogniser
from evaluation.portraits import Drawing, read_drawings
from evaluation.sweep import Source
from featurestore import inprocess
from featurestore.clip import Clip
from featurestore.conditioning import LAYOUTS
from featurestore.errors import VoxportraitError
from featurestore.exporting import export
from featurestore.exports import ExportRecords
from featurestore.filling import Want
from featurestore.jobs import Job
from featurestore.makers import Maker
from featurestore.store import Store
from tests.evaluation.conftest import TEST_SPEAKERS, face_of, values


def colours(pictures):
    side = pictures.shape[1]
    return pictures.reshape(len(pictures), 8, side // 8, side, 3).mean((2, 3)).reshape(len(pictures), -1)


BY_COLOUR = [Recogniser("colours", colours)]
KEY = "colours-l2"


def clips_of(store, gallery):
    return {one.name: one for one in galleries(Faces.of(store).rows)}[gallery].clips


def true_drawings(store, folder):
    """Drawings that are the true faces themselves."""
    drawings = []
    for speaker, clip_id in clips_of(store, SAME_FRAME).items():
        path = folder / f"{speaker.replace('/', '-')}.png"
        Image.fromarray(face_of(int(speaker[-5:]), 0)).save(path)
        about = {"clip_id": clip_id, "system": "full-input", "cond_scale": 1.0, "checkpoints": []}
        drawings.append(Drawing(path, {"coarse": path}, about))
    return drawings


def wrong(drawings):
    """Each with the picture of the next one."""
    return [
        replace(one, picture=other.picture) for one, other in zip(drawings, [*drawings[1:], drawings[0]], strict=True)
    ]


@pytest.fixture
def perfect(store, tmp_path):
    return true_drawings(store, tmp_path)


@pytest.fixture(scope="module")
def big_store(tmp_path_factory):
    """Twelve test speakers with two videos each."""
    made = Store.open_or_create(str(tmp_path_factory.mktemp("big") / "store"))
    made.register(
        Clip(f"made/id{speaker:05d}/video{video}/00001", "/nowhere.mp4", "test")
        for speaker in range(12)
        for video in range(2)
    )
    wants = [Want(key, Maker(key, f"maker of {key}", "numpy", "f00d" * 16)) for key in ("face", "face_128")]
    inprocess.fill(made, wants, lambda clip, wanted: values(clip), Job(made, "fill").job_id)
    return made


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
    assert list(references) == ["another video", "true face", "enlarged guide", "average face"]
    assert references["true face"]["recall"][ANOTHER_VIDEO][KEY]["1"]["value"] == 1
    assert (list(references["another video"]["recall"]), list(references["true face"]["recall"])) == (
        [SAME_FRAME],
        [ANOTHER_VIDEO],
    )
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
    assert names == ["another video", "true face", "average face"]


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


def by_brightness(pictures):
    """A judge of attributes whose answers can be worked out: of the first pixel's colours."""
    red, green, blue = pictures[:, 0, 0].astype(int).T
    return {"age": red / 2.0, "gender": green % 2, "ethnicity": blue % 6}


def test_attributes_are_judged_against_the_judge_on_the_true_face(store, perfect):
    judge = AttributeJudge("brightness", by_brightness, absent={"shoe size": "nobody tells it"})
    result = evaluate(store, perfect, BY_COLOUR, judge)
    assert result["attributes"]["against"] == {"judged": JUDGED}
    assert result["attributes"]["absent"] == {"shoe size": "nobody tells it"}
    (row,) = result["systems"]
    assert {key: row["attributes"][key]["judged"]["value"] for key in ("gender", "ethnicity", "age_group")} == {
        "gender": 1,
        "ethnicity": 1,
        "age_group": 1,
    }
    assert row["attributes"]["age_rmse"]["judged"] == {"n": TEST_SPEAKERS, "value": 0, "low": 0, "high": 0}
    (average,) = [one for one in result["references"] if one["name"] == "average face"]
    faces = np.stack([face_of(int(clip[7:12]), 0) for clip in result["galleries"][SAME_FRAME]["clip_ids"]])
    others = np.stack([face_of(n, video) for n in range(1, 7) for video in (0, 1)])
    one, true = by_brightness(np.rint(others.mean(0)).astype(np.uint8)[None]), by_brightness(faces)
    assert average["attributes"]["gender"]["judged"]["hits"] == (one["gender"] == true["gender"]).sum()
    assert average["attributes"]["age_rmse"]["judged"]["value"] == pytest.approx(
        np.sqrt(((one["age"] - true["age"]) ** 2).mean())
    )


def test_without_a_judge_there_are_no_attributes(store, perfect):
    result = evaluate(store, perfect, BY_COLOUR)
    assert "attributes" not in result
    assert all("attributes" not in row for row in (*result["systems"], *result["references"]))


@pytest.fixture
def known_people(tmp_path):
    """A store whose corpus states gender and age, and an export of it."""
    made = Store.open_or_create(str(tmp_path / "known"))
    clips = [
        Clip(
            f"made/id{speaker:05d}/video{video}/00001",
            "/nowhere.mp4",
            "test" if speaker >= 2 else "train",
            corpus_gender="man" if speaker % 2 else "woman",
            corpus_age=21.0 + 10 * (speaker % 2),
        )
        for speaker in range(6)
        for video in range(2)
    ]
    made.register(clips)
    wants = [Want(key, Maker(key, f"maker of {key}", "numpy", "f00d" * 16)) for key in ("face", "face_128")]
    wants += [Want(key, Maker(key, "corpus metadata", "")) for key in ("age", "gender")]

    def make(clip, wanted):
        return {**values(clip), "age": clip.corpus_age, "gender": clip.corpus_gender}

    inprocess.fill(made, wants, make, Job(made, "fill").job_id)
    path = tmp_path / "known.safetensors"
    export(made, path, LAYOUTS["slf"].only("age", "gender"), missing="zero", splits=("train", "test"))
    return made, path


def test_the_corpus_s_truth_is_compared_with_and_groups_people(known_people, tmp_path):
    """From the store's columns and from an export's labels, of whom the makers say that the corpus gave them."""
    made, path = known_people

    def says_man(pictures):
        return {"age": np.full(len(pictures), 27.0), "gender": np.zeros(len(pictures), int)}

    drawings = true_drawings(made, tmp_path)
    judge = AttributeJudge("man of 27", says_man, untrained=("gender",))
    result = evaluate(made, drawings, BY_COLOUR, judge)
    assert result["attributes"]["against"] == {"judged": JUDGED, "truth": TRUTH}
    assert result["attributes"]["untrained"] == ["gender"]
    assert result["groups"] == {"gender": TRUTH, "age_group": TRUTH}
    (row,) = result["systems"]
    assert row["attributes"]["gender"]["judged"]["value"] == 1
    assert (row["attributes"]["gender"]["truth"]["hits"], row["attributes"]["gender"]["truth"]["n"]) == (2, 4)
    assert row["attributes"]["age_group"]["truth"]["value"] == 0.5
    assert row["attributes"]["age_rmse"]["truth"]["value"] == pytest.approx(np.sqrt((6**2 + 4**2) / 2))
    assert {name: group["n"] for name, group in row["groups"]["gender"].items()} == {"man": 2, "woman": 2}
    assert row["groups"]["age_group"]["30-39"]["recall"][ANOTHER_VIDEO][KEY]["1"]["n"] == 2
    records = ExportRecords(path, missing="zero", split="test", held_out="train")
    assert evaluate(records, drawings, BY_COLOUR, judge) == result


def test_the_average_face_is_of_others_whatever_the_split(known_people, tmp_path):
    """Of an export that lacks the training split, those that it has."""
    made, path = known_people
    for split, others in (("train", 8), ("test", 4)):
        assert len(Faces.of(Source(export=path, split=split).judged).records.held_out) == others
    train = Faces.of(made, "train")
    assert not set(train.records.clip_ids(train.records.held_out)) & set(train.rows)
    assert len(Faces.of(made, "test").records.held_out) == 4


def test_a_bare_machine_judges_by_an_export(known_people, tmp_path):
    made, path = known_people
    drawings = true_drawings(made, tmp_path)
    listed = [{"picture": str(one.picture), "about": one.about} for one in drawings]
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "lance", "lancedb", "pyarrow"):
            raise ModuleNotFoundError(f"{{name}} is not on this machine", name=name)
sys.meta_path.insert(0, Blocked())
import json
from pathlib import Path
from evaluation.evaluate import evaluate
from evaluation.judges import AttributeJudge, Recogniser
from evaluation.portraits import Drawing
from featurestore.exports import ExportRecords
drawings = [Drawing(Path(one["picture"]), {{}}, one["about"]) for one in {listed!r}]
def colours(pictures):
    return pictures.reshape(len(pictures), 8, 16, 128, 3).mean((2, 3)).reshape(len(pictures), -1)
records = ExportRecords({str(path)!r}, missing="zero", split="test", held_out="train")
print(json.dumps(evaluate(records, drawings, [Recogniser("colours", colours)])))
"""
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=alone, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(evaluate(made, drawings, BY_COLOUR)))


def test_speakers_of_one_video_are_in_one_gallery_alone(store, perfect):
    both = galleries(
        ["a/x/1/1", "a/x/1/2", "a/y/1/1", "a/y/2/1", "a/z/1/1", "a/z/2/1", "a/z/3/1"], drawn=["a/y/2/1", "a/z/1/1"]
    )
    assert {gallery.name: dict(gallery.clips) for gallery in both} == {
        SAME_FRAME: {"a/x": "a/x/1/1", "a/y": "a/y/2/1", "a/z": "a/z/1/1"},
        ANOTHER_VIDEO: {"a/y": "a/y/1/1", "a/z": "a/z/2/1"},
    }
    assert [gallery.name for gallery in galleries(["a/x/1/1"])] == [SAME_FRAME]


def test_who_is_in_no_gallery_is_not_counted(tmp_path, known_people):
    made, _ = known_people
    faces = Faces.of(made)
    drawings = true_drawings(made, tmp_path)
    both_videos = [one for one in faces.rows if "id00002" in one]
    again = replace(drawings[0], about={**drawings[0].about, "clip_id": both_videos[1]})
    result = evaluate(made, [*drawings, again], BY_COLOUR)
    assert result["galleries"][ANOTHER_VIDEO]["speakers"] == 3
    assert "1 drawn clips are another one" in result["galleries"][SAME_FRAME]["about"]
    (row,) = result["systems"]
    assert (row["n"], row["recall"][SAME_FRAME][KEY]["1"]["n"], row["recall"][ANOTHER_VIDEO][KEY]["1"]["n"]) == (
        5,
        5,
        3,
    )


def test_what_an_input_brings_is_compared_at_equal_scales_and_at_the_best(big_store, tmp_path):
    """Twelve people: with the guide they are found, without it half are taken for another."""
    right = true_drawings(big_store, tmp_path)
    scales = {("full-input", 1.0): right[:6] + wrong(right[6:]), ("full-input", 2.0): right}
    scales |= {("no-image-guide", 1.0): wrong(right[:6]) + right[6:], ("no-image-guide", 3.0): wrong(right)}
    drawings = [
        replace(one, about={**one.about, "system": system, "cond_scale": scale})
        for (system, scale), group in scales.items()
        for one in group
    ]
    found = evaluate(big_store, drawings, BY_COLOUR)["significance"]
    assert [(one["about"], one["gallery"], one["recogniser"]) for one in found] == [
        ("image guide", SAME_FRAME, KEY),
        ("image guide", ANOTHER_VIDEO, KEY),
    ]
    for one in found:
        (equal,) = one["at_equal_scales"]
        assert equal["scale"] == 1.0
        assert -20 < equal["value"] < 20  # six of twelve are found first by either
        assert equal["low"] is None or equal["low"] < 0 < equal["high"]
        best = one["at_best"]
        assert (best["scale_all"], best["scale_without"]) == (2.0, 1.0)
        assert best["value"] > 60


def test_two_metrics_of_one_recogniser_look_once(store, perfect):
    looks = []

    def counting(pictures):
        looks.append(len(pictures))
        return colours(pictures)

    both = [Recogniser("colours", counting, metric) for metric in ("l2", "cosine")]
    result = evaluate(store, perfect, both)
    assert list(result["recognisers"]) == ["colours-l2", "colours-cosine"]
    true_faces = {clip_id for one in result["galleries"].values() for clip_id in one["clip_ids"]}
    assert len(looks) == 1 + len(result["systems"]) + len(result["references"])
    assert sum(looks) == len(true_faces) + sum(row["n"] for row in (*result["systems"], *result["references"]))


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
