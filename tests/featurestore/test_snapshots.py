import numpy as np
import pytest

from featurestore import compaction, snapshots
from featurestore.errors import UsageError, VoxportraitError
from featurestore.leases import Lease, LeaseHeld
from featurestore.policy import Policy
from featurestore.store import Store
from tests.featurestore.conftest import clip, fill, want


@pytest.fixture
def filled(store):
    fill(store, [want("ecapa"), want("gender")], {clip(1).clip_id: "no sound"})
    return store


def clip_ids(store, snapshot) -> list[str]:
    table = store.table("clips").to_table(columns=["clip_id"], with_row_id=True)
    by_row = dict(zip(table["_rowid"].to_pylist(), table["clip_id"].to_pylist(), strict=True))
    return [by_row.get(row, "") for row in snapshot.row_ids.tolist()]


def erase(store, *numbers: int):
    ids = ", ".join(f"'{clip(n).clip_id}'" for n in numbers)
    store.table("clips").delete(f"clip_id IN ({ids})")
    store.insert("erasures", [{"erasure_id": "e", "epoch": 1, "state": "done", "clips": len(numbers)}])
    compaction.compact(store)


def test_a_snapshot_holds_every_clip_in_the_order_of_ids_and_who_made_what(filled):
    taken = snapshots.take(filled, "first")
    assert clip_ids(filled, taken) == sorted(clip(n).clip_id for n in range(300))
    assert taken.had("ecapa").sum() == taken.had("gender").sum() == 299
    assert not taken.had("ecapa")[1]
    assert taken.makers["ecapa"].digests == (want("ecapa").maker.digest,)
    assert not taken.had("titanet").any()
    assert len(taken.places("test", ["ecapa"])) == 60


def test_a_snapshot_is_read_as_it_was_taken_after_all_that_happens_to_a_store(filled):
    taken = snapshots.take(filled, "first")
    filled.register(clip(n) for n in range(300, 320))
    filled.table("quarantine").delete("true")
    fill(filled, [want("ecapa"), want("gender"), want("face_128")])
    compaction.compact(filled)
    found = snapshots.read(filled, "first")
    np.testing.assert_array_equal(found.row_ids, taken.row_ids)
    np.testing.assert_array_equal(found.splits, taken.splits)
    np.testing.assert_array_equal(found.makers["ecapa"].codes, taken.makers["ecapa"].codes)
    assert (found.digest, found.selection, found.who) == (taken.digest, taken.selection, taken.who)
    assert found.present.all()
    assert list(found.makers) == ["ecapa", "gender"]
    assert not found.had("ecapa")[1]


def test_the_place_of_an_erased_clip_stays_empty_and_no_other_moves(filled):
    before = clip_ids(filled, snapshots.take(filled, "first"))
    erase(filled, 4, 5, 200)
    found = snapshots.read(filled, "first")
    empty = [i for i, here in enumerate(found.present) if not here]
    assert [before[i] for i in empty] == [clip(n).clip_id for n in (4, 5, 200)]
    assert [i for i in clip_ids(filled, found) if i] == [i for i in before if i in set(clip_ids(filled, found))]
    assert found.describe()["erased"] == 3


def test_a_clip_that_is_missing_though_nobody_was_forgotten_is_said(filled):
    snapshots.take(filled, "first")
    filled.table("clips").delete(f"clip_id = '{clip(9).clip_id}'")
    with pytest.raises(VoxportraitError, match=r"1 clips of the snapshot 'first' are gone.*store verify"):
        snapshots.read(filled, "first")


def test_a_snapshot_fails_where_a_maker_changed_and_names_both(filled):
    snapshots.take(filled, "first")
    old, new = want("ecapa").maker.digest[:8], want("ecapa", 1).maker.digest[:8]
    filled.enter_makers([want("ecapa", 1).maker])
    number = filled.known_makers()[want("ecapa", 1).maker.digest]
    filled.table("clips").update({"ecapa_maker": str(number)}, where=f"clip_id = '{clip(2).clip_id}'")
    with pytest.raises(VoxportraitError, match=rf"ecapa of 1 clips .* was made by {old} and is by {new} now"):
        snapshots.read(filled, "first")
    assert snapshots.read(filled, "first", ["gender"]).present.all()


def test_a_snapshot_fails_where_a_value_is_gone(filled):
    snapshots.take(filled, "first")
    filled.table("clips").update({"gender_maker": "NULL"}, where=f"clip_id = '{clip(2).clip_id}'")
    with pytest.raises(VoxportraitError, match=r"gender of 1 clips .* is gone now"):
        snapshots.read(filled, "first")


def test_the_digest_is_of_clips_and_makers_and_not_of_how_they_came(tmp_path, filled):
    other = Store.open_or_create(str(tmp_path / "other"))
    for numbers in (range(150, 300), range(150)):
        other.register(clip(n) for n in numbers)
    fill(other, [want("gender")], {clip(1).clip_id: "no sound"})
    without = snapshots.look(other).digest
    fill(other, [want("ecapa")], {clip(1).clip_id: "no sound"})
    assert snapshots.look(other).digest == snapshots.take(filled, "first").digest != without
    compaction.compact(other)
    assert snapshots.look(other).digest == snapshots.look(filled).digest
    fill(other, [want("face_128")], {clip(1).clip_id: "no sound"})
    assert snapshots.look(other).digest != snapshots.look(filled).digest


def test_a_policy_and_a_condition_choose_the_clips(filled):
    taken = snapshots.take(filled, "few", Policy(), "split = 'test' AND corpus_gender = 'woman'")
    assert len(taken) == 60
    assert snapshots.read(filled, "few").selection == taken.selection
    assert taken.selection["where"] == "split = 'test' AND corpus_gender = 'woman'"
    with pytest.raises(UsageError, match="no clip is chosen"):
        snapshots.take(filled, "none", Policy(require_consent=True))
    with pytest.raises(UsageError, match="cannot be read"):
        snapshots.take(filled, "none", where="shoe_size > 3")


@pytest.mark.parametrize("name", ["", "a b", "../up", "x" * 65, ".hidden", "it's"])
def test_a_name_that_is_none_is_refused(filled, name):
    with pytest.raises(UsageError, match="no name for a snapshot"):
        snapshots.take(filled, name)


def test_names_are_taken_once_listed_and_dropped(filled):
    snapshots.take(filled, "first")
    snapshots.take(filled, "second", where="split = 'test'")
    with pytest.raises(UsageError, match="there is a snapshot 'first'"):
        snapshots.take(filled, "first")
    assert [(row["name"], row["clips"]) for row in snapshots.listed(filled)] == [("first", 300), ("second", 60)]
    snapshots.drop(filled, "first")
    assert [row["name"] for row in snapshots.listed(filled)] == ["second"]
    for use in (snapshots.read, snapshots.drop):
        with pytest.raises(UsageError, match="unknown snapshot 'first'"):
            use(filled, "first")


def test_no_snapshot_is_taken_while_the_store_is_compacted(filled):
    with Lease(filled.place, ["store"], "compacting"), pytest.raises(LeaseHeld, match="compacting"):
        snapshots.take(filled, "first")
