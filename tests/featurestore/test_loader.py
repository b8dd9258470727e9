import gc
import json
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import date, timedelta
from itertools import islice
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from featurestore import compaction, erasure, promotion, snapshots
from featurestore import loader as loader_module
from featurestore.conditioning import LAYOUTS
from featurestore.errors import UsageError, VoxportraitError
from featurestore.loader import EmptyBatch, Loader, Timing
from featurestore.memory_records import MemoryRecords
from featurestore.policy import Policy
from featurestore.records import Batch, Slab
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


# -- the stream -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Store:
    """A store of 110 clips, of which one lacks everything; not to be changed."""
    made = Store.open_or_create(str(tmp_path_factory.mktemp("loader") / "store"))
    made.register(clip(n) for n in range(110))
    fill(made, [want("ecapa"), want("face_128"), want("gender")], {clip(1).clip_id: "no sound"})
    return made


def content(parts: list[Batch]) -> tuple:
    """Everything in a global batch, from all ranks' parts in order."""
    (place,) = {(part.epoch, part.number) for part in parts}
    ids = [clip_id for part in parts for clip_id in part.clip_ids]
    names = [*parts[0].compact, *parts[0].pictures]
    values = [np.concatenate([{**p.compact, **p.pictures}[name] for p in parts]).tobytes() for name in names]
    return place, np.concatenate([p.positions for p in parts]).tolist(), ids, names, values


def stream(loaders: list[Loader]) -> Iterator[tuple]:
    """The global batches that these ranks are handed, each as soon as all have their part."""
    for parts in zip(*loaders, strict=True):
        yield content(list(parts))


def of_ranks(store: Store, ranks: int, **options) -> list[Loader]:
    return [store.batches(LAYOUT, 16, seed=5, rank=rank, ranks=ranks, **options) for rank in range(ranks)]


@pytest.mark.parametrize("remainder", ["drop", "keep"])
def test_the_stream_is_the_same_for_any_ranks_and_after_a_resume_on_others(whole, remainder, monkeypatch):
    monkeypatch.setattr(loader_module, "GROUP", 40)  # groups that end within an epoch and run on into the next
    expected = list(islice(stream(of_ranks(whole, 1, remainder=remainder)), 15))
    assert {place for place, *_ in expected} >= {(0, 0), (1, 0), (2, 0)}
    assert expected == list(islice(stream(of_ranks(whole, 2, remainder=remainder)), 15))
    assert expected == list(islice(stream(of_ranks(whole, 4, remainder=remainder)), 15))
    draw = np.random.default_rng(3)
    for before, after in ((1, 4), (4, 2), (2, 1)):
        stopped = int(draw.integers(1, 14))
        first = of_ranks(whole, before, remainder=remainder)
        seen = list(islice(stream(first), stopped))
        (state,) = {json.dumps(loader.state_dict()) for loader in first}
        then = of_ranks(whole, after, remainder=remainder)
        for loader in then:
            loader.load_state_dict(json.loads(state))
            assert loader.state_dict() == json.loads(state)
        assert seen + list(islice(stream(then), 15 - stopped)) == expected


