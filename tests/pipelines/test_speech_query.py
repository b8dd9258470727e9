"""The trained speech encoder as an extractor: exported, filled, searched; and no unknown program is run."""

import json
import os
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from featurestore import inprocess
from featurestore.conditioning import system
from featurestore.errors import UsageError, VoxportraitError
from featurestore.loader import Loader
from featurestore.memory_records import MemoryRecords
from featurestore.program_file import SUMS, read_program, write_program
from featurestore.schema import decode
from featurestore.store import Store
from pipelines import weights
from pipelines.extractors.speech_query import SpeechQuery
from pipelines.job import wants_of
from pipelines.readiness import ready
from pipelines.recipe import Recipe
from pipelines.sources import read
from pipelines.worker import Worker
from tests.conftest import CLIPS, SPEAKERS
from training.latent.codec import Frozen
from training.latent.export import export_speech
from training.loop import train
from voxportrait import app

THREE = 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The folder of a codec of two steps on noise."""
    folder, random = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    pictures = {
        "face": random.integers(0, 255, (4, 64, 64, 3), dtype=np.uint8),
        "bottom": random.random((4, 64, 64)) > 0.5,
    }
    compact = {"speech": random.integers(-9000, 9000, (4, 96_000)).astype(np.int16)}
    loader = Loader(MemoryRecords([f"test/id{n}/video/0" for n in range(4)], compact, pictures=pictures), 4, 0)
    train(folder / "fine-portraitist-codec", loader, "fine-portraitist", "codec", "micro", steps=2, device="cpu")
    return folder


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    """A models folder that holds the exported encoder alone, in use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOXPORTRAIT_MODELS", str(tmp_path_factory.mktemp("models")))
        said = voxportrait("export-speech", "--runs", runs)
        assert said["file"] == str(weights.folder("speech_query") / "speech_query.pt2")
        yield Path(said["file"])


@pytest.fixture(scope="module")
def store(corpus, exported, tmp_path_factory) -> Store:
    """Three clips of three speakers with their sound and its query, as a worker makes them."""
    made = Store.open_or_create(str(tmp_path_factory.mktemp("queries") / "store"))
    made.register(list(read("voxceleb2", corpus))[:: CLIPS // SPEAKERS][:THREE])
    able = ready(["speech", "speech_query"], Recipe())
    worker = Worker(able.extractors, recipe=Recipe())
    assert worker.load() == {}
    filled = inprocess.fill(made, wants_of(able, Recipe()), lambda clip, keys: worker.fill(clip, keys).values)
    assert filled == {"speech": THREE, "speech_query": THREE}
    return made


def voxportrait(*arguments: object) -> dict:
    said = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert said.exit_code == 0, said.output
    return json.loads(said.stdout.splitlines()[-1])


def test_the_stored_query_is_what_the_trained_codec_hears_in_the_stored_speech(store, runs):
    table = store.table("clips").to_table(columns=["speech", "speech_query"])
    speech = decode(table["speech"], (96_000,), "int16").copy()
    stored = np.stack(table["speech_query"].to_pylist())
    _, heard = Frozen.load(runs / "fine-portraitist-codec", "cpu").hear({"speech": torch.from_numpy(speech)})
    np.testing.assert_allclose(stored, heard.numpy(), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-3)
    assert len(np.unique(stored.round(4), axis=0)) == THREE


def test_clips_and_films_are_searched_by_it(store, corpus):
    clip = list(read("voxceleb2", corpus))[CLIPS // SPEAKERS]
    for asked in (clip.clip_id, clip.path):
        found = voxportrait("store", "similar", asked, "--store", store.uri, "--by", "speech_query", "-k", THREE)
        assert (found["metric"], found["maker"]["trained"]) == ("cosine", True)
        assert set(found["clips"][0]) >= {"clip_id", "similarity"}
    assert found["clips"][0]["clip_id"] == clip.clip_id
    assert found["clips"][0]["similarity"] == pytest.approx(1, abs=1e-3)


def test_an_untrained_program_says_so_until_a_trained_one_takes_its_place(tmp_path, monkeypatch, runs):
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path))
    assert "Run: voxportrait export-speech" in (weights.missing("speech_query") or "")
    weights.write_untrained("speech_query")
    extractor = SpeechQuery()
    extractor.load("cpu")
    untrained = extractor.makers()["speech_query"]
    assert not untrained.trained
    (query,) = extractor.infer(np.ones((1, 96_000), np.int16))
    assert query.shape == (512,)
    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-5)
    export_speech(runs / "fine-portraitist-codec")
    trained = SpeechQuery().makers()["speech_query"]
    assert trained.trained
    assert trained.digest != untrained.digest


def test_a_query_does_not_depend_on_its_batch(exported):
    extractor = SpeechQuery()
    extractor.load("cpu")
    sounds = np.random.default_rng(1).integers(-9000, 9000, (4, 96_000)).astype(np.int16)
    together = extractor.infer(sounds)
    for place in (0, 3):
        (alone,) = extractor.infer(sounds[place : place + 1])
        np.testing.assert_allclose(alone, together[place], atol=1e-5)


def test_an_encoder_that_needs_more_than_sound_is_not_exported(tmp_path):
    layout = replace(system("fine-portraitist").layout(), beside=("speech", "ecapa"))
    compact = {"speech": np.zeros((2, 96_000), np.int16), "ecapa": np.ones((2, 192), np.float16)}
    pictures = {"face": np.zeros((2, 64, 64, 3), np.uint8), "bottom": np.ones((2, 64, 64), bool)}
    records = MemoryRecords(["test/a/v/0", "test/b/v/0"], compact, pictures=pictures)
    run = tmp_path / "run"
    train(
        run, Loader(records, 2, 0), "fine-portraitist", "codec", "micro", steps=1, choices={"fused": ("ecapa",)},
        layout=layout, device="cpu",
    )  # fmt: skip
    with pytest.raises(
        UsageError, match=r"makes its query of ecapa too, .*train a codec with --set fused= to export it"
    ):
        export_speech(run)


class Trap(torch.nn.Module):
    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        return sound + 1


class Loud:
    """Makes a folder when it is unpickled by an unpickler that runs things."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def trap(path: Path, folder: Path) -> None:
    """A program whose example inputs make a folder when they are unpickled, as torch.export.load does."""
    write_program(path, torch.export.export(Trap(), (torch.zeros(2),)))
    content = BytesIO()
    torch.save((Loud(folder),), content)
    with zipfile.ZipFile(path) as archive:
        members = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, content.getvalue() if "sample_inputs" in name else data)


def test_nothing_of_an_unknown_program_is_run(tmp_path):
    """It would be: a program's own example inputs are unpickled."""
    path = tmp_path / "program.pt2"
    trap(path, tmp_path / "trapped")
    with pytest.raises(VoxportraitError, match="an exported program is code, and is not loaded unknown"):
        read_program(path)
    path.with_name(SUMS).unlink()
    with pytest.raises(VoxportraitError, match=f"{SUMS} beside it says nothing"):
        read_program(path)
    assert not (tmp_path / "trapped").exists()


def test_a_program_that_is_none_is_said_in_a_line(tmp_path):
    path = tmp_path / "program.pt2"
    path.write_bytes(b"no program")
    with pytest.raises(VoxportraitError, match=r"program\.pt2 is no program of torch\.export that this torch reads"):
        read_program(path, pins=[weights.states.sums.sha256_now(path)])
    with pytest.raises(VoxportraitError, match="cannot be read: No such file"):
        read_program(tmp_path / "nothing.pt2")
