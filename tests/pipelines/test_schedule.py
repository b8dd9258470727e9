"""Jobs with real actors: what goes wrong with a clip costs that clip alone; two jobs keep out of each other's way."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from featurestore import journal
from featurestore.clip import Clip
from featurestore.errors import VoxportraitError
from featurestore.leases import LeaseHeld
from featurestore.policy import Policy
from featurestore.store import Store
from pipelines.job import fill
from pipelines.options import Options

QUARANTINED = {
    "aborts": ("crash", 3),
    "hangs": ("deadline", 2),
    "starves": ("out of memory", 3),
    "stumbles": ("read error", 3),
    "raises": ("extractor error", 1),
}
PASSING = ("aborts-once", "starves-once", "stumbles-once")
CALM = tuple(f"calm-{n}" for n in range(9))


def clips(*speakers: str) -> list[Clip]:
    return [Clip(f"made/{speaker}/video/00001", "/nowhere.mp4", "train") for speaker in speakers]


@pytest.fixture(scope="module")
def job(kit, ray_here, tmp_path_factory):
    """A store and what one job made of all kinds of trouble in one chunk."""
    store = Store.open_or_create(str(tmp_path_factory.mktemp("troubled") / "store"))
    store.register(clips(*QUARANTINED, *PASSING, *CALM))
    return store, fill(store, ["steady", "trouble"], Options(deadline=4))


def made_of(store: Store, key: str) -> set[str]:
    return set(store.sql(f"select speaker_id from clips where {key}_maker is not null").speaker_id)


def test_each_clip_that_makes_trouble_is_quarantined_alone_with_its_reason_and_attempts(job):
    store, summary = job
    rows = store.table("quarantine").to_table().to_pylist()
    found = {row["clip_id"].split("/")[1]: (row["reason"], row["attempts"]) for row in rows}
    assert found == QUARANTINED
    assert {row["constituent"] for row in rows} == {"trouble"}
    assert all(len(row["message"]) > 10 for row in rows)
    assert summary.quarantined == {reason: 1 for reason, _ in QUARANTINED.values()}


def test_the_rest_of_its_constituents_and_all_of_its_neighbours_are_filled(job):
    store, summary = job
    assert made_of(store, "steady") == {*QUARANTINED, *PASSING, *CALM}
    assert made_of(store, "trouble") == {*PASSING, *CALM}
    assert summary.clips == len(QUARANTINED) + len(PASSING) + len(CALM)


def test_nothing_is_left_in_the_journal(job):
    store, _ = job
    assert journal.pending(store.place) == 0
    assert store.place.list(journal.FOLDER) == []


def test_the_log_has_the_numbers_of_the_job_and_names_no_clip(job):
    store, summary = job
    lines = Path(summary.log).read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert summary.log == f"{store.uri}/_logs/{summary.job_id}.jsonl"
    assert (events[0]["event"], events[-1]["event"]) == ("started", "finished")
    assert events[-1]["quarantined"] == summary.quarantined
    assert events[-1]["filled"] == summary.filled
    assert not any(speaker in line for line in lines for speaker in (*CALM, "made/"))


def test_the_job_s_row_has_counts_and_seconds_by_constituent(job):
    store, summary = job
    (row,) = store.table("jobs").to_table().to_pylist()
    assert row["state"] == "finished"
    assert json.loads(row["counts"])["quarantined"] == summary.quarantined
    assert {"steady", "trouble", "wall"} <= set(json.loads(row["seconds"]))
    assert json.loads(row["gpu_seconds"]) == {}
    assert json.loads(row["policy"])["require_consent"] is False


def test_a_full_disk_ends_the_job_in_one_line_and_what_is_finished_is_kept(kit, ray_here, tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(clips(*(f"calm-{n:02d}" for n in range(16)), "fills-the-disk"))
    with pytest.raises(VoxportraitError, match="No space left"):
        fill(store, ["steady", "trouble"], Options(workers=1))
    assert store.info()["last_job"]["state"] == "failed"
    assert journal.pending(store.place) == 1
    store.table("clips").delete("speaker_id = 'fills-the-disk'")
    summary = fill(store, ["steady", "trouble"])
    assert (summary.resumed, summary.clips) == (16, 0)
    assert summary.filled == {"steady": 16, "trouble": 16}


def slow(count: int, licence: str = "") -> list[Clip]:
    return [Clip(f"{licence}/slow/{n}/00001", "/nowhere.mp4", "train", licence=licence) for n in range(count)]


def test_a_second_job_leaves_with_a_word_or_waits_and_has_nothing_to_do(kit, ray_here, tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(slow(30, "any"))
    told: list[str] = []
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(fill, store, ["steady"], Options(workers=1))
        while not store.table("leases").count_rows("resource = 'fragment:0'"):
            assert not first.done(), first.result()
            time.sleep(0.05)
        with pytest.raises(LeaseHeld, match=r"the store is in use: .* filling"):
            fill(store, ["steady"])
        waited = fill(store, ["steady"], Options(wait=500), told=told.append)
        assert first.result().filled == {"steady": 30}
    assert (waited.clips, waited.filled) == (0, {})
    assert len(told) == 1
    assert told[0].startswith("waiting: the store is in use")


def test_two_jobs_on_different_clips_both_finish(kit, ray_here, tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    licences = ("free", "signed")
    for licence in licences:
        store.register(slow(10, licence))
    with ThreadPoolExecutor(2) as threads:
        jobs = [
            threads.submit(fill, store, ["steady", "trouble"], Options(workers=1), policy=Policy(licences=(licence,)))
            for licence in licences
        ]
        summaries = [job.result() for job in jobs]
    assert [(s.clips, s.filled, s.not_allowed) for s in summaries] == [(10, {"steady": 10, "trouble": 10}, 10)] * 2
    counts = store.coverage()["constituents"]
    assert [counts[key]["filled"] for key in ("steady", "trouble")] == [20, 20]
    policies = [json.loads(row)["licences"] for row in store.table("jobs").to_table()["policy"].to_pylist()]
    assert sorted(policies) == [["free"], ["signed"]]
