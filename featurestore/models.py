"""Where pretrained weights lie: one folder a model, which pipelines fills and training may read."""

import os
from pathlib import Path


def models_folder() -> Path:
    """`$VOXPORTRAIT_MODELS`, else `voxportrait/models` in the user's cache directory."""
    chosen = os.environ.get("VOXPORTRAIT_MODELS")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen).expanduser() if chosen else Path(cache) / "voxportrait" / "models"
