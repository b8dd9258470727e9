"""Shared by all tests: one synthetic corpus, and a models folder in which nothing is missing."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks are no quicker on more, and many processes run at once
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # on a busy machine Ray's 15 keeps workers from their deadlines
SPEAKERS, CLIPS = 16, 48
TRAINED = (
    "media", "ecapa", "short_term", "mel", "mel_log", "speech", "age", "gender", "ethnicity", "face", "face_128",
    "face_parts", "face_embedding_dlib",
)  # fmt: skip
"""The constituents that need no weights, or whose trained weights come as packages."""


@pytest.fixture(scope="session")
def untrained_models(tmp_path_factory) -> Path:
    """A models folder in which every model is there: from packages, and where none carries it, never trained."""
    from pipelines import weights
    from pipelines.untrained import WRITERS

    carried = [name for name, model in weights.MODELS.items() if model.package and not model.installed]
    folder = tmp_path_factory.mktemp("models")
    for name in carried:
        (folder / name).symlink_to(weights.ensure(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOXPORTRAIT_MODELS", str(folder))
        for name in WRITERS:
            if name not in carried:
                weights.write_untrained(name)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """16 synthetic speakers x 3 clips in VoxCeleb2's layout."""
    from pipelines.population.corpus import synthesize

    root = tmp_path_factory.mktemp("population") / "vox2"
    synthesize(root, SPEAKERS, CLIPS, seed=7)
    return root
