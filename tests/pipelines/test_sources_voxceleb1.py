"""VoxCeleb1 on disk: sounds, with the face frames that were released beside them."""

from pathlib import Path

import pytest

from featurestore.errors import UsageError
from pipelines.sources import inspect, read

META = """VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet
id10001\tA.J._Buckley\tm\tIreland\tdev
id10002\tRobert_Downey_Jr.\tm\tUSA\tdev
id10270\tEartha_Kitt\tf\tUSA\ttest
"""
TRACK = "FV Conf   : \t17.455\n\nFRAME \tX \tY \tW \tH \n" + "".join(
    f"{frame:06d} \t210 \t72 \t95 \t95 \n" for frame in range(4500)
)


def add(file: Path, text: str = "") -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return str(file)


@pytest.fixture
def vox1(tmp_path) -> Path:
    for clip in ("id10001/abc/00001", "id10001/abc/00002", "id10002/-def/00001", "id10270/ghi/00001"):
        add(tmp_path / "wav" / f"{clip}.wav", "sound")
    add(tmp_path / "vox1_meta.csv", META)
    return tmp_path


def test_without_frames_a_clip_is_its_sound(vox1):
    clips = list(read("voxceleb1", vox1))
    assert [clip.clip_id for clip in clips] == [
        "voxceleb1/id10001/abc/00001",
        "voxceleb1/id10001/abc/00002",
        "voxceleb1/id10002/-def/00001",
        "voxceleb1/id10270/ghi/00001",
    ]
    assert clips[0].path == str(vox1 / "wav/id10001/abc/00001.wav")
    assert {clip.sound_path for clip in clips} == {""}
    assert [clip.corpus_gender for clip in clips] == ["man", "man", "man", "woman"]
    assert inspect("voxceleb1", vox1)["odd"]["clip without face frames"]["count"] == 4


def test_frames_are_found_by_name_by_id_and_for_one_utterance(vox1):
    faces = vox1 / "unzippedFaces"
    add(faces / "A.J._Buckley/1.6/abc/0000025.jpg", "jpeg!")
    add(faces / "A.J._Buckley/1.6/abc/00002/0000050.jpg", "jpeg!")
    add(faces / "Robert_Downey_Jr/1.6/-def/0000025.jpg", "jpeg!")
    add(faces / "id10270/ghi/0000025.JPG", "jpeg!")
    clips = list(read("voxceleb1", vox1))
    assert [clip.path.removeprefix(f"{faces}/") for clip in clips] == [
        "A.J._Buckley/1.6/abc",
        "A.J._Buckley/1.6/abc/00002",
        "Robert_Downey_Jr/1.6/-def",
        "id10270/ghi",
    ]
    assert clips[0].sound_path == str(vox1 / "wav/id10001/abc/00001.wav")
    found = inspect("voxceleb1", vox1)
    assert (found["sounds"], found["bytes"], found["odd"]) == (4, 40, {})


def test_a_folder_without_pictures_is_none(vox1):
    add(vox1 / "unzippedFaces/id10001/1.6/abc/notes.txt")
    assert next(read("voxceleb1", vox1)).path.endswith("00001.wav")


def test_frames_that_cannot_be_listed_are_odd_and_the_clip_is_its_sound(vox1, closed):
    add(vox1 / "unzippedFaces/id10002/-def/0000025.jpg", "jpeg!")
    closed(vox1 / "unzippedFaces/id10002/-def")
    assert [clip.sound_path for clip in read("voxceleb1", vox1)] == [""] * 4
    odd = inspect("voxceleb1", vox1)["odd"]
    assert odd["folder that cannot be read"] == {"count": 1, "examples": ["unzippedFaces/id10002/-def"]}
    assert odd["clip without face frames"]["count"] == 3


def test_tracks_in_pixels_tell_the_length_and_no_place(vox1):
    add(vox1 / "txt/id10001/abc/00001.txt", TRACK)
    assert {clip.face_track for clip in read("voxceleb1", vox1)} == {()}
    assert inspect("voxceleb1", vox1)["hours"] == 0.05


def test_the_set_is_the_folders_else_the_meta_files_else_the_releases(vox1):
    def tests() -> list[str]:
        return [clip.speaker_id for clip in read("voxceleb1", vox1) if clip.split == "test"]

    assert tests() == ["id10270"]
    add(vox1 / "vox1_meta.csv", META.replace("Ireland\tdev", "Ireland\ttest"))
    assert tests() == ["id10001", "id10001", "id10270"]
    (vox1 / "vox1_meta.csv").unlink()
    assert tests() == ["id10270"]
    add(vox1 / "test/wav/id10003/jkl/00001.wav")
    assert tests() == ["id10003", "id10270"]


def test_dev_and_test_may_have_folders_of_their_own(vox1):
    (vox1 / "dev").mkdir()
    (vox1 / "wav").rename(vox1 / "dev/wav")
    add(vox1 / "test/wav/id10271/mno/00001.wav")
    found = inspect("voxceleb1", vox1)
    assert (found["clips"], found["splits"]["test"]) == (5, {"clips": 1, "speakers": 1})
    assert found["odd"]["speaker missing in vox1_meta.csv"]["examples"] == ["id10271"]
    assert found["odd"]["speaker of another set in vox1_meta.csv"]["examples"] == ["id10270"]
    add(vox1 / "wav/id10001/abc/00001.wav")
    assert inspect("voxceleb1", vox1)["odd"]["speaker both in dev and in wav"]["examples"] == ["id10001"]
    with pytest.raises(UsageError, match="id10001"):
        read("voxceleb1", vox1)


def test_a_wrong_meta_file_is_named_with_its_line(vox1):
    add(vox1 / "vox1_meta.csv", META.replace("\tf\t", "\tfemale\t"))
    with pytest.raises(UsageError, match=r"vox1_meta.csv:4: gender 'female'"):
        inspect("voxceleb1", vox1)
