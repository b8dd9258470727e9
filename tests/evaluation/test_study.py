"""A study in one command, on a bare machine: trained, drawn, judged, told truthfully."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from PIL import Image

from evaluation.planning import SHARES, Stage, in_turn, plan, stages_of
from evaluation.standing import standings
from evaluation.standing import told as standing_told
from evaluation.study import chance, study, summary
from featurestore.conditioning import LAYOUTS
from featurestore.errors import UsageError
from featurestore.exporting import export

SYSTEMS = ["only-image-guide", "speaker-embedding-only"]
SETTINGS: dict[str, Any] = {"preset": "micro", "minutes": 0.05, "scales": [1.0], "device": "cpu", "draw_at_once": 5}
BLOCKED = ("ray", "lance", "lancedb", "pyarrow", "av")


@pytest.fixture(scope="module")
def exported(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "people.safetensors"
    export(store, out, LAYOUTS["slf"], missing="zero", splits=("train", "val", "test"))
    return out


@pytest.fixture(scope="module")
def done(exported, tmp_path_factory):
    """The folder of a study that the command made where there is neither store nor media."""
    out = tmp_path_factory.mktemp("study") / "study"
    arguments = ["--export", str(exported), "--out", str(out), "--systems", ",".join(SYSTEMS), "--preset", "micro"]
    arguments += ["--minutes", "0.05", "--scales", "1", "--device", "cpu", "--draw-at-once", "5", "--json"]
    code = f"""
