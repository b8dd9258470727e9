"""Never trained checkpoints in the official format: they prove code where the trained ones are not at hand."""

import os
import tempfile
from pathlib import Path
from pkgutil import resolve_name

from featurestore.errors import UsageError, VoxportraitError
from pipelines.untrained import WRITERS
from pipelines.weights import sums
from pipelines.weights.places import folder, model_named
from pipelines.weights.states import states


def write_untrained(name: str) -> Path:
    """Write a never trained model `name` into its folder and mark it so (UNTRAINED.json); returns the folder.

    Raises VoxportraitError if nothing writes that model, or if files are there that are not untrained.
    """
    model = model_named(name)
    if name not in WRITERS:
        raise UsageError(f"model {name} has no untrained form. These have one: {', '.join(WRITERS)}.")
    if others := [file for file, (state, _) in states(model).items() if state not in ("missing", "untrained")]:
        raise VoxportraitError(
            f"model {name}: {', '.join(others)} in {folder(name)} did not come from `voxportrait models untrained` "
            "and will not be overwritten. Remove the folder first, or set VOXPORTRAIT_MODELS to another one."
        )
    place = folder(name)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=place.parent) as work:
        writer, *arguments = WRITERS[name]
        resolve_name(writer)(Path(work), *arguments)
        written = {file.name: sums.sha256_now(Path(work) / file.name) for file in model.files}
        place.mkdir(exist_ok=True)
        for file in written:
            (place / file).unlink(missing_ok=True)
        sums.mark_untrained(place, written)
        for file in written:
            os.replace(Path(work) / file, place / file)
    return place
