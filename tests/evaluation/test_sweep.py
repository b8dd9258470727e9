"""A sweep: systems x scales, drawn once, judged together, the best scale of each told."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evaluation.cli import reporting
from evaluation.portraits import by_system_and_scale, digest, read_drawings
from evaluation.sweep import Source, best_rows, leading, sweep, trained_systems
from featurestore.errors import UsageError
from tests.evaluation.conftest import TEST_SPEAKERS
from tests.evaluation.test_report import told
from voxportrait import app


@pytest.fixture
def sweep_command(store, runs):
    def run(*arguments):
        return CliRunner().invoke(app, ["sweep", "--store", store.uri, "--runs", str(runs), *map(str, arguments)])

    return run


def test_systems_with_both_stages_trained_are_swept(runs, tmp_path):
    assert trained_systems(runs) == ["full-input", "only-audio"]
    shutil.copytree(runs / "full-input-unet1", tmp_path / "full-input-unet1")
    assert trained_systems(tmp_path) == []


def test_a_sweep_draws_all_and_draws_nothing_twice(store, runs, tmp_path):
    done: list[tuple] = []
    first = sweep(Source(store), ["full-input"], runs, [0.0], tmp_path, "cpu", steps=1)
    made = {drawing.picture: drawing.picture.stat().st_mtime_ns for drawing in first}
    whole = sweep(
        Source(store),
        ["full-input", "only-audio"],
        runs,
        [0.0, 2.0],
        tmp_path,
        "cpu",
        lambda *one: done.append(one),
        steps=1,
    )
    assert len(made) == TEST_SPEAKERS
    assert len(whole) == len(read_drawings(tmp_path)) == 4 * TEST_SPEAKERS
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert done[-1] == (4 * TEST_SPEAKERS, 4 * TEST_SPEAKERS, "only-audio")
    assert [one[0] for one in done] == sorted(one[0] for one in done)


def test_the_best_scale_is_of_the_highest_first_recall_then_of_the_next():
    found = told()
    assert leading(found) == ("same-frame", "dlib-l2")
    assert {name: row["cond_scale"] for name, row in best_rows(found).items()} == {
        "full-input": 3.0,
        "no-image-guide": 3.0,
    }
    first, second = found["systems"][:2]
    first["recall"]["same-frame"]["dlib-l2"]["1"] = second["recall"]["same-frame"]["dlib-l2"]["1"]
    assert best_rows(found)["full-input"]["cond_scale"] == 3.0
    first["recall"] = second["recall"]
    assert best_rows(found)["full-input"]["cond_scale"] == 1.0
    first["cond_scale"] = 0
    assert best_rows(found)["full-input"]["cond_scale"] == 3.0


def test_a_recogniser_without_training_leads_only_where_there_is_no_other():
    found = told()
    found["recognisers"] = {
        "vgg_face-l2": {"name": "vgg_face", "metric": "l2", "untrained": True},
        "dlib-l2": {"name": "dlib", "metric": "l2", "untrained": False},
    }
    assert leading(found)[1] == "dlib-l2"
    found["recognisers"]["vgg_face-l2"]["untrained"] = False
    assert leading(found)[1] == "vgg_face-l2"


def test_a_system_that_is_not_trained_is_named_and_passed_over(sweep_command, tmp_path):
    result = sweep_command(
        "--systems", "only-audio,no-audio", "--scales", "1", "--steps", 1, "--out", tmp_path, "--json"
    )
    assert result.exit_code == 0
    assert "passed over: no-audio" in result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "systems": ["only-audio"],
        "scales": [1.0],
        "portraits": TEST_SPEAKERS,
        "out": str(tmp_path),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--systems", "no-audio"), "no system of no-audio is trained in"),
        (("--systems", "everything"), "everything"),
        (("--scales", "8..x"), "--scales takes numbers from 0 to 100"),
        (("--scales", "5..2"), "--scales takes numbers from 0 to 100"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_a_line(sweep_command, tmp_path, arguments, message):
    result = sweep_command(*arguments, "--out", tmp_path)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_what_was_judged_is_of_the_portraits_that_are_there(drawn, tmp_path, monkeypatch):
    """Portraits that were drawn in another way are judged again, those that are the same are not."""
    drawings = read_drawings(drawn)
    monkeypatch.setattr(reporting, "_judge", lambda source, drawings: {"systems": "now"})
    groups = by_system_and_scale(drawings).items()
    rows = [{"name": name, "cond_scale": scale, "portraits": digest(group)} for (name, scale), group in groups]
    (tmp_path / "evaluation.json").write_text(json.dumps({"systems": rows}))
    assert reporting._evaluation(Source(), drawings, None, tmp_path) == {"systems": rows}
    other = replace(drawings[0], about={**drawings[0].about, "sampler_steps": [1, 1]})
    assert reporting._evaluation(Source(), [other, *drawings[1:]], None, tmp_path) == {"systems": "now"}


def test_the_commands_of_a_report_say_how_the_portraits_were_drawn(drawn):
    drawings = read_drawings(drawn)
    folder = Path("p")
    other = replace(drawings[0], about={**drawings[0].about, "sampler_steps": [7, 7], "base_seed": 5})
    told = reporting._commands([], [*drawings[1:], other], "store", None, Path("runs"), folder, Path("page"))
    assert told[0].startswith(
        "voxportrait sweep --store store --runs runs --systems full-input,only-audio --scales 1,2,3"
    )
    assert told[0].endswith("--out p --evaluate")
    assert told[1].endswith("--systems full-input --scales 1 --out p --steps 7 --seed 5 --evaluate")
