"""The feed: what the loader has, on the device, one batch ahead, in rooms that nobody overwrites too early."""

import threading
import time
from itertools import islice

import numpy as np
import pytest
import torch

from featurestore.assembly import Assembler
from featurestore.catalogue import CATALOGUE
from featurestore.conditioning import LAYOUTS
from featurestore.draws import attribute_dropout
from featurestore.errors import UsageError, VoxportraitError
from featurestore.feed import Feed
from featurestore.loader import Loader
from featurestore.memory_records import MemoryRecords
from featurestore.records import PICTURES

CLIPS = 40
LAYOUT = LAYOUTS["slf-released"].without("pyannote", "titanet", "speakernet", "mel")


def records(held_out=(38, 39), faces=False):
    random = np.random.default_rng(0)
    compact: dict[str, np.ndarray] = {
        "ecapa": random.normal(0, 30, (CLIPS, 192)).astype(np.float16),
        "short_term": random.normal(0, 30, (CLIPS, *CATALOGUE["short_term"].shape)).astype(np.float16),
        "age": random.uniform(20, 70, CLIPS).astype(np.float32),
        "gender": random.integers(0, 2, CLIPS),
        "ethnicity": random.integers(-1, 6, CLIPS),
        "language": random.integers(0, 45, CLIPS),
    }
    names = [f"made/id{i:05d}/v/00001" for i in range(CLIPS)]
    target = random.integers(0, 256, (CLIPS, 128, 128, 3), dtype=np.uint8)
    made = MemoryRecords(names, compact, target, held_out=held_out)
    if faces:
        made.arrays["face"] = random.integers(0, 256, (CLIPS, 256, 256, 3), dtype=np.uint8)
        made.arrays["bottom"] = random.random((CLIPS, 256, 256)) < 0.5
        made.fields = {**made.fields, "face": PICTURES["face"], "bottom": PICTURES["bottom"]}
    return made


def loader(batch_size=8, **more):
    return Loader(records(), batch_size, seed=3, **more)


def dropped_clips(inputs):
    """The positions whose age is unknown in the matrix: all ages are known."""
    return set(inputs.batch.positions[(inputs.matrix[:, 0, 767] == 1).numpy()].tolist())


def test_inputs_are_the_loaders_batches_in_its_order_with_nothing_of_another():
    feed = Feed(loader(remainder="keep"), LAYOUT)
    for inputs, batch in zip(feed.batches(1), loader(remainder="keep").batches(1), strict=True):
        assert inputs.batch.clip_ids == batch.clip_ids
        np.testing.assert_array_equal(inputs.batch.positions, batch.positions)
        compact = {key: torch.from_numpy(values) for key, values in batch.compact.items()}
        assert torch.equal(inputs.matrix, Assembler(LAYOUT)(compact))
        want = np.float32(batch.target) / np.float32(255)
        np.testing.assert_array_equal(inputs.target.permute(0, 2, 3, 1).numpy(), want)
        np.testing.assert_array_equal(
            inputs.guide.permute(0, 2, 3, 1).numpy(), np.float32(batch.guide) / np.float32(255)
        )
        assert inputs.target.is_contiguous(memory_format=torch.channels_last)
        assert not inputs.batch.compact


def test_a_batch_stays_whole_while_the_next_is_prepared_and_rooms_are_used_again():
    feed, seen = Feed(loader(), LAYOUT, dropout_seed=0), []
    for inputs in islice(feed, 12):
        before = inputs.matrix.clone(), inputs.target.clone()
        time.sleep(0.02)
        assert torch.equal(inputs.matrix, before[0])
        assert torch.equal(inputs.target, before[1])
        seen.append(inputs.matrix.data_ptr())
    assert len(set(seen)) == 2


def test_the_bottom_is_the_face_with_nothing_outside_its_mask_and_needs_the_face():
    made = records(faces=True)
    feed, batch = Feed(Loader(made, 8), LAYOUT), next(Loader(made, 8).batches(0)).copy()
    pictures = feed.move(batch).pictures
    face = np.float32(batch.pictures["face"]) / np.float32(255)
    np.testing.assert_array_equal(pictures["face"].permute(0, 2, 3, 1).numpy(), face)
    masked = face * batch.pictures["bottom"][..., None]
    np.testing.assert_array_equal(pictures["bottom"].permute(0, 2, 3, 1).numpy(), masked)
    assert pictures["bottom"].shape == (8, 3, 256, 256)
    del batch.pictures["face"]
    with pytest.raises(UsageError, match="bottom is a part of the picture face"):
        feed.move(batch)


def test_the_same_place_drops_the_same_in_every_batch_size_and_on_every_rank():
    def dropped(**more):
        feed = Feed(loader(**more), LAYOUT, dropout_seed=5)
        return set().union(*(dropped_clips(inputs) for inputs in feed.batches(2)))

    whole = dropped()
    assert 0 < len(whole) < 30
    assert dropped(batch_size=4) & set(range(32)) == whole & set(range(32))
    assert dropped(rank=0, ranks=2) | dropped(rank=1, ranks=2) == whole
    assert not dropped(rank=0, ranks=2) & dropped(rank=1, ranks=2)
    draws = attribute_dropout(LAYOUT, 5, 2, np.arange(32))["age"]
    assert whole == set(np.flatnonzero(draws).tolist())


