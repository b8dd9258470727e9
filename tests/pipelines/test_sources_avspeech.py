"""AVSpeech on disk: rows and the segments cut out, matched by numbers; what has no partner is counted."""

from pathlib import Path

import pytest

from featurestore.errors import UsageError
from pipelines.sources import inspect, read

TRAIN = """_ra_1-IRsw,90.000000,93.566667,0.564063,0.283333
_ra_1-IRsw,97,100.8,0.2,0.9
-ab_90_93,1.0,2.0,0.5,0.5
nothere1234,1,2,0.5,0.5
"""
TEST = "F8zmnWh9NgQ,0.000000,3600.500000,1,0\n"


@pytest.fixture
def avspeech(tmp_path) -> Path:
    (tmp_path / "avspeech_train.csv").write_text(TRAIN)
    (tmp_path / "avspeech_test.csv").write_text(TEST)
    for name in (
        "a/_ra_1-IRsw_90_93.5666670.mp4",
        "b/c/_ra_1-IRsw_97.00_100.800.mp4",
        "-ab_90_93_1.0_2.0.mp4",
        "F8zmnWh9NgQ_0_3600.5.mp4",
    ):
        add(tmp_path / name)
    return tmp_path


def add(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("media")


def examples(root: Path) -> dict[str, list[str]]:
    return {what: found["examples"] for what, found in inspect("avspeech", root)["odd"].items()}


def test_segments_are_matched_by_number_and_do_not_collide(avspeech):
    clips = list(read("avspeech", avspeech))
    assert [clip.clip_id for clip in clips] == [
        "avspeech/F8zmnWh9NgQ/F8zmnWh9NgQ/0_3600.5",
        "avspeech/_ra_1-IRsw/_ra_1-IRsw/90_93.567",
        "avspeech/_ra_1-IRsw/_ra_1-IRsw/97_100.8",
        "avspeech/-ab_90_93/-ab_90_93/1_2",
    ]
    assert [Path(clip.path).name for clip in clips][1:3] == [
        "_ra_1-IRsw_90_93.5666670.mp4",
        "_ra_1-IRsw_97.00_100.800.mp4",
    ]
    assert clips[1].face_track == ((0, 0.564063, 0.283333, 0.0, 0.0),)
    assert examples(avspeech) == {"row without a clip": ["avspeech_train.csv:4"]}


def test_inspect_knows_the_hours(avspeech):
    found = inspect("avspeech", avspeech)
    assert (found["clips"], found["speakers"], found["videos"], found["bytes"]) == (4, 3, 3, 20)
    assert found["hours"] == round((3600.5 + 3.567 + 3.8 + 1) / 3600, 3)


def test_the_official_files_give_the_split_and_others_a_hash(avspeech):
    assert [clip.split == "test" for clip in read("avspeech", avspeech)] == [True, False, False, False]
    (avspeech / "avspeech_test.csv").unlink()
    (avspeech / "avspeech_train.csv").unlink()
    rows = []
    for number in range(300):
        rows += [f"video{number:06d},{start},{start + 1},0.5,0.5\n" for start in (0, 1)]
        for start in (0, 1):
            add(avspeech / f"video{number:06d}_{start}_{start + 1}.mp4")
    (avspeech / "mine.csv").write_text("".join(rows))
    clips = list(read("avspeech", avspeech))
    assert {clip.split for clip in clips} == {"train", "val", "test"}
    assert len({(clip.speaker_id, clip.split) for clip in clips}) == 300


def test_a_video_of_both_files_is_test_for_all_its_segments(avspeech):
    with (avspeech / "avspeech_test.csv").open("a") as table:
        table.write("_ra_1-IRsw,90,93.566667,0.5,0.5\n")
    splits = {clip.clip_id: clip.split for clip in read("avspeech", avspeech) if clip.speaker_id == "_ra_1-IRsw"}
    assert list(splits.values()) == ["test", "test"]
    odd = examples(avspeech)
    assert odd["second row of a segment"] == ["avspeech_train.csv:1"]
    assert odd["clip of a video that another csv file puts into test"] == ["b/c/_ra_1-IRsw_97.00_100.800.mp4"]


def test_one_video_per_speaker_is_one_segment_of_each_test_video(avspeech):
    (clip,) = read("avspeech", avspeech, one_video_per_speaker=True)
    assert clip.speaker_id == "F8zmnWh9NgQ"


def test_what_has_no_partner_and_what_is_malformed_is_counted(avspeech):
    bad = [
        "id,1,2,3",
        "id,one,2,0,0",
        "id,2,1,0,0",
        "id,1,inf,0,0",
        "id,1,2,0,7",
        ",1,2,0,0",
    ]
    (avspeech / "avspeech_train.csv").write_text("\n".join(["YouTube ID,start,end,x,y", *bad]) + "\n\n" + TRAIN)
    for name in ("x/_ra_1-IRsw_97_100.8.mp4", "unknown_1_2.mp4", "x/notes.txt", "x/broken_1.mp4", ".hidden_1_2.mp4"):
        add(avspeech / name)
    assert len(list(read("avspeech", avspeech))) == 4
    odd = inspect("avspeech", avspeech)["odd"]
    assert {what: found["count"] for what, found in odd.items()} == {
        "hidden file or folder": 1,
        "not a clip (<id>_<start>_<end>.mp4)": 2,
        "second file of a segment": 1,
        "row that is not id,start,end,x,y": len(bad),
        "row without a clip": 1,
        "clip without a row": 1,
    }
    assert odd["row that is not id,start,end,x,y"]["examples"] == [
        "avspeech_train.csv:2: 4 values, not 5",
        "avspeech_train.csv:3: start, end, x and y are not numbers: one, 2, 0, 0",
        "avspeech_train.csv:4: the segment from 2 s to 1 s has no length",
        "avspeech_train.csv:5: the segment from 1 s to inf s has no length",
        "avspeech_train.csv:6: x 0 and y 7 are not fractions of the frame",
    ]


def test_no_good_row_is_an_error(avspeech):
    (avspeech / "avspeech_test.csv").unlink()
    (avspeech / "avspeech_train.csv").write_text("id;1;2;0.5;0.5\n" * 3)
    with pytest.raises(UsageError, match=r"avspeech_train.csv:1: 1 values, not 5"):
        read("avspeech", avspeech)
    assert inspect("avspeech", avspeech)["odd"]["row that is not id,start,end,x,y"]["count"] == 3
