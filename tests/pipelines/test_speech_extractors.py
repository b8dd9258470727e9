"""Speaker embeddings and language: the libraries' own numbers of never trained official files, and nothing run."""

import os
import shutil
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from featurestore.catalogue import ATTRIBUTES, CATALOGUE
from featurestore.errors import VoxportraitError
from pipelines import weights
from pipelines.extractors import extractors_for
from pipelines.extractors.pyannote import WINDOWS, Pyannote

RATE = 16_000
EMBEDDINGS = ("ecapa", "pyannote", "pyannote_all", "titanet", "speakernet", "speakernet_sliding")
FILES = {
    "language": "classifier.ckpt",
    "pyannote": "pytorch_model.bin",
    "titanet": "titanet-l.nemo",
    "speakernet": "speakerverification_speakernet.nemo",
}


@pytest.fixture(scope="module")
def extractors(models) -> dict:
    made = {extractor.name: extractor for extractor in extractors_for([*EMBEDDINGS, "language"])}
    for extractor in made.values():
        extractor.load("cpu")
    return made


@pytest.fixture(scope="module")
def sounds() -> np.ndarray:
    """Two sounds of 24 s: a gliding voice-like buzz with pauses, and a quiet lower one in noise."""
    time = np.arange(24 * RATE) / RATE
    noise = np.random.default_rng(0).normal(0, 1, (2, len(time)))

    def buzz(pitch):
        phase = 2 * np.pi * pitch * (time + 0.05 * np.sin(3 * time))
        return sum(np.sin(k * phase) / k for k in range(1, 20))

    loud = 0.2 * buzz(210) * (np.sin(2 * time) > -0.5) + 0.002 * noise[0]
    return np.stack([loud, 0.02 * buzz(95) + 0.02 * noise[1]]).astype(np.float32)


@pytest.fixture(scope="module")
def results(extractors, sounds) -> dict:
    return {key: extractor.infer(heard(key, sounds)) for key, extractor in extractors.items()}


def heard(key: str, sounds: np.ndarray) -> np.ndarray:
    """What the extractor is given: SpeechBrain's take sound of any length, and 4 s are quicker than 24."""
    return sounds[:, : 4 * RATE] if key in ("ecapa", "language") else sounds


@pytest.fixture
def copied(models, tmp_path, monkeypatch):
    """copied("language"): a copy of that model's folder in a models folder of its own."""

    def copy(name: str) -> Path:
        monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path))
        return Path(shutil.copytree(models / name, tmp_path / name))

    return copy


