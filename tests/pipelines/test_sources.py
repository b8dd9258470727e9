"""What all sources share, and VoxCeleb2: every clip once, in order, with what the corpus says; the rest reported."""

import os
import shutil
from pathlib import Path

import pytest

from featurestore.clip import Clip
from featurestore.errors import UsageError
from pipelines.sources import SOURCES, first_clips, inspect, read
from pipelines.sources.splits import is_validation, split_of
from pipelines.sources.voxceleb import read_track

META = "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \n"
TRACK = """Identity  : \tid00012
Reference : \t_raOc3-IRsw
Offset    : \t-3
FV Conf   : \t20.144\t(1)
ASD Conf  : \t4.395

FRAME \tX \tY \tW \tH\x20
000226 \t0.450 \t0.148 \t0.242 \t0.431\x20
000227 \t0.451 \t0.147 \t0.242 \t0.431\x20

end of track (1)
"""


@pytest.fixture
def vox2(tmp_path) -> Path:
    """Two dev speakers and a test speaker; no media is ever opened, so the files are empty."""
    for clip in ("dev/id00012/_raOc3-IRsw/00002", "dev/id00012/_raOc3-IRsw/00001", "dev/id00013/abc/00001"):
        add(tmp_path, clip)
    add(tmp_path, "test/id00017/xyz/00001")
    rows = "id00012 ,n000012 ,m ,dev \nid00013 ,n000013 ,f ,dev \nid00017 ,n000017 ,f ,test \n"
    (tmp_path / "vox2_meta.csv").write_text(META + rows)
    return tmp_path


def add(root: Path, clip: str) -> Path:
    folder, rest = clip.split("/", 1)
    for tree, suffix in (("mp4", ".mp4"), ("txt", ".txt")):
        file = root / folder / tree / (rest + suffix)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TRACK if tree == "txt" else "")
    return root / folder / "mp4" / (rest + ".mp4")


def test_clips_come_in_order_with_split_gender_and_track(vox2):
    clips = list(read("voxceleb2", vox2))
    assert [clip.clip_id for clip in clips] == [
        "voxceleb2/id00012/_raOc3-IRsw/00001",
        "voxceleb2/id00012/_raOc3-IRsw/00002",
        "voxceleb2/id00013/abc/00001",
        "voxceleb2/id00017/xyz/00001",
    ]
    assert [clip.corpus_gender for clip in clips] == ["man", "man", "woman", "woman"]
    assert clips[-1].split == "test"
    assert {clip.split for clip in clips[:-1]} <= {"train", "val"}
    assert clips[0].face_track == ((226, 0.45, 0.148, 0.242, 0.431), (227, 0.451, 0.147, 0.242, 0.431))
    assert Path(clips[0].path).is_file()
    assert (clips[0].corpus_age, clips[0].licence) == (None, "")


def test_a_tenth_of_the_dev_speakers_is_validation_for_ever():
    speakers = [f"id{number:05d}" for number in range(5000)]
    held_out = [speaker for speaker in speakers if is_validation("voxceleb2", speaker)]
    assert 0.08 < len(held_out) / len(speakers) < 0.12
    assert held_out[:5] == ["id00010", "id00020", "id00024", "id00026", "id00036"]


def test_without_an_official_split_a_tenth_is_test_and_a_tenth_of_the_rest_validation():
    splits = [split_of("folder", f"speaker {number}") for number in range(5000)]
    assert 0.08 < splits.count("test") / 5000 < 0.12
    assert 0.07 < splits.count("val") / 5000 < 0.11
    official = {split_of("voxceleb2", f"id{number:05d}", "dev") for number in range(100)}
    assert official == {"train", "val"}
    assert split_of("voxceleb2", "id00010", "test") == "test"


def test_attributes_may_leave_columns_and_values_out(vox2):
    (vox2 / "vox2_attributes.csv").write_text(
        'speaker_id, age, ethnicity, licence\nid00012, 41.5, white, "CC BY, research"\nid00013, , latino hispanic,\n'
    )
    clips = {clip.speaker_id: clip for clip in read("voxceleb2", vox2)}
    first, second = clips["id00012"], clips["id00013"]
    assert (first.corpus_age, first.corpus_ethnicity, first.licence) == (41.5, "white", "CC BY, research")
    assert (second.corpus_age, second.corpus_ethnicity, second.corpus_gender) == (None, "latino hispanic", "woman")
    assert inspect("voxceleb2", vox2)["attributes"] == {"age": 1, "gender": 3, "ethnicity": 2}


def test_meta_may_be_separated_by_tabs(vox2):
    commas = (vox2 / "vox2_meta.csv").read_text()
    (vox2 / "vox2_meta.csv").write_text(commas.replace(",", "\t"))
    assert next(read("voxceleb2", vox2)).corpus_gender == "man"