@pytest.mark.parametrize("remainder", ["drop", "keep"])
def test_no_clip_comes_twice_in_an_epoch_that_changes_ranks(whole, remainder):
    first = of_ranks(whole, 4, remainder=remainder)
    seen = [i for batch in islice(stream(first), 3) for i in batch[2]]
    (alone,) = of_ranks(whole, 1, remainder=remainder)
    alone.load_state_dict(first[0].state_dict())
    rest = [i for batch in alone.batches(0, alone.state_dict()["batch"]) for i in batch.clip_ids]
    usable = {clip(n).clip_id for n in range(110) if n % 5 and n != 1}
    assert len(seen + rest) == len(set(seen + rest)) == (len(usable) if remainder == "keep" else len(usable) // 16 * 16)
    assert set(seen + rest) <= usable


def test_iteration_and_epochs_are_one_stream_and_leaving_it_is_no_loss(whole):
    loader = whole.batches(LAYOUT, 16)
    epochs = [content([batch]) for epoch in (0, 1) for batch in loader.batches(epoch)]
    left = [content([batch]) for batch in islice(loader, 3)]
    assert left + [content([batch]) for batch in islice(loader, len(epochs) - 3)] == epochs
    assert loader.state_dict()["epoch"] == 2


def test_a_stream_from_a_snapshot_survives_an_append_and_an_erasure_between_epochs(filled):
    snapshots.take(filled, "first")
    loader = filled.batches(LAYOUT, 20, snapshot="first")
    expected = [batch.copy() for batch in islice(loader, 2 * loader.batches_per_epoch)]
    first = filled.batches(LAYOUT, 20, snapshot="first")
    for was, now in zip(expected, islice(first, loader.batches_per_epoch), strict=False):
        assert now.clip_ids == was.clip_ids
    filled.register(clip(n) for n in range(300, 340))
    fill(filled, [want("ecapa"), want("face_128"), want("gender")])
    gone = {clip(n).clip_id for n in (2, 3, 44)}
    forget(filled, (2, 3, 44))
    reopened = filled.batches(LAYOUT, 20, snapshot="first")
    reopened.load_state_dict(first.state_dict())
    for loader in (first, reopened):  # the one that stayed open, and one that goes on for it
        seen = 0
        for was, now in zip(expected[loader.batches_per_epoch :], loader, strict=False):
            kept = [i for i, clip_id in enumerate(was.clip_ids) if clip_id not in gone]
            seen += len(was) - len(kept)
            assert now.positions.tolist() == was.positions[kept].tolist()
            for name in ("ecapa", "gender"):
                np.testing.assert_array_equal(now.compact[name], was.compact[name][kept])
            np.testing.assert_array_equal(now.target, was.target[kept])
        assert seen > 0


def test_without_a_snapshot_an_open_loader_goes_on_and_a_new_one_refuses_its_state(filled):
    loader = filled.batches(LAYOUT, 20)
    before = [batch.clip_ids for batch in filled.batches(LAYOUT, 20).batches(1)]
    for _ in islice(loader, loader.batches_per_epoch):
        pass
    filled.register(clip(n) for n in range(300, 310))
    fill(filled, [want("ecapa"), want("face_128"), want("gender")])
    gone = clip(2).clip_id
    forget(filled, (2,))
    after = [batch.clip_ids for batch in islice(loader, loader.batches_per_epoch)]
    assert after == [[i for i in ids if i != gone] for ids in before]
    with pytest.raises(VoxportraitError, match=r"the state is of 239 clips .* this loader has 246 .* snapshot"):
        filled.batches(LAYOUT, 20).load_state_dict(loader.state_dict())


def test_rows_in_order_are_all_on_every_rank(whole):
    one, other = whole.batches(LAYOUT, 8, held_out="test"), whole.batches(LAYOUT, 8, held_out="test", rank=1, ranks=2)
    for loader, size in ((one, 8), (other, 4)):
        batches = [batch.copy() for batch in loader.validation()]
        assert [i for batch in batches for i in batch.clip_ids] == sorted(clip(n).clip_id for n in range(0, 110, 5))
        assert [len(batch) for batch in batches] == [size] * (22 // size) + [22 % size]
        assert [batch.number for batch in batches] == list(range(len(batches)))
        assert np.concatenate([batch.positions for batch in batches]).tolist() == list(range(22))
        for batch in batches:
            for i, clip_id in enumerate(batch.clip_ids):
                expected = value("ecapa", clip_id)["ecapa"].astype(np.float16)
                np.testing.assert_array_equal(batch.compact["ecapa"][i], expected)


# -- buffers and threads --------------------------------------------------------------------------------------------


class Made(MemoryRecords):
    """Clips in memory whose number stands in all their values. gone: that were erased. asked: called with what is
    read, before it is."""

    def __init__(self, clips: int, gone: Collection[int] = ()):
        self.gone = list(gone)
        self.asked: Callable[[np.ndarray], None] = lambda rows: None
        number = np.arange(clips, dtype=np.float32)
        target = np.broadcast_to(number.astype(np.uint8)[:, None, None, None], (clips, 16, 16, 3))
        super().__init__([f"made/id{n:05d}/video/1" for n in range(clips)], {"age": number}, target, target[:, :8, :8])

    def read(self, rows, out):
        self.asked(rows)
        here = ~np.isin(rows, self.gone)
        super().read(rows[here], out)
        return here


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.fixture
def slabs(monkeypatch) -> list[Slab]:
    """All slabs that are made."""
    made: list[Slab] = []

    class Counted(Slab):
        def __init__(self, *about):
            super().__init__(*about)
            made.append(self)

    monkeypatch.setattr(loader_module, "Slab", Counted)
    return made


def ages(batches) -> list[list[float]]:
    return [batch.compact["age"].tolist() for batch in batches]


def leave_early(loader: Loader, records: Made) -> None:
    batches = loader.batches(0)
    next(batches)
    batches.close()


def leave_before_it_began(loader: Loader, records: Made) -> None:
    loader.batches(0).close()


def break_off(loader: Loader, records: Made) -> None:
    for _ in loader:
        break


def fail_in_the_consumer(loader: Loader, records: Made) -> None:
    def train():
        for batch in loader.batches(0):
            raise ZeroDivisionError(len(batch))

    with pytest.raises(ZeroDivisionError):
        train()


def fail_in_a_reader(loader: Loader, records: Made) -> None:
    """In the fifth group of 16."""
    (broken,) = records.rows[loader.order.epoch(0)[[70]]]

    def fail(rows):
        if broken in rows:
            raise OSError("the disk is gone")

    records.asked = fail
    batches = loader.batches(0)
    seen: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"):
        seen.extend(len(batch) for batch in batches)
    assert sum(seen) == 64  # all before it
    assert list(batches) == []  # it is said once


def interrupt(loader: Loader, records: Made) -> None:
    """Ctrl-C while the second group is waited for."""
    reads, first_is_used = iter(("first", "second")), threading.Event()
    main = threading.main_thread().ident or 0

    def asked(rows):
        if next(reads, "later") == "second":
            first_is_used.wait(10)
            signal.pthread_kill(main, signal.SIGINT)

    def train():
        for batch in loader.batches(0):
            if batch.number == 3:
                first_is_used.set()

    records.asked = asked
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train()
    finally:
        signal.signal(signal.SIGINT, before)


def read_all(loader: Loader, records: Made) -> None:
    for _ in loader.batches(0):
        pass


def read_in_order(loader: Loader, records: Made) -> None:
    batches = loader.in_order(loader.records.rows)
    next(batches)
    batches.close()


ENDS = [
    leave_early,
    leave_before_it_began,
    break_off,
    fail_in_the_consumer,
    fail_in_a_reader,
    interrupt,
    read_all,
    read_in_order,
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("readers_", [1, 3])
def test_however_a_stream_ends_no_thread_is_left_and_no_slab_lost(slabs, end, readers_, monkeypatch):
    monkeypatch.setattr(loader_module, "GROUP", 16)
    records = Made(200)
    loader = Loader(records, 4, readers=readers_)
    expected = ages(loader.batches(0))
    for _ in range(5):
        end(loader, records)
        assert not readers()
        records.asked = lambda rows: None
    assert ages(loader.batches(0)) == expected
    assert len(slabs) <= max(2, readers_) + 1


def test_a_batch_holds_until_the_next_is_asked_for_and_a_copy_for_ever(monkeypatch):
    monkeypatch.setattr(loader_module, "GROUP", 8)
    loader = Loader(Made(200), 4, readers=2, ahead=3)
    copies = []
    for batch in loader.batches(0):
        threading.Event().wait(0.001)
        numbers = [int(i.split("/")[1].removeprefix("id")) for i in batch.clip_ids]
        assert batch.compact["age"].tolist() == numbers
        assert batch.target[:, 3, 5, 1].tolist() == [n % 256 for n in numbers]
        copies.append((numbers, batch.copy()))
    assert all(copy.compact["age"].tolist() == numbers for numbers, copy in copies)


def test_two_streams_at_once_share_no_slab():
    loader = Loader(Made(200), 4)
    training, validation = iter(loader), loader.in_order(loader.records.rows)
    for one, other in islice(zip(training, validation, strict=False), 45):
        assert not any(np.shares_memory(one.compact["age"], other.compact[key]) for key in other.compact)
        assert not np.shares_memory(one.target, other.target)
        assert other.compact["age"].tolist() == other.rows.tolist()
        assert one.compact["age"].tolist() == one.rows.tolist()
    training.close()
    validation.close()
    assert not readers()


def grown(batches: Iterator[Batch], warm: int, more: int) -> tuple[float, int, int]:
    """MiB, threads and open files that `more` batches add after `warm` ones."""
    process = psutil.Process()
    for _ in islice(batches, warm):
        pass
    gc.collect()
    before = process.memory_info().rss, process.num_threads(), process.num_fds()
    assert sum(1 for _ in islice(batches, more)) == more
    gc.collect()
    after = process.memory_info().rss, process.num_threads(), process.num_fds()
    return (after[0] - before[0]) / 2**20, after[1] - before[1], after[2] - before[2]


def test_memory_does_not_grow_over_thousands_of_batches(slabs):
    loader = Loader(Made(500), 20)
    mebibytes, threads, files = grown(iter(loader), 200, 5000)
    assert mebibytes < 8  # a kilobyte kept of each batch's 16 would be 5, all of it 80
    assert threads == files == 0
    assert len(slabs) <= 3


def test_memory_does_not_grow_over_epochs_that_are_streams_of_their_own(slabs):
    loader = Loader(Made(500), 20)
    batches = (batch for epoch in range(200) for batch in loader.batches(epoch))
    mebibytes, threads, files = grown(batches, 500, 4000)
    assert mebibytes < 8
    assert max(threads, files) <= 1
    assert len(slabs) <= 3


def test_memory_does_not_grow_over_hundreds_of_batches_from_a_store(whole, slabs):
    loader = whole.batches(LAYOUT, 40)
    mebibytes, threads, files = grown(iter(loader), 100, 400)
    assert mebibytes < 80  # what is read is 2 MiB a batch
    assert threads <= 4
    assert files <= 4
    assert len(slabs) <= 3


@pytest.mark.parametrize("wrong", [{"ahead": 0}, {"readers": 0}])
def test_a_loader_that_could_not_read_is_refused(wrong):
    with pytest.raises(UsageError, match="one of each at least"):
        Loader(Made(20), 4, **wrong)


# -- erased batches -------------------------------------------------------------------------------------------------


def test_an_erased_batch_is_named_after_those_before_it_are_handed_over():
    records = Made(40)
    expected = ages(Loader(records, 4).batches(3))
    records.gone = [int(n) for n in expected[5]] + [int(expected[2][1])]
    seen: list[list[float]] = []
    with pytest.raises(EmptyBatch, match=r"all 4 clips of batch 5 of epoch 3 .* take a new snapshot"):
        seen.extend(batch.compact["age"].tolist() for batch in Loader(records, 4).batches(3))
    expected[2].pop(1)
    assert seen == expected[:5]
    assert not readers()


def test_iteration_stops_at_an_erased_batch_and_stays_there():
    records = Made(40)
    expected = ages(Loader(records, 4).batches(0))
    records.gone = [int(n) for n in expected[5]]
    loader = Loader(records, 4)
    for _ in range(2):
        with pytest.raises(EmptyBatch, match="batch 5 of epoch 0"):
            list(loader)
        assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (0, 5)
    records.gone = []
    assert next(iter(loader)).compact["age"].tolist() == expected[5]


def test_a_rank_whose_part_is_erased_is_handed_no_clips_and_stays_in_step():
    records = Made(40)
    expected = ages(Loader(records, 4).batches(0))
    records.gone = [int(n) for n in expected[1][:2]]
    one, other = (list(map(len, Loader(records, 4, rank=rank, ranks=2).batches(0))) for rank in (0, 1))
    assert one == [2, 0, *[2] * 8]
    assert other == [2] * 10
    records.gone = [int(n) for n in expected[1]]
    for rank in (0, 1):
        with pytest.raises(EmptyBatch, match="batch 1 of epoch 0"):
            list(Loader(records, 4, rank=rank, ranks=2).batches(0))


def test_in_order_a_batch_of_erased_clips_is_left_out():
    records = Made(20, gone=[4, 5, 6, 7, 9])
    expected = [[0, 1, 2, 3], [8, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19]]
    assert ages(Loader(records, 4).in_order(records.rows)) == expected
    assert list(Loader(records, 4).in_order(records.rows[:0])) == []


# -- timing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(loader_module.time, "perf_counter", lambda: now.seconds)
    return now


def test_waiting_counts_while_there_is_a_stream_and_once_for_two(clock):
    timing = Timing()
    with timing.stream():
        clock.seconds += 1  # waiting
        timing.handed_over(8)
        clock.seconds += 7  # training
        with timing.stream():  # validation in between
            clock.seconds += 2
            timing.handed_over(4)
            clock.seconds += 3
        timing.asked()
        clock.seconds += 1
        timing.handed_over(8)
        clock.seconds += 6
    clock.seconds += 1000  # no stream
    with timing.stream():
        clock.seconds += 1
        timing.handed_over(5)
        clock.seconds += 4
    assert (timing.batches, timing.samples) == (4, 25)
    assert (timing.waited, timing.seconds) == (5, 25)
    assert timing.share == 0.2
    assert timing.samples_per_second == 1
    assert timing.describe() == "waited for data 20 % of the time, 1 samples a second"


def test_nothing_was_waited_for_before_the_first_batch():
    assert (Timing().share, Timing().samples_per_second) == (0, 0)


def test_a_loader_counts_all_its_batches_over_epochs():
    loader = Loader(Made(40), 4)
    for epoch in range(3):
        list(loader.batches(epoch))
    list(loader.in_order(loader.records.rows[:6]))
    assert (loader.timing.batches, loader.timing.samples) == (32, 126)
    assert 0 < loader.timing.waited <= loader.timing.seconds
