import signal
import subprocess
import sys

import numpy as np
import pytest

from featurestore import compaction, filling, journal
from featurestore.leases import Lease, LeaseHeld
from featurestore.queries import digest
from featurestore.schema import decode
from featurestore.store import FRAGMENT_CLIPS, Store
from tests.featurestore.conftest import clip, fill, value, want

WANTS = [want("ecapa"), want("gender")]


def scattered(path, clips: int = 300, each: int = 10) -> Store:
    store = Store.open_or_create(str(path))
    for first in range(0, clips, each):
        store.register(clip(n) for n in range(first, first + each))
    return store


def row_ids(store: Store) -> dict[str, int]:
    table = store.table("clips").to_table(columns=["clip_id"], with_row_id=True)
    return dict(zip(table["clip_id"].to_pylist(), table["_rowid"].to_pylist(), strict=True))


def sizes(store: Store) -> list[int]:
    return [f.count_rows() for f in store.table("clips").get_fragments()]


def test_small_fragments_are_merged_and_rows_keep_their_ids_and_values(tmp_path):
    store = scattered(tmp_path / "store", 600)
    fill(store, WANTS, {clip(7).clip_id: "truncated"})
    before, content = row_ids(store), digest(store)
    done = compaction.compact(store)
    assert (done.fragments_before, done.fragments_after) == (60, len(sizes(store)))
    assert all(FRAGMENT_CLIPS <= size < 2 * FRAGMENT_CLIPS for size in sizes(store))
    assert done.versions_removed > 60
    assert done.bytes_freed > 0
    assert row_ids(store) == before
    assert digest(store) == content
    assert [v["version"] for v in store.table("clips").versions()] == [store.table("clips").version]
    assert filling.plan(store, WANTS).fragments == []


def test_a_second_compaction_has_nothing_to_do(tmp_path):
    store = scattered(tmp_path / "store")
    compaction.compact(store)
    version = store.table("clips").version
    again = compaction.compact(store)
    assert again.fragments_before == again.fragments_after
    assert again.orphans_removed == 0
    assert store.table("clips").version == version


def test_what_was_deleted_leaves_the_files(tmp_path):
    store = scattered(tmp_path / "store")
    compaction.compact(store)
    fill(store, WANTS)
    gone = clip(13).clip_id
    wanted = value("ecapa", gone)["ecapa"].astype(np.float16).tobytes()
    files = tmp_path / "store" / "clips.lance"
    assert any(wanted in file.read_bytes() for file in files.rglob("*") if file.is_file())
    store.table("clips").delete(f"clip_id = '{gone}'")
    compaction.compact(store)
    assert not any(wanted in file.read_bytes() for file in files.rglob("*") if file.is_file())
    assert sum(sizes(store)) == 299


def test_the_journal_of_a_killed_job_is_used_after_a_compaction(tmp_path):
    store, other = scattered(tmp_path / "store", 300, 150), scattered(tmp_path / "other", 300, 150)
    fill(other, WANTS)
    killed = fill(store, WANTS, only=5)
    assert killed == journal.pending(store.place) == 5
    compaction.compact(store)
    assert sizes(store) == [300]
    assert filling.plan(store, WANTS).resumed == 80
    fill(store, WANTS)
    assert digest(store) == digest(other)
    assert journal.pending(store.place) == 0


def test_an_index_answers_from_all_rows_after_a_compaction(store):
    fill(store, WANTS)
    store.table("clips").create_index("ecapa", "IVF_PQ", num_partitions=2, num_sub_vectors=16, metric="cosine")
    store.register(clip(n) for n in range(300, 340))
    fill(store, WANTS)
    assert store.table("clips").stats.index_stats("ecapa_idx")["num_unindexed_rows"] == 40
    compaction.compact(store)
    assert store.table("clips").stats.index_stats("ecapa_idx")["num_unindexed_rows"] == 0
    assert compaction.orphans(store, "clips") == []


def test_compaction_leaves_with_a_clear_word_while_a_job_is_at_work(store):
    with (
        Lease(store.place, ["fragment:0"], "filling"),
        pytest.raises(LeaseHeld, match="the store is in use"),
    ):
        compaction.compact(store)


