"""What is there: identity, whether it was trained, and the state of every file."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from featurestore.errors import VoxportraitError
from pipelines.weights import sums
from pipelines.weights.places import absent, folder, lacking, model_named
from pipelines.weights.table import MODELS, Model


def digest(name: str) -> str:
    """The model's identity: sha256 over the lines `<sha256>  <file>` of its files, as `sha256sum` prints them.

    Pinned files are not touched, unless something untrained was written there. Raises VoxportraitError if a file that
    has to be read is not there.
    """
    model = model_named(name)
    place = folder(name)
    written = sums.untrained(place)
    pins = {} if written else {file.name: file.sha256 for file in model.files if file.sha256}
    if any(file.name not in pins for file in absent(model)):
        raise VoxportraitError(lacking(model))
    found = {file.name: pins.get(file.name) or sums.sha256_of(place / file.name) for file in model.files}
    return hashlib.sha256(sums.lines_of(found).encode()).hexdigest()


def is_trained(name: str) -> bool:
    """False while any file of parameters is one that `write_untrained` wrote."""
    model = model_named(name)
    place = folder(name)
    written = sums.untrained(place)
    return not any(
        file.learned
        and file.name in written
        and (place / file.name).is_file()
        and sums.sha256_of(place / file.name) == written[file.name]
        for file in model.files
    )


def states(model: Model, read=sums.sha256_of) -> dict[str, tuple[str, str]]:
    """File -> state and sha256 ("" if missing); see `verify`. `read` gives a file's sha256."""
    place = folder(model.name)
    written, recorded = sums.untrained(place), sums.recorded(place)
    read = sums.sha256_now if model.installed else read

    def state(path: Path, pin: str, mark: str | None) -> tuple[str, str]:
        if not path.is_file():
            return "missing", ""
        sha256 = read(path)
        if sha256 == mark != pin:
            return "untrained", sha256
        return ("unpinned" if not pin else "good" if sha256 == pin else "damaged"), sha256

    return {
        file.name: state(place / file.name, file.sha256 or recorded.get(file.name, ""), written.get(file.name))
        for file in model.files
    }


def verify(names: Iterable[str] | None = None) -> list[dict[str, str]]:
    """Read every file of the named models, all by default; one row a file: model, file, state, sha256.

    State: `good` (the sha256 that is pinned, or was recorded when it was first fetched), `missing`, `damaged` (another
    sha256), `untrained` (as `write_untrained` wrote it), `unpinned` (there, and nobody knows what it should be).
    """
    return [
        {"model": name, "file": file, "state": state, "sha256": sha256}
        for name in (MODELS if names is None else names)
        for file, (state, sha256) in states(model_named(name), sums.sha256_now).items()
    ]


def status() -> list[dict[str, Any]]:
    """One row a model: name, about, licence, official, needs, package, command, makes, folder, present, trained.

    trained is false for a model that is not there too.
    """
    return [
        {
            "name": model.name,
            "about": model.about,
            "licence": model.licence,
            "official": model.official,
            "needs": model.needs,
            "package": model.package,
            "command": model.command,
            "makes": list(model.makes),
            "folder": str(folder(model.name)),
            "present": not absent(model),
            "trained": not absent(model) and is_trained(model.name),
        }
        for model in MODELS.values()
    ]
