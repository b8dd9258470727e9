"""The nearest speech: who may be leaned on, and that nobody leans on themselves."""

from collections.abc import Iterable

import numpy as np
import pytest

from featurestore.errors import UsageError, VoxportraitError
from training.latent.retrieval import nearest

IDS = [f"made/id{i // 4}/video{i // 2 % 2}/{i % 2}" for i in range(12)]
"""Three people in two videos each, two clips a video."""


@pytest.fixture
def queries():
    """Clips of a video are alike, videos of a person are, and people are not."""
    random = np.random.default_rng(0)
    near, nearer, nearest = (random.normal(size=(n, 32)) for n in (3, 6, 12))
    return (8 * near.repeat(4, 0) + 2 * nearer.repeat(2, 0) + 0.1 * nearest).astype(np.float32)


def parts(places: Iterable[int], count: int) -> list[str]:
    return ["/".join(IDS[place].split("/")[:count]) for place in places]


def test_each_policy_leaves_the_nearest_that_it_allows(queries):
    found = {by: nearest(queries, queries, IDS, IDS, by) for by in ("clip", "video", "identity")}
    every = range(12)
    assert found["clip"].places.tolist() == [i ^ 1 for i in every]
    assert parts(found["video"].places, 2) == parts(every, 2)
    assert not set(zip(every, parts(found["video"].places, 3), strict=True)) & set(
        zip(every, parts(every, 3), strict=True)
    )
    assert all(one != other for one, other in zip(parts(found["identity"].places, 2), parts(every, 2), strict=True))
    similar = [found[by].similarity for by in ("clip", "video", "identity")]
    assert (similar[0] > similar[1]).all()
    assert (similar[1] > similar[2]).all()


def test_the_product_in_pieces_is_the_whole_one_and_the_cosine(queries):
    whole, pieces = (nearest(queries, queries, IDS, IDS, "video", at_once=n) for n in (1 << 26, 25))
    assert np.array_equal(whole.places, pieces.places)
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    np.testing.assert_allclose(pieces.similarity, (unit * unit[pieces.places]).sum(1), rtol=1e-5)
    lengths = np.linspace(0.1, 10, 12, dtype=np.float32)[:, None]
    assert np.array_equal(nearest(queries * lengths, queries[::-1] * lengths, IDS, IDS[::-1], "video").places[::-1],
                          (11 - whole.places)[::-1])  # fmt: skip


def test_a_query_that_could_find_itself_is_an_error(queries):
    with pytest.raises(
        VoxportraitError, match=r"^2 clips would be searched for among themselves \(made/id0/video0/0\)"
    ):
        nearest(queries[:2], queries, IDS[:2], IDS, None)
    assert nearest(queries[:4], queries[4:], IDS[:4], IDS[4:], None).places.min() >= 0
    with pytest.raises(UsageError, match="exclusion"):
        nearest(queries, queries, IDS, IDS, "nobody")


def test_empty_places_find_nothing_and_are_not_found(queries):
    ids = [*IDS[:4], "", *IDS[5:]]
    found = nearest(queries, queries, ids, ids, "clip")
    assert found.places[4] == -1
    assert found.similarity[4] == 0
    assert 4 not in found.places
    assert found.places[5] in (6, 7)


def test_where_nobody_is_left_there_is_no_prior(queries):
    alone = nearest(queries[:4], queries[:4], IDS[:4], IDS[:4], "identity")
    assert alone.places.tolist() == [-1] * 4
    assert not alone.similarity.any()
    assert nearest(queries[:4], queries[:0], IDS[:4], [], "identity").places.tolist() == [-1] * 4
