"""The nearest clips: the exact answer is brute force's, the index comes near it, and neither tells of who is gone."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

from featurestore import inprocess, search
from featurestore.clip import Clip
from featurestore.errors import UsageError
from featurestore.policy import Policy
from featurestore.schema import clip_rows, encode
from featurestore.search import Space, build_index, similar
from featurestore.store import Store
from tests.featurestore.conftest import want

SPLITS = ("train", "val", "test")


def clip(number: int) -> Clip:
    consent = ("yes", "", "yes")[number % 3]
    until = date(2020, 1, 1) if number % 3 == 2 else None
    return Clip(
        f"made/id{number // 4:05d}/video/{number:05d}",
        "/nowhere.mp4",
        SPLITS[number % 3],
        consent=consent,
        consent_until=until,
    )


def made(place, key: str, vectors: np.ndarray, present: np.ndarray, makers=(0,)) -> Store:
    """A store whose clips have these vectors, where they are present; each maker made every so many of them."""
    store = Store.open_or_create(str(place))
    numbers = [store.enter_makers([w.maker])[w.maker.digest] for w in (want(key, parameter) for parameter in makers)]
    store.ensure_columns({key: key})
    rows = clip_rows([clip(n) for n in range(len(vectors))])
    schema = store.table("clips").schema
    values = [vector if there else None for vector, there in zip(vectors, present, strict=True)]
    codes = [numbers[n % len(numbers)] if there else None for n, there in enumerate(present)]
    columns = {name: rows[name] for name in rows.column_names}
    columns |= {key: encode(schema.field(key), "", values), f"{key}_maker": pa.array(codes, pa.int16())}
    table = pa.table(columns).select(schema.names).cast(schema)
    store.place.write_table("clips", table, mode="append", max_rows_per_file=256)
    return store


def clustered(count: int, width: int = 192, seed: int = 0) -> np.ndarray:
    """Vectors of four around each of many centres, as clips of one speaker are."""
    draw = np.random.default_rng(seed)
    return np.repeat(draw.normal(size=(count // 4, width)), 4, 0) + 0.4 * draw.normal(size=(count, width))


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """By metric: a store of 700 clips of which a third lack their vector, and the vectors as they are stored."""
    found = {}
    for key, width in (("ecapa", 192), ("face_embedding_dlib", 128)):
        vectors = clustered(700, width).astype(np.float16)
        present = np.random.default_rng(1).random(700) > 1 / 3
        store = made(tmp_path_factory.mktemp(key) / "store", key, vectors, present)
        found[key] = (store, vectors.astype(float), present)
    return found


@settings(max_examples=40, deadline=None)
@given(
    key=st.sampled_from(["ecapa", "face_embedding_dlib"]),
    asked=st.integers(1, 9),
    k=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    wanted=st.sampled_from([None, "test", "none of them"]),
    consenting=st.booleans(),
)
def test_the_exact_answer_is_that_of_brute_force(halves, key, asked, k, seed, wanted, consenting):
    store, vectors, present = halves[key]
    queries = np.random.default_rng(seed).normal(size=(asked, vectors.shape[1])).astype(np.float32)
    may = present.copy()
    if wanted:
        may &= np.array([clip(n).split == wanted for n in range(len(vectors))])
    if consenting:
        may &= np.array([n % 3 == 0 for n in range(len(vectors))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "READ_ROWS", 100)
        patch.setattr(search, "AT_ONCE", 4)
        where = f"split = '{wanted}'" if wanted else None
        found = Space.of(store, key).nearest(queries, k, where, Policy(consenting), indexed=False)

    cosine = key == "ecapa"
    truth = cosine_similarity(queries, vectors) if cosine else euclidean_distances(queries.astype(float), vectors)
    rows = store.table("clips").scanner(columns=["clip_id"], with_row_id=True).to_table()
    number = {row["_rowid"]: int(row["clip_id"][-5:]) for row in rows.to_pylist()}
    for i in range(asked):
        allowed = np.sort(truth[i, may])[:: -1 if cosine else 1][:k]
        count = len(allowed)
        np.testing.assert_allclose(found.scores[i, :count], allowed, atol=1e-5)
        places = [number[row] for row in found.rows[i, :count].tolist()]
        assert len(set(places)) == count
        assert may[places].all()
        np.testing.assert_allclose(truth[i, places], found.scores[i, :count], atol=1e-5)
        assert (found.rows[i, count:] == -1).all()
        assert np.isnan(found.scores[i, count:]).all()


def test_a_clip_is_near_to_its_speakers_clips_and_is_no_answer_itself(tmp_path):
    store = made(tmp_path / "store", "ecapa", clustered(80), np.ones(80, bool))
    asked = clip(21).clip_id
    own = {clip(n).clip_id for n in (20, 22, 23)}
    nearest = store.similar(asked, k=3)
    assert set(nearest.clip_id) == own
    assert nearest.columns.tolist() == ["clip_id", "speaker_id", "split", "similarity"]
    assert nearest.similarity.is_monotonic_decreasing
    others = store.similar(asked, k=79, other_speakers=True)
    assert len(others) == 76
    assert clip(21).speaker_id not in set(others.speaker_id)
    assert set(store.similar(asked, k=79, where="split = 'val' OR clip_id = ')(--'").split) == {"val"}


def test_a_face_is_compared_by_its_distance(tmp_path):
    vectors = clustered(40, 128)
    store = made(tmp_path / "store", "face_embedding_dlib", vectors, np.ones(40, bool))
    found = store.similar(clip(0).clip_id, by="face_embedding_dlib", k=39)
    stored = vectors.astype(np.float16).astype(float)
    places = [int(name[-5:]) for name in found.clip_id]
    np.testing.assert_allclose(found.distance, np.linalg.norm(stored[places] - stored[0], axis=1), rtol=1e-12)
    assert found.distance.is_monotonic_increasing


def test_a_policy_keeps_out_answers_and_askers(tmp_path):
    store = made(tmp_path / "store", "ecapa", clustered(40), np.ones(40, bool))
    consenting = Policy(require_consent=True)
    found = similar(store, clip(0).clip_id, k=39, policy=consenting).table["clip_id"].to_pylist()
    assert {int(name[-5:]) % 3 for name in found} == {0}
    with pytest.raises(UsageError, match="may not be used"):
        similar(store, clip(1).clip_id, policy=consenting)


def test_vectors_of_two_makers_are_never_compared(tmp_path):
    store = made(tmp_path / "store", "ecapa", clustered(40), np.ones(40, bool), makers=(0, 1))
    answer = similar(store, clip(4).clip_id, k=39)
    assert {int(name[-5:]) % 2 for name in answer.table["clip_id"].to_pylist()} == {0}
    with pytest.raises(UsageError, match="several makers"):
        search.nearest(store, np.zeros((1, 192)))


def test_a_candidate_can_be_asked_beside_the_live_column(tmp_path):
    store = made(tmp_path / "store", "ecapa", clustered(40), np.ones(40, bool))
    draw = clustered(40, seed=9).astype(np.float32)
    inprocess.fill(store, [want("ecapa", 5)], lambda one, keys: {"ecapa": draw[int(one.clip_id[-5:])]})
    column = f"ecapa@{want('ecapa', 5).maker.digest[:8]}"
    found = store.similar(clip(8).clip_id, by=column, k=1)
    places = np.delete(np.arange(40), 8)
    nearest = cosine_similarity(draw[[8]].astype(np.float16), draw[places].astype(np.float16))[0]
    assert found.clip_id[0] == clip(places[nearest.argmax()]).clip_id
    assert found.similarity[0] == pytest.approx(nearest.max(), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "made/id00000/video/99999"}, "there is no clip"),
        ({"by": "ecappa"}, "Did you mean 'ecapa'"),
        ({"by": "face"}, "unknown vector"),
        ({"by": "titanet"}, "no clip has titanet yet"),
        ({"where": "splt = 'test'"}, "splt"),
        ({"where": "true) OR (true"}, "cannot be judged"),
        ({"where": "true) OR (true", "policy": Policy(require_consent=True)}, "cannot be judged"),
        ({"where": "true) OR (' ' = ' '"}, "cannot be judged"),
        ({"where": "true /* ' */) OR (true /* ' */"}, "cannot be judged"),
        ({"where": "true) OR true --"}, "cannot be judged"),
        ({"where": "split = '"}, "cannot be judged"),
        ({"where": ""}, "cannot be judged"),
        ({"where": "split"}, "cannot be judged"),
        ({"to": np.zeros(5)}, "192"),
        ({"to": clip(1).clip_id}, "has no ecapa"),
        ({"indexed": True}, "voxportrait store index ecapa"),
        ({"k": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_answered_is_one_clear_line(tmp_path, options, said):
    store = made(tmp_path / "store", "ecapa", clustered(8), np.arange(8) != 1)
    with pytest.raises(UsageError) as error:
        similar(store, **({"to": clip(0).clip_id} | options))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert ".rs:" not in str(error.value)


def test_the_index_finds_nearly_all_of_the_nearest_and_scores_them_exactly(tmp_path):
    vectors = clustered(5000)
    store = made(tmp_path / "store", "ecapa", vectors, np.ones(5000, bool))
    assert build_index(store, "ecapa")["state"] == "does not pay"
    assert Space.of(store, "ecapa").index is None
    assert build_index(store, "ecapa", anyway=True)["state"] == "built"
    space = Space.of(store, "ecapa")
    asked = vectors[::100] + 0.2 * np.random.default_rng(3).normal(size=(50, 192))
    exact, indexed = space.nearest(asked, 10), space.nearest(asked, 10, indexed=True)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.rows.tolist(), indexed.rows.tolist(), strict=True)]
    assert np.mean(shared) / 10 >= 0.95
    np.testing.assert_allclose(indexed.scores[:, 0], exact.scores[:, 0], rtol=1e-12)
    found = similar(store, clip(0).clip_id, k=20, where="split = 'test'", other_speakers=True, indexed=True).table
    assert len(found) == 20
    assert set(found["split"].to_pylist()) == {"test"}
    assert clip(0).speaker_id not in found["speaker_id"].to_pylist()


def test_the_index_knows_what_was_filled_after_it_and_forgets_what_was_deleted(tmp_path):
    vectors = clustered(600)
    present = np.arange(600) % 4 != 1
    store = made(tmp_path / "store", "ecapa", vectors, present)
    build_index(store, "ecapa", anyway=True)
    missing = {clip(n).clip_id for n in range(600) if not present[n]}
    assert not missing & set(store.similar(clip(40).clip_id, k=449, indexed=True).clip_id)
    inprocess.fill(store, [want("ecapa")], lambda one, keys: {"ecapa": vectors[int(one.clip_id[-5:])]})

    def nearest(indexed: bool) -> list[int]:
        asked = search.nearest(store, vectors[40], k=3, indexed=indexed).rows[0]
        names = search._rows(store.table("clips"), asked, ["clip_id"])["clip_id"].to_pylist()
        return sorted(int(name[-5:]) for name in names)

    whole = nearest(indexed=False)
    assert 41 in whole or 43 in whole
    assert nearest(indexed=True) == whole
    assert build_index(store, "ecapa")["state"] == "up to date"
    assert nearest(indexed=True) == whole
    store.table("clips").delete(f"speaker_id = '{clip(40).speaker_id}'")
    for _ in range(2):
        for indexed in (False, True):
            assert not set(nearest(indexed)) & {40, 41, 42, 43}
        dataset = store.table("clips")
        dataset.optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)
        store.table("clips").optimize.optimize_indices()


def test_an_index_stays_with_its_vectors_when_another_makers_become_the_live_ones(tmp_path):
    old, new = clustered(400), clustered(400, seed=9)
    store = made(tmp_path / "store", "ecapa", old, np.ones(400, bool))
    inprocess.fill(store, [want("ecapa", 5)], lambda one, keys: {"ecapa": new[int(one.clip_id[-5:])]})
    build_index(store, "ecapa", anyway=True)
    retired, promoted = (f"ecapa@{want('ecapa', n).maker.digest[:8]}" for n in (0, 5))
    renamed = (("ecapa", retired), (promoted, "ecapa"))
    changes: list = [{"path": path + end, "name": name + end} for path, name in renamed for end in ("", "_maker")]
    store.table("clips").alter_columns(*changes)
    assert Space.of(store, "ecapa").index is None
    assert build_index(store, "ecapa", anyway=True)["state"] == "built"
    for by, vectors in (("ecapa", new), (retired, old)):
        found = search.nearest(store, vectors[:1], by, k=4, indexed=True)
        np.testing.assert_array_equal(found.rows, search.nearest(store, vectors[:1], by, k=4, indexed=False).rows)
        assert found.scores[0, 0] == pytest.approx(1, abs=1e-3)