def leave_an_orphan(store: Store) -> None:
    """A column file that is written and never committed, and half a journal file, as a killed process leaves them."""
    wants = [want("ecapa")]
    with Lease(store.place, ["columns"], "testing"):
        ids = store.enter_makers(w.maker for w in wants)
        store.ensure_columns({"ecapa": "ecapa"})
    chunk = filling.plan(store, wants).chunks(0)[0]
    clips, rows = filling.read_clips(store, chunk)
    values = [value("ecapa", c.clip_id) for c in clips]
    table, _ = journal.chunk_table(rows, ["ecapa"], values, {"ecapa": ids[wants[0].maker.digest]}, [])
    filling.seal(store, 0, {"ecapa": "ecapa"}, [table])
    journal.write(store.place, "whole", table)
    with store.place.files.open_output_stream("_journal/.half") as file:
        file.write(b"half")


def test_tidying_removes_what_a_killed_process_left_and_keeps_recent_versions(store):
    leave_an_orphan(store)
    versions = [v["version"] for v in store.table("clips").versions()]
    assert len(compaction.orphans(store, "clips")) == 1
    assert compaction.tidy(store)
    assert compaction.orphans(store, "clips") == []
    assert [file.base_name for file in store.place.list("_journal")] == ["whole.arrow"]
    assert [v["version"] for v in store.table("clips").versions()] == versions
    assert len(store.place.table("clips", versions[0]).to_table()) == 0


def test_tidying_waits_for_another_day_while_somebody_is_at_work(store):
    leave_an_orphan(store)
    with Lease(store.place, ["fragment:1"], "filling"):
        assert not compaction.tidy(store)
    assert len(compaction.orphans(store, "clips")) == 1


def test_small_registrations_are_merged_before_a_fill(tmp_path):
    store = scattered(tmp_path / "store", 40, 40)
    fill(store, WANTS)
    assert compaction.compact_small(store) == 0
    for n in range(40, 40 + compaction.SCATTERED):
        store.register([clip(n)])
    before = row_ids(store)
    valued = store.table("clips").get_fragments()[0].fragment_id
    assert compaction.compact_small(store) == compaction.SCATTERED - 1
    assert valued in {f.fragment_id for f in store.table("clips").get_fragments()}
    assert row_ids(store) == before
    fill(store, WANTS)
    table = store.table("clips").to_table(columns=["clip_id", "ecapa"])
    made = np.stack([value("ecapa", i)["ecapa"] for i in table["clip_id"].to_pylist()]).astype(np.float16)
    np.testing.assert_array_equal(decode(table["ecapa"], (192,), "float16"), made)


def test_small_registrations_stay_as_they_are_while_somebody_is_at_work(tmp_path):
    store = scattered(tmp_path / "store", compaction.SCATTERED, 1)
    with Lease(store.place, ["fragment:0"], "filling"):
        assert compaction.compact_small(store) == 0
    assert compaction.compact_small(store) == compaction.SCATTERED - 1


DIE = """
import os, sys
from featurestore import compaction
from featurestore.store import Store

left = int(sys.argv[2])

def reach(point):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), 9)

compaction.reach = reach
compaction.compact(Store(sys.argv[1]))
"""


@pytest.mark.parametrize("point", [1, 2, 3, 4])
def test_a_killed_compaction_loses_nothing_and_a_rerun_finishes(tmp_path, point):
    store = scattered(tmp_path / "store")
    fill(store, WANTS)
    content, ids = digest(store), row_ids(store)
    assert subprocess.run([sys.executable, "-c", DIE, store.uri, str(point)]).returncode == -signal.SIGKILL
    assert (digest(store), row_ids(store)) == (content, ids)
    compaction.compact(store)
    assert (digest(store), row_ids(store)) == (content, ids)
    assert len(sizes(store)) == 1
    assert all(compaction.orphans(store, name) == [] for name in ("clips", "makers", "quarantine"))


def test_a_journal_that_no_job_will_use_is_discarded_on_request(tmp_path):
    store = scattered(tmp_path / "store")
    fill(store, WANTS, only=2)
    compaction.compact(store)
    assert journal.pending(store.place) == 2
    compaction.compact(store, discard_journal=True)
    assert journal.pending(store.place) == 0
