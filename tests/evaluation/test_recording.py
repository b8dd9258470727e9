"""From a recording to portraits: what is made of a file, what pictures say of it, and what cannot be drawn."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from evaluation.cli.options import parse_scales
from evaluation.portraits import read_about, read_drawings, read_picture
from evaluation.recording import _heard_by, hear
from evaluation.sheet import GAP, LETTERS
from featurestore.catalogue import CATALOGUE
from featurestore.clip import Clip
from featurestore.conditioning import GROUPS, SYSTEMS
from featurestore.errors import UsageError, VoxportraitError
from featurestore.journal import dtypes
from featurestore.schema import decode, encode, value_fields
from pipelines import weights
from pipelines.extractors import extractors_for
from pipelines.population.corpus import synthesize
from pipelines.recipe import Recipe
from pipelines.worker import Worker
from tests.pipelines.conftest import write_mp4
from tests.training.clips import clips_in_memory
from training.loop import train
from training.sampling import Portraitist
from voxportrait import app

RECIPE = Recipe(detector="fastmtcnn")
HEARD = ("short_term", "mel")
INPUTS = (*HEARD, "age", "gender")


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory):
    """A models folder in which SpeakerNet alone is, never trained."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOXPORTRAIT_MODELS", str(folder))
        weights.write_untrained("speakernet")
        yield folder


@pytest.fixture(scope="module")
def runs(models, tmp_path_factory):
    """A system with the guide and one without, hardly trained, on what `INPUTS` are made of by the makers here."""
    folder = tmp_path_factory.mktemp("runs")
    keys = [*HEARD, "speakernet", "face_128"]
    made = {k: [m.digest] for e in extractors_for(keys, RECIPE) for k, m in e.makers().items() if k in keys}
    for system, inputs in {"full-input": INPUTS, "only-audio": (*HEARD, "speakernet")}.items():
        absent = [key for key in SYSTEMS[system].layout().constituents if key not in inputs]
        for unet in ("unet1", "unet2"):
            about = {"makers": made, "absent": absent, "untrained": []}
            train(folder / f"{system}-{unet}", clips_in_memory(about=about), system, unet, "micro", steps=1)
    return folder


