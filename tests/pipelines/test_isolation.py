"""What goes wrong with a clip or with the machine costs that clip what went wrong, and its neighbours nothing."""

import json
from pathlib import Path

import pytest

from featurestore import journal
from featurestore.clip import Clip
from featurestore.errors import VoxportraitError
from featurestore.store import Store
from pipelines.job import fill
from pipelines.options import Options
from pipelines.schedule import start_ray, stop_ray

QUARANTINED = {
    "aborts": ("crash", 3),
    "hangs": ("deadline", 2),
    "starves": ("out of memory", 3),
    "stumbles": ("read error", 3),
    "raises": ("extractor error", 1),
}
PASSING = ("aborts-once", "starves-once", "stumbles-once")
CALM = ("calm-1", "calm-2", "calm-3", "calm-4")


def clips(*speakers: str) -> list[Clip]:
    return [Clip(f"made/{speaker}/video/00001", "/nowhere.mp4", "train") for speaker in speakers]


@pytest.fixture(scope="module")
def ray_with_kit(kit):
    """Ray, whose workers have the package of trouble."""
    stop_ray()
    start_ray(None)
    yield
    stop_ray()


@pytest.fixture(scope="module")
def job(ray_with_kit, tmp_path_factory):
    """A store and what one job made of all kinds of trouble in one chunk."""
    store = Store.open_or_create(str(tmp_path_factory.mktemp("troubled") / "store"))
    store.register(clips(*QUARANTINED, *PASSING, *CALM))
    return store, fill(store, ["steady", "trouble"], Options(deadline=2))


def filled(store: Store, key: str) -> set[str]:
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
    assert filled(store, "steady") == {*QUARANTINED, *PASSING, *CALM}
    assert filled(store, "trouble") == {*PASSING, *CALM}
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


def test_a_full_disk_ends_the_job_in_one_line_and_what_is_finished_is_kept(ray_with_kit, tmp_path):
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
