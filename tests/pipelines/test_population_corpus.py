"""The corpus on disk: VoxCeleb2's layout to the letter, true boxes, the same bytes again, and going on after a stop."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as parquet
import pytest

from featurestore.errors import UsageError
from pipelines.population.corpus import assign_sets, plan_clips, synthesize
from pipelines.population.people import draw_person
from pipelines.population.recording import record_clip
from tests.conftest import CLIPS, SPEAKERS

SMALL: dict[str, Any] = {"speakers": 2, "clips": 3, "seed": 11}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """A small corpus written by two processes in one go."""
    root = tmp_path_factory.mktemp("undisturbed") / "corpus"
    synthesize(root, **SMALL, workers=2)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def boxes(clip: Path) -> np.ndarray:
    """(n, 5) rows of the clip's face track: frame, x, y, w, h."""
    track = Path(str(clip).replace("/mp4/", "/txt/")).with_suffix(".txt").read_text()
    return np.array([line.split() for line in track.splitlines()[7:]], float)


def test_the_layout_is_that_of_voxceleb2(corpus):
    clips = sorted(str(path.relative_to(corpus)) for path in corpus.rglob("*.mp4"))
    tracks = sorted(str(path.relative_to(corpus)) for path in corpus.rglob("*.txt"))
    assert len(clips) == CLIPS
    assert [clip.replace("/mp4/", "/txt/").replace(".mp4", ".txt") for clip in clips] == tracks
    parts = [re.fullmatch(r"(dev|test)/mp4/(id\d{5})/([\w-]{11})/(\d{5})\.mp4", clip) for clip in clips]
    assert all(parts)
    speakers = {(part[1], part[2]) for part in parts if part}
    assert len(speakers) == SPEAKERS
    assert sum(chosen == "test" for chosen, _ in speakers) == round(0.3 * SPEAKERS)
    assert len({part[3] for part in parts if part}) == CLIPS


def test_the_tables_are_official_to_the_blank(corpus):
    header, *rows = (corpus / "vox2_meta.csv").read_text().splitlines()
    assert header == "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set "
    assert len(rows) == SPEAKERS
    assert all(re.fullmatch(r"id\d{5} ,n\d{6} ,[mf] ,(dev|test) ", row) for row in rows)
    for row in rows:
        speaker, *_, chosen = (value.strip() for value in row.split(","))
        assert (corpus / chosen / "mp4" / speaker).is_dir()
    header, *rows = (corpus / "vox2_attributes.csv").read_text().splitlines()
    assert header == "speaker_id,age,gender,ethnicity,licence,consent"
    pattern = r"id\d{5},\d\d\.\d,(man|woman),(black|asian|white),CC0-1\.0,synthetic"
    assert all(re.fullmatch(pattern, row) for row in rows)
    assert len(rows) == SPEAKERS


def test_a_track_is_written_as_voxceleb2_does(corpus):
    clip = next(corpus.rglob("*.mp4"))
    lines = Path(str(clip).replace("/mp4/", "/txt/")).with_suffix(".txt").read_text().split("\n")
    assert lines[0] == f"Identity  : \t{clip.parent.parent.name}"
    assert lines[1] == f"Reference : \t{clip.parent.name}"
    assert lines[5:7] == ["", "FRAME \tX \tY \tW \tH "]
    assert all(re.fullmatch(r"\d{6}( \t-?\d\.\d{3}){4} ", line) for line in lines[7:-1])
    assert lines[-1] == ""


def test_the_truth_has_a_row_for_each_speaker_and_agrees_with_the_tables(corpus):
    truth = parquet.read_table(corpus / "truth.parquet").to_pylist()
    meta = [row.split(" ,") for row in (corpus / "vox2_meta.csv").read_text().splitlines()[1:]]
    assert [(row["speaker_id"], row["set"]) for row in truth] == [(speaker, s.strip()) for speaker, _, _, s in meta]
    for index, row in enumerate(truth):
        assert row.items() >= draw_person(7, index).latents().items()
        assert 60 < row["voice_f0"] < 320
        assert all(value is not None for value in row.values())
    assert {"upper_gender_label", "upper_age_years", "ethnicity_label", "look_hair_style", "look_iris"} <= set(truth[0])


def test_clips_are_real_media_of_six_seconds(corpus):
    with av.open(str(next(corpus.rglob("*.mp4")))) as media:
        video, sound = media.streams.video[0], media.streams.audio[0]
        assert (video.codec_context.name, video.width, video.height) == ("h264", 224, 224)
        assert (video.average_rate, video.frames) == (25, 150)
        assert (sound.codec_context.name, sound.rate, sound.channels) == ("aac", 16000, 1)
        assert media.duration == pytest.approx(6e6, rel=0.02)


