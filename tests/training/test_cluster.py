"""Workers of Ray: what two learn is what one learns, one that is lost is got over, and what goes wrong is one line.

What two workers learn without Ray is in test_ranks. Tests that have Ray in this process are slow ones: a thread of Ray
Train's may outlive them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from featurestore.conditioning import LAYOUTS
from featurestore.errors import UsageError, VoxportraitError
from featurestore.exporting import export
from featurestore.loader import Loader
from featurestore.ray_cluster import start_ray, stop_ray
from featurestore.store import Store
from tests.faults.drill import cluster as ray_cluster
from tests.featurestore.conftest import clip, fill, want
from tests.training.clips import clips_in_memory
from training import cluster, loop
from training.checkpoint import open_run
from voxportrait import app

STEPS, BATCH = 6, 4
ROOT = Path(__file__).resolve().parents[2]
OPTIONS: dict = {"preset": "micro", "steps": STEPS, "checkpoint_every": 2, "report_every": 1}


def open_loader(rank: int, ranks: int) -> Loader:
    return Loader(clips_in_memory().records, BATCH, 0, rank, ranks)


class Dying(Loader):
    """Its process dies, as if it were killed, before the fourth step; once."""

    died: Path

    def go_on_behind(self, batch):
        if batch.epoch * self.batches_per_epoch + batch.number == 3 and not self.died.exists():
            self.died.touch()
            os._exit(1)
        super().go_on_behind(batch)


def open_dying(died: Path, rank: int, ranks: int) -> Loader:
    if rank == 0:
        return open_loader(rank, ranks)
    loader = Dying(clips_in_memory().records, BATCH, 0, rank, ranks)
    loader.died = died
    return loader


def open_refused(rank: int, ranks: int) -> Loader:
    if rank:
        raise VoxportraitError("the second worker's disk is full: make room")
    return open_loader(rank, ranks)


def tensors(folder: Path, part: str) -> dict[str, torch.Tensor]:
    return open_run(folder).tensors(part, torch.device("cpu"))


def test_the_command_trains_on_two_workers_what_it_trains_on_one(tmp_path):
    """In a process of its own, with a Ray of its own, which end."""
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(clip(n) for n in range(20))
    fill(store, [want("ecapa"), want("face_128")])
    export(store, tmp_path / "clips.safetensors", LAYOUTS["slf"], missing="zero", splits=("train", "test"))
    more = ["--export", tmp_path / "clips.safetensors", "--missing", "zero", "--system", "no-image-guide"]
    more += ["--stage", "unet1", "--preset", "micro", "--steps", 2, "--batch-size", 4, "--device", "cpu", "--json"]
    command = [sys.executable, "-m", "voxportrait", "train", *map(str, more), "--runs", str(tmp_path / "two")]
    done = subprocess.run([*command, "--workers", "2"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (outcome,) = json.loads(done.stdout.splitlines()[-1])
    assert (outcome["finished"], outcome["step"]) == (True, 2)
    alone = CliRunner().invoke(app, ["train", *map(str, more), "--runs", str(tmp_path / "one")])
    assert alone.exit_code == 0, alone.output
    one, two = (tmp_path / folder / "no-image-guide-unet1" for folder in ("one", "two"))
    assert [open_run(run).about["workers"] for run in (one, two)] == [1, 2]
    shared = tensors(two, "model")
    for name, values in tensors(one, "model").items():
        torch.testing.assert_close(shared[name], values, rtol=1e-3, atol=2e-5)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """A Ray whose workers can import these tests."""
    with ray_cluster({"PYTHONPATH": str(ROOT)}) as ray:
        start_ray(ray.address)
        yield
        stop_ray()


@pytest.fixture(scope="module")
def stopped_and_resumed(ray_here, tmp_path_factory) -> Path:
    """A run of two workers that was asked to stop, and then went on."""
    folder, seen = tmp_path_factory.mktemp("runs") / "two", []
    first = cluster.train(folder, open_loader, 2, should_stop=lambda: True, **OPTIONS)
    assert (first["finished"], first["step"]) == (False, 1)
    second = cluster.train(folder, open_loader, 2, progress=lambda *place: seen.append(place), **OPTIONS)
    assert (second["finished"], second["step"]) == (True, STEPS)
    assert seen[-1] == (STEPS, STEPS)
    assert not (folder / "ray").exists()
    return folder


@pytest.mark.slow
def test_two_workers_stopped_and_resumed_learn_what_one_does(stopped_and_resumed, tmp_path):
    loop.train(tmp_path / "one", clips_in_memory(), device="cpu", **OPTIONS)
    for part in ("model", "average"):
        shared = tensors(stopped_and_resumed, part)
        for name, values in tensors(tmp_path / "one", part).items():
            torch.testing.assert_close(shared[name], values, rtol=1e-3, atol=2e-5)
    assert open_run(stopped_and_resumed).about["workers"] == 2


@pytest.mark.slow
def test_a_worker_that_dies_is_got_over_and_nothing_differs_in_the_end(stopped_and_resumed, tmp_path):
    died = tmp_path / "died"
    outcome = cluster.train(tmp_path / "run", partial(open_dying, died), 2, **OPTIONS)
    assert died.exists()
    assert (outcome["finished"], outcome["step"]) == (True, STEPS)
    for part in ("model", "average", "optimizer"):
        undisturbed = tensors(stopped_and_resumed, part)
        assert all(torch.equal(values, undisturbed[name]) for name, values in tensors(tmp_path / "run", part).items())


@pytest.mark.slow
def test_what_a_worker_refuses_is_one_line_and_is_not_tried_for_ever(ray_here, tmp_path):
    with pytest.raises(VoxportraitError, match=r"^the second worker's disk is full: make room$"):
        cluster.train(tmp_path / "run", open_refused, 2, **OPTIONS)


@pytest.mark.slow
def test_workers_that_are_lost_too_often_are_one_line(ray_here, tmp_path):
    with pytest.raises(
        VoxportraitError, match=r"^.*/run: worker \d was lost: .* \(begun again 0 times at most\)\. What was"
    ):
        cluster.train(tmp_path / "run", partial(open_dying, tmp_path / "died"), 2, restarts=0, **OPTIONS)


@pytest.mark.slow
def test_workers_that_cannot_be_had_are_not_waited_for_once_asked_to_stop(tmp_path):
    """In a process of its own, which ends with Ray Train's thread still waiting."""
    code = (
        "import sys, pathlib\n"
        "from tests.training.test_cluster import OPTIONS, open_loader\n"
        "from training import cluster\n"
        "run = pathlib.Path(sys.argv[1])\n"
        "asked = {'device': 'cuda', 'should_stop': lambda: True, 'told': print}\n"
        "outcome = cluster.train(run, open_loader, 2, **asked, **OPTIONS)\n"
        "print(outcome['finished'], outcome['step'], outcome['checkpoint'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "2 workers need 2 GPUs, the Ray cluster has 0: waiting for more",
        "False 0 None",
    ]


@pytest.mark.slow
def test_what_the_driver_sees_is_said_without_ray(stopped_and_resumed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cluster.train(stopped_and_resumed, open_loader, 2, **OPTIONS)["already_finished"]
    with pytest.raises(UsageError, match="its seed is 0, not 1"):
        cluster.train(stopped_and_resumed, open_loader, 2, seed=1, **OPTIONS)
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        cluster.train(stopped_and_resumed, open_loader, 2, device="gpu", **OPTIONS)
    with pytest.raises(UsageError, match="a batch of 4 cannot be shared evenly by 3 ranks"):
        cluster.train(tmp_path / "run", open_loader, 3, **OPTIONS)
    with pytest.raises(UsageError, match=r"--workers and --ray-address need Ray .*: install it, or train without them"):
        cluster.train(tmp_path / "run", open_loader, 2, **OPTIONS)
