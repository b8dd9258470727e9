"""A run: resumed to the bit, finished once, itself alone; and it learns."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from featurestore.conditioning import LAYOUTS
from featurestore.errors import UsageError, VoxportraitError
from featurestore.feed import Feed
from featurestore.store import Store
from tests.featurestore.conftest import clip, fill, want
from tests.training.clips import COLOURS, clips_in_memory
from training import loop, presets, samples
from training.cascade import CascadeStage
from training.checkpoint import latest_checkpoint, open_run
from training.loop import train
from training.metrics import read_metrics
from training.presets import stage_preset
from training.sampling import draw_stage, load_stage
from training.step import learning_rate
from voxportrait import main

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
    want, got = (tensors(place)["model"] for place in (folder, tmp_path / "killed"))
    assert all(torch.equal(values, got[name]) for name, values in want.items())
    assert [row["step"] for row in read_metrics(tmp_path / "killed") if "loss" in row] == list(range(1, STEPS + 1))


KILLS = """
import json, os, random, signal, sys
from collections import Counter
from pathlib import Path
import torch
torch.set_num_threads(1)
import torch.utils.tensorboard
from tests.training.clips import clips_in_memory
from training import loop, unets
from training.presets import stage_preset
unets.imagen_library()

EVERY, STEPS = 2, 6
ARCHITECTURE = {**stage_preset("micro", 1).architecture, "dim": 8, "dim_mults": (1,), "layer_attns": (False,),
                "layer_cross_attns": (False,), "attend_at_middle": False}

def child(run, dies=None):
    reading, writing = os.pipe()
    if not os.fork():
        calls, seen = Counter(), []
        def profile(frame, event, argument):
            if event == "call":
                calls[frame.f_code.co_name] += 1
                calls[None] += 1
                if dies(calls):
                    os.kill(os.getpid(), signal.SIGKILL)
        def progress(done, total):
            os.write(writing, f"{done} ".encode())
        if dies:
            sys.setprofile(profile)
        loop.train(run, clips_in_memory(), preset="micro", choices={"architecture": ARCHITECTURE}, steps=STEPS,
                   device="cpu", checkpoint_every=EVERY, report_every=1, validate_every=4, progress=progress)
        sys.setprofile(None)
        os.write(writing, f"calls {calls[None]}".encode())
        os._exit(0)
    os.close(writing)
    _, status = os.wait()
    return os.WTERMSIG(status), os.fdopen(reading).read()

root = Path(sys.argv[1])
_, said = child(root / "straight", lambda calls: False)
total = int(said.split()[-1])
draw = random.Random(5)
anywhere = [lambda calls, at=draw.randrange(total): calls[None] == at for _ in range(3)]
inside = [lambda calls, name=name, at=at: calls[name] == at
          for name, at in [("save_file", 2), ("_to_disk", 4), ("rename", 2), ("rmtree", 2)]]
for number, dies in enumerate(anywhere + inside):
    killed, before = child(root / str(number), dies)
    _, after = child(root / str(number))
    print(json.dumps([killed, [int(s) for s in before.split() if s != "calls"], int(after.split()[0])]))
