"""What the codec says of clips: kept once, made again where it is not what it should be, and gone with who is."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from featurestore import artifacts, erasure, inprocess, snapshots
from featurestore.conditioning import system
from featurestore.errors import UsageError, VoxportraitError
from featurestore.exporting import export
from featurestore.exports import ExportRecords
from featurestore.inprocess import Want
from featurestore.loader import Loader
from featurestore.makers import Maker
from featurestore.memory_records import MemoryRecords
from featurestore.records import Slab
from featurestore.store import Store
from featurestore.store_records import StoreRecords
from tests.featurestore.conftest import clip
from training.checkpoint import open_run
from training.data import Opening, Source
from training.latent import encoding
from training.latent.codec import Frozen
from training.latent.encoded import EncodedRecords, encoded
from training.loop import train
from training.stages import settings_of

LAYOUT = system("fine-portraitist").layout()
PICTURES = ("face", "bottom")
SMALL = {
    "side": 16, "speech_widths": (4, 8), "token_width": 8, "contrast": 0.0,
    "autoencoder": {
        "block_out_channels": (4, 8), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def records() -> MemoryRecords:
    """Three people, two videos each, two clips a video; the last person is held out."""
    random = np.random.default_rng(0)
    bottom = np.zeros((12, 16, 16), bool)
    bottom[:, 8:] = True
    return MemoryRecords(
        [f"made/id{i // 4}/video{i // 2 % 2}/{i % 2}" for i in range(12)],
        {"speech": random.integers(-3000, 3000, (12, 96000)).astype(np.int16), "age": np.arange(12, dtype=np.float32)},
        pictures={"face": random.integers(0, 255, (12, 16, 16, 3), np.uint8), "bottom": bottom},
        held_out=range(8, 12),
    )


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def codec(records, tmp_path_factory, monkeypatch_module) -> Path:
    """A codec that is hardly trained."""
    folder = tmp_path_factory.mktemp("codec")
    run = folder / "fine-portraitist-codec"
    monkeypatch_module.setenv("VOXPORTRAIT_MODELS", str(folder / "no models"))
    train(run, Loader(records, 4), "fine-portraitist", "codec", "micro", choices=SMALL, steps=1, device="cpu")
    return run


@pytest.fixture
def runs(codec, tmp_path) -> Path:
    (tmp_path / codec.name).symlink_to(codec)
    (codec / encoding.FOLDER).mkdir(exist_ok=True)
    for left in (codec / encoding.FOLDER).iterdir():
        left.unlink()
    return tmp_path


def of(records, runs, stage: str = "upper", name: str = "fine-portraitist", told=lambda line: None, **choices):
    settings: Any = settings_of(stage, "micro", choices)
    return encoded(records, runs, name, stage, settings, "cpu", told)


def read(records: EncodedRecords, rows: np.ndarray) -> dict[str, np.ndarray]:
    slab = Slab(records.fields, len(rows))
    here = records.read(rows, slab.arrays)
    return {name: values[: here.sum()] for name, values in slab.arrays.items()}


def leaned_on(got: dict[str, np.ndarray]) -> set[bytes]:
    return {face.tobytes() for face in got["prior_face"]}


def files(runs: Path, kind: str) -> list[Path]:
    return sorted((runs / "fine-portraitist-codec" / encoding.FOLDER).glob(f"{kind}-*"))


def test_records_hold_what_the_codec_says_divided_by_its_size(records, runs):
    made = of(records, runs)
    assert [made.describe()[key] for key in ("codec", "latent_scale")] == [made.codec.frozen.weights, made.codec.scale]
    got = read(made, np.array([9, 2], np.uint64))
    for name in PICTURES:
        face = records.arrays["face"][[9, 2]] * (1 if name == "face" else records.arrays["bottom"][[9, 2], ..., None])
        signed = torch.from_numpy(face).permute(0, 3, 1, 2).float() / 127.5 - 1
        np.testing.assert_allclose(
            got[f"{name}_latent"], made.codec.frozen.encode(signed) / made.codec.scale, atol=2e-3
        )
    tokens, query = made.codec.hear({"speech": torch.from_numpy(records.arrays["speech"][[9, 2]])})
    np.testing.assert_allclose(got["tokens"], tokens, atol=2e-3)
    np.testing.assert_allclose(got["query"], query, atol=2e-3)
    assert got["age"].tolist() == [9, 2]
    assert "speech" not in got
    assert "face" not in got
    every = np.concatenate([read(made, made.rows)[name] for name in ("face_latent", "bottom_latent")])
    assert 0.8 < every.astype(float).std() < 1.25


@pytest.mark.parametrize(("exclusion", "theirs"), [("clip", 4), ("video", 3), ("identity", 2)])
def test_a_prior_is_of_a_training_clip_that_the_policy_allows(records, runs, exclusion, theirs):
    made = of(records, runs, exclusion=exclusion)
    rows = np.arange(12, dtype=np.uint64)
    got, ids = read(made, rows), made.clip_ids(rows)
    assert got["has_prior"].all()
    assert len(files(runs, "clips")) == 1
    latents = {values.tobytes(): row for row, values in enumerate(got["face_latent"])}
    for row, (face, bottom) in enumerate(zip(got["prior_face"], got["prior_bottom"], strict=True)):
        leaned_on = latents[face.tobytes()]
        assert leaned_on < 8, "a held-out clip is leaned on"
        assert np.array_equal(bottom, got["bottom_latent"][leaned_on])
        assert ids[leaned_on].split("/")[:theirs] != ids[row].split("/")[:theirs]


def test_only_stages_with_a_prior_are_given_one(records, runs):
    for stage, name in (("face", "one-stage"), ("upper", "two-stage")):
        made = of(records, runs, stage, name)
        assert not {"prior_face", "has_prior"} & made.fields.keys()
        assert "exclusion" not in made.describe()


def test_who_is_alone_has_no_prior(records, runs):
    alone = MemoryRecords(
        [f"made/id0/video{i}/0" for i in range(3)],
        {"speech": records.arrays["speech"][:3]},
        pictures={name: records.arrays[name][:3] for name in PICTURES},
    )
    got = read(of(alone, runs), alone.rows)
    assert not got["has_prior"].any()
    assert not got["prior_face"].any()


def test_it_is_made_once_and_again_where_it_is_damaged(records, runs):
    lines: list[str] = []
    first = read(of(records, runs, told=lines.append), records.rows)
    of(records, runs, told=lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("encoding 12 clips")
    (path,) = files(runs, "clips")
    whole = path.read_bytes()
    for damaged in (whole[:-100], b"nothing", whole.replace(b'"tokens"', b'"tokenz"')):
        path.write_bytes(damaged)
        lines.clear()
        again = read(of(records, runs, told=lines.append), records.rows)
        assert len(lines) == 2
        assert lines[0].endswith("it is made again")
        assert all(np.array_equal(first[name], again[name]) for name in first)


def test_another_codec_or_other_clips_have_a_file_of_their_own(records, runs, codec, tmp_path):
    of(records, runs)
    others = MemoryRecords(
        ["made/other/video/0", *records.clip_ids(records.rows[1:])],
        {"speech": records.arrays["speech"][:8]},
        pictures={name: records.arrays[name][:8] for name in PICTURES},
    )
    of(others, runs)
    assert len(files(runs, "clips")) == 2
    other = tmp_path / "other" / "fine-portraitist-codec"
    train(other, Loader(records, 4), "fine-portraitist", "codec", "micro", choices=SMALL, steps=1, seed=1, device="cpu")
    assert Frozen.load(other, "cpu").weights != Frozen.load(codec, "cpu").weights
    of(records, other.parent)
    assert {path.name for path in files(runs, "clips")}.isdisjoint(path.name for path in files(other.parent, "clips"))


def test_a_making_that_is_interrupted_leaves_nothing(records, runs, monkeypatch):
    monkeypatch.setattr(encoding, "AT_ONCE", 4)

    def stopped(self, beside, heard=iter([1, 2])):
        if next(heard, None) is None:
            raise KeyboardInterrupt
        return hear(self, beside)

    hear = Frozen.hear
    of(others := records.only(records.fields), runs)
    (path,) = files(runs, "clips")
    path.unlink()
    monkeypatch.setattr(Frozen, "hear", stopped)
    with pytest.raises(KeyboardInterrupt):
        of(others, runs)
    assert not files(runs, "clips")
    assert not list(path.parent.glob(".*"))


def test_codec_and_records_must_go_together(records, runs, tmp_path):
    with pytest.raises(UsageError, match="takes speech, which is not read here"):
        of(records.only(PICTURES), runs)
    with pytest.raises(UsageError, match="holds no checkpoint: train it first"):
        of(records, tmp_path / "nowhere")


def test_of_two_at_once_one_makes_it(records, runs):
    lines: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: read(of(records, runs, told=lines.append), records.rows), range(2)))
    assert sum(line.startswith("encoding") for line in lines) == 1
    assert all(np.array_equal(values, both[1][name]) for name, values in both[0].items())


# -- of a store ----------------------------------------------------------------------------------------------------

KEYS = ("speech", "face", "face_parts")


@pytest.fixture
def store(tmp_path) -> Store:
    made, draw = Store.open_or_create(str(tmp_path / "store")), np.random.default_rng(0)
    made.register(clip(n) for n in range(20))

    def values(_, lacks):
        face = cv2.resize(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8), (256, 256))
        return {
            "speech": draw.integers(-3000, 3000, 96000).astype(np.int16),
            "face": cv2.imencode(".jpg", face)[1].tobytes(),
            "face_parts": draw.uniform(0.1, 0.9, (468, 2)),
        }

    inprocess.fill(made, [Want(key, Maker(key, "made-up", "numpy", trained=False)) for key in KEYS], values)
    return made


def test_forgetting_removes_it_and_nobody_who_is_gone_is_leaned_on(store, runs):
    snapshots.take(store, "first")
    made = of(StoreRecords(store, LAYOUT, PICTURES, snapshot="first", held_out="test"), runs)
    before, (path,) = read(made, made.rows), files(runs, "clips")
    gone = next(i for i, one in enumerate(before["face_latent"]) if one.tobytes() in leaned_on(before))
    erasure.forget(store, clips=[made.clip_ids(made.rows)[gone]])
    assert not path.exists()
    with pytest.raises(VoxportraitError, match="was removed while it was read, as forgetting"):
        read(made, made.rows)
    again = of(StoreRecords(store, LAYOUT, PICTURES, snapshot="first", held_out="test"), runs)
    assert np.array_equal(again.rows, made.rows)
    after, here = read(again, again.rows), again.lines(again.rows) >= 0
    assert np.flatnonzero(~here).tolist() == [gone]
    assert np.array_equal(after["face_latent"], np.delete(before["face_latent"], gone, 0))
    theirs = before["face_latent"][gone].tobytes()
    assert theirs not in leaned_on(after)
    assert theirs not in files(runs, "clips")[0].read_bytes()
    about = [{k: v for k, v in one.describe().items() if k not in ("erasure_epoch", "prior")} for one in (made, again)]
    assert about[0] == about[1], "the run that was begun goes on"


def test_an_export_says_the_same_as_its_store(store, runs, tmp_path):
    out = tmp_path / "e.safetensors"
    export(store, out, LAYOUT, PICTURES, splits=("train", "test"))
    there = of(StoreRecords(store, LAYOUT, PICTURES, held_out="test"), runs)
    here = of(ExportRecords(out, LAYOUT, PICTURES, held_out="test"), runs)
    run, settings = runs / "fine-portraitist-upper", settings_of("upper", "micro", {"exclusion": "video"})
    opening = Opening(Source(export=out), "fine-portraitist", "upper", LAYOUT, 4, 0, run, "cpu", settings)
    opened: Any = opening().records
    assert (opened.exclusion, opened.fields) == ("video", here.fields)
    one, other = read(there, there.rows), read(here, here.rows)
    assert all(np.array_equal(one[name], other[name]) for name in there.fields)
    assert here.store is None
    assert artifacts.made_of(store, "export", there.rows[:1])


def test_drawings_of_the_bottom_stage_are_kept_beside_it(records, runs):
    learnt = of(records, runs, "bottom")
    run = runs / "fine-portraitist-bottom"
    train(run, Loader(learnt, 4), "fine-portraitist", "bottom", "micro", steps=1, device="cpu")
    lines: list[str] = []
    made = of(records, runs, drawn_share=0.5, told=lines.append)
    assert [line.split()[0] for line in lines] == ["drawing"]
    assert "drawn_by" in made.describe()
    got = read(made, made.rows)
    (path,) = files(runs, "drawn")
    assert np.array_equal(got["drawn_bottom"], load_file(path)["drawn_bottom"][:8])
    assert len({one.tobytes() for one in got["drawn_bottom"]}) == 8
    assert "drawn_bottom" not in of(records, runs).fields


@pytest.mark.parametrize(
    ("name", "stage"), [("one-stage", "face"), ("fine-portraitist", "bottom"), ("fine-portraitist", "upper")]
)
def test_training_that_was_stopped_goes_on_to_the_bit(records, runs, name, stage):
    """On the codec's own words: whole, and in two calls that open them anew."""

    def learn(run: Path, **more) -> dict[str, np.ndarray]:
        loader = Loader(of(records, runs, stage, name), 4)
        options: Any = {"steps": 4, "device": "cpu", "checkpoint_every": 2, "sample_every": 4, **more}
        train(run, loader, name, stage, "micro", **options)
        folder = open_run(run).folder
        return {f"{part}/{key}": values for part in ("model", "average", "optimizer")
                for key, values in load_file(folder / f"{part}.safetensors").items()}  # fmt: skip

    whole = learn(runs / "whole")
    learn(runs / "parts", should_stop=iter([False, True]).__next__)
    assert open_run(runs / "parts").about["step"] == 2
    parts = learn(runs / "parts")
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(values, parts[key]) for key, values in whole.items())
    one, other = (np.array(Image.open(runs / run / "samples" / "step-00000004.png")) for run in ("whole", "parts"))
    assert np.array_equal(one, other)
