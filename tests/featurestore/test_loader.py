from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest

from featurestore import compaction, erasure, promotion, snapshots
from featurestore.conditioning import LAYOUTS
from featurestore.errors import VoxportraitError
from featurestore.loader import EmptyBatch
from featurestore.policy import Policy
from featurestore.store import Store
from tests.featurestore.conftest import clip, fill, value, want

SLF = LAYOUTS["slf"]
LAYOUT = SLF.without(*(key for key in SLF.constituents if key not in ("ecapa", "gender")))
ECAPA = LAYOUT.without("gender")


@pytest.fixture
def filled(store):
    fill(store, [want("ecapa"), want("face_128"), want("gender")], {clip(1).clip_id: "no sound"})
    return store


def test_a_batch_holds_the_values_of_its_clips(filled):
    batch = next(filled.batches(LAYOUT, 8).batches(0))
    assert set(batch.compact) == {"ecapa", "gender"}
    for i, clip_id in enumerate(batch.clip_ids):
        np.testing.assert_array_equal(batch.compact["ecapa"][i], value("ecapa", clip_id)["ecapa"].astype(np.float16))
        np.testing.assert_array_equal(batch.target[i], value("face_128", clip_id)["face_128"])
        np.testing.assert_array_equal(batch.guide[i], value("face_128", clip_id)["face_128_guide"])
    assert batch.compact["gender"].tolist() == [1] * 8


def test_an_epoch_is_every_usable_clip_once_in_an_order_of_its_own(filled):
    loader = filled.batches(LAYOUT, 10, seed=3)
    epochs = [[i for batch in loader.batches(epoch) for i in batch.clip_ids] for epoch in (0, 1)]
    assert len(epochs[0]) == len(set(epochs[0])) == 230  # 239 train clips, one of them without values, in full batches
    assert clip(1).clip_id not in epochs[0]
    assert epochs[0] != epochs[1]
    again = [i for batch in filled.batches(LAYOUT, 10, seed=3).batches(0) for i in batch.clip_ids]
    assert again == epochs[0]


def test_a_resume_goes_on_where_it_was(filled):
    loader = filled.batches(LAYOUT, 10)
    whole = [batch.clip_ids for batch in loader.batches(2)]
    assert [batch.clip_ids for batch in loader.batches(2, start=7)] == whole[7:]


@pytest.mark.parametrize("batch_size", [10, 120])
def test_an_unfinished_epoch_lets_its_reader_go(filled, batch_size):
    import threading

    batches = filled.batches(LAYOUT, batch_size).batches(0)
    next(batches)
    batches.close()
    for thread in threading.enumerate():
        if thread.name == "loader":
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_the_run_record_names_what_is_untrained_and_absent(filled):
    about = filled.batches(SLF, 10, missing="zero").describe()
    assert about["clips"] == 239
    assert "ecapa" in about["untrained"]
    assert "titanet" in about["absent"]


def test_a_store_without_faces_says_what_is_missing(store):
    fill(store, [want("ecapa")])
    with pytest.raises(VoxportraitError, match="no clip of split 'train'"):
        store.batches(ECAPA, 8)


def forget(store, numbers):
    """Erase clips as an erasure leaves the tables: rows and files gone, the epoch one more."""
    ids = ", ".join(f"'{clip(n).clip_id}'" for n in numbers)
    store.table("clips").delete(f"clip_id IN ({ids})")
    epoch = erasure.epoch(store) + 1
    store.insert("erasures", [{"erasure_id": f"e{epoch}", "epoch": epoch, "state": "done", "clips": len(numbers)}])
    compaction.compact(store)


def test_the_order_is_that_of_clip_ids_however_fragments_lie(tmp_path):
    stores = []
    for name, order in (("one", range(300)), ("two", [*range(200, 300), *range(200)])):
        made = Store.open_or_create(str(tmp_path / name))
        made.register(clip(n) for n in order)
        fill(made, [want("ecapa"), want("face_128")])
        stores.append(made)
    compaction.compact(stores[1])
    one, two = (made.batches(ECAPA, 10) for made in stores)
    assert [b.clip_ids for b in one.batches(1)] == [b.clip_ids for b in two.batches(1)]
    assert one.describe() == two.describe()


def test_a_loader_reads_on_while_the_store_is_compacted(filled):
    loader = filled.batches(LAYOUT, 10)
    expected = [batch.clip_ids for batch in filled.batches(LAYOUT, 10).batches(0)]
    filled.register(clip(n) for n in range(300, 320))
    filled.table("clips").delete(f"clip_id = '{clip(310).clip_id}'")
    batches = loader.batches(0)
    seen = [next(batches).clip_ids]
    compaction.compact(filled)
    assert seen + [batch.clip_ids for batch in batches] == expected


def test_a_forgotten_clip_leaves_its_place_empty_while_the_loader_runs(filled):
    gone = {clip(n).clip_id for n in (2, 3, 8, 9, 101)}
    loader = filled.batches(LAYOUT, 10)
    before = [
        (p, i) for b in filled.batches(LAYOUT, 10).batches(0) for p, i in zip(b.positions, b.clip_ids, strict=True)
    ]
    forget(filled, (2, 3, 8, 9, 101))
    after = [(p, i) for b in loader.batches(0) for p, i in zip(b.positions, b.clip_ids, strict=True)]
    assert after == [(p, i) for p, i in before if i not in gone]


