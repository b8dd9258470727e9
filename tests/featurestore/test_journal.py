import pickle
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from featurestore import erasure, filling, journal
from featurestore.errors import VoxportraitError
from featurestore.jobs import Job
from featurestore.journal import JournalDamaged
from featurestore.queries import digest
from featurestore.store import Store, lance_errors
from pipelines.joblog import JobLog
from tests.featurestore.conftest import clip, fill, want


@pytest.fixture
def kept(store, tmp_path):
    """A store with two chunks in its journal, and the file of the first."""
    fill(store, [want("ecapa")], only=2)
    return store, tmp_path / "store" / "_journal" / f"{journal.names(store.place)[0]}.arrow"


def flip(file, place: int) -> None:
    """Change one bit of a file."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_a_chunk_comes_back_as_it_was_written(store):
    table = pa.table({"_rowid": pa.array([3, 5], pa.uint64())}).replace_schema_metadata({b"rejected": b"[]"})
    journal.write(store.place, "chunk", table)
    journal.write(store.place, "chunk", table.slice(1))
    assert journal.names(store.place) == ["chunk"]
    assert journal.read(store.place, "chunk").equals(table.slice(1), check_metadata=True)


def test_a_bit_that_flips_anywhere_in_a_chunk_is_noticed(kept):
    store, file = kept
    whole, name = file.read_bytes(), file.stem
    for place in [*range(0, len(whole), len(whole) // 40), -1]:
        flip(file, place)
        assert journal.entry(store.place, name) is None
        with pytest.raises(JournalDamaged, match=r"Run the command again"):
            journal.read(store.place, name)
        file.write_bytes(whole)
    assert journal.entry(store.place, name)


@pytest.mark.parametrize("size", [0, 20, 5000])
def test_a_chunk_that_is_cut_short_is_noticed(kept, size):
    store, file = kept
    file.write_bytes(file.read_bytes()[:size])
    assert journal.entry(store.place, file.stem) is None
    with pytest.raises(JournalDamaged):
        journal.read(store.place, file.stem)


def test_an_entry_does_not_hold_the_values_in_memory(kept):
    store, file = kept
    before = pa.total_allocated_bytes()
    entry = journal.entry(store.place, file.stem)
    assert entry
    assert pa.total_allocated_bytes() == before


def test_a_chunk_that_is_damaged_after_the_plan_is_not_sealed_and_the_next_run_makes_it_anew(kept, tmp_path):
    store, file = kept
    todo = filling.plan(store, [want("ecapa")])
    assert file.stem in todo.journal[0]
    flip(file, file.stat().st_size // 2)
    with pytest.raises(JournalDamaged) as caught:
        filling.seal(store, 0, todo.columns, [], todo.journal[0])
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), VoxportraitError)  # noqa: S301 - as between processes
    assert set(filling.plan(store, [want("ecapa")]).leftover) == {file.stem}
    undisturbed = Store.open_or_create(str(tmp_path / "undisturbed"))
    undisturbed.register(clip(n) for n in range(300))
    for one in (store, undisturbed):
        fill(one, [want("ecapa")])
    assert digest(store) == digest(undisturbed)


def test_forgetting_removes_a_damaged_chunk(kept):
    store, file = kept
    flip(file, 100)
    erasure.forget(store, clips=[clip(290).clip_id], asked_by="a test")
    assert file.stem not in journal.names(store.place)


def test_a_table_that_is_gone_is_one_line_and_another_value_error_is_not_hidden(store, tmp_path):
    (tmp_path / "store" / "clips.lance").rename(tmp_path / "gone")
    with pytest.raises(VoxportraitError, match=r"^writing failed: .*run the command again"), lance_errors("writing"):
        store.table("clips")
    with pytest.raises(ValueError, match="of our own"), lance_errors("writing"):
        raise ValueError("of our own")


def test_a_job_goes_on_when_its_row_cannot_be_kept_for_a_moment(store, tmp_path):
    log = JobLog(Job(store, "fill"), tmp_path / "log.jsonl")
    report = SimpleNamespace(clips=1, rejected={}, losses={}, seconds={})
    numbers: dict[str, Any] = {"doing": "", "done": 1, "total": 2, "rate": None, "left": None, "workers": 1}
    standing: Any = SimpleNamespace(report=report, wall=1e6, filled={}, gpu_seconds={}, **numbers)
    (tmp_path / "store" / "jobs.lance").rename(tmp_path / "gone")
    log(standing)
    (tmp_path / "gone").rename(tmp_path / "store" / "jobs.lance")
    log.end("finished", standing)
    assert store.table("jobs").to_table()["state"].to_pylist() == ["finished"]
