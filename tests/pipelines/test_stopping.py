"""Jobs that are asked to stop: real commands with a Ray of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from featurestore.clip import Clip
from featurestore.store import Store

KEYS = ("steady", "trouble")


def make(place: Path, clips: int) -> Store:
    store = Store.open_or_create(str(place))
    store.register(Clip(f"made/calm-{n}/video/00001", "/nowhere.mp4", "train") for n in range(clips))
    return store


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """start(store, TROUBLE_...=): a fill of the store with one worker, which does not outlive the test."""
    jobs = []

    def start(store: Store, *more: object, **variables: float) -> subprocess.Popen:
        named = ("--store", store.uri, "--constituents", ",".join(KEYS), "--workers", "1", "--json")
        command = [sys.executable, "-m", "voxportrait", "fill", *named, *map(str, more)]
        environment = os.environ | {name: str(value) for name, value in variables.items()}
        job = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        jobs.append(job)
        return job

    yield start
    for job in jobs:
        job.kill()


def ended(job: subprocess.Popen) -> tuple[int, dict, str]:
    """A job's exit code, its summary and what it told."""
    out, told = job.communicate()
    assert "Traceback" not in told
    return job.returncode, json.loads(out.splitlines()[-1]) if out else {}, told


def wait_until(job: subprocess.Popen, happens) -> None:
    while not happens():
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.1)


@pytest.fixture
def notes(tmp_path, kit, monkeypatch) -> Path:
    """Where workers note what they do for the first time."""
    folder = tmp_path / "notes"
    folder.mkdir()
    monkeypatch.setenv("TROUBLE_NOTES", str(folder))
    return folder


def test_a_job_that_is_asked_to_stop_keeps_what_is_done_and_another_ends_it(start, notes, ray_here, tmp_path):
    store = make(tmp_path / "store", 40)
    job = start(store, TROUBLE_PACE=0.8)
    wait_until(job, lambda: (notes / "making").exists())
    job.send_signal(signal.SIGTERM)
    code, summary, told = ended(job)
    assert (code, summary["stopped"]) == (1, True)
    assert "Run the same command again" in told
    assert 1 <= summary["clips"] < 16
    assert store.info()["last_job"]["state"] == "interrupted"
    code, again, _ = ended(start(store, "--ray-address", ray_here))
    assert (code, again["resumed"], again["clips"]) == (0, summary["clips"], 40 - summary["clips"])
    counts = store.coverage()["constituents"]
    assert [counts[key]["filled"] for key in KEYS] == [40, 40]


def test_a_job_that_loads_its_models_stops_when_it_is_asked_to(start, notes, tmp_path):
    store = make(tmp_path / "store", 1)
    job = start(store, TROUBLE_LOAD=1000)
    wait_until(job, lambda: (notes / "loading").exists())
    job.send_signal(signal.SIGINT)
    code, summary, told = ended(job)
    assert (code, summary["stopped"], summary["clips"]) == (1, True, 0)
    assert "stopped as asked" in told