def test_the_same_place_gives_the_same_matrix_in_every_batch_size_and_on_every_rank():
    def rows(**more):
        feed = Feed(loader(**more), LAYOUT, dropout_seed=5)
        return {int(p): m.clone() for i in feed.batches(1) for p, m in zip(i.batch.positions, i.matrix, strict=True)}

    whole = rows(batch_size=8)
    for other in (rows(batch_size=4), rows(batch_size=8, rank=1, ranks=2), rows(batch_size=32)):
        assert other
        assert all(torch.equal(matrix, whole[place]) for place, matrix in other.items() if place in whole)


def test_validation_and_inputs_without_a_seed_drop_nothing():
    feed = Feed(loader(), LAYOUT, dropout_seed=5)
    held_out = list(feed.validation())
    assert [i.batch.clip_ids for i in held_out] == [["made/id00038/v/00001", "made/id00039/v/00001"]]
    assert not any(dropped_clips(inputs) for inputs in held_out)
    assert not any(dropped_clips(inputs) for inputs in Feed(loader(), LAYOUT).batches(0))


def test_validation_in_the_midst_of_training_changes_neither():
    alone = [i.matrix.clone() for i in islice(Feed(loader(), LAYOUT, dropout_seed=5), 6)]
    feed = Feed(loader(), LAYOUT, dropout_seed=5)
    held_out = [i.matrix.clone() for i in feed.validation()]
    for inputs, want in zip(islice(feed, 6), alone, strict=True):
        assert all(torch.equal(i.matrix, w) for i, w in zip(feed.validation(), held_out, strict=True))
        assert torch.equal(inputs.matrix, want)


def test_a_broken_off_iteration_goes_on_where_its_user_was_and_its_state_too():
    whole = [i.batch.clip_ids for i in islice(Feed(loader(), LAYOUT), 9)]
    feed = Feed(loader(), LAYOUT)
    parts = [i.batch.clip_ids for i in islice(feed, 3)]
    for inputs in feed:
        parts.append(inputs.batch.clip_ids)
        if len(parts) == 5:
            state = feed.state_dict()
            break
    assert feed.state_dict() == state == feed.loader.state_dict()
    other = Feed(loader(), LAYOUT)
    other.load_state_dict(state)
    assert parts + [i.batch.clip_ids for i in islice(other, 4)] == whole
    assert parts + [i.batch.clip_ids for i in islice(feed, 4)] == whole


def test_an_iteration_begins_behind_another_that_is_still_open_and_has_read_ahead():
    whole = [i.batch.clip_ids for i in islice(Feed(loader(), LAYOUT), 6)]
    feed = Feed(loader(), LAYOUT)
    first = iter(feed)
    parts = [next(first).batch.clip_ids for _ in range(3)]
    assert feed.state_dict()["batch"] == 3
    assert parts + [i.batch.clip_ids for i in islice(feed, 3)] == whole
    first.close()
    assert feed.state_dict() == feed.loader.state_dict()
    assert (feed.state_dict()["epoch"], feed.state_dict()["batch"]) == (1, 2)


def test_no_thread_is_torn_down_in_its_work_where_a_program_ends_in_the_midst_of_a_stream():
    stream = iter(Feed(loader(), LAYOUT))
    next(stream)
    assert not [thread.name for thread in threading.enumerate() if thread.daemon and thread.name.startswith("feed")]
    stream.close()


def test_what_the_thread_meets_is_raised_where_batches_are_asked_for_and_the_thread_ends():
    feed = Feed(loader(), LAYOUTS["slf"])
    with pytest.raises(VoxportraitError, match="the batch lacks 4 constituents"):
        next(iter(feed))
    for _ in range(3):
        stream = iter(Feed(loader(), LAYOUT))
        next(stream)
        stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


def test_the_feed_tells_how_long_its_trainer_waited():
    slow = records(held_out=())
    read = slow.read

    def slowly(rows, out):
        time.sleep(0.2)
        return read(rows, out)

    slow.read = slowly
    feed = Feed(Loader(slow, 8), LAYOUT)
    assert len(list(feed.batches(0))) == 5
    assert 0.1 < feed.timing.waited <= feed.timing.seconds
    assert (feed.timing.batches, feed.timing.samples) == (5, 40)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("reuse", [True, False])
def test_a_gpu_makes_the_same_bits_however_busy_it_is(reuse):
    """A trainer that keeps its GPU busy with each batch, so that a room given away too early would show."""
    load = torch.randn(4096, 4096, device="cuda")
    feed = Feed(Loader(records(), 8, seed=3), LAYOUT, "cuda", dropout_seed=5, reuse=reuse)
    kept = []
    for inputs in islice(feed, 40):
        for _ in range(20):
            load = (load @ load).tanh()
        kept.append((inputs.matrix.clone(), inputs.target.clone(), inputs.guide.clone()))
    plain = Feed(loader(), LAYOUT, dropout_seed=5)
    for inputs, got in zip(islice(plain, 40), kept, strict=True):
        for want, have in zip((inputs.matrix, inputs.target, inputs.guide), got, strict=True):
            assert torch.equal(want, have.cpu())
    assert feed.timing.share < 1