def test_true_boxes_agree_with_a_detector(corpus):
    from facenet_pytorch import MTCNN

    detector, overlaps = MTCNN(), []
    for clip in sorted(corpus.rglob("*.mp4"))[::9]:
        with av.open(str(clip)) as media:
            frame = [picture.to_ndarray(format="rgb24") for picture in media.decode(video=0)][75]
        found, _ = detector.detect(frame)
        assert found is not None
        x, y, w, h = boxes(clip)[75, 1:] * 224
        truth = np.array([x, y, x + w, y + h])
        shared = np.prod(np.clip(np.minimum(found[:, 2:], truth[2:]) - np.maximum(found[:, :2], truth[:2]), 0, None), 1)
        areas = np.prod(found[:, 2:] - found[:, :2], axis=1)
        overlaps.append((shared / (areas + w * h - shared)).max())
    assert np.mean(overlaps) > 0.75
    assert min(overlaps) > 0.5


def test_boxes_follow_the_head_frame_by_frame(corpus):
    track = boxes(next(corpus.rglob("*.mp4")))
    assert np.array_equal(track[:, 0], np.arange(150))
    assert len(np.unique(track[:, 1:3], axis=0)) > 30
    assert np.abs(np.diff(track[:, 1:], axis=0)).max() < 0.03


def test_one_process_writes_the_same_bytes_and_a_stopped_run_goes_on(undisturbed, tmp_path):
    class Stop(KeyboardInterrupt):
        pass

    def stop_after_one(done: int, total: int) -> None:
        if done == 1:
            raise Stop

    root = tmp_path / "corpus"
    with pytest.raises(Stop):
        synthesize(root, **SMALL, workers=1, progress=stop_after_one)
    assert len(list(root.rglob("*.mp4"))) == 1

    clip = next(path for path in sorted(contents(undisturbed)) if path.endswith(".mp4") and not (root / path).exists())
    unfinished = root / f"{clip}.part"
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    unfinished.write_bytes(b"half a clip")
    seen: list[tuple[int, int]] = []
    report = synthesize(root, **SMALL, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert (report["made"], report["kept"]) == (2, 1)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert contents(root) == contents(undisturbed)


def test_a_finished_corpus_is_left_as_it_is_and_a_lost_clip_comes_back(undisturbed):
    before = contents(undisturbed)
    assert synthesize(undisturbed, **SMALL)["made"] == 0
    next(undisturbed.rglob("*.mp4")).unlink()
    assert synthesize(undisturbed, **SMALL)["made"] == 1
    assert contents(undisturbed) == before


def test_another_corpus_or_other_files_are_not_overwritten(undisturbed, tmp_path):
    before = contents(undisturbed)
    with pytest.raises(UsageError, match="another corpus"):
        synthesize(undisturbed, speakers=2, clips=3, seed=12)
    assert contents(undisturbed) == before
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="not empty"):
        synthesize(tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"speakers": 5, "clips": 4}, "at least one clip a speaker"),
        ({"speakers": 0, "clips": 4}, "speakers is 0"),
        ({"speakers": 2, "clips": 4, "test_speakers": 3}, "test speakers are 3"),
        ({"speakers": 2, "clips": 4, "seed": -1}, "seed is -1"),
    ],
)
def test_counts_that_cannot_be_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        synthesize(tmp_path / "corpus", **arguments)
    assert not (tmp_path / "corpus").exists()


def test_more_speakers_leave_the_first_as_they_were():
    person = draw_person(3, 1)
    few, many = plan_clips(person, "dev", 2), plan_clips(person, "dev", 5)
    assert many[:2] == few
    assert assign_sets(3, 10, 3).count("test") == 3


def test_a_clip_depends_on_person_and_video_alone(corpus, tmp_path):
    """Recorded again by itself, later, a clip of the shared corpus has the same bytes; another video has not."""
    sets = assign_sets(7, SPEAKERS, round(0.3 * SPEAKERS))
    plan = plan_clips(draw_person(7, 4), sets[4], 3)[1]
    again = tmp_path / "again.mp4"
    record_clip(plan.person, plan.video, again, tmp_path / "again.txt", plan.identity, plan.reference)
    assert again.read_bytes() == (corpus / plan.mp4).read_bytes()
    other = replace(plan, video=2)
    record_clip(other.person, other.video, again, tmp_path / "again.txt", plan.identity, plan.reference)
    assert again.read_bytes() != (corpus / plan.mp4).read_bytes()
