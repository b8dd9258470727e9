"""Records of a store: which clips, which values, and what is said of what is missing, broken or twice there."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from featurestore import compaction, inprocess, snapshots
from featurestore.catalogue import ATTRIBUTES
from featurestore.conditioning import LAYOUTS
from featurestore.errors import UsageError, VoxportraitError
from featurestore.face_parts import bottom_mask
from featurestore.filling import Want
from featurestore.journal import Rejected
from featurestore.makers import Maker
from featurestore.records import Slab
from featurestore.schema import clip_rows
from featurestore.store import Store
from featurestore.store_records import StoreRecords
from tests.featurestore.conftest import clip, fill, value, want

SLF = LAYOUTS["slf"]
KEYS = ("ecapa", "gender", "age")
LAYOUT = SLF.without(*(key for key in SLF.constituents if key not in KEYS))
AGED, WORDLESS, FACELESS = 6, 7, 8
"""Clips of an age, without `ecapa` and `gender`, and without a face."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Store:
    """A store of 40 clips; not to be changed."""
    store = Store.open_or_create(str(tmp_path_factory.mktemp("records") / "store"))
    store.register(clip(n) for n in range(40))
    fill(store, [want("face_128")], {clip(FACELESS).clip_id: "no face"})
    store.table("quarantine").delete("true")
    fill(store, [want("ecapa"), want("gender")], {clip(WORDLESS).clip_id: "no sound"})
    age = Want("age", Maker("age", "made-up", "numpy", trained=False))
    ages: dict[str, Any] = {clip(AGED).clip_id: {"age": 33.0, "age_probability": 1.0}}
    inprocess.fill(
        store,
        [age],
        lambda one, _: ages.get(one.clip_id) or Rejected(one.clip_id, "age", "model", "no face", "none"),
    )
    return store


def read(records: StoreRecords, rows: np.ndarray) -> tuple[list[str], dict[str, np.ndarray]]:
    """The ids of the clips that are there, and what is read of them."""
    slab = Slab(records.fields, len(rows) + 1)
    for array in slab.arrays.values():
        array.fill(7)
    here = records.read(rows, slab.arrays)
    return records.clip_ids(rows[here]), {name: array[: int(here.sum())] for name, array in slab.arrays.items()}


def compact(store: Store) -> None:
    """Rewrite the fragments of clips that stay, and remove the files they were in."""
    store.register(clip(n) for n in range(60, 70))
    store.table("clips").delete(f"clip_id = '{clip(62).clip_id}'")
    compaction.compact(store)


def number_of(records: StoreRecords, number: int) -> int:
    return records.clip_ids(records.rows).index(clip(number).clip_id)


def test_missing_inputs_are_counted_by_constituent_with_what_can_be_done(whole):
    with pytest.raises(VoxportraitError) as refused:
        StoreRecords(whole, LAYOUT)
    assert str(refused.value) == (
        "of 31 clips of split 'train' lack: ecapa 1, age 30, gender 1. Fill them (voxportrait fill), turn those inputs "
        "off (another --system), or choose --missing zero or --missing skip"
    )


def test_zero_keeps_clips_and_gives_zeros_and_unknown_labels(whole):
    records = StoreRecords(whole, LAYOUT, missing="zero")
    assert (len(records.rows), records.lacking("train")) == (31, {"ecapa": 1, "age": 30, "gender": 1})
    ids, found = read(records, records.rows)
    assert ids == sorted(clip(n).clip_id for n in range(40) if n % 5 and n != FACELESS)
    for i, clip_id in enumerate(ids):
        if clip_id == clip(WORDLESS).clip_id:
            assert not found["ecapa"][i].any()
            assert found["gender"][i] == -1
        else:
            np.testing.assert_array_equal(found["ecapa"][i], value("ecapa", clip_id)["ecapa"].astype(np.float16))
            assert found["gender"][i] == ATTRIBUTES["gender"].index("woman")
        assert np.isnan(found["age"][i]) == (clip_id != clip(AGED).clip_id)
        np.testing.assert_array_equal(found["target"][i], value("face_128", clip_id)["face_128"])
    assert found["age"][number_of(records, AGED)] == 33
    assert {name: array.dtype.name for name, array in found.items()} == {
        "ecapa": "float16",
        "age": "float32",
        "gender": "int64",
        "target": "uint8",
        "guide": "uint8",
    }