def test_what_is_no_clip_is_left_out_and_reported(vox2):
    whole = inspect("voxceleb2", vox2)
    assert whole["odd"] == {}
    assert (whole["clips"], whole["speakers"], whole["videos"]) == (4, 3, 3)
    mp4 = vox2 / "dev" / "mp4"
    for odd in ("README.md", "id00012/_raOc3-IRsw/00003.mp4.part", "id00012/_raOc3-IRsw/1.mp4", "id00013/notes.txt"):
        (mp4 / odd).write_text("")
    add(vox2, "dev/id00099/new/00001")
    (vox2 / "dev/txt/id00013/abc/00001.txt").unlink()
    assert len(list(read("voxceleb2", vox2))) == 5
    odd = inspect("voxceleb2", vox2)["odd"]
    assert {what: found["count"] for what, found in odd.items()} == {
        "not a speaker's folder (id and five digits)": 1,
        "not an utterance (five digits and .mp4)": 2,
        "not a video's folder": 1,
        "clip without a face track": 1,
        "speaker missing in vox2_meta.csv": 1,
    }
    assert odd["speaker missing in vox2_meta.csv"]["examples"] == ["id00099"]


def test_the_sound_is_taken_from_aac_where_it_is_there(vox2):
    sound = vox2 / "dev/aac/id00012/_raOc3-IRsw/00002.m4a"
    orphan = vox2 / "test/aac/id00017/xyz/00009.m4a"
    for file in (sound, orphan):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"four")
    first, second, *_ = read("voxceleb2", vox2)
    assert (first.sound_path, second.sound_path) == ("", str(sound))
    assert second.path.endswith("dev/mp4/id00012/_raOc3-IRsw/00002.mp4")
    found = inspect("voxceleb2", vox2)
    assert (found["sounds"], found["bytes"]) == (1, 4)
    assert found["odd"] == {"sound without a video": {"count": 1, "examples": ["test/aac/id00017/xyz/00009.m4a"]}}


def test_hours_are_those_of_the_tracks(vox2):
    rows = "".join(f"{frame:06d} \t0.1 \t0.1 \t0.2 \t0.2 \n" for frame in range(9000))
    (vox2 / "test/txt/id00017/xyz/00001.txt").write_text(f"FV Conf   : \t20.144\n\nFRAME \tX \tY \tW \tH \n{rows}")
    assert inspect("voxceleb2", vox2)["hours"] == 0.1
    shutil.rmtree(vox2 / "dev/txt")
    shutil.rmtree(vox2 / "test/txt")
    assert inspect("voxceleb2", vox2)["hours"] is None


def test_folders_that_cannot_be_read_are_odd_and_the_others_are_read(vox2, closed):
    closed(vox2 / "dev/mp4/id00013")
    closed(vox2 / "test/mp4/id00017/xyz")
    assert {clip.speaker_id for clip in read("voxceleb2", vox2)} == {"id00012"}
    odd = inspect("voxceleb2", vox2)["odd"]["folder that cannot be read"]
    assert odd == {"count": 2, "examples": ["dev/mp4/id00013", "test/mp4/id00017/xyz"]}


def test_what_a_mac_leaves_behind_is_odd_and_no_clip(vox2):
    for name in (".DS_Store", "id00012/.DS_Store", "id00012/_raOc3-IRsw/._00001.mp4"):
        (vox2 / "dev" / "mp4" / name).write_text("")
    assert len(list(read("voxceleb2", vox2))) == 4
    odd = inspect("voxceleb2", vox2)["odd"]
    assert odd["hidden file or folder"] == {
        "count": 3,
        "examples": ["dev/mp4/.DS_Store", "dev/mp4/id00012/.DS_Store", "dev/mp4/id00012/_raOc3-IRsw/._00001.mp4"],
    }


def test_media_that_cannot_be_opened_is_still_a_clip_so_that_the_job_says_why(vox2):
    folder = vox2 / "dev/mp4/id00013/abc"
    os.mkfifo(folder / "00002.mp4")
    (folder / "00003.mp4").symlink_to("nowhere.mp4")
    (folder / "00004.mp4").symlink_to("00004.mp4")
    (folder / "00005.mp4").mkdir()
    ids = [clip.clip_id for clip in read("voxceleb2", vox2) if clip.speaker_id == "id00013"]
    assert [clip_id[-1] for clip_id in ids] == ["1", "2", "3", "4"]
    assert inspect("voxceleb2", vox2)["clips"] == 7


def test_names_that_cannot_be_stored_are_odd_and_others_are_kept(vox2):
    strange = ["a b'c\"d", "žluť", "line\nbreak", os.fsdecode(b"caf\xe9")]
    for name in strange:
        add(vox2, f"dev/id00013/{name}/00001")
    assert [clip.video_id for clip in read("voxceleb2", vox2) if clip.speaker_id == "id00013"] == [
        "a b'c\"d",
        "abc",
        "žluť",
    ]
    odd = inspect("voxceleb2", vox2)["odd"]["name with control characters or not in UTF-8"]
    assert odd["count"] == 2
    assert all(example.isprintable() for example in odd["examples"])


def test_examples_are_few_however_much_is_odd(vox2):
    for number in range(50):
        (vox2 / "dev" / "mp4" / f"{number}.txt").write_text("")
    (odd,) = inspect("voxceleb2", vox2)["odd"].values()
    assert odd["count"] == 50
    assert len(odd["examples"]) == 5


