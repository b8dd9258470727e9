"""Portraits on disk: whose, what they say of themselves, and that they are drawn once."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from evaluation.portraits import (
    by_system_and_scale,
    digest,
    draw_portraits,
    other_code,
    read_about,
    read_drawings,
    read_picture,
)
from evaluation.sheet import portrait_sheet
from featurestore.artifacts import row_ids_of
from featurestore.errors import UsageError, VoxportraitError
from featurestore.exporting import export
from tests.evaluation.conftest import TEST_SPEAKERS
from voxportrait import app


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}


@pytest.fixture
def copy(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "portraits")


def test_every_test_speaker_is_drawn_once_a_scale(drawn):
    groups = by_system_and_scale(read_drawings(drawn))
    assert list(groups) == [("full-input", 1.0), ("full-input", 3.0), ("only-audio", 2.0)]
    for group in groups.values():
        assert [one.clip_id for one in group] == [f"made/id{n:05d}/video0/00001" for n in range(7, 7 + TEST_SPEAKERS)]
        assert read_picture(group[0].picture).shape == (128, 128, 3)
        assert read_picture(group[0].coarse).shape == (32, 32, 3)


def test_a_picture_carries_what_made_it(drawn):
    for one in read_drawings(drawn):
        with Image.open(one.picture) as picture:
            about = json.loads(picture.info["voxportrait"])
            assert "Generated" in picture.info["Description"]
            assert "Made with untrained weights, without meaning: ecapa." in picture.info["Description"]
        assert about == one.about
        assert about["generated"] is True
        assert about["untrained"] == ["ecapa"]
        assert "mel" in about["absent"]
        assert [c["stage"] for c in about["checkpoints"]] == ["unet1", "unet2"]
        assert len(about["input"]) == len(about["checkpoints"][0]["weights"]) == 64


def test_attributes_given_by_hand_are_drawn_and_told(store, portraitists, drawn, tmp_path):
    painter, by_hand = portraitists["full-input"], {"age": "30", "gender": None}
    stored = by_system_and_scale(read_drawings(drawn))["full-input", 3.0]
    made = draw_portraits(store, painter, [3.0], tmp_path, attributes=by_hand)
    assert all(one.about["given"] == by_hand for one in made)
    assert all("given" not in one.about for one in stored)
    assert all(one.about["input"] != other.about["input"] for one, other in zip(made, stored, strict=True))
    assert any((read_picture(a.picture) != read_picture(b.picture)).any() for a, b in zip(made, stored, strict=True))
    for wrong, message in (
        ({"gender": "female"}, "Known: man, woman"),
        ({"age": "old"}, "age is 'old', not a number of years"),
        ({"language": "English"}, "unknown input"),
    ):
        with pytest.raises(UsageError, match=message):
            draw_portraits(store, painter, [3.0], tmp_path / "refused", attributes=wrong)
    noted = store.table("artifacts").to_table(columns=["path"])["path"].to_pylist()
    assert any(path.startswith(str(tmp_path)) for path in noted)
    assert not [path for path in noted if path.startswith(str(tmp_path / "refused"))]


def test_seeds_differ_between_speakers_and_not_between_scales(drawn):
    groups = by_system_and_scale(read_drawings(drawn))
    seeds = [[one.about["seed"] for one in group] for group in groups.values()]
    assert seeds[0] == seeds[1] == seeds[2]
    assert len(set(seeds[0])) == TEST_SPEAKERS


def test_drawing_again_draws_nothing(store, portraitists, copy):
    before, seen = stamps(copy), []
    again = draw_portraits(
        store, portraitists["full-input"], [1.0, 3.0], copy, progress=lambda done, total: seen.append((done, total))
    )
    assert stamps(copy) == before
    assert seen[-1] == (len(again), len(again)) == (10, 10)


def test_what_is_gone_broken_or_other_is_drawn_again(store, portraitists, copy):
    first, second, third, fourth, *_ = read_drawings(copy)
    picture = first.picture.read_bytes()
    first.picture.unlink()
    second.picture.write_bytes(second.picture.read_bytes()[:100])
    Image.new("RGB", (128, 128)).save(third.picture)
    fourth.coarse.unlink()
    before = stamps(copy)
    draw_portraits(store, portraitists["full-input"], [1.0], copy)
    changed = {path for path, stamp in stamps(copy).items() if before.get(path) != stamp}
    assert changed == {path for one in (first, second, third, fourth) for path in (one.picture, one.coarse)}
    assert first.picture.read_bytes() == picture


def test_another_version_of_the_code_draws_nothing_again_and_is_told(store, portraitists, copy, monkeypatch):
    before = stamps(copy)
    assert other_code(read_drawings(copy)) == ""
    monkeypatch.setattr("evaluation.portraits.code_version", lambda: "9.9")
    last = read_drawings(copy)[4]
    last.picture.unlink()
    again = draw_portraits(store, portraitists["full-input"], [1.0], copy)
    changed = {path for path, stamp in stamps(copy).items() if before[path] != stamp}
    assert changed == {last.picture, last.coarse}
    drawn_by = [one.about["code"] for one in again]
    assert drawn_by == [read_about(one.picture)["code"] for one in again] == [*[drawn_by[0]] * 4, "9.9"]
    assert [one.about for one in read_drawings(copy)[:5]] == [one.about for one in again]
    assert f"4 of 5 portraits were there before, drawn by version {drawn_by[0]} of the code" in other_code(again)


def test_what_was_drawn_by_halves_is_no_folder_of_portraits(store, portraitists, copy):
    """Else an index of before would tell of pictures that are others by now."""

    class Stop(Exception):
        pass

    def stop(done, total):
        raise Stop

    with pytest.raises(Stop):
        draw_portraits(store, portraitists["full-input"], [1.0, 3.0], copy, seed=1, batch_size=2, progress=stop)
    left = by_system_and_scale(read_drawings(copy))
    assert list(left) == [("full-input", 3.0), ("only-audio", 2.0)]
    draw_portraits(store, portraitists["full-input"], [1.0], copy, seed=1)
    assert digest(by_system_and_scale(read_drawings(copy))["full-input", 3.0]) == digest(left["full-input", 3.0])
    assert {one.about["base_seed"] for one in by_system_and_scale(read_drawings(copy))["full-input", 1.0]} == {1}


def test_a_scale_given_twice_is_drawn_once(store, portraitists, copy):
    assert len(draw_portraits(store, portraitists["full-input"], [1, 1.0], copy)) == TEST_SPEAKERS


def test_another_seed_draws_other_pictures(store, portraitists, copy):
    before = [read_picture(one.picture) for one in read_drawings(copy)[:5]]
    after = draw_portraits(store, portraitists["full-input"], [1.0], copy, seed=1)
    assert all((read_picture(one.picture) != old).any() for one, old in zip(after, before, strict=True))


def test_a_folder_without_portraits_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="voxportrait sample"):
        read_drawings(tmp_path)


def test_a_split_without_speakers_says_so(store, portraitists, tmp_path):
    with pytest.raises(VoxportraitError, match="unknown split 'nobody'"):
        draw_portraits(store, portraitists["full-input"], [1.0], tmp_path, split="nobody")


def test_inputs_of_another_maker_are_refused(store, portraitists, tmp_path, monkeypatch):
    trained_on = portraitists["full-input"].about[0]["data"]
    monkeypatch.setitem(trained_on, "makers", {**trained_on["makers"], "ecapa": ["another"]})
    with pytest.raises(VoxportraitError, match=r"ecapa .* train it again"):
        draw_portraits(store, portraitists["full-input"], [1.0], tmp_path)


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"there is no .*broken\.png"):
        read_about(tmp_path / "broken.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="does not say how it was made"):
        read_about(tmp_path / "broken.png")
    with pytest.raises(VoxportraitError, match=r"broken\.png"):
        read_picture(tmp_path / "broken.png")


def test_runs_and_pictures_are_noted_with_the_clips_they_are_of(store, runs, drawn, tmp_path):
    noted = {Path(row["path"]): row["row_ids"] for row in store.table("artifacts").to_table().to_pylist()}
    assert set(runs.iterdir()) <= set(noted)
    assert {path for path in drawn.rglob("*") if path.is_file()} <= set(noted)
    drawings = read_drawings(drawn)
    for drawing in drawings:
        theirs = row_ids_of(store, [drawing.clip_id]).tolist()
        assert noted[drawing.picture] == noted[drawing.coarse] == theirs
        assert set(theirs) <= set(noted[drawing.picture.with_name("index.json")])
        assert not set(theirs) & set(noted[runs / "full-input-unet1"])
    sheet = portrait_sheet(store, drawings, 3.0, tmp_path / "sheet.png")
    rows = store.table("artifacts").to_table(filter=f"path = '{sheet}'").to_pylist()
    assert len(rows[0]["row_ids"]) == TEST_SPEAKERS


def test_a_bare_machine_draws_the_same_portraits_from_an_export(store, portraitists, runs, drawn, tmp_path):
    exported = tmp_path / "clips.safetensors"
    export(store, exported, portraitists["full-input"].layout, missing="zero", splits=("test",))
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "lance", "lancedb", "pyarrow"):
            raise ModuleNotFoundError(f"{{name}} is not on this machine", name=name)
sys.meta_path.insert(0, Blocked())
from evaluation.portraits import draw
from featurestore.exports import ExportRecords
from training.sampling import Portraitist
painter = Portraitist.load({str(runs / "full-input-unet1")!r}, {str(runs / "full-input-unet2")!r}, "cpu")
records = ExportRecords({str(exported)!r}, painter.layout, missing="zero", split="test")
draw(records, painter, [1.0, 3.0], {str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = read_drawings(tmp_path)
    expected = [one for one in read_drawings(drawn) if one.system == "full-input"]
    told = [[{**one.about, "code": ""} for one in many] for many in (made, expected)]
    assert told[0] == told[1]
    for one, other in zip(made, expected, strict=True):
        assert (read_picture(one.picture) == read_picture(other.picture)).all()


def test_a_clip_that_is_named_is_drawn_in_a_folder_of_its_own_with_a_sheet(store, runs, tmp_path):
    clip_id = "made/id00008/video1/00001"
    asked = ["--store", store.uri, "--runs", runs, "--system", "only-audio", "--clip", clip_id, "--scales", "0,2"]
    done = CliRunner().invoke(app, ["sample", *map(str, (*asked, "--steps", 2, "--out", tmp_path, "--json"))])
    assert done.exit_code == 0, done.output
    folder = tmp_path / clip_id.replace("/", "-")
    drawings = read_drawings(folder)
    assert [(one.clip_id, one.cond_scale) for one in drawings] == [(clip_id, 0.0), (clip_id, 2.0)]
    about = json.loads(done.stdout.splitlines()[-1])[0]
    assert about["sheet"] == str(folder / "only-audio.png")
    assert about["portraits"] == [one.about for one in drawings]
    noted = {row["path"]: row["row_ids"] for row in store.table("artifacts").to_table().to_pylist()}
    assert noted[about["sheet"]] == noted[str(drawings[0].picture)] == row_ids_of(store, [clip_id]).tolist()
    of_training = CliRunner().invoke(app, ["sample", *map(str, asked), "--split", "val", "--out", str(tmp_path)])
    assert f"clip {clip_id} is not among the val clips" in str(of_training.exception)
