"""Metrics against cases worked out by hand."""

import numpy as np
import pytest

from evaluation.metrics import (
    apart,
    decade,
    find,
    mean,
    mean_likeness,
    nearest,
    psnr,
    ranks,
    root_mean_square,
    ssim,
    wilson_interval,
)

LINE = np.arange(12, dtype=np.float32)[:, None]


def test_ranks_count_the_entries_that_are_as_near():
    # query 2.4 on the line 0..11: nearest 2, then 3, 1, 4
    np.testing.assert_array_equal(ranks(np.full((4, 1), 2.4), LINE, [2, 3, 1, 4]), [1, 2, 3, 4])


def test_cosine_looks_at_directions_alone():
    gallery = np.array([[1.0, 0.0], [0.0, 9.0], [5.0, 5.0]])
    query = np.array([[0.1, 0.09]])
    assert ranks(query, gallery, [2], "cosine").tolist() == [1]
    assert ranks(query, gallery, [2], "l2").tolist() == [2]
    assert ranks(np.zeros((1, 2)), gallery, [2], "cosine").tolist() == [3]


def recalls(queries, gallery, truth):
    return find(queries, gallery, np.arange(len(gallery)), truth).recalls()


def test_perfect_retrieval_finds_everybody_first():
    found = recalls(LINE, LINE, range(12))
    assert list(found) == [1, 3, 5, 10]
    assert all(r.value == 1 and r.hits == r.n == 12 and r.high == 1 for r in found.values())
    assert [r.random for r in found.values()] == [1 / 12, 3 / 12, 5 / 12, 10 / 12]


def test_the_farthest_are_found_only_at_the_end():
    found = recalls(LINE, LINE, [11] * 6 + [0] * 6)
    assert [r.hits for r in found.values()] == [0, 0, 0, 0]
    assert found[1].low == 0


def test_an_embedding_that_sees_no_difference_finds_nobody():
    same = np.zeros((12, 4))
    assert [r.hits for r in recalls(same, same, range(12)).values()] == [0, 0, 0, 0]
    assert ranks(same, same, range(12), "cosine").tolist() == [12] * 12
    one = np.random.default_rng(0).normal(0, 30, (1, 4096)).repeat(12, 0)
    assert ranks(one, one, range(12)).tolist() == ranks(one, one, range(12), "cosine").tolist() == [12] * 12


def test_any_of_several_images_of_a_speaker_is_a_hit():
    """Of 12 images on a line four are speaker 0's; from far away they come after all eight of speaker 1."""
    people = np.array([0] * 4 + [1] * 8)
    found = find(np.array([[8.6], [1.2]]), LINE, people, [0, 0])
    assert found.place.tolist() == [9, 1]
    assert (found.right.tolist(), found.among.tolist()) == ([4, 4], [12, 12])
    recalls = found.recalls((1, 2, 5))
    assert [(r.hits, r.n) for r in recalls.values()] == [(1, 2)] * 3
    assert recalls[1].random == pytest.approx(4 / 12)
    assert recalls[2].random == pytest.approx(1 - (8 * 7) / (12 * 11))
    assert list(found.recalls((8, 9))) == [8]  # nine of twelve images hold one of the four for certain


def test_images_that_are_passed_over_are_neither_hits_nor_to_choose_from():
    people, videos = np.array([0] * 4 + [1] * 8), np.array([7, 7, 8, 8] + [9] * 8)
    found = find(np.array([[0.9], [0.9]]), LINE, people, [0, 0], (videos, np.array([7, -1])))
    assert found.place.tolist() == [1, 1]
    assert (found.right.tolist(), found.among.tolist()) == ([2, 4], [10, 12])
    alone = find(np.array([[0.9]]), LINE, people, [0], (np.array([7] * 4 + [9] * 8), np.array([7])))
    assert (alone.place.tolist(), alone.recalls()) == ([0], {})


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_the_nearest_is_as_far_as_it_is_apart(metric):
    random = np.random.default_rng(0)
    queries, gallery = random.normal(size=(5, 8)), random.normal(size=(70, 8))
    queries[4] = np.nan
    rows, far = nearest(queries, gallery, metric)
    for i in range(4):
        all_apart = apart(np.repeat(queries[i : i + 1], 70, 0), gallery, metric)
        assert rows[i] == all_apart.argmin()
        assert far[i] == pytest.approx(all_apart.min())
    assert far[4] == np.inf


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_an_embedding_that_is_no_number_is_a_miss_and_counts(metric):
    gallery = np.eye(3)
    queries = np.array([[np.nan] * 3, [0, 1, 0], [0, 0, 0]])
    assert ranks(queries, gallery, [0, 1, 2], metric).tolist() == [3, 1, 3]


def test_a_k_that_reaches_the_gallery_is_left_out():
    assert list(recalls(LINE[:10], LINE[:10], range(10))) == [1, 3, 5]
    assert list(recalls(LINE[:3], LINE[:3], range(3))) == [1]
    assert recalls(LINE[:1], LINE[:1], [0]) == {}
    assert recalls(np.empty((0, 1)), LINE, []) == {}


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (1, 12, 0.0149, 0.3539),
        (6, 12, 0.2538, 0.7462),
        (0, 12, 0.0, 0.2425),
        (12, 12, 0.7575, 1.0),
        (20, 118, 0.1125, 0.2473),
    ],
)
def test_wilson_interval(hits, n, low, high):
    assert wilson_interval(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_psnr_of_a_known_error():
    black = np.zeros((8, 8, 3), np.uint8)
    assert psnr(black + 10, black) == pytest.approx(20 * np.log10(255 / 10))


def test_ssim_is_one_for_the_same_and_less_for_noise():
    random = np.random.default_rng(0)
    picture = random.integers(0, 255, (32, 32, 3), np.uint8)
    assert ssim(picture, picture) == pytest.approx(1)
    assert ssim(picture, random.permutation(picture)) < 0.2


def test_mean_has_an_interval_that_is_the_same_again():
    values = np.random.default_rng(1).normal(20, 2, 400)
    first = mean(values)
    assert first == mean(values)
    assert first.value == pytest.approx(values.mean())
    standard_error = values.std() / 20
    assert first.low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.05)
    assert first.high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.05)
    assert (mean([3.0]).low, mean([3.0]).high) == (3.0, 3.0)


def test_mean_likeness_pairs_pictures():
    black = np.zeros((2, 8, 8, 3), np.uint8)
    other = np.stack([black[0] + 1, black[0] + 255])
    assert mean_likeness(psnr, other, black).value == pytest.approx(20 * np.log10(255) / 2)


def test_root_mean_square_is_in_the_errors_unit():
    found = root_mean_square([3.0, -4.0] * 50)
    assert found.value == pytest.approx(np.sqrt(12.5))
    assert 3 < found.low < found.value < found.high < 4


@pytest.mark.parametrize(("age", "name"), [(0, "0-9"), (29.9, "20-29"), (30, "30-39"), (105, "100-109"), (-1, "0-9")])
def test_age_groups_are_decades(age, name):
    assert decade(age) == name
