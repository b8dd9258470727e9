"""Clips whose source is another file than their values were made from: what a reset takes away."""

import numpy as np
import pytest

from featurestore import artifacts, filling, journal, stale
from featurestore.quarantine import rows
from featurestore.schema import decode
from featurestore.store import Store
from tests.featurestore.conftest import clip, fill, value, want

WANTS = [want("ecapa"), want("gender")]


@pytest.fixture
def journaled(store) -> Store:
    """Ten chunks are in the journal, one clip of them could not be read."""
    fill(store, WANTS, {clip(8).clip_id: "truncated"}, only=10)
    return store


def ecapa(store: Store, number: int) -> np.ndarray:
    table = store.table("clips").to_table(columns=["ecapa"], filter=f"clip_id = '{clip(number).clip_id}'")
    return decode(table["ecapa"], (192,), "float16")[0]


def test_what_waits_in_the_journal_does_not_come_back_after_a_reset(journaled):
    before = journal.pending(journaled.place)
    stale.reset(journaled, [clip(7).clip_id])
    assert journal.pending(journaled.place) == before
    assert filling.plan(journaled, WANTS).resumed == 159
    (row_id,) = artifacts.row_ids_of(journaled, [clip(7).clip_id])
    held = [row for name in journal.names(journaled.place) for row in journal.read(journaled.place, name)["_rowid"]]
    assert len(held) == 159
    assert row_id not in [one.as_py() for one in held]


def test_the_others_of_a_chunk_keep_what_was_made(journaled):
    stale.reset(journaled, [clip(7).clip_id])
    fill(journaled, WANTS)
    for number in (6, 7, 9):
        np.testing.assert_array_equal(
            ecapa(journaled, number), value("ecapa", clip(number).clip_id)["ecapa"].astype(np.float16)
        )
    assert [row["clip_id"] for row in rows(journaled).to_pylist()] == [clip(8).clip_id]


def test_a_repaired_file_is_tried_again_after_a_reset(store):
    bad = {clip(8).clip_id: "truncated", clip(9).clip_id: "truncated"}
    fill(store, WANTS, bad)
    assert filling.plan(store, WANTS).work == 0
    stale.reset(store, [clip(8).clip_id])
    assert [row["clip_id"] for row in rows(store).to_pylist()] == [clip(9).clip_id]
    assert filling.plan(store, WANTS).work == 1


def test_a_rejection_in_the_journal_is_reset_too(journaled):
    stale.reset(journaled, [clip(8).clip_id])
    fill(journaled, WANTS)
    assert len(rows(journaled)) == 0
    assert filling.plan(journaled, WANTS).work == 0
