"""A run: resumed to the bit, finished once, itself alone; and it learns."""

import json
import shutil
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from featurestore.conditioning import LAYOUTS
from featurestore.errors import UsageError, VoxportraitError
from featurestore.feed import Feed
from tests.training.clips import COLOURS, clips_in_memory
from training import presets
from training.checkpoint import latest_checkpoint, open_run
from training.loop import train
from training.metrics import read_metrics
from training.presets import stage_preset
from training.sampling import draw_stage, load_stage
from training.step import learning_rate

STEPS = 6
PARTS = ("model", "average", "optimizer")


def run(folder, loader=None, **more):
    settings = {"preset": "micro", "steps": STEPS, "report_every": 1, "validate_every": 4, "device": "cpu", **more}
    return train(folder, loader or clips_in_memory(), **settings)


def tensors(folder):
    return {part: load_file(open_run(folder).folder / f"{part}.safetensors") for part in PARTS}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of six steps, three epochs, without a stop."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    return folder, run(folder)


def test_stopped_and_resumed_training_is_the_same_to_the_bit(straight, tmp_path):
    folder, whole = straight
    calls = count(1)
    first = run(tmp_path / "halves", should_stop=lambda: next(calls) == 3)
    assert (first["finished"], first["step"]) == (False, 3)
    second = run(tmp_path / "halves")
    assert (second["finished"], second["step"]) == (True, STEPS)
    want, got = tensors(folder), tensors(tmp_path / "halves")
    for part in PARTS:
        assert want[part].keys() == got[part].keys()
        assert all(torch.equal(values, got[part][name]) for name, values in want[part].items()), part
    losses = [[(row["step"], row.get("loss"), row.get("validation_loss")) for row in read_metrics(path)]
              for path in (folder, tmp_path / "halves")]  # fmt: skip
    assert losses[0] == losses[1]
    assert (whole["loss"], whole["validation_loss"]) == (second["loss"], second["validation_loss"])


def test_training_killed_between_checkpoints_goes_on_from_the_last(straight, tmp_path):
    folder, _ = straight

    def killed(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", checkpoint_every=2, progress=killed)
    (tmp_path / "killed/checkpoints/.step-00000005").mkdir()
    assert open_run(tmp_path / "killed").about["step"] == 4
    run(tmp_path / "killed")
    assert all(torch.equal(v, tensors(tmp_path / "killed")["model"][k]) for k, v in tensors(folder)["model"].items())
    assert [row["step"] for row in read_metrics(tmp_path / "killed") if "loss" in row] == list(range(1, STEPS + 1))


def test_a_finished_run_says_so_and_does_nothing(straight):
    folder, outcome = straight
    assert outcome["finished"]
    assert not outcome["already_finished"]
    before = {path: path.stat().st_mtime_ns for path in (folder / "checkpoints").rglob("*")}
    again = run(folder)
    assert again["already_finished"]
    assert again["loss"] == outcome["loss"]
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "checkpoints").rglob("*")}


def test_a_run_holds_what_made_it(straight):
    folder, _ = straight
    about = open_run(folder).about
    assert about["layout"] == LAYOUTS["slf"].to_json()
    assert about["layout_fingerprint"] == LAYOUTS["slf"].fingerprint
    assert (about["system"], about["cascade"], about["unet"]) == ("full-input", "super-resolution", 1)
    assert about["data"] == {"clips": 10, "held_out": 2, "seed": 0}
    assert about["settings"]["architecture"]["dim"] == 8
    assert about["code"]
    assert json.loads((folder / "config.json").read_text())["steps"] == STEPS
    assert list((folder / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ({"layout": LAYOUTS["slf-released"]}, r"its layout\.\w+ is"),
        ({"system": "only-audio"}, "its system is full-input, not only-audio"),
        ({"seed": 1}, "its seed is 0, not 1"),
        ({"unet": 2}, "its unet is 1, not 2"),
        ({"loader": clips_in_memory(about={"makers": "other"})}, "its data.makers is None, not other"),
    ],
)
def test_a_directory_is_one_run_only(straight, difference, message):
    with pytest.raises(UsageError, match=message):
        run(straight[0], **difference)


def test_a_strange_directory_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="not a run"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_checkpoint_refuses_another_layout_and_a_broken_one_is_named(straight, tmp_path):
    with pytest.raises(VoxportraitError, match=r"has the layout slf \(\w{8}\), not slf without age"):
        open_run(straight[0], LAYOUTS["slf"].without("age"))
    shutil.copytree(straight[0], tmp_path / "broken")
    (open_run(tmp_path / "broken").folder / "checkpoint.json").write_text("{")
    with pytest.raises(VoxportraitError, match="not a readable checkpoint"):
        open_run(tmp_path / "broken")
    with pytest.raises(UsageError, match="holds no checkpoint"):
        open_run(tmp_path)


def test_a_loss_that_is_not_finite_ends_training(tmp_path, monkeypatch):
    wild = replace(stage_preset("micro", 1), learning_rate=1e20, clip=0.0)
    monkeypatch.setitem(presets.PRESETS, "micro", (wild, stage_preset("micro", 2)))
    with pytest.raises(VoxportraitError, match="learning rate"):
        run(tmp_path / "wild")
    assert latest_checkpoint(tmp_path / "wild") is None


def test_the_learning_rate_warms_up_and_comes_down():
    settings = replace(stage_preset("micro", 1), learning_rate=1.0, warmup=10, final_rate=0.1)
    rates = [learning_rate(settings, step, 1000) for step in (0, 4, 500, 999)]
    np.testing.assert_allclose(rates, [0.1, 0.5, 0.55, 0.1], atol=0.001)


def test_the_condition_reaches_the_picture(tmp_path):
    """Faces of one colour for men and one for women: the matrix alone tells U-Net 1 which, here of clips it saw."""
    run(tmp_path / "run", system="no-image-guide", steps=200, validate_every=1000)
    checkpoint = open_run(tmp_path / "run")
    stage = load_stage(checkpoint, presets.GENERATION, torch.device("cpu"))
    feed = Feed(clips_in_memory(held_out=(0, 1, 2, 3)), checkpoint.layout, allow_missing=True)
    matrix = next(feed.validation()).matrix
    with torch.inference_mode():
        told = draw_stage(stage, matrix, [1, 2, 3, 4], cond_scale=1.0).mean((2, 3)).numpy()

    def nearest(colours):
        wanted = COLOURS / 127.5 - 1
        return np.square(colours[:, None] - wanted[None]).sum(2).argmin(1)

    assert nearest(told).tolist() == [0, 1, 0, 1]
