"""Randomness as a function of (seed, epoch, position): the same anywhere, and random."""

import numpy as np
import pytest

from featurestore.conditioning import LAYOUTS
from featurestore.draws import attribute_dropout, epoch_order, sample_seed, uniforms

POSITIONS = np.arange(20_000)


def test_what_was_drawn_once_is_drawn_for_ever():
    """A run that goes on elsewhere, with another numpy, draws these."""
    assert epoch_order(8, 0, 0).tolist() == [2, 0, 3, 4, 5, 7, 1, 6]
    assert sample_seed(1, 2, 3, "noise") == 1199707690525036527
    np.testing.assert_array_equal(
        uniforms(1, 2, np.array([3, 4]), "drop", 2),
        [[0.6541433711813832, 0.46365479168456225], [0.10063035169948642, 0.8731522787465393]],
    )


def test_a_position_draws_the_same_in_whatever_company():
    whole = uniforms(5, 1, POSITIONS, "drop", 3)
    chosen = np.random.default_rng(0).permutation(POSITIONS)[:50]
    np.testing.assert_array_equal(uniforms(5, 1, chosen, "drop", 3), whole[chosen])
    np.testing.assert_array_equal(uniforms(5, 1, chosen.astype(np.int32), "drop", 3), whole[chosen])


def test_draws_are_uniform_and_independent():
    draws = {
        name: uniforms(*key)
        for name, key in {
            "one": (0, 0, POSITIONS, "a", 3),
            "another seed": (1, 0, POSITIONS, "a", 3),
            "another epoch": (0, 1, POSITIONS, "a", 3),
            "another purpose": (0, 0, POSITIONS, "b", 3),
            "the next position": (0, 0, POSITIONS + 1, "a", 3),
        }.items()
    }
    columns = np.concatenate(list(draws.values()), axis=1)
    assert columns.min() >= 0
    assert columns.max() < 1
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in columns.T])
    assert abs(counts / len(POSITIONS) - 0.05).max() < 0.01
    apart = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert abs(apart).max() < 0.04


def test_an_order_has_every_clip_and_none_has_a_place_of_its_own():
    orders = np.stack([epoch_order(20, seed, epoch) for seed in range(40) for epoch in range(50)])
    np.testing.assert_array_equal(np.sort(orders), np.broadcast_to(np.arange(20), orders.shape))
    often = np.stack([np.bincount(places, minlength=20) for places in orders.T]) / len(orders)
    assert abs(often - 1 / 20).max() < 0.03


@pytest.mark.parametrize("clips", [0, 1])
def test_an_order_of_few(clips):
    assert epoch_order(clips, 0, 0).tolist() == list(range(clips))


def test_seeds_fit_a_generator_and_differ():
    seeds = {sample_seed(s, e, p, purpose) for s in (0, 1) for e in (0, 1) for p in range(100) for purpose in "ab"}
    assert len(seeds) == 800
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_attributes_are_dropped_as_often_as_the_layout_says_each_by_itself():
    layout = LAYOUTS["slf"]
    dropped = attribute_dropout(layout, 0, 0, POSITIONS)
    assert set(dropped) == set(layout.dropout)
    for key, chance in layout.dropout.items():
        assert abs(dropped[key].mean() - chance) < 0.02
    together = (dropped["age"] & dropped["gender"]).mean()
    assert abs(together - layout.dropout["age"] * layout.dropout["gender"]) < 0.01
    later = attribute_dropout(layout, 0, 0, POSITIONS[7:9])
    assert all((later[key] == dropped[key][7:9]).all() for key in dropped)
