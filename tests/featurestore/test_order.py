"""The order of training: every clip once, whatever the ranks, and a place in it that can be gone back to."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import UsageError, VoxportraitError
from featurestore.order import REMAINDERS, Order


@st.composite
def shares(draw) -> list[Order]:
    """The orders of all ranks of a run."""
    ranks = draw(st.integers(1, 8))
    batch_size = ranks * draw(st.integers(1, 6))
    clips = draw(st.integers(batch_size, 5 * batch_size))
    remainder, seed = draw(st.sampled_from(REMAINDERS)), draw(st.integers(0, 2**63 - 1))
    return [Order(clips, batch_size, seed, rank, ranks, remainder, "these") for rank in range(ranks)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shares(), st.integers(0, 1000))
def test_ranks_share_each_batch_and_an_epoch_holds_each_clip_once(orders, epoch):
    one = orders[0]
    places = [[order.positions(batch) for order in orders] for batch in range(one.batches_per_epoch)]
    for batch, parts in enumerate(places):
        np.testing.assert_array_equal(np.concatenate(parts), one.everybody(batch))
        sizes = {len(part) for part in parts}
        assert max(sizes) - min(sizes) <= (batch == one.batches_per_epoch - 1 and one.remainder == "keep")
    every = np.concatenate([part for parts in places for part in parts])
    used = one.clips if one.remainder == "keep" else one.clips - one.clips % one.batch_size
    np.testing.assert_array_equal(every, np.arange(used))
    np.testing.assert_array_equal(np.sort(one.epoch(epoch)), np.arange(one.clips))
    assert all((order.epoch(epoch) == one.epoch(epoch)).all() for order in orders)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shares(), st.integers(0, 1000), st.data())
def test_a_state_is_json_the_same_on_all_ranks_and_leads_back(orders, epoch, data):
    batch = data.draw(st.integers(0, orders[0].batches_per_epoch - 1))
    (state,) = {json.dumps(order.state(epoch, batch)) for order in orders}
    alone = Order(
        orders[0].clips, orders[0].batch_size, orders[0].seed, remainder=orders[0].remainder, identity="these"
    )
    assert alone.place(json.loads(state)) == (epoch, batch)
    assert all(order.place(alone.state(epoch, batch)) == (epoch, batch) for order in orders)


def test_the_place_after_an_epochs_last_batch_is_the_next_epochs_first():
    order = Order(10, 5)
    assert order.place(order.state(3, 2)) == (4, 0)


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(Order(50, 5, seed).epoch(epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch_size": 6}, "batch_size 5, this loader 6"),
        ({"seed": 1}, "seed 0, this loader 1"),
        ({"remainder": "keep"}, "remainder drop, this loader keep"),
        ({"clips": 31}, r"30 clips \(these\), this loader has 31 .* snapshot"),
        ({"identity": "others"}, r"30 clips \(these\), this loader has 30 \(others\)"),
    ],
)
def test_a_state_of_another_order_is_refused_with_both_values(changed, said):
    made = Order(30, 5, identity="these")
    with pytest.raises(VoxportraitError, match=said):
        replace(made, **changed).place(made.state(1, 2))


@pytest.mark.parametrize("state", [{}, {"step": 3}, {"epoch": -1}, {"batch": "2"}, {"batch": None}])
def test_what_is_no_state_is_said(state):
    order = Order(30, 5)
    with pytest.raises(VoxportraitError, match="not a loader's state"):
        order.place({**(order.state(0, 0) if "step" not in state and state else {}), **state})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batch_size": 10, "ranks": 3}, "10 cannot be shared evenly by 3 ranks"),
        ({"batch_size": 0}, "a batch of 0"),
        ({"ranks": 2, "rank": 2, "batch_size": 4}, "rank 2 of 2"),
        ({"remainder": "repeat"}, "unknown remainder 'repeat'"),
        ({"seed": -1}, "-1 is no seed"),
        ({"seed": 2**63}, "is no seed"),
    ],
)
def test_misuse_is_named(wrong, said):
    with pytest.raises(UsageError, match=said):
        Order(**{"clips": 30, "batch_size": 5, **wrong})


def test_clips_that_fill_no_batch_are_counted_unless_the_rest_is_kept():
    with pytest.raises(VoxportraitError, match="4 clips do not fill a batch of 5"):
        Order(4, 5)
    assert Order(4, 5, remainder="keep").batches_per_epoch == 1
    with pytest.raises(VoxportraitError, match="0 clips"):
        Order(0, 5, remainder="keep")
