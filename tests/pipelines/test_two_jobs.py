"""Jobs at the same time, and jobs that are asked to stop: real commands, each with a Ray of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from featurestore.clip import Clip
from featurestore.store import Store

KEYS = ("steady", "trouble")


def clips(count: int, licence: str = "") -> list[Clip]:
    return [Clip(f"made{licence}/calm-{n}/video/00001", "/nowhere.mp4", "train", licence=licence) for n in range(count)]


def make(place: Path, *registered: list[Clip]) -> Store:
    store = Store.open_or_create(str(place))
    for some in registered:
        store.register(some)
    return store


def start(store: Store, *more: object, **variables: float) -> subprocess.Popen:
    """A fill of the store with one worker."""
    named = ("--store", store.uri, "--constituents", ",".join(KEYS), "--workers", "1", "--json")
    command = [sys.executable, "-m", "voxportrait", "fill", *named, *map(str, more)]
    environment = os.environ | {f"TROUBLE_{name.upper()}": str(value) for name, value in variables.items()}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(job: subprocess.Popen) -> tuple[int, dict, str]:
    """A job's exit code, its summary and what it told."""
    out, told = job.communicate(timeout=250)
    assert "Traceback" not in told
    return job.returncode, json.loads(out.splitlines()[-1]) if out else {}, told


def wait_until(job: subprocess.Popen, happens) -> None:
    deadline = time.monotonic() + 200
    while not happens():
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def fills(store: Store) -> bool:
    """Whether a job holds clips of the store."""
    return any("filling" in row["who"] for row in store.table("leases").to_table().to_pylist())


@pytest.fixture
def notes(tmp_path, kit, monkeypatch) -> Path:
    """Where workers note what they do for the first time."""
    folder = tmp_path / "notes"
    folder.mkdir()
    monkeypatch.setenv("TROUBLE_NOTES", str(folder))
    return folder


def test_a_second_job_leaves_with_a_word_or_waits_and_has_nothing_to_do(tmp_path, kit):
    store = make(tmp_path / "store", clips(60))
    first = start(store, pace=0.1)
    wait_until(first, lambda: fills(store))
    second, third = start(store), start(store, "--wait", 200)
    code, summary, told = ended(second)
    assert (code, summary) == (1, {})
    assert "the store is in use" in told
    assert ended(first)[:2][1]["filled"] == {"steady": 60, "trouble": 60}
    code, summary, told = ended(third)
    assert (code, summary["clips"], summary["filled"]) == (0, 0, {})
    assert "waiting: the store is in use" in told


def test_two_jobs_on_different_clips_both_finish(tmp_path, kit):
    store = make(tmp_path / "store", clips(30, "free"), clips(30, "signed"))
    assert len(store.table("clips").get_fragments()) == 2
    jobs = [start(store, "--licence", licence, pace=0.05) for licence in ("free", "signed")]
    for job in jobs:
        code, summary, told = ended(job)
        assert code == 0, told
        assert (summary["filled"], summary["not_allowed"]) == ({"steady": 30, "trouble": 30}, 30)
    assert store.sql("select count(*) n from clips where steady_maker is null or trouble_maker is null").n[0] == 0
    policies = [json.loads(row)["licences"] for row in store.table("jobs").to_table()["policy"].to_pylist()]
    assert sorted(policies) == [["free"], ["signed"]]


def test_a_job_that_is_asked_to_stop_keeps_what_is_done_and_another_ends_it(tmp_path, notes):
    store = make(tmp_path / "store", clips(40))
    job = start(store, pace=0.4)
    wait_until(job, lambda: (notes / "making").exists())
    job.send_signal(signal.SIGTERM)
    code, summary, told = ended(job)
    assert (code, summary["stopped"]) == (1, True)
    assert "Run the same command again" in told
    assert 1 <= summary["clips"] < 16
    assert store.info()["last_job"]["state"] == "interrupted"
    code, again, _ = ended(start(store))
    assert (code, again["resumed"], again["clips"]) == (0, summary["clips"], 40 - summary["clips"])
    counts = store.coverage()["constituents"]
    assert [counts[key]["filled"] for key in KEYS] == [40, 40]


def test_a_job_that_loads_its_models_stops_when_it_is_asked_to(tmp_path, notes):
    store = make(tmp_path / "store", clips(1))
    job = start(store, load=1000)
    wait_until(job, lambda: (notes / "loading").exists())
    job.send_signal(signal.SIGINT)
    code, summary, told = ended(job)
    assert (code, summary["stopped"], summary["clips"]) == (1, True, 0)
    assert "stopped as asked" in told
