"""Exports: the same batches as from the store, whole or not at all, and refused when they no longer hold."""

import json
import os
import resource
import shutil
import threading
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from featurestore import artifacts, erasure, inprocess, promotion, snapshots
from featurestore.catalogue import CATALOGUE, Constituent
from featurestore.conditioning import LAYOUTS
from featurestore.errors import UsageError, VoxportraitError
from featurestore.exporting import Chosen, cached_records, check, choose_clips, export
from featurestore.exports import ExportRecords
from featurestore.filling import Want
from featurestore.loader import Loader
from featurestore.makers import Maker
from featurestore.policy import Policy
from featurestore.records import Slab
from featurestore.store import Store
from featurestore.store_records import StoreRecords
from tests.featurestore.conftest import clip, fill, value, want
from voxportrait import app

LAYOUT = LAYOUTS["slf"].without(*(key for key in LAYOUTS["slf"].constituents if key not in ("ecapa", "gender", "age")))
OPTIONS: dict[str, Any] = {"missing": "zero", "held_out": "test"}
SPLITS = ("train", "test")
END = date(2100, 1, 1)
OUT_OF_CONSENT, SECRET, LACKING, FORGOTTEN = 7, 8, 9, 11


def made_clip(number: int):
    return replace(
        clip(number),
        consent="" if number % 3 == 1 and number != OUT_OF_CONSENT else "yes",
        consent_until=END if number == OUT_OF_CONSENT else None,
        licence="secret" if number == SECRET else "CC-BY",
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store of 60 clips, of which one lacks `ecapa`, and its snapshot `first`; not to be changed."""
    store = Store.open_or_create(str(tmp_path_factory.mktemp("exports") / "store"))
    store.register(made_clip(n) for n in range(60))
    fill(store, [want("face_128"), want("gender")])
    fill(store, [want("ecapa")], {clip(LACKING).clip_id: "no sound"})
    snapshots.take(store, "first")
    return store


@pytest.fixture
def store(whole, tmp_path):
    """The same, to be changed."""
    shutil.copytree(whole.uri, tmp_path / "store")
    return Store.open(str(tmp_path / "store"))


def export_aside(store, out, **options):
    """An export that its store does not know of, so that forgetting in a copy of the store leaves it alone."""
    made = export(store, out, LAYOUT, missing="zero", splits=SPLITS, **options)
    artifacts.withdraw(store, "export", out)
    return made


@pytest.fixture(scope="module")
def exported(whole, tmp_path_factory):
    """The whole store in a file; not to be changed."""
    out = tmp_path_factory.mktemp("exports") / "whole.safetensors"
    export_aside(whole, out)
    return out


def stream(loader: Loader, batches: int):
    """Everything of the next batches: to be compared."""
    seen = iter(loader)
    return [next(seen).copy() for _ in range(batches)]


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a.epoch, a.number, a.clip_ids) == (b.epoch, b.number, b.clip_ids)
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.rows, b.rows)
        for name, values in (a.compact | a.pictures).items():
            np.testing.assert_array_equal(values, (b.compact | b.pictures)[name], err_msg=name)


# -- what is in it -------------------------------------------------------------------------------------------------


def test_the_official_library_opens_it_and_finds_what_the_store_holds(exported):
    tensors = load_file(exported)
    clips = len(tensors["row_id"])
    assert clips == 60
    assert tensors["ecapa"].shape == (clips, 192)
    assert tensors["target"].shape == (clips, 128, 128, 3)
    ends = tensors["clip_id.offsets"]
    for line in (0, 17, 59):
        clip_id = tensors["clip_id"][ends[line] : ends[line + 1]].tobytes().decode()
        np.testing.assert_array_equal(tensors["ecapa"][line], value("ecapa", clip_id)["ecapa"].astype(np.float16))
        np.testing.assert_array_equal(tensors["guide"][line], value("face_128", clip_id)["face_128_guide"])
        assert tensors["gender"][line] == 1
        assert np.isnan(tensors["age"][line]) if "age" in tensors else True
    assert (tensors["maker"][:, 0] >= 0).sum() == clips - 1
    with safe_open(exported, "np") as file:
        said = file.metadata()
    about = json.loads(said["about"])
    assert said["voxportrait.export"] == "1"
    assert "biometric" in said["note"].lower()
    assert about["constituents"] == list(LAYOUT.constituents)
    assert about["labels"]["gender"] == ["man", "woman"]
    assert set(about["untrained"]) == {digest for digests in about["makers"].values() for digest in digests}
    assert (about["erasure_epoch"], about["splits"], about["sample"]) == (0, list(SPLITS), {})


@pytest.mark.parametrize("snapshot", [None, "first"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_goes_on_from_the_store_to_an_export_and_back(whole, tmp_path, snapshot, ranks):
    out = tmp_path / "e.safetensors"
    export_aside(whole, out, snapshot=snapshot)
    for rank in range(ranks):

        def loaders(rank=rank):
            there = StoreRecords(whole, LAYOUT, snapshot=snapshot, **OPTIONS)
            here = ExportRecords(out, LAYOUT, **OPTIONS)
            return [Loader(records, 10, seed=3, rank=rank, ranks=ranks) for records in (there, here)]

        of_store, of_export = loaders()
        assert of_store.describe() == of_export.describe()
        expected = stream(of_store, 12)
        assert_same(expected, stream(of_export, 12))
        of_store, of_export = loaders()
        seen = stream(of_store, 3)
        of_export.load_state_dict(of_store.state_dict())
        seen += stream(of_export, 4)
        of_store.load_state_dict(of_export.state_dict())
        assert_same(expected, seen + stream(of_store, 5))
        held_out = [[batch.copy() for batch in loader.validation()] for loader in (of_store, of_export)]
        assert_same(*held_out)


@pytest.mark.parametrize("missing", ["zero", "skip"])
def test_what_becomes_of_incomplete_clips_is_decided_as_in_the_store(whole, exported, missing):
    there = StoreRecords(whole, LAYOUT.without("age"), missing=missing, held_out="test")
    here = ExportRecords(exported, LAYOUT.without("age"), missing=missing, held_out="test")
    assert there.describe() == here.describe()
    np.testing.assert_array_equal(there.rows, here.rows)
    with pytest.raises(VoxportraitError, match=r"of 48 clips of split 'train' lack: ecapa 1"):
        ExportRecords(exported, LAYOUT.without("age"), held_out="test")


def test_places_of_forgotten_clips_stay_empty(store, tmp_path):
    before = stream(store.batches(LAYOUT, 10, snapshot="first", **OPTIONS), 8)
    erasure.forget(store, clips=[clip(FORGOTTEN).clip_id])
    out = tmp_path / "e.safetensors"
    assert export(store, out, LAYOUT, missing="zero", splits=SPLITS, snapshot="first").clips == 59
    there, here = StoreRecords(store, LAYOUT, snapshot="first", **OPTIONS), ExportRecords(out, LAYOUT, **OPTIONS)
    assert there.identity == here.identity
    seen = stream(Loader(here, 10), 8)
    assert_same(stream(Loader(there, 10), 8), seen)
    gone = clip(FORGOTTEN).clip_id
    assert [[i for i in batch.clip_ids if i != gone] for batch in before] == [batch.clip_ids for batch in seen]
    assert gone.encode() not in out.read_bytes()


def test_pictures_of_256_pixels_and_their_bottoms_are_those_of_the_store(tmp_path):
    store, keys = Store.open_or_create(str(tmp_path / "store")), ("face", "face_parts", "face_128")
    store.register(clip(n) for n in range(9))
    draw = np.random.default_rng(0)

    def make(_, lacks):
        small = draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        face = cv2.imencode(".jpg", cv2.resize(small, (256, 256), interpolation=cv2.INTER_CUBIC))[1].tobytes()
        face_128 = np.repeat(np.repeat(small, 16, 0), 16, 1)
        parts = draw.uniform(0.1, 0.9, (468, 2))
        return {"face": face, "face_parts": parts, "face_128": face_128, "face_128_guide": small}

    inprocess.fill(store, [Want(key, Maker(key, "made-up", "numpy", trained=False)) for key in keys], make)
    out, pictures = tmp_path / "e.safetensors", ("face", "bottom", "guide")
    export(store, out, LAYOUT, pictures, missing="zero", splits=SPLITS)
    there, here = StoreRecords(store, LAYOUT, pictures, **OPTIONS), ExportRecords(out, LAYOUT, pictures, **OPTIONS)
    here.will_need(here.rows)
    assert there.describe() == here.describe()
    assert_same(stream(Loader(there, 3), 5), stream(Loader(here, 3), 5))
    assert load_file(out)["face.offsets"].shape == (10,)
    damaged = bytearray(out.read_bytes())
    damaged[-2000:] = bytes(2000)
    out.write_bytes(damaged)
    here = ExportRecords(out, LAYOUT, pictures, **OPTIONS)
    loader = Loader(here, 3)
    with pytest.raises(VoxportraitError, match=r"the face of made/\S+ in \S+ is no picture"):
        list(loader.in_order(np.concatenate([here.rows, here.held_out])))


# -- consent -------------------------------------------------------------------------------------------------------


def test_a_consent_that_has_run_out_on_the_day_of_opening_is_as_none(whole, tmp_path):
    out, asked = tmp_path / "e.safetensors", Policy(require_consent=True)
    export_aside(whole, out, policy=asked)

    def places(judged: date) -> dict[int, str]:
        loader = Loader(ExportRecords(out, LAYOUT, policy=Policy(judged=judged), **OPTIONS), 4)
        return {int(p): i for b in loader.batches(0) for p, i in zip(b.positions, b.clip_ids, strict=True)}

    before, after = places(END), places(END + timedelta(1))
    consented = {made_clip(n).clip_id for n in range(60) if made_clip(n).consent == "yes"}
    assert set(before.values()) <= consented
    assert before.keys() - after.keys() == {p for p, i in before.items() if i == clip(OUT_OF_CONSENT).clip_id} != set()
    assert after.items() <= before.items()


def test_a_policy_at_opening_empties_places(exported):
    policy = Policy(licences=("CC-BY",))
    records = ExportRecords(exported, LAYOUT, policy=policy, **OPTIONS)
    here = records.clip_ids(records.rows)
    assert len(records.rows) == len(ExportRecords(exported, LAYOUT, **OPTIONS).rows)
    assert [i for i in here if not i] == [""]
    assert clip(SECRET).clip_id not in here
    assert records.describe()["policy"]["licences"] == ["CC-BY"]


def test_a_policy_without_arrow_judges_as_with_it():
    day = date(2030, 1, 1)
    rights = [
        (consent, until, licence)
        for consent in ("yes", "No", "", None, "withdrawn")
        for until in (None, day, day - timedelta(1))
        for licence in ("a", "", None)
    ]
    table = pa.table(
        dict(zip(("consent", "consent_until", "licence"), map(list, zip(*rights, strict=True)), strict=True))
    )
    for policy in (
        Policy(judged=day),
        Policy(True, judged=day),
        Policy(False, ("a",), day),
        Policy(True, ("a", "b"), day),
    ):
        alone = [policy.allows_one(consent or "", until, licence or "") for consent, until, licence in rights]
        assert policy.allows(table).tolist() == alone


# -- whole or not at all -------------------------------------------------------------------------------------------


def assert_nothing_is_left(store, folder):
    assert list(folder.iterdir()) == []
    assert store.table("artifacts").count_rows(filter="kind = 'export'") == 0


def test_a_full_disk_is_one_line_and_leaves_nothing(whole, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
    try:
        with pytest.raises(VoxportraitError, match=r"e.safetensors needs 0.00 GB and \S+ GB are free: make room"):
            export(whole, tmp_path / "e.safetensors", LAYOUT, missing="zero", splits=SPLITS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_nothing_is_left(whole, tmp_path)


def test_not_everybody_on_the_machine_may_read_it(whole, tmp_path):
    before = os.umask(0o022)
    try:
        export_aside(whole, tmp_path / "e.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "e.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_label_without_known_values_is_not_exported(monkeypatch):
    monkeypatch.setitem(CATALOGUE, "mood", Constituent("mood", "label", "how they feel"))
    with pytest.raises(UsageError, match="mood is a label whose values are not known here"):
        Chosen.of(["ecapa", "mood"])


def test_a_stopped_export_leaves_nothing(whole, tmp_path):
    with pytest.raises(VoxportraitError, match="stopped as asked; nothing is left"):
        export(whole, tmp_path / "e.safetensors", LAYOUT, missing="zero", splits=SPLITS, should_stop=lambda: True)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(whole, tmp_path / "e.safetensors", LAYOUT, missing="zero", splits=SPLITS, progress=interrupt)
    assert_nothing_is_left(whole, tmp_path)


def test_what_a_killed_export_left_is_written_over(whole, tmp_path):
    (tmp_path / ".e.safetensors.partial").write_bytes(b"x" * 100_000_000)
    export_aside(whole, tmp_path / "e.safetensors", clips=5)
    assert [path.name for path in tmp_path.iterdir()] == ["e.safetensors"]
    assert len(load_file(tmp_path / "e.safetensors")["row_id"]) == 5


def test_somebody_forgotten_meanwhile_leaves_nothing(store, tmp_path):
    (tmp_path / "out").mkdir()

    def forget(done, total):
        store.insert("erasures", [{"erasure_id": "e", "epoch": 1, "state": "done", "clips": 1}])

    with pytest.raises(VoxportraitError, match="somebody was forgotten while"):
        export(store, tmp_path / "out/e.safetensors", LAYOUT, missing="zero", splits=SPLITS, progress=forget)
    assert_nothing_is_left(store, tmp_path / "out")


def test_a_file_that_is_there_is_not_written_over(whole, exported):
    before = exported.read_bytes()
    with pytest.raises(UsageError, match="is there already"):
        export(whole, exported, LAYOUT, missing="zero")
    assert exported.read_bytes() == before


# -- a stranger's file ---------------------------------------------------------------------------------------------


def header_of(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header: dict, tensors: bytes) -> bytes:
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text + tensors


def changed(**changes):
    """A file whose header says something else of tensors: name -> what is different."""

    def change(data: bytes) -> bytes:
        header, tensors = header_of(data)
        for name, said in changes.items():
            header[name] = {**header[name], **said}
        return with_header(header, tensors)

    return change


def said(**changes):
    """A file that says something else of itself."""

    def change(data: bytes) -> bytes:
        header, tensors = header_of(data)
        header["__metadata__"]["about"] = json.dumps(json.loads(header["__metadata__"]["about"]) | changes)
        return with_header(header, tensors)

    return change


def numbers(name: str, filler: bytes):
    """A file with other bytes in a tensor."""

    def change(data: bytes) -> bytes:
        header, tensors = header_of(data)
        start, stop = header[name]["data_offsets"]
        whole = filler * (stop - start)
        return with_header(header, tensors[:start] + whole[: stop - start] + tensors[stop:])

    return change


def wrapped(name: str):
    """A file with offsets that go down, by steps of which 64 bits cannot tell that they do."""

    def change(data: bytes) -> bytes:
        header, tensors = header_of(data)
        start, stop = header[name]["data_offsets"]
        offsets = np.frombuffer(tensors[start:stop], np.int64).copy()
        offsets[1:3] = 2**63 - 1, -2
        return with_header(header, tensors[:start] + offsets.tobytes() + tensors[stop:])

    return change


def emptied(name: str, columns: int):
    """A file in which a tensor has no rows of a great many columns, and no bytes."""

    def change(data: bytes) -> bytes:
        header, tensors = header_of(data)
        start, _ = header[name]["data_offsets"]
        header[name] |= {"shape": [0, columns, columns], "data_offsets": [start, start]}
        return with_header(header, tensors)

    return change


def other_format(data: bytes) -> bytes:
    header, tensors = header_of(data)
    header["__metadata__"]["voxportrait.export"] = "9"
    return with_header(header, tensors)


HUGE = 2**60


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda data: b"", "is not a safetensors file: it has 0 bytes"),
        (lambda data: b"not a safetensors file at all", "is not a safetensors file: its header would have"),
        (
            lambda data: (1000).to_bytes(8, "little") + b"{}",
            "is truncated: its header ends at byte 1,008, the file at 10",
        ),
        (lambda data: (8).to_bytes(8, "little") + b"[1,2]   ", "is not a safetensors file"),
        (lambda data: (2**16).to_bytes(8, "little") + b"[" * 2**16, "is not a safetensors file"),
        (lambda data: data[:-1000], r"is truncated: its tensors end at byte [\d,]+, the file at"),
        (lambda data: data + bytes(10), "is damaged: its tensors end at byte"),
        (changed(ecapa={"data_offsets": [0, 23040]}), "is damaged: .* overlap"),
        (changed(ecapa={"data_offsets": [HUGE, HUGE + 23040]}), "is damaged: .* gap"),
        (changed(ecapa={"shape": [HUGE, 192]}), r"ecapa \(\d+, 192\) takes [\d,]+ bytes and has 23,040"),
        (changed(ecapa={"shape": [-60, -192]}), "the shape or place of ecapa is none"),
        (changed(ecapa={"shape": [True, 11520]}), "the shape or place of ecapa is none"),
        (emptied("ecapa", HUGE), "ecapa is empty and says that it is huge"),
        (changed(ecapa={"shape": [60, 96, 2]}), r"ecapa in \S+ is \(60, 96, 2\) float16, and \(60, 192\) float16 is"),
        (changed(ecapa={"dtype": "BF16"}), "ecapa has numbers of the kind 'BF16'"),
        (other_format, "has format 9 of an export, and this version of voxportrait reads format 1"),
        (said(splits="train"), "is damaged: what it says of itself: splits is 'train'"),
        (said(makers={"ecapa": 5}), "is damaged: what it says of itself"),
        (said(pictures=["nose"]), "is damaged: what it says of itself"),
        (said(constituents=["ecapa"]), "lacks the constituent age, gender: it holds ecapa"),
        (said(labels={"gender": ["woman", "man"]}), "gender in .* has other labels than this version"),
        (numbers("clip_id.offsets", b"\x07"), "is damaged: numbers of clip_id are out of range"),
        (wrapped("clip_id.offsets"), "is damaged: numbers of clip_id are out of range"),
        (numbers("gender", b"\x07"), "is damaged: numbers of gender are out of range"),
        (numbers("maker", b"\x07"), "is damaged: numbers of maker are out of range"),
        (numbers("row_id", b"\x07"), "is damaged: numbers of row_id are out of range"),
        (numbers("split", b"\x07"), "is damaged: numbers of split are out of range"),
        (numbers("consent_until", b"\x7f"), "is damaged: numbers of consent_until are out of range"),
    ],
)
def test_a_file_that_is_none_or_damaged_is_one_line(exported, tmp_path, change, line):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(change(exported.read_bytes()))
    with pytest.raises(VoxportraitError, match=line) as error:
        ExportRecords(damaged, LAYOUT, **OPTIONS)
    assert "\n" not in str(error.value)
    assert str(damaged) in str(error.value)


def test_a_file_of_something_else_and_one_that_is_not_there_are_said(tmp_path):
    save_file({"weights": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(VoxportraitError, match="is a safetensors file, and no export"):
        ExportRecords(tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="cannot be opened: No such file"):
        ExportRecords(tmp_path / "nothing.safetensors")


def test_what_the_file_lacks_is_named(exported):
    with pytest.raises(UsageError, match=r"lacks the constituent titanet: it holds"):
        ExportRecords(
            exported, LAYOUTS["slf"].without("pyannote", "speakernet", "mel", "short_term", "language", "ethnicity")
        )
    with pytest.raises(UsageError, match=r"lacks the picture face, bottom: it holds target, guide"):
        ExportRecords(exported, LAYOUT, ("face", "bottom"))
    with pytest.raises(UsageError, match=r"lacks the split val: it holds train, test"):
        ExportRecords(exported, LAYOUT, split="val")


# -- forgetting ----------------------------------------------------------------------------------------------------


def test_forgetting_removes_the_exports_that_hold_the_person_and_lists_those_elsewhere(store, tmp_path):
    theirs, others = tmp_path / "theirs.safetensors", tmp_path / "others.safetensors"
    moved, copied = tmp_path / "moved.safetensors", tmp_path / "copied.safetensors"
    export(store, theirs, LAYOUT, missing="zero", splits=SPLITS)
    export(store, moved, LAYOUT, missing="zero", splits=SPLITS)
    chosen = replace(Policy(), licences=("secret",))
    export(store, others, LAYOUT, missing="zero", splits=("train",), policy=chosen)
    shutil.copy(theirs, copied)
    moved.rename(tmp_path / "away.safetensors")
    (tmp_path / ".theirs.safetensors.partial").touch()

    planned = erasure.preview(store, clips=[clip(FORGOTTEN).clip_id])
    done = erasure.forget(store, clips=[clip(FORGOTTEN).clip_id])

    assert planned["exports"] == 2
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "away.safetensors",
        "copied.safetensors",
        "others.safetensors",
    ]
    assert not (tmp_path / ".theirs.safetensors.partial").exists()
    assert [line.partition(": ")[2] for line in done.settled.elsewhere] == [str(moved)]
    left = store.table("artifacts").to_table(columns=["path"])["path"].to_pylist()
    assert left == [str(others)]
    with pytest.raises(
        VoxportraitError, match=r"copied.safetensors holds 1 clips that were forgotten since: remove it"
    ):
        check(store, ExportRecords(copied, LAYOUT, **OPTIONS))
    check(store, ExportRecords(others, LAYOUT, missing="zero"))


def test_a_file_that_is_removed_while_it_is_read_is_not_read_on(whole, exported, tmp_path):
    shutil.copy(exported, tmp_path / "e.safetensors")
    records = ExportRecords(tmp_path / "e.safetensors", LAYOUT, **OPTIONS)
    out = Slab(records.fields, 4).arrays
    records.read(records.rows[:4], out)
    (tmp_path / "e.safetensors").unlink()
    with pytest.raises(VoxportraitError, match=r"e.safetensors was removed while it was read, as forgetting"):
        records.read(records.rows[:4], out)


def test_a_store_at_hand_refuses_an_export_of_other_makers_and_of_other_stores(store, exported, tmp_path):
    records = ExportRecords(exported, LAYOUT, **OPTIONS)
    check(store, records)
    assert records.store is not None
    assert records.store.uri == store.uri
    other = Store.open_or_create(str(tmp_path / "other"))
    other.register(clip(n) for n in range(20, 90))
    with pytest.raises(VoxportraitError, match=r"was not made from \S+other: \d+ of its 60 clips are others there"):
        check(other, records)
    fill(store, [want("ecapa", 1)])
    promotion.promote(store, "ecapa", force=True)
    with pytest.raises(VoxportraitError, match=r"ecapa of 59 clips in \S+ was made by \w{8} and is by \w{8} now"):
        check(store, records)


def test_who_withdrew_in_the_store_is_left_out_when_it_is_at_hand(store, tmp_path):
    out = tmp_path / "e.safetensors"
    export(store, out, LAYOUT, missing="zero", splits=SPLITS, policy=Policy(require_consent=True))
    records = ExportRecords(out, LAYOUT, **OPTIONS)
    consented = next(i for i in records.clip_ids(records.rows) if i)
    number = next(n for n in range(60) if clip(n).clip_id == consented)
    store.register([replace(made_clip(number), consent="withdrawn")])
    check(store, records)
    assert consented not in records.clip_ids(records.rows)
    assert records.clip_ids(records.rows).count("") == 1


# -- the cache of a node -------------------------------------------------------------------------------------------


def test_a_cache_is_made_once_and_gives_the_stores_batches(store, tmp_path):
    lines: list[str] = []
    found: list[ExportRecords] = []

    def rank():
        found.append(cached_records(store, LAYOUT, tmp_path / "cache", lines.append, snapshot="first", **OPTIONS))

    ranks = [threading.Thread(target=rank) for _ in range(3)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    assert len({records.path for records in found}) == 1
    assert sum(line.startswith("making") for line in lines) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [found[0].path.name]
    expected = stream(store.batches(LAYOUT, 10, snapshot="first", **OPTIONS), 6)
    loader = store.batches(LAYOUT, 10, cache=str(tmp_path / "cache"), snapshot="first", **OPTIONS)
    assert isinstance(loader.records, ExportRecords)
    assert_same(expected, stream(loader, 6))
    assert loader.describe() == store.batches(LAYOUT, 10, snapshot="first", **OPTIONS).describe()


def test_who_waits_for_a_cache_says_so(store, tmp_path):
    from featurestore.tensor_file import claimed

    made = cached_records(store, LAYOUT, tmp_path, lambda line: None, **OPTIONS).path
    data = made.read_bytes()
    made.unlink()
    said, waiting = [], threading.Event()

    def told(line):
        said.append(line)
        waiting.set()

    with claimed(made):
        rank = threading.Thread(target=cached_records, args=(store, LAYOUT, tmp_path, told), kwargs=OPTIONS)
        rank.start()
        assert waiting.wait(60)
        made.write_bytes(data)
    rank.join()
    assert said == [f"waiting: another process is writing {made}"]


def test_a_cache_of_a_snapshot_is_refused_past_an_erasure(store, tmp_path):
    path = cached_records(store, LAYOUT, tmp_path / "cache", snapshot="first", **OPTIONS).path
    shutil.copy(path, tmp_path / "copy")
    erasure.forget(store, clips=[clip(FORGOTTEN).clip_id])
    assert not path.exists()
    shutil.copy(tmp_path / "copy", path)
    with pytest.raises(VoxportraitError, match=r"holds 1 clips that were forgotten since: remove it and make it again"):
        store.batches(LAYOUT, 10, cache=str(tmp_path / "cache"), snapshot="first", **OPTIONS)
    path.unlink()
    loader = store.batches(LAYOUT, 10, cache=str(tmp_path / "cache"), snapshot="first", **OPTIONS)
    assert_same(stream(store.batches(LAYOUT, 10, snapshot="first", **OPTIONS), 6), stream(loader, 6))


def test_a_cache_follows_what_the_store_holds(store, tmp_path):
    first = cached_records(store, LAYOUT, tmp_path, **OPTIONS).path
    assert cached_records(store, LAYOUT, tmp_path, **OPTIONS).path == first
    fill(store, [want("ecapa", 1)])
    promotion.promote(store, "ecapa", force=True)
    second = cached_records(store, LAYOUT, tmp_path, **OPTIONS).path
    assert second != first
    other = Store.open_or_create(str(tmp_path / "other"))
    other.register(made_clip(n) for n in (*range(58, 60), *range(58)))
    fill(other, [want("face_128"), want("gender")])
    fill(other, [want("ecapa", 1)], {clip(LACKING).clip_id: "no sound"})
    assert cached_records(other, LAYOUT, tmp_path, **OPTIONS).path not in (first, second)
    shutil.copy(first, second)
    with pytest.raises(VoxportraitError, match=r"ecapa of 59 clips .* remove it and make it again"):
        cached_records(store, LAYOUT, tmp_path, **OPTIONS)


def test_a_cache_without_room_is_one_line(store, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
    try:
        with pytest.raises(VoxportraitError, match=r"GB are free: make room there"):
            store.batches(LAYOUT, 10, cache=str(tmp_path / "cache"), **OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_nothing_is_left(store, tmp_path / "cache")


# -- a few clips ---------------------------------------------------------------------------------------------------


def test_a_few_clips_are_spread_over_speakers_and_splits():
    clip_ids = [f"d/s{n // 20:02d}/v{n % 20}/0" for n in range(400)]
    splits = np.repeat([0, 1, 2], [320, 60, 20])
    chosen = choose_clips(clip_ids, splits, 40, seed=0)
    assert len(set(chosen.tolist())) == 40
    assert Counter(splits[chosen].tolist()) == {0: 32, 1: 6, 2: 2}
    of_train = Counter(clip_ids[i].split("/")[1] for i in chosen if splits[i] == 0)
    assert set(of_train.values()) == {2}
    assert len(of_train) == 16
    np.testing.assert_array_equal(chosen, choose_clips(clip_ids, splits, 40, seed=0))
    assert chosen.tolist() != choose_clips(clip_ids, splits, 40, seed=1).tolist()
    assert set(chosen) <= set(choose_clips(clip_ids, splits, 80, seed=0))
    assert len(choose_clips(clip_ids, splits, 1000, seed=0)) == 400
    for count in (3, 4, 7, 39, 399):
        few = choose_clips(clip_ids, splits, count, seed=0)
        assert len(few) == count
        assert set(splits[few]) == {0, 1, 2}


def test_the_command_writes_a_few_clips_and_says_what_it_did(whole, tmp_path):
    out = tmp_path / "few.safetensors"
    arguments = ["store", "export", "--store", whole.uri, "--out", str(out), "--clips", "10", "--missing", "zero"]
    arguments += ["--constituents", "ecapa,gender", "--split", "train", "--split", "test", "--json"]
    done = CliRunner().invoke(app, arguments)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["clips"], answer["splits"]) == (10, {"train": 8, "test": 2})
    assert answer["bytes"] == out.stat().st_size
    records = ExportRecords(out, missing="zero", held_out="test")
    assert records.identity == answer["identity"]
    assert records.describe()["sample"] == {"clips": 10, "seed": 0}
    assert len({i.split("/")[1] for i in records.clip_ids(records.rows)}) == 8
    assert set(records.fields) == {"ecapa", "gender", "target", "guide"}
    artifacts.withdraw(whole, "export", out)
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, UsageError)
    assert again.exception.exit_code == 2
    with pytest.raises(UsageError, match="face is a picture and no constituent to export: see --pictures"):
        Chosen.of(["face"])
