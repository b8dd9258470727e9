"""Plain folders: what belongs together becomes one clip, no two clips have one id, clips.csv says the rest."""

import os
from datetime import date
from pathlib import Path

import pytest

from featurestore.errors import UsageError
from pipelines.sources import inspect, read
from pipelines.sources.splits import split_of


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path


def add(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("media")


def ids(root: Path) -> list[str]:
    return [clip.clip_id.removeprefix("folder/") for clip in read("folder", root)]


def files(root: Path) -> dict[str, tuple[str, str]]:
    return {
        clip.clip_id.split("/")[-1]: (Path(clip.path).name, Path(clip.sound_path).name) for clip in read("folder", root)
    }


def table(root: Path, text: str) -> None:
    (root / "clips.csv").write_text(text)


def test_the_first_folder_is_the_speaker(root):
    add(root, "alice/talk.mp4", "alice/monday/talk.MOV", "alice/monday/late/talk.webm", "bob.mkv")
    assert ids(root) == [
        "bob/bob.mkv/bob.mkv",
        "alice/alice%2Ftalk.mp4/talk.mp4",
        "alice/alice%2Fmonday%2Ftalk.MOV/talk.MOV",
        "alice/alice%2Fmonday%2Flate%2Ftalk.webm/talk.webm",
    ]
    assert {clip.split for clip in read("folder", root) if clip.speaker_id == "alice"} == {split_of("folder", "alice")}
    found = inspect("folder", root)
    assert (found["clips"], found["speakers"], found["videos"], found["hours"]) == (4, 2, 4, None)


def test_files_of_one_name_belong_together(root):
    add(root, "a/pair.wav", "a/pair.jpg", "a/alone.flac", "a/film.mp4", "a/film.wav", "a/film.jpg", "a/face.png")
    add(root, "a/two.wav", "a/two.jpg", "a/two.png", "a/film.avi", "a/readme.txt")
    assert files(root) == {
        "pair.wav": ("pair.jpg", "pair.wav"),
        "alone.flac": ("alone.flac", ""),
        "film.mp4": ("film.mp4", "film.wav"),
        "two.wav": ("two.jpg", "two.wav"),
    }
    found = inspect("folder", root)
    assert (found["sounds"], found["bytes"]) == (3, 7 * 5)
    assert {what: odd["examples"] for what, odd in found["odd"].items()} == {
        "file that is neither video, sound nor picture": ["a/film.avi", "a/readme.txt"],
        "file beside a video of the same name": ["a/film.jpg"],
        "picture without a sound": ["a/face.png"],
        "second picture of a sound": ["a/two.png"],
    }


def test_no_two_clips_have_one_id(root):
    add(
        root,
        "a/x.mp4",
        "a/x.mov",
        "a/x.mp4.mkv",
        "a/b/c.mp4",
        "a/b%2Fc.mp4",
        "a%2Fb/c.mp4",
        "a/a.mp4",
        "a.mp4",
        "a.mov",
    )
    add(root, "s/x.wav", "s/x.mp3", "s/x.jpg", "x.mp4", "a/b.mp4")
    found = ids(root)
    assert len(found) == len(set(found)) == 13
    assert {"a/a%2Fx.mp4/x.mp4", "a/a%2Fx.mov/x.mov", "a/a%2Fx.mp4.mkv/x.mp4.mkv"} <= set(found)
    assert {"a/a.mp4/a.mp4", "a/a.mov/a.mov", "a/a%2Fb%2Fc.mp4/c.mp4", "a/a%2Fb%252Fc.mp4/b%252Fc.mp4"} <= set(found)


def test_a_clip_keeps_its_id_whatever_is_added_beside_it(root):
    add(root, "a/talk.mp4", "a/say.wav")
    before = ids(root)
    add(root, "a/talk.mov", "a/talk.wav", "a/talk", "a/say.flac", "a/say.jpg", "a/say.txt", "talk.mp4")
    assert set(before) < set(ids(root))


def test_a_folder_that_cannot_be_read_is_odd_and_the_others_are_read(root, closed):
    add(root, "a/x.mp4", "b/x.mp4", "c/x.mp4")
    closed(root / "b")
    assert [clip.split("/")[0] for clip in ids(root)] == ["a", "c"]
    assert inspect("folder", root)["odd"] == {"folder that cannot be read": {"count": 1, "examples": ["b"]}}
    closed(root)
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        ids(root)


def test_names_with_blanks_quotes_and_other_letters_are_kept(root):
    names = [" a ", "it's", 'say "hi"', "žluť", "日本", "a,b", "-x", "$(date)", "a  b"]
    add(root, *(f"{name}/{name}.mp4" for name in names))
    add(root, "new\nline/a.mp4", "a/new\nline.mp4", "a/tab\t.mp4")
    (root / os.fsdecode(b"caf\xe9.mp4")).write_text("")
    clips = list(read("folder", root))
    assert {clip.speaker_id for clip in clips} == set(names)
    odd = inspect("folder", root)["odd"]["name with control characters or not in UTF-8"]
    assert odd["count"] == 4
    assert all(example.isprintable() for example in odd["examples"])


def test_links_are_followed_and_circles_are_not(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    add(elsewhere, "talk.mp4")
    add(root, "a/x.mp4")
    (root / "b").symlink_to(elsewhere)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to("self")
    assert ids(root) == ["a/a%2Fx.mp4/x.mp4", "b/b%2Ftalk.mp4/talk.mp4"]
    odd = inspect("folder", root)["odd"]
    assert odd["link to a folder that it lies in"]["examples"] == ["a/up"]


def test_a_table_says_who_when_and_where(root):
    add(root, "a/1.mp4", "a/2.mp4", "b/1.mp4", "c/1.wav", "c/1.jpg")
    table(
        root,
        "path, speaker_id, video_id, split, age, gender, ethnicity, licence, consent, consent_until, x, y\n"
        'a/1.mp4, zoë, show, test, 41, f, asian, "CC BY, 4.0", signed, 2030-12-31, 0.25, 0.5\n'
        "./b/1.mp4, zoë, show, , , , , , , , , \n"
        "c/1.wav, , , val, , , , , , , , \n"
        "gone.mp4, , , , , , , , , , , \n",
    )
    clips = {clip.clip_id.removeprefix("folder/"): clip for clip in read("folder", root)}
    assert list(clips) == [
        "zoë/show/a%2F1.mp4",
        "a/a%2F2.mp4/2.mp4",
        "zoë/show/b%2F1.mp4",
        "c/c%2F1.wav/1.wav",
    ]
    first, _, third, fourth = clips.values()
    assert first.face_track == ((0, 0.25, 0.5, 0.0, 0.0),)
    assert (first.corpus_age, first.corpus_gender, first.corpus_ethnicity) == (41, "woman", "asian")
    assert (first.licence, first.consent) == ("CC BY, 4.0", "signed")
    assert (first.consent_until, third.consent_until) == (date(2030, 12, 31), None)
    assert (first.split, third.split, fourth.split) == ("test", "test", "val")
    found = inspect("folder", root)
    assert found["attributes"] == {"age": 1, "gender": 1, "ethnicity": 1}
    assert found["odd"] == {"row of clips.csv without a clip": {"count": 1, "examples": ["gone.mp4"]}}
    (clip,) = read("folder", root, one_video_per_speaker=True) if split_of("folder", "a") != "test" else [first]
    assert clip == first


def test_a_speaker_in_two_splits_is_refused(root):
    add(root, "a/1.mp4", "a/2.mp4")
    table(root, "path,split\na/1.mp4,train\na/2.mp4,test\n")
    with pytest.raises(UsageError, match="speaker 'a' is in test and train"):
        read("folder", root)
    assert inspect("folder", root)["odd"] == {"speaker in test and train by clips.csv": {"count": 1, "examples": ["a"]}}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,age\na/1.mp4,3\n", ":1: column 'path' is missing; found file, age"),
        (
            "path,colour\na/1.mp4,red\n",
            ":1: unknown column 'colour'. Known: path, speaker_id, video_id, split",
        ),
        ("path,split\na/1.mp4,dev\n", ":2: split 'dev' is not one of train, val, test"),
        ("path,age\na/1.mp4,old\n", ":2: age 'old'"),
        ("path,consent_until\na/1.mp4,31.12.2030\n", ":2: consent_until '31.12.2030' is not a day"),
        ("path,x\na/1.mp4,0.5\n", ":2: x '0.5' and y '' are not both"),
        ("path,x,y\na/1.mp4,120,80\n", ":2: x '120' and y '80' are not both"),
        ("path,x,y\na/1.mp4,nan,0\n", ":2: x 'nan' and y '0' are not both"),
        ("path,speaker_id\na/1.mp4,a/b\n", ":2: speaker_id 'a/b' has a slash"),
        ("path\n/etc/passwd\n", ":2: path '/etc/passwd' does not lead down"),
        ("path\n../x.mp4\n", ":2: path '../x.mp4' does not lead down"),
        ("path\na/1.mp4\n./a/1.mp4\n", ":3: path './a/1.mp4' is there twice"),
        ("path\n" + "x" * 200_000 + "\n", ":2: field larger than"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(root, text, complaint):
    add(root, "a/1.mp4")
    table(root, text)
    for look in (read, inspect):
        with pytest.raises(UsageError) as caught:
            look("folder", root)
        assert str(caught.value).startswith(f"{root / 'clips.csv'}{complaint}")


def test_a_folder_without_media_is_no_corpus(root):
    add(root, "a/readme.txt", "a/face.avi")
    with pytest.raises(UsageError, match="not laid out as folder"):
        read("folder", root)