def test_skip_leaves_out_whoever_lacks_something(whole):
    records = StoreRecords(whole, LAYOUT, missing="skip")
    assert records.clip_ids(records.rows) == [clip(AGED).clip_id]
    assert records.describe()["missing"] == "skip"
    with pytest.raises(VoxportraitError, match=r"no clip of split 'test' .* .voxportrait store coverage"):
        StoreRecords(whole, LAYOUT, missing="skip", split="test")


def test_a_constituent_that_no_clip_has_is_zeros_where_that_is_wanted(whole):
    records = StoreRecords(whole, SLF, missing="zero")
    _, found = read(records, records.rows[:3])
    assert "titanet" in records.describe()["absent"]
    assert not found["titanet"].any()
    assert (found["language"] == -1).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"missing": "guess"}, "unknown missing 'guess'"),
        ({"split": "dev"}, "unknown split 'dev'"),
        ({"pictures": ("portrait",)}, "unknown picture 'portrait'"),
        ({"snapshot": "none"}, "unknown snapshot 'none'"),
    ],
)
def test_misuse_is_named(whole, options, said):
    with pytest.raises(UsageError, match=said):
        StoreRecords(whole, LAYOUT, **{"missing": "zero", **options})


def test_rows_are_read_in_any_order_as_often_as_they_are_asked_for_or_not_at_all(whole):
    records = StoreRecords(whole, LAYOUT, missing="zero")
    chosen = np.array([5, 2, 30, 2, 0])
    ids, found = read(records, records.rows[chosen])
    every, expected = read(records, records.rows)
    assert ids == [every[i] for i in chosen]
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name][chosen])
    assert read(records, records.rows[:0])[0] == []


def test_a_read_touches_no_more_of_the_buffers_than_it_fills(whole):
    records = StoreRecords(whole, LAYOUT, missing="zero")
    slab = Slab(records.fields, 5)
    for array in slab.arrays.values():
        array.fill(7)
    records.read(records.rows[:3], slab.arrays)
    assert all((array[3:] == 7).all() for array in slab.arrays.values())


