"""Significance against the paper's own tables, and its intervals and tests against cases that can be worked out."""

import json
from pathlib import Path

import numpy as np
import pytest

import evaluation
from evaluation.significance import (
    COMPARISONS,
    WEIGHTS,
    above_chance,
    band,
    compare,
    fisher,
    mcnemar,
    relative_increase,
    significance,
)

PUBLISHED = json.loads((Path(evaluation.__file__).parent / "published.json").read_text())["slf"]


def published_recall(system):
    table = PUBLISHED["ablation_systems"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    (row,) = [row for row in rows if row["system"] == system.replace("-", " ")]
    return {k: row[f"r{k}"] for k in WEIGHTS}


def of_paper(one):
    value = significance(published_recall(one.all), published_recall(one.without))
    assert value is not None
    return value


def interval(found):
    """(low, value, high) of one that is defined."""
    assert None not in (found.low, found.value, found.high)
    return found.low, found.value, found.high


def reason(*arguments, **more):
    return str(compare(*arguments, **more).reason)


def test_the_paper_s_significances_come_out_of_its_tables():
    values = [of_paper(one) for one in COMPARISONS]
    assert values == pytest.approx([75.03, 77.02, 97.70, 31.46], abs=0.01)
    assert [round(value) for value in values] == list(PUBLISHED["significance_S_percent"].values()) == [75, 77, 98, 31]
    assert [band(value) for value in values] == ["significant", "significant", "profound", "moderate"]


def test_weights_and_bands_are_the_published_ones():
    assert {str(k): weight for k, weight in WEIGHTS.items()} == PUBLISHED["significance_weights"]
    for most, name in PUBLISHED["significance_bands"]:
        assert band(1e9 if most is None else most) == name
    assert (band(-30), band(0.1), band(20.1), band(80.1)) == ("negligible", "minor", "moderate", "profound")


def test_an_increase_over_nothing_is_undefined():
    assert relative_increase(0.2, 0) is None
    assert relative_increase(0.3, 0.2) == pytest.approx(50)
    recall = dict.fromkeys(WEIGHTS, 0.5)
    assert significance(recall, {**recall, 1: 0.0}) is None
    found = compare([1, 1, 2, 4], [2, 2, 2, 2], gallery=20)
    assert (found.value, found.low, found.band) == (None, None, None)
    assert "recall at 1 without it is 0" in str(found.reason)


def test_a_small_gallery_or_nobody_in_common_is_said():
    assert "a gallery of 10" in reason([1, 2], [1, 2], gallery=10)
    assert "no speaker in common" in reason([], [], gallery=20)


def test_the_interval_is_paired():
    """The same answers give 0 exactly, however they vary; a gain that all share has a narrow interval."""
    places = np.random.default_rng(0).integers(1, 21, 400)
    same = compare(places, places, gallery=20)
    assert (same.value, same.low, same.high, same.band) == (0, 0, 0, "negligible")
    better = np.where(np.arange(400) % 10 == 0, 1, places)
    paired, apart = compare(better, places, gallery=20), compare(np.roll(better, 7), places, gallery=20)
    (low, value, high), (apart_low, apart_value, apart_high) = interval(paired), interval(apart)
    assert low < value < high
    assert value == pytest.approx(apart_value)
    assert high - low < 0.7 * (apart_high - apart_low)
    assert paired == compare(better, places, gallery=20)


def test_the_interval_covers_the_truth():
    """Two systems that find at random with known chances: the true S lies in about 95 % of the intervals."""
    random, inside = np.random.default_rng(1), 0
    chances = np.array([0.3, 0.15, 0.1, 0.15, 0.3]), np.array([0.2, 0.15, 0.1, 0.2, 0.35])
    recalls = [dict(zip(WEIGHTS, np.cumsum(one)[:4], strict=True)) for one in chances]
    truth = significance(*recalls)
    for _ in range(100):
        drawn = [random.choice([1, 3, 5, 10, 19], 200, p=one) for one in chances]
        low, _, high = interval(compare(drawn[0], drawn[1], gallery=20, resamples=400))
        inside += low <= truth <= high
    assert 88 <= inside <= 99


def test_where_resamples_are_undefined_there_is_no_interval():
    found = compare([1, 1, 1, 1], [1, 12, 12, 12], gallery=20)
    assert found.value == pytest.approx(300)
    assert (found.low, found.high) == (None, None)
    assert "of the resamples" in str(found.reason)


def test_speakers_are_drawn_anew_with_all_their_clips():
    """Four clips of each person that fare alike tell no more than one: the interval is as wide."""
    random = np.random.default_rng(2)
    one, other = (random.integers(1, 21, 100) for _ in range(2))
    once = interval(compare(one, other, gallery=20))
    people = [f"made/id{n:05d}" for n in range(100)]
    four = interval(compare(np.repeat(one, 4), np.repeat(other, 4), 20, np.repeat(people, 4).tolist()))
    loose = interval(compare(np.repeat(one, 4), np.repeat(other, 4), gallery=20))
    assert four == pytest.approx(once)
    assert loose[2] - loose[0] < 0.7 * (four[2] - four[0])


def test_above_chance_is_exact():
    assert above_chance(2, 2, 1, 10) == pytest.approx(0.01)
    assert above_chance(0, 5, 1, 10) == 1
    assert above_chance(11, 118, 1, 118) < 1e-6
    assert above_chance(3, 118, 1, 118) > 0.01


def test_fisher_s_test_of_the_paper_s_full_input_against_no_image_guide():
    assert fisher(20, 118, 11, 118) == pytest.approx(0.12, abs=0.01)


def test_mcnemar_counts_only_who_differs():
    one = [True] * 8 + [False] * 50
    other = [False] * 8 + [False] * 50
    assert mcnemar(one, other) == pytest.approx(2 * 0.5**8)
    assert mcnemar(one, one) == 1