"""


def test_a_kill_anywhere_costs_at_most_the_steps_since_the_last_checkpoint(tmp_path):
    """SIGKILL at drawn places of the program, and four times while a checkpoint is written."""
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for number, line in enumerate(done.stdout.splitlines()):
        signalled, steps_before, first_after = json.loads(line)
        assert signalled == signal.SIGKILL
        assert first_after >= max(steps_before, default=0) - 2
        for part in PARTS:
            want, got = (tensors(tmp_path / name)[part] for name in ("straight", str(number)))
            assert all(torch.equal(values, got[name]) for name, values in want.items()), (number, part)
        assert not list((tmp_path / str(number) / "checkpoints").glob(".step-*"))
    assert number == 6


def test_a_run_is_stopped_by_sigterm_saves_says_so_and_exits_with_1(tmp_path, monkeypatch, capsys):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(clip(n) for n in range(20))
    fill(store, [want("ecapa"), want("face_128")])
    command = ["train", "--store", store.uri, "--system", "no-image-guide", "--stage", "unet1", "--preset", "micro",
               "--missing", "zero", "--batch-size", "4", "--device", "cpu", "--json", "--steps", "1000000"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["voxportrait", *command, "--runs", str(tmp_path / "runs")])
    metrics, ended = tmp_path / "runs/no-image-guide-unet1/metrics.jsonl", threading.Event()

    def terminate() -> None:
        while not ended.wait(0.05):
            if metrics.exists() and metrics.stat().st_size:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def unheard(number: int, frame: object) -> None:
        raise AssertionError("training does not listen to SIGTERM")

    before = signal.signal(signal.SIGTERM, unheard)
    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr()
    (outcome,) = json.loads(said.out.splitlines()[-1])
    assert end.value.code == 1, said.err
    assert outcome["step"] == open_run(metrics.parent).about["step"] > 0
    assert said.err.splitlines()[-1] == (
        f"voxportrait: stopped as asked at step {outcome['step']} of 1000000; run the same command again to go on"
    )


def test_nothing_asks_the_global_random_states_once_training_began(straight, tmp_path):
    noise = count(77)

    def disturb(done, total):
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(next(noise))

    run(tmp_path / "disturbed", progress=disturb, sample_every=2)
    for part in PARTS:
        want, got = (tensors(folder)[part] for folder in (straight[0], tmp_path / "disturbed"))
        assert all(torch.equal(values, got[name]) for name, values in want.items()), part


@pytest.mark.parametrize(("stage", "size", "columns"), [("unet1", 32, 4), ("unet2", 128, 4)])
def test_grids_of_held_out_clips_are_drawn_and_say_what_they_are(tmp_path, stage, size, columns):
    """What it is given, drawn at two scales, and the true picture; U-Net 2 is given the true low picture."""
    run(tmp_path / "run", stage=stage, steps=3, sample_every=2)
    paths = sorted((tmp_path / "run/samples").glob("*.png"))
    assert [path.name for path in paths] == ["step-00000002.png", "step-00000003.png"]
    with Image.open(paths[0]) as picture:
        assert picture.size == (columns * size, 2 * size)
        about = json.loads(picture.text["voxportrait"])  # type: ignore[attr-defined]
        pixels = np.asarray(picture).astype(int)
    assert about["generated"] is True
    assert (about["step"], about["stage"], about["cond_scales"]) == (2, stage, [1.0, 3.0])
    assert about["clip_ids"] == ["test/id00010/video/00001", "test/id00011/video/00001"]
    given, truth = pixels[:, :size], pixels[:, -size:]
    assert np.abs(given - truth).mean() < 40
    assert np.abs(given[:size] - truth[size:]).mean() > 60
    assert list((tmp_path / "run/samples/tensorboard").iterdir())


def test_a_run_without_held_out_clips_draws_none(tmp_path):
    run(tmp_path / "run", loader=clips_in_memory(held_out=()), steps=1, sample_every=1)
    assert not (tmp_path / "run/samples").exists()


def test_a_grid_that_does_not_fit_the_memory_does_not_end_training(tmp_path, monkeypatch):
    def draw(*all):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(samples, "draw", draw)
    with pytest.warns(UserWarning, match="cpu has no memory for a grid at step 1"):
        assert run(tmp_path / "run", steps=1, sample_every=1)["finished"]


def test_pieces_that_fitted_the_memory_are_kept_when_training_goes_on(tmp_path, monkeypatch):
    seen, room = [], [2]
    whole = CascadeStage.loss

    def loss(self, inputs, noise):
        if len(inputs.matrix) > room[0]:
            raise torch.OutOfMemoryError("no room")
        seen.append(len(inputs.matrix))
        return whole(self, inputs, noise)

    monkeypatch.setattr(CascadeStage, "loss", loss)
    run(tmp_path / "run", should_stop=lambda: True, validate_every=1)
    assert open_run(tmp_path / "run").about["micro_batch"] == 2
    room[0] = 100
    run(tmp_path / "run", steps=2)
    assert set(seen) == {2}


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
    assert (about["system"], about["stage"]) == ("full-input", "unet1")
    assert about["data"] == {"clips": 10, "held_out": 2, "seed": 0}
    assert about["settings"]["architecture"]["dim"] == 16
    assert about["code"]
    assert json.loads((folder / "config.json").read_text())["steps"] == STEPS
    assert list((folder / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ({"layout": LAYOUTS["slf-released"]}, r"its layout\.\w+ is"),
        ({"system": "only-audio"}, "its system is full-input, not only-audio"),
        ({"seed": 1}, "its seed is 0, not 1"),
        ({"stage": "unet2"}, "its stage is unet1, not unet2"),
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


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    wild = replace(stage_preset("micro", 1), learning_rate=float("inf"), clip=0.0)
    monkeypatch.setitem(presets.PRESETS, "micro", (wild, stage_preset("micro", 2)))
    with pytest.raises(VoxportraitError, match="weights are no longer finite at step 1: train with a lower"):
        run(tmp_path / "wild", steps=1)
    assert latest_checkpoint(tmp_path / "wild") is None


@pytest.mark.parametrize(
    ("device", "message"),
    [("gpu", "unknown device 'gpu': take cpu"), ("mps", "unknown device 'mps'"), ("cuda:99", r"there is no cuda:99: ")],
)
def test_a_device_that_is_not_there_is_said_before_anything_is_made(tmp_path, device, message):
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()


def test_what_was_killed_before_its_first_line_begins_anew_and_damage_is_named(tmp_path):
    (tmp_path / "config.json.new").write_text("{")
    run(tmp_path, steps=1)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(
        VoxportraitError, match=r"config.json is damaged \(.*\): a checkpoint.json of the run can stand in"
    ):
        run(tmp_path, steps=1)


def test_of_many_held_out_clips_some_are_validated_on_evenly_spread(monkeypatch):
    class Numbers:
        shows = 0

        def inputs(self, fed):
            return torch.tensor(fed.batch.rows.astype(float))

        def noise(self, batch, seed, purpose):
            return torch.zeros(len(batch))

        def loss(self, inputs, noise):
            return inputs

    feed = Feed(clips_in_memory(held_out=tuple(range(4, 12))), LAYOUTS["slf"], allow_missing=True)
    for most, rows in [(100, range(4, 12)), (4, (4, 6, 8, 10)), (3, (4, 6, 9))]:
        monkeypatch.setattr(loop, "VALIDATED", most)
        assert loop.validation_loss(Numbers(), feed, 0, micro_batch=2) == np.mean(rows)  # type: ignore[arg-type]


def test_the_learning_rate_warms_up_and_comes_down():
    settings = replace(stage_preset("micro", 1), learning_rate=1.0, warmup=10, final_rate=0.1)
    rates = [learning_rate(settings, step, 1000) for step in (0, 4, 500, 999)]
    np.testing.assert_allclose(rates, [0.1, 0.5, 0.55, 0.1], atol=0.001)


@pytest.mark.slow
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