class Trap:
    """Makes a folder when it is unpickled by an unpickler that runs things."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def rewritten(path: Path, members: dict[str, bytes]) -> None:
    """The .nemo file again with other or further members."""
    with tarfile.open(path) as archive:
        kept = {m.name.removeprefix("./"): cast(Any, archive.extractfile(m)).read() for m in archive if m.isreg()}
    with tarfile.open(path, "w") as archive:
        for name, content in {**kept, **members}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))


@pytest.mark.parametrize("key", EMBEDDINGS)
def test_embeddings_have_the_catalogue_s_shape_and_fit_half_precision(results, sounds, key):
    result = np.stack(results[key])
    assert (result.shape, result.dtype) == ((2, *CATALOGUE[key].shape), np.float32)
    half = result.astype(np.float16)
    assert np.isfinite(half).all()
    assert np.abs(half).max() > 1e-3
    assert not np.allclose(result[0], result[1], rtol=1e-2)


@pytest.mark.parametrize("key", [*EMBEDDINGS, "language"])
def test_a_neighbour_changes_nothing_beyond_half_precision(extractors, results, sounds, key):
    together, (alone,) = results[key][1], extractors[key].infer(heard(key, sounds[1:]))
    if key == "language":
        assert alone[0] == together[0]
        alone, together = alone[1], together[1]
    np.testing.assert_allclose(alone, together, rtol=1e-3, atol=1e-3 * np.abs(together).max())


def test_language_is_the_library_s_label_with_its_posterior(extractors, results, sounds):
    extractor = extractors["language"]
    cosines, best, _, labels = extractor._model.classify_batch(torch.from_numpy(heard("language", sounds[:1])))
    posterior = torch.exp(30 * best) / torch.exp(30 * cosines).sum(-1)
    values = extractor.values(results["language"][0])
    assert values["language"] == labels[0]
    assert labels[0] in ATTRIBUTES["language"]
    assert values["language_probability"] == pytest.approx(posterior.item(), rel=1e-3)
    assert 1 / 45 < values["language_probability"] <= 1


@pytest.mark.filterwarnings("ignore:Model was trained with")
@pytest.mark.parametrize("duration", [0.75, 3, 12, 24])
def test_pyannote_windows_are_those_of_its_own_inference(models, results, sounds, duration):
    from pyannote.audio import Inference, Model

    model: Any = Model.from_pretrained(models / "pyannote" / "pytorch_model.bin")
    slide: Any = Inference(model, window="sliding", duration=duration, step=duration / 3)
    expected = slide({"waveform": torch.from_numpy(sounds[:1]), "sample_rate": RATE}).data
    first = sum(len(starts) for other, starts in WINDOWS["pyannote_all"].items() if other < duration)
    np.testing.assert_allclose(
        results["pyannote_all"][0][first : first + len(expected)], expected, atol=1e-6 * np.abs(expected).max()
    )


def test_a_pyannote_checkpoint_with_old_lightning_s_callbacks_is_read(copied, tmp_path):
    from pytorch_lightning.callbacks import EarlyStopping

    path = copied("pyannote") / FILES["pyannote"]
    checkpoint = torch.load(path, weights_only=False)
    torch.save(checkpoint | {"callbacks": {EarlyStopping: {"patience": 3}}, "pytorch-lightning_version": "1.2.7"}, path)
    extractor = Pyannote("pyannote")
    extractor.load("cpu")
    assert extractor._model.dimension == 512


def test_pyannote_is_the_windows_of_the_layouts(results):
    rows = [(duration, start) for duration, starts in WINDOWS["pyannote_all"].items() for start in starts]
    assert [sum(d == duration for d, _ in rows) for duration in (0.75, 1.5, 3, 6, 12, 24)] == [94, 46, 22, 10, 4, 1]
    three = [1, 3, 5, 7, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]
    used = [rows.index((3, start)) for start in three] + list(range(162, 177))
    assert len(used) == 31
    np.testing.assert_allclose(results["pyannote"][0], results["pyannote_all"][0][used], rtol=1e-4, atol=1e-5)


def test_nemo_embeddings_are_the_library_s(extractors, results, sounds):
    model = extractors["speakernet"]._model
    whole, _ = model.infer_segment(sounds[0])
    np.testing.assert_allclose(results["speakernet"][0], whole[0].numpy(), rtol=1e-3, atol=1e-4)
    windows = [model.infer_segment(sounds[0, start * RATE : (start + 3) * RATE])[0][0] for start in range(22)]
    mean = torch.stack(windows).mean(0).numpy()
    np.testing.assert_allclose(results["speakernet_sliding"][0], mean, rtol=1e-3, atol=1e-4)


def test_makers_say_that_the_weights_were_never_trained(extractors):
    makers = {key: extractor.makers()[key] for key, extractor in extractors.items()}
    assert {key for key, maker in makers.items() if maker.trained} == {"ecapa"}
    assert len({maker.digest for maker in makers.values()}) == len(makers)


def test_untrained_files_are_the_same_bytes_each_time(models, tmp_path, monkeypatch):
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path))
    for name in ("language", "pyannote", "speakernet"):
        again = weights.write_untrained(name)
        for file in weights.MODELS[name].files:
            assert (again / file.name).read_bytes() == (models / name / file.name).read_bytes(), file.name


def test_the_libraries_leave_the_precision_of_other_networks_alone(extractors):
    assert torch.get_default_dtype() == torch.float32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize(
    "line",
    [
        "x: !apply:os.mkdir ['{trap}']",
        "x: !!python/object/apply:os.mkdir ['{trap}']",
        "x: !name:speechbrain.lobes.features.torch.hub.load",
        "x: !new:speechbrain.inference.classifiers.EncoderClassifier",
        "x: [{{a: !include:{trap} }}]",
    ],
)
def test_hyperparameters_that_construct_anything_else_are_refused(copied, tmp_path, line):
    with (copied("language") / "hyperparams.yaml").open("a") as file:
        file.write(line.format(trap=tmp_path / "trap") + "\n")
    refuse("language", "would construct", tmp_path / "trap")


@pytest.mark.parametrize("name", ["language", "pyannote", "speakernet"])
def test_a_checkpoint_that_would_run_code_is_refused(copied, tmp_path, monkeypatch, name):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = copied(name) / FILES[name]
    content = BytesIO()
    torch.save({"state_dict": Trap(tmp_path / "trap")}, content)
    if name == "speakernet":
        rewritten(path, {"model_weights.ckpt": content.getvalue()})
    else:
        path.write_bytes(content.getvalue())
    refuse(name, "more than weights", tmp_path / "trap")
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


@pytest.mark.parametrize(
    ("module", "name"),
    [("antigravity", "Model"), ("pyannote.audio.models.antigravity", "XVectorSincNet"), ("pyannote.audio", "Model")],
)
def test_a_checkpoint_of_another_class_is_refused(copied, tmp_path, module, name):
    path = copied("pyannote") / FILES["pyannote"]
    torch.save({"pyannote.audio": {"architecture": {"module": module, "class": name}}}, path)
    refuse("pyannote", f"would import {module}.{name}", tmp_path / "trap")


@pytest.mark.parametrize("place", ["hyper_parameters", "hparams", "module_arguments"])
@pytest.mark.parametrize("key", ["_instantiator", "_class_path", "loss"])
def test_a_checkpoint_whose_parameters_name_what_to_call_is_refused(copied, tmp_path, monkeypatch, place, key):
    """Lightning imports and calls what `_instantiator` names, in plain text."""
    (tmp_path / "trap_of_text.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')\n\ndef call(*_): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = copied("pyannote") / FILES["pyannote"]
    content = torch.load(path, weights_only=False)
    content.setdefault(place, {})[key] = "trap_of_text.call"
    torch.save(content, path)
    refuse("pyannote", f"parameters that are not the network's \\({key}\\)", tmp_path / "trap")


@pytest.mark.parametrize("content", [{}, [], {"pyannote.audio": {"architecture": "x"}}])
def test_a_checkpoint_that_is_none_is_refused(copied, tmp_path, content):
    torch.save(content, copied("pyannote") / FILES["pyannote"])
    refuse("pyannote", "is no checkpoint of pyannote.audio", tmp_path / "trap")


@pytest.mark.parametrize("key", ["target", "_target_"])
def test_a_nemo_file_that_constructs_anything_else_is_refused(copied, tmp_path, key):
    path = copied("speakernet") / FILES["speakernet"]
    hidden = "nemo.collections.asr.modules.audio_preprocessing.os.mkdir"
    config = f"a: {hidden}\nencoder:\n- {{{key}: '${{a}}', path: {tmp_path / 'trap'}}}\n"
    rewritten(path, {"model_config.yaml": config.encode()})
    refuse("speakernet", f"would construct {hidden}", tmp_path / "trap")


@pytest.mark.parametrize("member", ["../trap", "/tmp/trap", "./model_config.yaml"])
def test_a_nemo_file_with_members_outside_itself_is_refused(copied, tmp_path, member):
    rewritten(copied("speakernet") / FILES["speakernet"], {member: b""})
    refuse("speakernet", "no plain file inside it", tmp_path / "trap")


def test_a_language_model_with_other_labels_is_refused(copied, tmp_path):
    path = copied("language") / "label_encoder.txt"
    path.write_text(path.read_text().replace("'Mangolian'", "'Mongolian'"))
    refuse("language", "Mangolian", tmp_path / "trap")


def refuse(key: str, message: str, trap: Path) -> None:
    (extractor,) = extractors_for([key])
    with pytest.raises(VoxportraitError, match=message):
        extractor.load("cpu")
    assert not trap.exists()
