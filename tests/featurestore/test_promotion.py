import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from featurestore import compaction, filling, inprocess, promotion, snapshots
from featurestore.errors import UsageError, VoxportraitError
from featurestore.leases import Lease, LeaseHeld
from featurestore.queries import digest
from featurestore.schema import decode
from featurestore.store import Store
from tests.featurestore.conftest import clip, want


def draw(*words) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "big"))


def jpeg(generator: np.random.Generator, shift: int) -> bytes:
    picture = generator.integers(40, 200, (8, 8, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1) + np.uint8(shift)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95)
    return file.getvalue()


def fill(store: Store, key: str, parameter: int, noise: float = 0.0, lost: tuple[int, ...] = ()):
    """Fill a constituent by the maker of a parameter; noise: how far its values are from those of another one."""
    missing = {clip(n).clip_id for n in lost}

    def make(one, wanted):
        if one.clip_id in missing:
            return {}
        own, other = draw(key, one.clip_id), draw(key, one.clip_id, parameter)
        if key == "ecapa":
            voice = draw(one.speaker_id).normal(size=192) + own.normal(size=192)
            return {key: (voice + noise * other.normal(size=192)).astype(np.float32)}
        if key == "mel":
            return {key: own.random((111, 128), np.float32) * (1 + noise)}
        if key == "face_128":
            face = own.integers(0, 200, (128, 128, 3), dtype=np.uint8) + np.uint8(noise)
            return {key: face, "face_128_guide": face[::16, ::16]}
        if key == "face":
            return {key: jpeg(own, int(noise)), "face_box": None, "face_probability": 1.0, "face_frame": 0}
        if key == "age":
            return {key: 30.0 + 10 * own.random() + noise, "age_probability": 1.0}
        sure = other.random() >= noise
        return {key: "woman" if sure else "man", f"{key}_probability": 1.0}

    inprocess.fill(store, [want(key, parameter)], make)


def name_of(key: str, parameter: int) -> str:
    return f"{key}@{want(key, parameter).maker.digest[:8]}"


def values(store: Store, column: str = "ecapa") -> np.ndarray:
    table = store.table("clips").to_table(columns=["clip_id", column]).sort_by("clip_id")
    return decode(table[column], (192,), "float16")


def test_promotion_swaps_live_and_candidate_and_can_be_taken_back(store):
    fill(store, "ecapa", 0)
    fill(store, "ecapa", 1, noise=0.1)
    old, new, content = values(store), values(store, name_of("ecapa", 1)), digest(store)
    done = promotion.promote(store, "ecapa")
    assert (done.kept_as, done.dropped, done.forced) == (name_of("ecapa", 0), (), False)
    np.testing.assert_array_equal(values(store), new)
    np.testing.assert_array_equal(values(store, name_of("ecapa", 0)), old)
    assert name_of("ecapa", 1) not in store.table("clips").schema.names
    assert digest(store) != content
    assert promotion.promote(store, "ecapa").kept_as == name_of("ecapa", 1)
    assert digest(store) == content


def test_neither_maker_has_anything_left_to_fill_after_a_promotion(store):
    fill(store, "ecapa", 0)
    fill(store, "ecapa", 1, noise=0.1)
    promotion.promote(store, "ecapa")
    for parameter, column in ((1, "ecapa"), (0, name_of("ecapa", 0))):
        planned = filling.plan(store, [want("ecapa", parameter)])
        assert planned.columns["ecapa"] == column
        assert planned.work == 0


def test_a_promotion_is_in_the_record_of_jobs_with_what_was_seen(store):
    fill(store, "ecapa", 0)
    fill(store, "ecapa", 1, noise=9.0)
    with pytest.raises(VoxportraitError, match="its equal error rate is"):
        promotion.promote(store, "ecapa")
    assert store.table("jobs").count_rows("kind = 'promote'") == 0
    job_id = promotion.promote(store, "ecapa", force=True).job_id
    (row,) = store.table("jobs").to_table(filter="kind = 'promote'").to_pylist()
    counts = json.loads(row["counts"])
    assert (row["job_id"], row["state"], counts["forced"]) == (job_id, "finished", True)
    assert counts["promoted"] == name_of("ecapa", 1)
    assert counts["drift"]["measures"]["eer_candidate"] > counts["drift"]["measures"]["eer_live"]


def test_the_drift_of_vectors_is_their_cosine_and_what_they_tell_of_speakers(store):
    fill(store, "ecapa", 0)
    fill(store, "ecapa", 1, noise=0.1)
    seen = promotion.drift(store, "ecapa")
    assert (seen.clips, seen.probed, seen.lost, seen.gained, seen.against) == (300, 300, 0, 0, ())
    measures = {name: value for name, value in seen.measures.items() if value is not None}
    assert 0.99 < measures["cosine"] < 1
    assert measures["speakers_with_pairs"] == measures["same_pairs"] == 150
    assert measures["different_pairs"] == 300 * 299 // 2 - 150
    assert 0 < measures["eer_live"] < 0.1
    assert abs(measures["eer_candidate"] - measures["eer_live"]) < 0.01


