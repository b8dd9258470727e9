"""Fine-portraitist's portraits from the command line: whose face they lean on, what they say, whom they show."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from evaluation.families import rows_of
from evaluation.portraits import read_about, read_drawings, read_picture
from evaluation.priors import StorePriors, leaning
from evaluation.sheet import GAP, LETTERS, portrait_sheet
from evaluation.sweep import Source, sweep
from featurestore import erasure, inprocess
from featurestore.artifacts import row_ids_of
from featurestore.clip import Clip
from featurestore.conditioning import system
from featurestore.errors import UsageError
from featurestore.exporting import export
from featurestore.filling import Want
from featurestore.jobs import Job
from featurestore.makers import Maker
from featurestore.policy import Policy
from featurestore.store import Store
from pipelines.extractors import extractors_for
from tests.evaluation.conftest import face_of
from tests.pipelines.conftest import write_mp4
from training.data import Opening
from training.data import Source as Trained
from training.latent.codec import Frozen
from training.latent.portraitist import LatentPortraitist
from training.loop import train
from training.portraitist import load
from training.stages import settings_of
from voxportrait import app

SPEAKERS = 8
"""Two clips each; the last two people are drawn, the one before is validated on."""
REFUSING = "id00002"
"""Who gave no consent."""
LANDMARKS = np.load(Path(__file__).parents[1] / "featurestore" / "data" / "face_landmarks.npy")
SIDE = 64
STAGES = [
    *(("fine-portraitist", stage) for stage in ("codec", "bottom", "upper")),
    *(("two-stage", stage) for stage in ("bottom", "upper")),
]


def speech_of(clip: Clip) -> np.ndarray:
    """(96000,) int16: a tone of the speaker's own, and noise of the clip's."""
    speaker, video = int(clip.speaker_id[2:]), int(clip.video_id[-1])
    time = np.arange(96000) / 16000
    noise = np.random.default_rng((speaker, video)).normal(0, 0.01, 96000)
    return ((0.3 * np.sin(2 * np.pi * (150 + 130 * speaker) * time) + noise) * 32767).astype(np.int16)


def values(clip: Clip) -> dict[str, Any]:
    encoded = io.BytesIO()
    Image.fromarray(face_of(int(clip.speaker_id[2:]), int(clip.video_id[-1]))).resize((256, 256)).save(encoded, "JPEG")
    return {
        "speech": speech_of(clip),
        "face": encoded.getvalue(),
        "face_box": np.zeros(4, np.float32),
        "face_probability": 1.0,
        "face_frame": 10,
        "face_parts": LANDMARKS.astype(np.float16),
    }


def clips() -> list[Clip]:
    splits = ["train"] * (SPEAKERS - 3) + ["val", "test", "test"]
    names = [f"id{number:05d}" for number in range(SPEAKERS)]
    return [
        Clip(
            f"made/{name}/video{video}/00001",
            "/nowhere.mp4",
            split,
            licence="CC0-1.0" if video else "CC-BY-4.0",
            consent="" if name == REFUSING else "synthetic",
        )
        for name, split in zip(names, splits, strict=True)
        for video in range(2)
    ]


def fill(store: Store, wants: list[Want], make: Any) -> None:
    job = Job(store, "fill")
    inprocess.fill(store, wants, make, job.job_id)
    job.end("finished", {"clips": 2 * SPEAKERS}, {})


def filled(folder: Path) -> Store:
    made = Store.open_or_create(str(folder / "store"))
    made.register(clips())
    makers = {
        **extractors_for(["speech"])[0].makers(),
        **{key: Maker(key, key, "numpy") for key in ("face", "face_parts")},
    }
    fill(made, [Want(key, maker) for key, maker in makers.items()], lambda clip, wanted: values(clip))
    return made


def train_all(store: Store, runs: Path) -> None:
    for name, stage in STAGES:
        run, layout = runs / f"{name}-{stage}", system(name).layout()
        source, settings = Trained(store.uri, missing="skip"), settings_of(stage, "micro")
        loader = Opening(source, name, stage, layout, 4, 0, run, "cpu", settings)()
        train(run, loader, name, stage, "micro", steps=2, device="cpu")


def fill_queries(store: Store, codec: Frozen) -> None:
    import torch

    def make(clip: Clip, wanted: frozenset[str]) -> dict[str, Any]:
        _, query = codec.hear({"speech": torch.from_numpy(speech_of(clip))[None]})
        return {"speech_query": query[0].numpy()}

    fill(store, [Want("speech_query", Maker("speech_query", "the codec's", "torch", codec.weights))], make)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("fine"))


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory):
    """Two systems, hardly trained, and the queries of the store by their codec."""
    folder = tmp_path_factory.mktemp("runs")
    train_all(store, folder)
    fill_queries(store, Frozen.load(folder / "fine-portraitist-codec", "cpu"))
    return folder


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    """A recording of a tone."""
    return write_mp4(tmp_path_factory.mktemp("voice") / "voice.mp4", 3.0, picture=False)


def sample(runs, *arguments):
    fixed = ["--runs", runs, "--device", "cpu", "--steps", 2, "--system", "fine-portraitist"]
    return CliRunner().invoke(app, ["sample", *map(str, (*fixed, *arguments))])


def noted(store):
    rows = store.table("artifacts").to_table().to_pylist()
    return {Path(row["path"]): set(row["row_ids"]) for row in rows}


def test_a_recording_becomes_a_portrait_a_bottom_and_the_prior_that_it_leaned_on(store, runs, voice, tmp_path):
    done = sample(runs, "--audio", voice, "--store", store.uri, "--scales", "1,3", "--out", tmp_path, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    told = json.loads(done.stdout.splitlines()[-1])[0]
    (folder,) = tmp_path.iterdir()
    drawings = read_drawings(folder)
    assert [one.about for one in drawings] == told["portraits"]
    for one in drawings:
        assert set(one.files) == {"picture", "bottom", "prior"}
        assert all(read_about(path) == one.about for path in one.files.values())
        assert all(read_picture(path).shape == (SIDE, SIDE, 3) for path in one.files.values())
        retrieval = one.about["retrieval"]
        assert retrieval["exclusion"] == "identity"
        assert retrieval["clip_id"] in {clip.clip_id for clip in clips() if clip.split == "train"}
        assert -1 <= retrieval["similarity"] <= 1
        assert one.about["generated"] is True
        assert [c["stage"] for c in one.about["checkpoints"]] == ["codec", "bottom", "upper"]
        assert (one.about["sampler"], one.about["sampler_steps"]) == (["ddim"] * 2, [2, 2])
    prior = drawings[0].about["retrieval"]["clip_id"]
    assert f"leans on the face of {prior}" in done.stderr
    row = set(row_ids_of(store, [prior]).tolist())
    known = noted(store)
    assert all(known[path] == row for one in drawings for path in one.files.values())
    assert known[Path(told["sheet"])] == row == known[drawings[0].picture.with_name("index.json")]
    sheet, top, step = np.asarray(Image.open(told["sheet"])), LETTERS + GAP, 128 + GAP
    shown = [drawings[0].files["prior"], *(one.picture for one in drawings)]
    for column, path in enumerate(shown):
        cell = sheet[top : top + 128 : 2, column * step : column * step + 128 : 2]
        np.testing.assert_array_equal(cell, read_picture(path))
    below = sheet[top + step : top + step + 128 : 2, step : step + 128 : 2]
    np.testing.assert_array_equal(below, read_picture(drawings[0].files["bottom"]))


@pytest.fixture(scope="module")
def exported(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "people.safetensors"
    layout, splits = system("fine-portraitist").layout(), ("train", "val", "test")
    export(store, path, layout, pictures=("face", "bottom"), missing="skip", splits=splits)
    return path


def test_a_stores_search_and_an_exports_clips_give_the_same_portraits(store, runs, exported, tmp_path):
    for source in (["--store", store.uri], ["--export", exported]):
        done = sample(runs, *source, "--scales", 1, "--out", tmp_path / source[0])
        assert done.exit_code == 0, (done.output, done.exception)
    one, other = (read_drawings(tmp_path / name) for name in ("--store", "--export"))
    assert [drawing.about for drawing in one] == [drawing.about for drawing in other]
    assert len(one) == 2
    for mine, theirs in zip(one, other, strict=True):
        for path, same in zip(mine.files.values(), theirs.files.values(), strict=True):
            np.testing.assert_array_equal(read_picture(path), read_picture(same))


def test_a_store_is_searched_where_this_very_encoder_made_its_queries(store, runs):
    lines: list[str] = []
    loaded = load(runs, "fine-portraitist", "cpu")
    searched = leaning(loaded, store, told=lines.append)
    assert isinstance(searched, LatentPortraitist)
    assert isinstance(searched.priors, StorePriors)
    assert not lines
    other = LatentPortraitist.load(runs, "fine-portraitist", "cpu")
    for weights in other.codec.frozen.codec.speech.parameters():
        weights.add_(1.0)
    heard = leaning(other, store, told=lines.append)
    assert isinstance(heard, LatentPortraitist)
    assert not isinstance(heard.priors, StorePriors)
    assert "has no speech_query by this codec's encoder" in lines[0]


def test_nobody_is_leaned_on_who_gave_no_consent_or_whose_licence_was_not_asked_for(store, runs, exported):
    loaded = load(runs, "fine-portraitist", "cpu")
    refusing = [clip for clip in clips() if clip.speaker_id == REFUSING]
    inputs, names = {"speech": np.stack([speech_of(clip) for clip in refusing])}, ["recording/1/file/1"] * 2
    for policy, allowed in (
        (Policy(), {clip.clip_id for clip in refusing}),
        (Policy(require_consent=True), {clip.clip_id for clip in clips() if clip.consent}),
        (Policy(licences=("CC0-1.0",)), {clip.clip_id for clip in clips() if clip.licence == "CC0-1.0"}),
    ):
        for source in ({"store": store}, {"export": exported}, {"store": store, "export": exported}):
            about = leaning(loaded, policy=policy, **source).lean(names, inputs).about
            assert {one["retrieval"]["clip_id"] for one in about} <= allowed


def test_without_anywhere_to_look_a_prior_must_be_declined(store, runs, voice, tmp_path):
    refused = sample(runs, "--audio", voice, "--out", tmp_path)
    assert isinstance(refused.exception, UsageError)
    assert "--store or --export" in str(refused.exception)
    assert "--no-prior" in str(refused.exception)
    done = sample(runs, "--audio", voice, "--no-prior", "--scales", 1, "--out", tmp_path, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    (folder,) = tmp_path.iterdir()
    (one,) = read_drawings(folder)
    assert (one.about["retrieval"], set(one.beside)) == (None, {"bottom"})
    assert one.picture.parent.name == "scale-1-no-prior"
    for asked in (["--no-prior"], ["--exclusion", "video"]):
        other = sample(runs, "--audio", voice, *asked, "--system", "two-stage", "--out", tmp_path)
        assert isinstance(other.exception, UsageError)
        assert "two-stage leans on no retrieved face" in str(other.exception)


def test_a_sweep_leans_by_each_exclusion_in_a_folder_of_its_own(store, runs, tmp_path):
    seen: list[tuple[int, int, str]] = []
    drawings = sweep(
        Source(store, split="train"),
        ["two-stage", "fine-portraitist"],
        runs,
        [1.0],
        tmp_path,
        "cpu",
        lambda *now: seen.append(now),
        ["clip", "identity", "none"],
        steps=1,
        batch_size=4,
    )
    people = {clip.speaker_id for clip in clips() if clip.split == "train"}
    assert seen[-1][:2] == (4 * len(people), 4 * len(people))
    assert {one.picture.parent.name for one in drawings} == {"scale-1", "scale-1-exclusion-clip", "scale-1-no-prior"}
    rows = rows_of(read_drawings(tmp_path))
    assert [(key.system, key.exclusion) for key in rows] == [
        ("two-stage", None),
        ("fine-portraitist", None),
        ("fine-portraitist", "clip"),
        ("fine-portraitist", "identity"),
    ]
    for key, group in rows.items():
        for one in group:
            prior = (one.about.get("retrieval") or {}).get("clip_id", "")
            assert prior != one.clip_id
            assert key.exclusion != "identity" or not prior.startswith(one.speaker)
    sheet = portrait_sheet(store, drawings, 1.0, tmp_path / "sheet.png")
    with Image.open(sheet) as picture:
        assert "Rows of priors are stored faces of others" in picture.info["Description"]
        assert picture.size == (len(people) * (128 + GAP) - GAP, (1 + 2 + 2 + 3 + 3) * (128 + GAP) - GAP)
    priors = [about["clip_id"] for one in drawings if (about := one.about.get("retrieval"))]
    assert set(row_ids_of(store, priors).tolist()) <= noted(store)[sheet]


def test_forgetting_who_was_leaned_on_removes_the_portraits(store, runs, tmp_path):
    store = Store.open(str(shutil.copytree(store.uri, tmp_path / "store")))
    store.table("artifacts").delete("true")
    drawings = sweep(Source(store), ["fine-portraitist"], runs, [1.0], tmp_path / "portraits", "cpu", steps=1)
    assert len(drawings) == 2
    prior = drawings[0].about["retrieval"]["clip_id"]
    erasure.forget(store, speakers=["/".join(prior.split("/")[:2])])
    assert not any(path.exists() for path in drawings[0].files.values())
    assert not drawings[0].picture.with_name("index.json").exists()
    again = leaning(load(runs, "fine-portraitist", "cpu"), store)
    speech = {"speech": np.stack([speech_of(clip) for clip in clips()[:2]])}
    for one in again.lean([drawings[0].clip_id] * 2, speech).about:
        assert one["retrieval"]["clip_id"].split("/")[1] != prior.split("/")[1]


def test_a_bare_machine_studies_the_three_systems_and_states_the_order_found(exported, tmp_path):
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "lance", "lancedb", "pyarrow"):
            raise ModuleNotFoundError(f"{{name}} is not on this machine", name=name)
sys.meta_path.insert(0, Blocked())
from pathlib import Path
from evaluation import study
from evaluation.judges import Recogniser
study.recognisers = lambda: [Recogniser("pixels", study.as_pixels)]
systems = ["one-stage", "two-stage", "fine-portraitist"]
study.study(Path({str(exported)!r}), Path({str(tmp_path)!r}), systems, "micro", 0.05, [1.0], "cpu", draw_at_once=4)
"""
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=alone, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "study.json").read_text())
    assert told["stages"][0]["stage"] == "codec"
    assert all(one["step"] == one["steps"] >= 1 for one in told["stages"])
    (standing,) = told["standings"]
    assert {one["system"] for one in standing["by_distance"]} == {"one-stage", "two-stage", "fine-portraitist"}
    assert "Order found by cosine distance" in (tmp_path / "study.md").read_text()
    rows = [(row["name"], row["exclusion"]) for row in told["evaluation"]["systems"]]
    assert rows == [("one-stage", None), ("two-stage", None), ("fine-portraitist", "identity")]
    assert (tmp_path / "sheet-1.png").exists()
    assert (tmp_path / "losses.png").exists()
