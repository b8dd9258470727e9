"""Training where there is no store: an export is enough, and its runs go on beside the store."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from featurestore import artifacts, erasure, snapshots
from featurestore.conditioning import LAYOUTS, SYSTEMS
from featurestore.errors import UsageError, VoxportraitError
from featurestore.exporting import export
from featurestore.store import Store
from tests.featurestore.conftest import clip, fill, want
from training.data import loader_for, loader_from_export, note_run
from training.presets import stage_preset
from training.run import describe_run, open_run_directory
from voxportrait import app

LAYOUT = LAYOUTS["slf"]


@pytest.fixture
def store(tmp_path) -> Store:
    made = Store.open_or_create(str(tmp_path / "store"))
    made.register(clip(n) for n in range(20))
    fill(made, [want("ecapa"), want("face_128"), want("gender")])
    return made


@pytest.fixture
def exported(store, tmp_path):
    out = tmp_path / "clips.safetensors"
    export(store, out, LAYOUT, missing="zero", splits=("train", "test"))
    return out


def test_a_bare_machine_trains_on_an_export(exported, tmp_path):
    code = f"""
import sys
from typing import Any
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "lance", "lancedb", "pyarrow"):
            raise ModuleNotFoundError(f"{{name}} is not on this machine", name=name)
sys.meta_path.insert(0, Blocked())
sys.argv = ["voxportrait", "train", "--export", {str(exported)!r}, "--preset", "micro", "--stage", "unet1",
            "--steps", "1", "--batch-size", "2", "--missing", "zero",
            "--runs", {str(tmp_path / "runs")!r}, "--device", "cpu", "--json"]
import voxportrait
voxportrait.main()
"""
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=alone, check=False
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])[0]
    assert (outcome["finished"], outcome["step"]) == (True, 1)
    assert "erasure epoch 0. Whether somebody was forgotten since is known by the store alone" in done.stderr
    config = json.loads((tmp_path / "runs/full-input-unet1/config.json").read_text())
    assert config["data"]["clips"] == 16


def train(*arguments):
    fixed = [
        "--preset",
        "micro",
        "--stage",
        "unet1",
        "--batch-size",
        2,
        "--missing",
        "zero",
        "--device",
        "cpu",
        "--json",
    ]
    return CliRunner().invoke(app, ["train", *map(str, (*fixed, *arguments))])


def test_a_run_on_a_store_goes_on_from_its_export(store, tmp_path):
    snapshots.take(store, "first")
    out, few, run = tmp_path / "first.safetensors", tmp_path / "few.safetensors", tmp_path / "run"
    export(store, out, LAYOUT, missing="zero", snapshot="first")
    export(store, few, LAYOUT, missing="zero", snapshot="first", clips=8)
    options: dict[str, Any] = {"missing": "zero", "snapshot": "first"}

    def go_on(loader):
        settings = stage_preset("micro", 1)
        open_run_directory(run, describe_run(SYSTEMS["full-input"], "unet1", "micro", settings, LAYOUT, 0, 3, loader))
        return loader

    state = go_on(loader_for(store.uri, LAYOUT, 4, **options)).order.state(1, 2)
    for loader in (
        loader_from_export(out, LAYOUT, 4, store_uri=store.uri, missing="zero"),
        loader_for(store.uri, LAYOUT, 4, cache=str(tmp_path / "cache"), **options),
    ):
        go_on(loader).load_state_dict(state)
    with pytest.raises(UsageError, match=r"run holds another run: its data\.clips is \d+, not \d+"):
        go_on(loader_from_export(few, LAYOUT, 4, missing="zero"))


def test_a_store_beside_an_export_says_who_was_forgotten(store, exported, tmp_path):
    loader = loader_from_export(exported, LAYOUT, 4, store_uri=store.uri, missing="zero", held_out="test")
    note_run(tmp_path / "run", loader)
    away = exported.rename(tmp_path / "away.safetensors")
    done = erasure.forget(store, clips=[clip(7).clip_id])
    assert done.settled.checkpoints == {str(tmp_path / "run"): 1}
    assert [line.partition(": ")[2] for line in done.settled.elsewhere] == [str(exported)]
    refused = train("--store", store.uri, "--export", away, "--runs", tmp_path / "runs")
    assert isinstance(refused.exception, VoxportraitError)
    assert "away.safetensors holds 1 clips that were forgotten since: remove it" in str(refused.exception)
    assert len(loader_from_export(away, LAYOUT, 4, missing="zero", held_out="test").records.rows) == 16


def test_what_is_trained_on_must_be_said(exported):
    assert isinstance(train().exception, UsageError)
    with_both = train("--export", exported, "--snapshot", "first")
    assert isinstance(with_both.exception, UsageError)
    assert "an export has its clips" in str(with_both.exception)
    without_input = train("--export", exported, "--system", "only-audio", "--only", "age")
    assert isinstance(without_input.exception, UsageError)
    assert "the system only-audio has no input left" in str(without_input.exception)


def test_runs_of_a_cache_are_noted_with_the_clips_of_the_store(store, tmp_path):
    options: dict[str, Any] = {"missing": "zero", "held_out": "test"}
    for cache in (None, str(tmp_path / "cache")):
        note_run(tmp_path / f"run-{cache is None}", loader_for(store.uri, LAYOUT, 4, cache=cache, **options))
    made = [artifacts.made_from(store, "checkpoint", tmp_path / f"run-{one}").tolist() for one in (True, False)]
    assert made[0] == made[1] != []