def test_the_equal_error_rate_of_scores_that_are_known():
    assert promotion.equal_error_rate(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 0
    assert promotion.equal_error_rate(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1
    evens = np.arange(0, 1000, 2.0)
    assert promotion.equal_error_rate(evens, evens + 1) == pytest.approx(0.5, abs=0.01)


def test_clips_that_would_lose_their_value_are_counted_and_stop_a_promotion(store):
    fill(store, "ecapa", 0, lost=(1,))
    fill(store, "ecapa", 1, noise=0.1, lost=(4, 5, 6))
    seen = promotion.drift(store, "ecapa")
    assert (seen.lost, seen.gained, seen.clips) == (3, 1, 296)
    with pytest.raises(VoxportraitError, match=r"3 clips would lose their value\. A person's word: --force"):
        promotion.promote(store, "ecapa")
    assert promotion.promote(store, "ecapa", force=True).forced


def test_few_speakers_are_said(tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(clip(n) for n in range(20))
    fill(store, "ecapa", 0)
    fill(store, "ecapa", 1, noise=0.01)
    assert promotion.drift(store, "ecapa").measures["eer_live"] is None
    assert promotion.drift(store, "ecapa").against == ()
    promotion.discard(store, name_of("ecapa", 1))
    fill(store, "ecapa", 2, noise=3.0)
    with pytest.raises(VoxportraitError, match="10 speakers with two clips or more are too few"):
        promotion.promote(store, "ecapa")


@pytest.mark.parametrize(
    ("key", "near", "far", "said"),
    [
        ("gender", 0.01, 0.3, "of values agree"),
        ("age", 0.1, 20.0, "values differ by"),
        ("mel", 0.01, 0.2, "values differ by 20"),
        ("face_128", 2, 30, r"pixels differ by 30\.0 of 255"),
        ("face", 2, 30, "pixels differ by"),
    ],
)
def test_other_kinds_are_compared_by_what_they_are(tmp_path, key, near, far, said):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(clip(n) for n in range(60))
    fill(store, key, 0)
    fill(store, key, 1, noise=near)
    assert promotion.drift(store, key).against == ()
    fill(store, key, 2, noise=far)
    with pytest.raises(VoxportraitError, match=said):
        promotion.promote(store, key, name_of(key, 2))
    assert promotion.promote(store, key, name_of(key, 1)).kept_as == name_of(key, 0)


def test_the_candidate_is_named_where_there_are_several(store):
    with pytest.raises(UsageError, match="ecapa has no candidate"):
        promotion.drift(store, "ecapa")
    for parameter in range(3):
        fill(store, "ecapa", parameter, noise=0.1 * parameter)
    with pytest.raises(UsageError, match="several candidates, say which"):
        promotion.promote(store, "ecapa")
    with pytest.raises(UsageError, match="unknown candidate 'ecapa@00000000'"):
        promotion.promote(store, "ecapa", "00000000")
    assert promotion.promote(store, "ecapa", name_of("ecapa", 2).split("@")[1]).kept_as == name_of("ecapa", 0)


def test_an_index_of_the_values_that_were_live_is_dropped_and_said(store):
    fill(store, "ecapa", 0)
    fill(store, "ecapa", 1, noise=0.1)
    store.table("clips").create_index("ecapa", "IVF_PQ", num_partitions=2, num_sub_vectors=16, metric="cosine")
    assert promotion.promote(store, "ecapa").dropped == ("ecapa_idx",)
    assert store.table("clips").describe_indices() == []


def test_a_snapshot_survives_the_promotion_of_another_constituent_and_fails_on_its_own(store):
    for key in ("ecapa", "gender"):
        fill(store, key, 0)
    snapshots.take(store, "first")
    fill(store, "ecapa", 1, noise=0.1)
    promotion.promote(store, "ecapa")
    assert snapshots.read(store, "first", ["gender"]).present.all()
    old, new = (name_of("ecapa", parameter).split("@")[1] for parameter in (0, 1))
    with pytest.raises(VoxportraitError, match=rf"made by {old} and is by {new} now: promote ecapa@{old} again"):
        snapshots.read(store, "first")
    promotion.promote(store, "ecapa")
    assert snapshots.read(store, "first").present.all()


def test_live_values_of_two_makers_are_kept_together(store):
    fill(store, "ecapa", 0)
    fill(store, "ecapa", 1, noise=0.1)
    number = store.known_makers()[want("ecapa", 1).maker.digest]
    store.table("clips").update({"ecapa_maker": str(number)}, where=f"clip_id = '{clip(3).clip_id}'")
    old = values(store)
    assert promotion.promote(store, "ecapa").kept_as == name_of("ecapa", 0)
    np.testing.assert_array_equal(values(store, name_of("ecapa", 0)), old)


def test_a_candidate_takes_the_place_of_nothing(store):
    fill(store, "ecapa", 0)
    fill(store, "ecapa", 1, noise=0.1)
    new = values(store, name_of("ecapa", 1))
    store.table("clips").drop_columns(["ecapa", "ecapa_maker"])
    assert promotion.promote(store, "ecapa").kept_as == ""
    np.testing.assert_array_equal(values(store), new)


def test_a_discarded_candidate_is_gone_and_its_bytes_with_the_next_compaction(store, tmp_path):
    fill(store, "ecapa", 0)
    fill(store, "ecapa", 1, noise=0.1)
    content, names = digest(store), store.table("clips").schema.names
    piece = values(store, name_of("ecapa", 1))[7].tobytes()
    assert promotion.discard(store, name_of("ecapa", 1)) == 300
    left = store.table("clips").schema.names
    assert [name for name in names if name not in left] == [name_of("ecapa", 1), f"{name_of('ecapa', 1)}_maker"]
    assert digest(store) == content
    compaction.compact(store)
    files = [file for file in (tmp_path / "store").rglob("*.lance") if file.is_file()]
    assert not any(piece in file.read_bytes() for file in files)
    with pytest.raises(UsageError, match="ecapa has no candidate"):
        promotion.discard(store, name_of("ecapa", 1))


def test_nothing_is_promoted_while_a_job_is_at_work(store):
    fill(store, "ecapa", 0)
    fill(store, "ecapa", 1, noise=0.1)
    with Lease(store.place, ["fragment:1"], "filling"), pytest.raises(LeaseHeld, match="filling"):
        promotion.promote(store, "ecapa")
