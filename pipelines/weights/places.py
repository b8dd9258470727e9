"""Where each model's files lie, and the words that tell a person what to put there."""

import importlib.util
from pathlib import Path

from featurestore.errors import VoxportraitError, choose
from featurestore.models import models_folder
from pipelines.weights.table import MODELS, Model, ModelFile


def model_named(name: str) -> Model:
    """Raises UsageError that lists the models if there is none of that name."""
    return MODELS[choose("model", name, MODELS)]


def folder(name: str) -> Path:
    """Where the model's files lie or will lie."""
    model = model_named(name)
    if not model.installed:
        return models_folder() / name
    spec = importlib.util.find_spec(model.installed)
    if spec is None or spec.origin is None:
        raise VoxportraitError(f"model {name}: {model.package} is not installed; run `make setup`.")
    return Path(spec.origin).parent


def absent(model: Model) -> list[ModelFile]:
    return [file for file in model.files if not (folder(model.name) / file.name).is_file()]


def by_hand(model: Model) -> str:
    """Which files to put where, for a person who cannot or does not want to fetch them; "" for installed ones, and for
    those that are made here."""
    if model.installed or model.command:
        return ""
    files = ", ".join(file.name for file in absent(model) or model.files)
    return f"Or put {files} from {model.official} into {folder(model.name)} by hand."


def lacking(model: Model) -> str:
    """One line: what is not there, the command that brings it, and what to put by hand."""
    files = ", ".join(file.name for file in absent(model))
    first = f" (it needs {model.needs})" if model.needs else ""
    return f"model {model.name}: {files} not found. Run: {bringing(model)}{first}. {by_hand(model)}".rstrip()


def bringing(model: Model) -> str:
    """The command that brings it."""
    return model.command or f"voxportrait models fetch {model.name}"