def test_values_come_from_where_a_compaction_and_a_change_of_licence_moved_them(tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    for part in (range(40), range(40, 60)):
        store.register(clip(n) for n in part)
    fill(store, [want("ecapa"), want("face_128")])
    records = StoreRecords(store, LAYOUT.without("age", "gender"))
    before = read(records, records.rows)
    store.register(replace(clip(n), licence="CC-BY") for n in (3, 11))
    compact(store)
    for again in (records, StoreRecords(store, LAYOUT.without("age", "gender"))):
        after = read(again, again.rows)
        assert after[0] == before[0]
        for name, values in before[1].items():
            np.testing.assert_array_equal(after[1][name], values)


def test_readers_that_find_their_files_gone_go_on_together(tmp_path, monkeypatch):
    store = Store.open_or_create(str(tmp_path / "store"))
    for part in (range(40), range(40, 60)):
        store.register(clip(n) for n in part)
    fill(store, [want("ecapa"), want("face_128")])
    records = StoreRecords(store, LAYOUT.without("age", "gender"))
    expected = read(records, records.rows)[0]
    version = records.dataset.version
    compact(store)
    check = Mock(wraps=snapshots.check)
    monkeypatch.setattr(snapshots, "check", check)
    with ThreadPoolExecutor(4) as pool:
        for ids, found in pool.map(lambda _: read(records, records.rows), range(8)):
            assert ids == expected
            for i, clip_id in enumerate(ids):
                np.testing.assert_array_equal(found["target"][i], value("face_128", clip_id)["face_128"])
    assert records.dataset.version > version
    assert check.call_count == 1  # by the first of them


def test_a_clip_that_is_there_twice_is_named(tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(clip(n) for n in range(10))
    fill(store, [want("ecapa"), want("face_128")])
    store.place.write_table("clips", clip_rows([clip(3)]), mode="append")
    with pytest.raises(
        VoxportraitError, match=f"{clip(3).clip_id} .* twice, as are 0 others: see voxportrait store verify"
    ):
        StoreRecords(store, LAYOUT.without("age", "gender"))


def test_a_clip_registered_while_the_store_is_opened_is_no_part_of_it(tmp_path, monkeypatch):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(clip(n) for n in range(20))
    fill(store, [want("ecapa"), want("face_128")])
    looked = snapshots.look

    def look_and_register(*arguments):
        found = looked(*arguments)
        store.register(clip(n) for n in range(20, 30))
        fill(store, [want("ecapa"), want("face_128")])
        return found

    monkeypatch.setattr(snapshots, "look", look_and_register)
    records = StoreRecords(store, LAYOUT.without("age", "gender"))
    assert read(records, records.rows)[0] == [clip(n).clip_id for n in range(20) if n % 5]


def test_a_clip_that_is_lost_while_the_store_is_opened_is_said(tmp_path, monkeypatch):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(clip(n) for n in range(20))
    fill(store, [want("ecapa"), want("face_128")])
    looked = snapshots.look

    def look_and_lose(*arguments):
        found = looked(*arguments)
        store.table("clips").delete(f"clip_id = '{clip(3).clip_id}'")
        return found

    monkeypatch.setattr(snapshots, "look", look_and_lose)
    with pytest.raises(VoxportraitError, match="1 clips of what was opened are gone"):
        StoreRecords(store, LAYOUT.without("age", "gender"))


def test_a_value_that_came_after_the_snapshot_is_zeros_in_it(tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(clip(n) for n in range(10))
    fill(store, [want("face_128")])
    fill(store, [want("ecapa"), want("gender")], {clip(3).clip_id: "no sound"})
    snapshots.take(store, "first")
    store.table("quarantine").delete("true")
    fill(store, [want("ecapa"), want("gender")])
    for snapshot, comes in (("first", False), (None, True)):
        records = StoreRecords(store, LAYOUT.without("age"), missing="zero", snapshot=snapshot)
        _, found = read(records, records.rows)
        late = number_of(records, 3)
        assert found["ecapa"][late].any() == comes
        assert (found["gender"][late] >= 0) == comes
        assert all(found["ecapa"][i].any() for i in range(len(records.rows)) if i != late)


def test_the_identity_is_of_the_clips_in_their_order_and_of_the_split(whole):
    def identity(**options) -> str:
        return StoreRecords(whole, LAYOUT, missing="zero", **options).identity

    assert identity() == identity(pictures=("target",))
    assert len({identity(), identity(split="test"), StoreRecords(whole, LAYOUT, missing="skip").identity}) == 3


# -- pictures -------------------------------------------------------------------------------------------------------


def portrait(number: int) -> dict:
    draw = np.random.default_rng(number)
    face = cv2.resize(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8), (256, 256))
    points = (draw.random((468, 2)) * 0.8 + 0.1).astype(np.float16)
    return {"face": face, "face_parts": points}


def jpeg(face: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", face[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def store_of_portraits(uri: str, faces: dict[int, bytes] | None = None) -> Store:
    """A store of 12 clips with portraits. faces: other bytes for the faces of some."""
    store = Store.open_or_create(uri)
    store.register(replace(clip(n), split="train") for n in range(12))
    numbers = {clip(n).clip_id: n for n in range(12)}

    def made(one, lacks):
        number = numbers[one.clip_id]
        about = portrait(number)
        face = (faces or {}).get(number, jpeg(about["face"]))
        return {
            "face": face,
            "face_box": [0.0] * 4,
            "face_probability": 1.0,
            "face_frame": 0,
            "face_parts": about["face_parts"],
            "face_parts_score": 1.0,
        }

    wants = [Want(key, Maker(key, "made-up", "numpy", trained=False)) for key in ("face", "face_parts")]
    inprocess.fill(store, wants, made)
    return store


def test_faces_and_their_bottoms_are_read_at_256_pixels(tmp_path):
    store = store_of_portraits(str(tmp_path / "store"))
    records = StoreRecords(store, LAYOUT.without(*KEYS), pictures=("face", "bottom"))
    chosen = np.array([7, 0, 11, 3])
    ids, found = read(records, records.rows[chosen])
    assert found["face"].shape == (4, 256, 256, 3)
    assert found["bottom"].dtype == bool
    for i, number in enumerate(chosen.tolist()):
        assert ids[i] == clip(number).clip_id
        about = portrait(number)
        assert abs(found["face"][i].astype(int) - about["face"]).mean() < 2  # RGB, and not BGR
        np.testing.assert_array_equal(found["bottom"][i], bottom_mask(about["face_parts"], 256))


@pytest.mark.parametrize("broken", [b"no picture", b"", jpeg(np.zeros((128, 256, 3), np.uint8))], ids=len)
def test_a_face_that_is_none_is_named(tmp_path, broken):
    store = store_of_portraits(str(tmp_path / "store"), {5: broken})
    records = StoreRecords(store, LAYOUT.without(*KEYS), pictures=("face",))
    with pytest.raises(VoxportraitError, match=f"the face of {clip(5).clip_id} in .* is no picture of 256 x 256"):
        read(records, records.rows)
