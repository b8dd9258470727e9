"""Others' trainers: one stream for any number of workers and ranks, to be gone on with, and safe to keep."""

import os
from functools import partial
from itertools import islice, zip_longest
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from featurestore import datasets
from featurestore.conditioning import LAYOUTS
from featurestore.datasets import MatrixDataset, matrices, records_of
from featurestore.errors import UsageError, VoxportraitError
from featurestore.feed import Feed
from featurestore.loader import Loader
from tests.featurestore.conftest import fill, want
from tests.featurestore.test_feed import LAYOUT, records

SMALL = LAYOUTS["slf"].without(*(key for key in LAYOUTS["slf"].constituents if key not in ("ecapa", "gender")))


def dataset(**more):
    return MatrixDataset(records(), LAYOUT, batch_size=8, seed=3, **more)


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name], name


def test_batches_are_those_of_the_feed_and_may_be_kept():
    kept = list(dataset())
    assert len(kept) == len(dataset()) == 4
    for batch, inputs in zip(kept, Feed(Loader(records(), 8, seed=3), LAYOUT, dropout_seed=3).batches(0), strict=True):
        assert torch.equal(batch["matrix"], inputs.matrix)
        assert torch.equal(batch["target"], inputs.target)
        assert (batch["clip_id"], batch["epoch"], batch["batch"]) == (inputs.batch.clip_ids, 0, inputs.batch.number)


def test_two_spawned_workers_give_a_stores_stream_as_one_process_does_from_a_place_on(store):
    fill(store, [want("ecapa"), want("face_128"), want("gender")])
    opens = partial(records_of, store.place.root, SMALL)
    made = MatrixDataset(opens, SMALL, batch_size=48, epochs=2, dtype=torch.bfloat16)
    alone = list(DataLoader(made, batch_size=None))
    assert [(batch["epoch"], batch["batch"]) for batch in alone] == [(e, b) for e in (0, 1) for b in range(5)]
    assert alone[0]["matrix"].dtype == torch.bfloat16
    made.load_state_dict(made.state_dict(alone[1]))
    workers = DataLoader(made, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    for batch, expected in zip(islice(workers, 8), alone[2:], strict=True):
        same(batch, expected)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_take_batches_in_turn_across_epochs(workers, monkeypatch):
    shares = []
    for worker in range(workers):
        monkeypatch.setattr(datasets, "get_worker_info", lambda i=worker: SimpleNamespace(id=i, num_workers=workers))
        shares.append(list(dataset(epochs=3)))
    in_turn = [batch for group in zip_longest(*shares) for batch in group if batch]
    monkeypatch.undo()
    for batch, expected in zip(in_turn, dataset(epochs=3), strict=True):
        same(batch, expected)


def test_a_forked_worker_is_refused(monkeypatch):
    made, parent = dataset(), os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(UsageError, match="multiprocessing_context='spawn'"):
        next(iter(made))


def test_tensors_are_not_reused_in_a_worker(monkeypatch):
    monkeypatch.setattr(datasets, "get_worker_info", lambda: SimpleNamespace(id=0, num_workers=1))
    with pytest.raises(UsageError, match="reuse=True is for num_workers=0"):
        next(iter(dataset(reuse=True)))


def test_a_kept_worker_does_not_give_the_same_epoch_again(monkeypatch):
    kept = dataset()
    monkeypatch.setattr(datasets, "get_worker_info", lambda: SimpleNamespace(id=0, num_workers=1))
    assert len(list(kept)) == 4
    with pytest.raises(UsageError, match="use epochs=None, or persistent_workers=False"):
        next(iter(kept))


def test_ranks_share_the_batches_and_come_from_torch_where_it_is_distributed(monkeypatch):
    whole = [batch["clip_id"] for batch in dataset()]
    parts = [[batch["clip_id"] for batch in dataset(rank=rank, ranks=2)] for rank in (0, 1)]
    assert [one + other for one, other in zip(*parts, strict=True)] == whole
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert [batch["clip_id"] for batch in dataset()] == parts[1]
    assert [batch["clip_id"] for batch in dataset(rank=0, ranks=1)] == whole


def test_a_dataset_goes_on_behind_a_batch_and_refuses_a_place_in_other_data():
    whole = [batch["clip_id"] for batch in dataset(epochs=3)]
    made, seen = dataset(epochs=None), []
    for batch in made:
        seen.append(batch["clip_id"])
        if len(seen) == 5:
            assert made.state_dict() == made.state_dict(batch)
            break
    made.load_state_dict(made.state_dict())
    assert seen + [batch["clip_id"] for batch in islice(made, 7)] == whole
    made.set_epoch(1)
    assert [batch["clip_id"] for batch in islice(made, 4)] == whole[4:8]
    with pytest.raises(VoxportraitError, match="batch_size"):
        made.load_state_dict(MatrixDataset(records(), LAYOUT, batch_size=4, seed=3).state_dict())


def test_a_reused_batch_is_the_same_while_it_lasts():
    for batch, kept in zip(dataset(reuse=True, dropout=False), dataset(dropout=False), strict=True):
        same(batch, kept)


def test_the_numpy_iterator_gives_the_same_numbers():
    made = list(islice(matrices(Loader(records(), 8, seed=3), LAYOUT, dropout_seed=3), 6))
    assert len(made) == 6
    for batch, expected in zip(made, dataset(epochs=2), strict=False):
        assert type(batch["matrix"]) is np.ndarray
        assert batch["matrix"].dtype == batch["target"].dtype == np.float32
        np.testing.assert_array_equal(batch["matrix"], expected["matrix"].numpy())
        np.testing.assert_array_equal(batch["target"], expected["target"].numpy())