def test_one_video_per_speaker_is_the_first_clip_of_each_test_speaker(vox2):
    for clip in ("test/id00017/x-y/00001", "test/id00017/x/00003", "test/id00017/x/00002", "test/id00011/b/00001"):
        add(vox2, clip)
    assert [clip.clip_id for clip in read("voxceleb2", vox2, one_video_per_speaker=True)] == [
        "voxceleb2/id00011/b/00001",
        "voxceleb2/id00017/x/00002",
    ]
    clips = list(read("voxceleb2", vox2))
    assert first_clips(clips[::-1]) == first_clips(clips)
    shutil.rmtree(vox2 / "test")
    with pytest.raises(UsageError, match="no clip is test"):
        read("voxceleb2", vox2, one_video_per_speaker=True)


def test_one_video_per_speaker_holds_for_clips_of_any_source():
    clips = [
        Clip("folder/b/2/1", "", "test"),
        Clip("folder/b/10/1", "", "test"),
        Clip("folder/a/1/1", "", "train"),
    ]
    assert [clip.clip_id for clip in first_clips(clips)] == ["folder/b/10/1"]


def test_every_source_gives_the_same_keys_and_opens_nothing(vox2, tmp_path_factory):
    roots = {"voxceleb2": vox2}
    for source, files in {
        "voxceleb1": ["wav/id10001/abc/00001.wav"],
        "avspeech": ["abcdefghijk_1_2.mp4"],
        "folder": ["alice/talk.mp4"],
    }.items():
        roots[source] = tmp_path_factory.mktemp(source)
        for file in files:
            (roots[source] / file).parent.mkdir(parents=True, exist_ok=True)
            os.mkfifo(roots[source] / file)
    (roots["avspeech"] / "avspeech_train.csv").write_text("abcdefghijk,1,2,0.5,0.5\n")
    assert set(roots) == set(SOURCES)
    found = {source: inspect(source, root) for source, root in roots.items()}
    assert len({tuple(counts) for counts in found.values()}) == 1
    assert all(counts["clips"] for counts in found.values())
    for source in set(SOURCES) - {"voxceleb2"}:
        with pytest.raises(UsageError, match=f"this looks like {source}") as refused:
            read("voxceleb2", roots[source])
        assert [line.split(":")[0].strip() for line in str(refused.value).splitlines()[1:]] == list(SOURCES)
        assert len(list(read(source, roots[source]))) == 1
    with pytest.raises(UsageError, match="this looks like voxceleb2"):
        read("folder", vox2)


def test_a_speaker_in_both_sets_is_refused(vox2):
    add(vox2, "test/id00012/other/00001")
    with pytest.raises(UsageError, match="id00012"):
        read("voxceleb2", vox2)
    assert inspect("voxceleb2", vox2)["odd"]["speaker both in dev and in test"]["count"] == 1


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("vox2_meta.csv", "VoxCeleb2 ID ,Set \nid00012 ,dev \n", r"vox2_meta.csv:1: column 'Gender' is missing"),
        ("vox2_meta.csv", META + "id00012 ,n1 ,x ,dev \n", r"vox2_meta.csv:2: gender 'x'"),
        ("vox2_meta.csv", META + "id00012 ,n1 ,m ,train \n", r"vox2_meta.csv:2: set 'train'"),
        ("vox2_meta.csv", META + "id00012 ,n1 ,m\n", r"vox2_meta.csv:2: 3 values for 4 columns"),
        ("vox2_attributes.csv", "speaker_id,age\nid00012,forty\n", r"vox2_attributes.csv:2: age 'forty'"),
        ("vox2_attributes.csv", "speaker_id,ethnicity\n\nid00012,martian\n", r"vox2_attributes.csv:3: ethnicity"),
        ("vox2_attributes.csv", "speaker_id,colour\nid00012,red\n", r"vox2_attributes.csv:1: unknown column 'colour'"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(vox2, file, content, complaint):
    (vox2 / file).write_text(content)
    with pytest.raises(UsageError, match=complaint):
        read("voxceleb2", vox2)


def test_another_layout_is_refused_at_once_with_the_right_one(vox2, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    for root in (empty, empty / "nowhere"):
        for look in (read, inspect):
            with pytest.raises(UsageError, match=r"mp4/id00012/<video>/00001\.mp4"):
                look("voxceleb2", root)
            with pytest.raises(UsageError, match=r"voxceleb1: (.|\n)*avspeech: (.|\n)*folder: "):
                look("voxceleb2", root)
    with pytest.raises(UsageError, match="voxceleb2"):
        read("voxceleb", vox2)


def test_meta_may_be_absent(vox2):
    (vox2 / "vox2_meta.csv").unlink()
    assert {clip.corpus_gender for clip in read("voxceleb2", vox2)} == {None}
    assert inspect("voxceleb2", vox2)["odd"]["file missing"]["examples"] == ["vox2_meta.csv"]


def test_a_track_that_is_not_there_is_empty(vox2):
    shutil.rmtree(vox2 / "dev" / "txt")
    assert read_track(vox2 / "dev" / "txt" / "none.txt") == ()
    assert next(read("voxceleb2", vox2)).face_track == ()