@pytest.fixture(scope="module")
def painter(runs):
    return Portraitist.load(runs / "full-input-unet1", runs / "full-input-unet2", "cpu")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A talking head: two seconds of film with sound."""
    root = tmp_path_factory.mktemp("people")
    synthesize(root, 1, 1, seed=3, test_speakers=0)
    return next(root.glob("*/mp4/*/*/*.mp4")).rename(root / "anna.mp4")


@pytest.fixture(scope="module")
def photo(film, tmp_path_factory):
    from pipelines.decoding import open_media

    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(open_media(str(film)).frame(10)).save(path)
    return path


def sample(runs, *arguments):
    fixed = ["--runs", runs, "--device", "cpu", "--steps", 2]
    return CliRunner().invoke(app, ["sample", *map(str, (*fixed, *arguments))])


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=lambda system: system.name)
def test_what_is_made_of_a_recording_is_what_the_system_hears(system):
    portraitist: Any = SimpleNamespace(layout=system.layout(), about=({"data": {}}, {"data": {"absent": ["mel"]}}))
    expected = [key for key in system.layout().constituents if key in GROUPS["audio"] and key != "mel"]
    assert _heard_by(portraitist, ()) == expected
    assert "language" not in _heard_by(portraitist, ["language"])


def test_inputs_are_those_that_a_store_would_hold_of_the_file(painter, film, photo):
    heard = hear(painter, [str(film)], str(photo))
    batch = heard.records.arrays
    worker = Worker(extractors_for([*HEARD, "face_128"], RECIPE), recipe=RECIPE)
    worker.load()
    clip = Clip("dataset/speaker/video/utterance", str(film), "test")
    stored = worker.fill(clip, frozenset((*HEARD, "face_128"))).values
    for key in HEARD:
        entry = CATALOGUE[key]
        column = encode(value_fields(entry)[0], dtypes(entry)[key], [stored[key]])
        np.testing.assert_array_equal(batch[key], decode(column, entry.shape, entry.dtype))
    np.testing.assert_array_equal(batch["guide"][0], stored["face_128_guide"])
    assert not {"age", "gender", "ethnicity"} & batch.keys()


def test_a_recording_becomes_portraits_that_say_what_made_them(runs, film, photo, tmp_path):
    asked = ["--audio", film, "--image-guide", photo, "--age", 40, "--gender", "man", "--scales", "0,1,3"]
    done = sample(runs, *asked, "--out", tmp_path, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    sheet = json.loads(done.stdout.splitlines()[-1])[0]["sheet"]
    (folder,) = tmp_path.iterdir()
    drawings = read_drawings(folder)
    assert [one.cond_scale for one in drawings] == [0.0, 1.0, 3.0]
    for one in drawings:
        assert one.about == read_about(one.picture) == read_about(one.coarse)
        assert one.about["generated"] is True
        assert one.about["recording"] == hashlib.sha256(film.read_bytes()).hexdigest()
        assert one.about["image_guide"] == hashlib.sha256(photo.read_bytes()).hexdigest()
        assert one.about["given"] == {"age": "40", "gender": "man"}
        assert (one.about["sampler"], one.about["sampler_steps"]) == (["dpm-solver++"] * 2, [2, 2])
        assert [(c["run"], c["step"]) for c in one.about["checkpoints"]] == [
            ("full-input-unet1", 1),
            ("full-input-unet2", 1),
        ]
        assert "anna" not in json.dumps(one.about)
    shown = CliRunner().invoke(app, ["sample", "--show", str(drawings[0].picture), "--json"])
    assert json.loads(shown.stdout) == drawings[0].about
    assert read_about(Path(sheet))["portraits"] == [one.about for one in drawings]
    picture, top, step = np.asarray(Image.open(sheet)), LETTERS + GAP, 128 + GAP
    for column, one in enumerate(drawings, start=1):
        upper = picture[top : top + 128, column * step : column * step + 128]
        np.testing.assert_array_equal(upper, read_picture(one.picture))
        lower = picture[top + step : top + step + 128 : 4, column * step : column * step + 128 : 4]
        np.testing.assert_array_equal(lower, read_picture(one.coarse))
    again = sample(runs, *asked, "--out", tmp_path / "again")
    assert again.exit_code == 0
    other = read_drawings(next((tmp_path / "again").iterdir()))
    assert [read_picture(one.picture).tobytes() for one in other] == [
        read_picture(one.picture).tobytes() for one in drawings
    ]


def test_without_a_guide_untrained_inputs_are_said_and_attributes_are_unknown(runs, film, tmp_path):
    done = sample(runs, "--audio", film, "--system", "only-audio", "--scales", 2, "--out", tmp_path)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "untrained weights, without meaning: speakernet" in done.stderr
    (one,) = read_drawings(next(tmp_path.iterdir()))
    assert one.about["untrained"] == ["speakernet"]
    assert "given" not in one.about
    assert "image_guide" not in one.about


def test_a_picture_of_8_x_8_is_taken_as_it_is(painter, film, tmp_path):
    guide = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(guide).save(tmp_path / "guide.png")
    heard = hear(painter, [str(film)], str(tmp_path / "guide.png"))
    np.testing.assert_array_equal(heard.records.arrays["guide"][0], guide)
    assert "face_128" not in heard.records.describe()["makers"]


def test_what_cannot_be_heard_or_seen_is_one_line_that_names_the_file(painter, film, photo, tmp_path):
    guide, grey = tmp_path / "guide.png", tmp_path / "grey.png"
    Image.new("RGB", (8, 8)).save(guide)
    Image.new("RGB", (200, 200), "grey").save(grey)
    (tmp_path / "broken.wav").write_bytes(b"RIFF" + bytes(100))
    write_mp4(tmp_path / "mute.mp4", 1.0, sound=False)
    write_mp4(tmp_path / "silent.mp4", 1.0, picture=False, amplitude=0.0)
    for recording, picture, message in (
        (tmp_path / "mute.mp4", guide, r"mute\.mp4: no sound"),
        (tmp_path / "silent.mp4", guide, r"silent\.mp4: silent"),
        (tmp_path / "broken.wav", guide, r"broken\.wav: not media"),
        (tmp_path / "gone.wav", guide, r"gone\.wav: missing file"),
        (film, grey, r"grey\.png: no face"),
        (film, film.with_name("gone.png"), r"gone\.png: missing file"),
    ):
        with pytest.raises(VoxportraitError, match=message) as raised:
            hear(painter, [str(recording)], str(picture))
        assert "\n" not in str(raised.value)


def test_what_a_system_cannot_draw_from_is_said_before_anything_is_loaded(tmp_path):
    for asked, message in (
        (["--audio", "voice.wav"], "systems that need none: no-image-guide, only-audio, speaker-embedding-only"),
        (["--audio", "voice.wav", "--system", "only-audio", "--image-guide", "p.png"], "takes no --image-guide"),
        (["--image-guide", "photo.png"], "say whose with --audio"),
        (["--audio", "voice.wav", "--image-guide", "p.png", "--system", "no-audio"], "leave --audio out"),
        (["--audio", "voice.wav", "--gender", "male"], "unknown gender 'male'"),
        ([], "say what to draw from"),
        (["--show", tmp_path / "nothing.png"], "there is no"),
    ):
        refused = sample(tmp_path / "no-runs", *asked)
        assert isinstance(refused.exception, UsageError)
        assert message in str(refused.exception)


def test_weights_that_are_missing_or_others_than_in_training_are_named(painter, film, photo, monkeypatch):
    makers = painter.about[1]["data"]["makers"]
    with monkeypatch.context() as patch:
        patch.setitem(makers, "mel", ["another"])
        with pytest.raises(VoxportraitError, match=r"^mel would be made here by other weights or another library"):
            hear(painter, [str(film)], str(photo))
    with monkeypatch.context() as patch:
        for about in painter.about:
            patch.setitem(about["data"]["makers"], "face_128", ["another"])
        with pytest.raises(VoxportraitError, match="the faces that this model was trained on"):
            hear(painter, [str(film)], str(photo))
    for about in painter.about:
        monkeypatch.setitem(about["data"], "absent", [])
    with pytest.raises(VoxportraitError, match=r"model \w+: .* not found\. Run: voxportrait models fetch"):
        hear(painter, [str(film)], str(photo))


def test_scales_are_a_list_or_a_range_with_a_step():
    assert parse_scales("0,1.5,3") == [0.0, 1.5, 3.0]
    assert parse_scales("0..10") == list(range(11))
    assert parse_scales("0..1:0.25,1,8") == [0.0, 0.25, 0.5, 0.75, 1.0, 8.0]
    for wrong in ("", "-1", "1..0", "0..x", "0..5:0", "nan", "0..1000000000000", "1/0..3"):
        with pytest.raises(UsageError, match="--scales takes numbers"):
            parse_scales(wrong)