import sys
from typing import Any
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"{{name}} is not on this machine", name=name)
sys.meta_path.insert(0, Blocked())
sys.argv = ["voxportrait", "study", *{arguments!r}]
import voxportrait
voxportrait.main()
"""
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=alone, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == json.loads((out / "study.json").read_text())
    return out


def test_a_bare_machine_trains_draws_and_judges_in_one_command(done):
    told = json.loads((done / "study.json").read_text())
    assert [(one["system"], one["stage"]) for one in told["stages"]] == stages_of(SYSTEMS)
    assert all(one["step"] == one["steps"] >= 1 for one in told["stages"])
    assert told["people"] == {"train": 12, "val": 2, "test": 10}
    assert told["device"] == "a CPU"
    assert told["command"].startswith("voxportrait study --export")
    assert set(told["evaluation"]["recognisers"]) == {"dlib-l2", "pixels-l2"}
    assert [row["name"] for row in told["evaluation"]["systems"]] == SYSTEMS
    assert set(told["chance"]) == set(SYSTEMS)
    assert set(told["seconds"]) == {"measuring", "training", "drawing", "judging", "all"}


def test_a_study_brings_back_pictures_that_say_what_they_are(done):
    with Image.open(done / "sheet-1.png") as sheet:
        assert "generated" in sheet.info["Description"]
        assert "untrained weights, without meaning: ecapa" in sheet.info["Description"]
        assert sheet.width > 5 * 128
    text = (done / "study.md").read_text()
    assert "untrained weights, without meaning: ecapa" in text
    assert "| guessing |" in text
    assert (done / "losses.png").stat().st_size > 1000


def test_a_finished_study_is_not_trained_again_and_a_folder_holds_one_study(done, exported):
    before = json.loads((done / "study.json").read_text())
    weights = {path: path.stat().st_mtime_ns for path in done.glob("runs/*/checkpoints/*/*")}
    again = study(exported, done, SYSTEMS, **SETTINGS)
    assert [one["steps"] for one in again["stages"]] == [one["steps"] for one in before["stages"]]
    assert {path: path.stat().st_mtime_ns for path in done.glob("runs/*/checkpoints/*/*")} == weights
    assert again["evaluation"]["systems"] == before["evaluation"]["systems"]
    with pytest.raises(UsageError, match="holds another study: its preset is micro, not tiny"):
        study(exported, done, SYSTEMS, **{**SETTINGS, "preset": "tiny"})


def test_an_export_without_unseen_people_is_refused_with_what_to_do(store, tmp_path):
    without = tmp_path / "trained.safetensors"
    export(store, without, LAYOUTS["slf"], missing="zero", splits=("train", "val"))
    with pytest.raises(UsageError, match=r"holds train, val and nobody to draw: .*--split test"):
        study(without, tmp_path / "study", SYSTEMS, **SETTINGS)


def test_the_time_is_shared_by_what_each_stage_takes():
    paces = {("super-resolution", "unet1"): 100.0, ("super-resolution", "unet2"): 10.0}
    paces |= {("generation", "unet1"): 200.0, ("generation", "unet2"): 10.0}
    stages = plan(stages_of(["full-input", "no-image-guide"]), "micro", paces, 200)
    assert sum(stage.seconds for stage in stages) == pytest.approx(200)
    assert [stage.steps for stage in stages] == [1500, 100, 3000, 100]
    assert stages[0] == Stage("full-input", "unet1", 1500, 4, 100.0, 100 * SHARES["unet1"])
    assert min(stage.steps for stage in plan(stages_of(["full-input"]), "micro", paces, 0.001)) == 1


def test_the_codec_is_trained_once_and_first_and_each_system_has_as_long():
    trainings = stages_of(["one-stage", "two-stage", "fine-portraitist"])
    assert [[stage for _, stage in group] for group in in_turn(trainings)] == [
        ["codec"], ["face", "bottom", "bottom"], ["upper", "upper"],
    ]  # fmt: skip
    paces = {("", stage): 8.0 for stage in ("codec", "face", "bottom", "upper")}
    paces |= {("leaning", stage): 4.0 for stage in ("bottom", "upper")}
    stages = plan(trainings, "micro", paces, 40)
    assert [stage.steps for stage in stages] == [10, 10, 5, 5, 2, 2]
    assert [stage.name for stage in stages][:2] == ["fine-portraitist-codec", "one-stage-face"]


def found(hits, n, gallery):
    return {str(k): {"k": k, "hits": h, "n": n, "value": h / n, "random": k / gallery} for k, h in hits.items()}


def evaluation(rows):
    return {
        "galleries": {"same-frame": {"speakers": 100, "about": "the frame"}},
        "recognisers": {"dlib-l2": {"name": "dlib", "metric": "l2", "untrained": False}},
        "ranks": [1, 10],
        "systems": [
            {"name": "full-input", "cond_scale": scale, "untrained": [], "psnr": None, "ssim": None}
            | {"recall": {"same-frame": {"dlib-l2": found(hits, 100, 100)}}}
            for scale, hits in rows
        ],
        "references": [],
    }


def test_trying_many_scales_and_ranks_wins_nothing():
    lucky = chance(evaluation([(1.0, {1: 4, 10: 10}), (3.0, {1: 1, 10: 9})]), "full-input")
    assert (lucky["scale"], lucky["k"], lucky["hits"], lucky["tries"]) == (1.0, 1, 4, 4)
    assert lucky["p"] == pytest.approx(4 * 0.0184, rel=0.01)  # P(at least 4 of 100 at 1 %) is 0.0184
    sure = chance(evaluation([(1.0, {1: 9, 10: 40})]), "full-input")
    assert sure["p"] < 1e-6
    unconditional = chance(evaluation([(0.0, {1: 9, 10: 40})]), "full-input")
    assert (unconditional["tries"], unconditional["p"]) == (0, None)


def test_the_summary_says_what_guessing_gives_and_that_pixels_are_no_recogniser():
    told = evaluation([(1.0, {1: 4, 10: 10})])
    told["recognisers"] = {"pixels-l2": {"name": "pixels", "metric": "l2", "untrained": False}}
    told["systems"][0]["recall"] = {"same-frame": {"pixels-l2": found({1: 4, 10: 10}, 100, 100)}}
    seconds = dict.fromkeys(("training", "drawing", "judging", "all"), 1.0)
    text = summary(
        {"systems": ["full-input"], "preset": "micro", "device": "a CPU", "people": {"train": 3}, "seconds": seconds}
        | {"evaluation": told, "chance": {"full-input": chance(told, "full-input")}, "stages": []}
    )
    assert "pixels-l2, which is no recogniser" in text
    assert "| full-input | 1 | 4.0% | 10.0% |" in text
    assert "| guessing |  | 1.0% | 10.0% |" in text


def distance(value):
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def judged_alike(by_system):
    told = evaluation([(1.0, {1: 4})])
    (row,) = told["systems"]
    first = row["recall"]["same-frame"]["dlib-l2"]["1"]
    told["systems"] = [
        {**row, "name": name, "family": "fine-portraitist", "features": {"dlib": {"cosine": distance(value)}}}
        | {"recall": {"same-frame": {"dlib-l2": {"1": {**first, **distance(r1)}}}}}
        for name, (value, r1) in by_system.items()
    ]
    return told


def test_the_order_found_is_said_whatever_it_is():
    found_of = {"one-stage": (0.2, 0.1), "two-stage": (0.5, 0.2), "fine-portraitist": (0.52, 0.9)}
    (one,) = standings(judged_alike(found_of))
    assert [row["system"] for row in one["by_distance"]] == ["one-stage", "two-stage", "fine-portraitist"]
    assert [row["system"] for row in one["by_recall"]] == ["fine-portraitist", "two-stage", "one-stage"]
    text = " ".join(standing_told(one))
    assert "That is not the paper's order (fine-portraitist, two-stage, one-stage)." in text
    assert "That is the paper's order" in text
    assert "The intervals of two-stage and fine-portraitist overlap: their order may be chance." in text
    assert standings(judged_alike({"one-stage": (0.2, 0.1)})) == []