def test_a_snapshot_gives_the_same_batches_after_registering_filling_compacting_and_forgetting(filled):
    snapshots.take(filled, "first")
    before = list(filled.batches(LAYOUT, 10, snapshot="first").batches(0))
    about = filled.batches(LAYOUT, 10, snapshot="first").describe()
    filled.register(clip(n) for n in range(300, 340))
    filled.table("quarantine").delete("true")
    fill(filled, [want("ecapa"), want("face_128"), want("gender")])
    forget(filled, (50, 51))
    loader = filled.batches(LAYOUT, 10, snapshot="first")
    gone = {clip(50).clip_id, clip(51).clip_id}
    for was, now in zip(before, loader.batches(0), strict=True):
        kept = [i for i, clip_id in enumerate(was.clip_ids) if clip_id not in gone]
        assert now.clip_ids == [was.clip_ids[i] for i in kept]
        np.testing.assert_array_equal(now.positions, was.positions[kept])
        np.testing.assert_array_equal(now.compact["ecapa"], was.compact["ecapa"][kept])
    assert loader.describe() == about
    assert about["snapshot"] == "first"


def test_a_value_filled_after_the_snapshot_stays_unseen(filled):
    snapshots.take(filled, "first")
    filled.table("quarantine").delete("true")
    fill(filled, [want("ecapa"), want("face_128"), want("gender")])
    seen = [i for b in filled.batches(LAYOUT, 1, snapshot="first").batches(0) for i in b.clip_ids]
    assert clip(1).clip_id not in seen
    assert clip(1).clip_id in [i for b in filled.batches(LAYOUT, 1).batches(0) for i in b.clip_ids]


def test_a_batch_of_erased_clips_alone_is_said(filled):
    snapshots.take(filled, "first")
    forget(filled, range(2, 300))
    with pytest.raises(EmptyBatch, match="take a new snapshot"):
        list(filled.batches(LAYOUT, 10, snapshot="first").batches(0))


def test_the_policy_chooses_clips_and_leaves_places_of_a_snapshot_empty(tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(replace(clip(n), licence="CC-BY" if n % 2 else "secret") for n in range(100))
    fill(store, [want("ecapa"), want("face_128")])
    snapshots.take(store, "all")
    policy = Policy(licences=("CC-BY",))
    allowed = {clip(n).clip_id for n in range(100) if n % 2}
    fresh = [b.clip_ids for b in store.batches(ECAPA, 5, policy=policy).batches(0)]
    assert all(len(ids) == 5 and set(ids) <= allowed for ids in fresh)
    whole = [i for b in store.batches(ECAPA, 10, snapshot="all").batches(0) for i in b.clip_ids]
    narrow = [i for b in store.batches(ECAPA, 10, snapshot="all", policy=policy).batches(0) for i in b.clip_ids]
    assert narrow == [i for i in whole if i in allowed]
    assert store.batches(ECAPA, 5, policy=policy).describe()["policy"]["licences"] == ["CC-BY"]


def test_a_loader_does_not_go_on_with_values_of_another_maker(filled):
    loader = filled.batches(LAYOUT, 10)
    fill(filled, [want("ecapa", 1)], {clip(1).clip_id: "no sound"})
    promotion.promote(filled, "ecapa", force=True)
    filled.register(clip(n) for n in range(300, 320))
    compaction.compact(filled)
    with pytest.raises(VoxportraitError, match=r"ecapa of \d+ clips of what was opened"):
        list(loader.batches(0))


def test_the_policy_of_a_snapshot_is_judged_again_when_it_is_read(tmp_path):
    store, end = Store.open_or_create(str(tmp_path / "store")), date(2100, 1, 1)
    clips = [replace(clip(n), consent="yes", consent_until=end if n == 7 else None) for n in range(60)]
    store.register(clips)
    fill(store, [want("ecapa"), want("face_128")])
    snapshots.take(store, "consented", Policy(require_consent=True))

    def places(judged: date) -> dict[int, str]:
        loader = store.batches(ECAPA, 6, snapshot="consented", policy=Policy(judged=judged))
        return {int(p): i for b in loader.batches(0) for p, i in zip(b.positions, b.clip_ids, strict=True)}

    whole = places(end)
    assert clip(7).clip_id in whole.values()
    assert places(end + timedelta(1)) == {p: i for p, i in whole.items() if i != clip(7).clip_id}
    store.register([replace(clips[8], consent="withdrawn")])
    assert places(end) == {p: i for p, i in whole.items() if i != clip(8).clip_id}


def test_a_loader_that_goes_on_at_the_newest_version_refuses_who_withdrew_meanwhile(tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    clips = [replace(clip(n), consent="yes") for n in range(60)]
    store.register(clips)
    fill(store, [want("ecapa"), want("face_128")])
    loader = store.batches(ECAPA, 6, policy=Policy(require_consent=True))
    store.register([replace(clips[8], consent="withdrawn")])
    store.table("clips").delete(f"clip_id = '{clip(10).clip_id}'")
    compaction.compact(store)
    forget(store, (9,))
    seen = {i for batch in loader.batches(0) for i in batch.clip_ids}
    assert clip(7).clip_id in seen
    assert clip(8).clip_id not in seen
