"""The model card says what the run's own facts are, and what `train` does for all systems is told in the end."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
import yaml
from typer.testing import CliRunner

from featurestore.conditioning import PORTRAITISTS, SYSTEMS
from featurestore.errors import UsageError, VoxportraitError
from featurestore.store import Store
from tests.featurestore.conftest import clip, fill, want
from training import card
from training.checkpoint import open_run
from training.cli import plan, run_folder
from voxportrait import app

RECALL = {"hits": 3, "n": 4, "value": 0.75, "low": 0.3, "high": 0.954, "random": 0.25}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    made = Store.open_or_create(str(tmp_path_factory.mktemp("card") / "store"))
    made.register(clip(n, consent="synthetic", licence="CC0-1.0") for n in range(20))
    fill(made, [want("ecapa"), want("face_128")])
    return made


def train(store, runs, *arguments):
    fixed = f"--store {store.uri} --runs {runs} --preset micro --batch-size 4 --missing zero --device cpu --json"
    return CliRunner().invoke(app, ["train", *fixed.split(), *map(str, arguments)])


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """A run of three steps by the command."""
    runs = tmp_path_factory.mktemp("runs")
    done = train(store, runs, "--stage", "unet1", "--steps", 3, "--checkpoint-every", 1, "--micro-batch", 2)
    assert done.exit_code == 0, done.exception
    return run_folder(runs, "full-input", "unet1")


def text(run) -> str:
    return (run / "README.md").read_text()


def test_a_card_begins_with_yaml_and_says_what_was_trained_on_and_how(run):
    _, front, body = text(run).split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "voxportrait"
    assert "untrained-inputs" in yaml.safe_load(front)["tags"]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", body, re.M))
    about = open_run(run).about
    assert rows["clips trained on"] == str(about["data"]["clips"])
    assert int(rows["speakers trained on"]) == about["speakers"]["trained"] > 0
    assert rows["consent as recorded"] == f"synthetic {about['data']['clips']}"
    assert rows["licence as recorded"] == f"CC0-1.0 {about['data']['clips']}"
    assert rows["steps"] == "3 of 3"
    assert rows["code"] == f"`{about['code']}`"
    for said in ("The people are synthetic", "**Untrained inputs**: ecapa", "not evidence", "Not for identifying",
                 "Not evaluated yet", about["layout_fingerprint"], "voxportrait sample"):  # fmt: skip
        assert said in body, said
    assert (about["micro_batch"], about["workers"]) == (2, 1)


def test_a_card_shows_losses_as_a_picture():
    assert card.loss_figure([{"step": 1, "loss": 1.0}]) is None
    figure = card.loss_figure([{"step": n, "loss": 1 / n, "validation_loss": 2 / n} for n in (1, 2, 4)])
    lines = ElementTree.fromstring(figure or "").findall("{http://www.w3.org/2000/svg}polyline")
    heights = [[float(point.split(",")[1]) for point in line.attrib["points"].split()] for line in lines]
    assert [len(line) for line in heights] == [3, 3]
    assert all(sorted(line) == line for line in heights)


def test_a_card_has_the_results_of_an_evaluation_by_groups_and_the_next_one_says_that_they_are_of_another_step(run):
    groups = {"gender": {"woman": {"n": 2, "recall": {"same-frame": {"dlib-l2": {"1": {**RECALL, "value": 0.5}}}}}}}
    row = {"name": "full-input", "n": 4, "recall": {"same-frame": {"dlib-l2": {"1": RECALL}}}, "cond_scale": 3.0,
           "groups": groups}  # fmt: skip
    card.write(run, {"systems": [row, {**row, "name": "only-audio", "n": 99}]})
    assert "| everybody | 4 | same-frame | dlib-l2 | R@1 | 75.0 % [30.0, 95.4] (25.0 %) |" in text(run)
    assert "| gender: woman | 2 | same-frame | dlib-l2 | R@1 | 50.0 % [30.0, 95.4] (25.0 %) |" in text(run)
    assert "99" not in text(run)
    about = {**open_run(run).about, "step": 4, "steps": 9}
    later = card.card(about, results=json.loads((run / "evaluation.json").read_text()))
    assert "Of the checkpoint at step 3, not of this one." in later
    assert "Not finished: 4 of 9 steps." in later


def test_all_systems_are_trained_one_that_fails_is_named_in_the_end_and_none_is_trained_twice(store, tmp_path):
    broken = tmp_path / "only-audio-unet1"
    broken.mkdir()
    (broken / "letter.txt").write_text("dear")
    arguments = ("--system", "all", "--stage", "unet1", "--steps", 1)
    first = train(store, tmp_path, *arguments)
    assert isinstance(first.exception, VoxportraitError)
    assert first.exception.exit_code == 1
    assert re.search(r"1 of 8 runs failed: \S+only-audio-unet1$", str(first.exception))
    (broken / "letter.txt").unlink()
    second = train(store, tmp_path, *arguments)
    assert second.exit_code == 0, second.exception
    outcomes = json.loads(second.stdout.splitlines()[-1])
    assert {one["run"].rpartition("/")[2]: one["already_finished"] for one in outcomes} == {
        f"{name}-unet1": name != "only-audio" for name in SYSTEMS
    }
    assert second.stdout.count("finished") >= len(SYSTEMS)


def test_the_codec_of_fine_portraitists_systems_is_one_run(tmp_path):
    plans = [plan(name, "all", "micro", tmp_path) for name in PORTRAITISTS]
    assert {(one[0].system, one[0].stage, one[0].run.name) for one in plans} == {
        ("fine-portraitist", "codec", "fine-portraitist-codec")
    }
    assert [one.run.name for one in plans[1]] == ["fine-portraitist-codec", "two-stage-bottom", "two-stage-upper"]


def test_a_plan_has_both_unets_of_each_system_in_order(tmp_path):
    assert [(one.system, one.stage) for one in plan("all", "all", "micro", tmp_path)] == [
        (name, stage) for name in SYSTEMS for stage in ("unet1", "unet2")
    ]
    with pytest.raises(UsageError, match="unknown stage of only-image-guide 'unet3'"):
        plan("all", "unet3", "micro", tmp_path)
