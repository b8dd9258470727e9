"""Shared by all tests: one synthetic corpus with three bad clips in it, and the store that an undisturbed job makes."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
SPEAKERS, CLIPS = 24, 72
TRAINED = (
    "media", "ecapa", "short_term", "mel", "mel_log", "speech", "age", "gender", "ethnicity", "face", "face_128",
    "face_parts", "face_embedding_dlib",
)  # fmt: skip
"""The constituents that need no weights, or whose trained weights come as packages."""


@dataclass(frozen=True)
class BadClips:
    """Clip ids of the clips that were spoiled."""

    truncated: str
    without_sound: str
    without_face: str


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
    """24 synthetic speakers x 3 clips in VoxCeleb2's layout."""
    from pipelines.population.corpus import synthesize

    root = tmp_path_factory.mktemp("population") / "vox2"
    synthesize(root, SPEAKERS, CLIPS, seed=7)
    return root


@pytest.fixture(scope="session")
def spoiled(corpus, tmp_path_factory) -> tuple[Path, BadClips]:
    """The corpus with three more videos of its first dev speaker: cut off, without sound, without a face."""
    from tests.pipelines.media import faceless, without_sound

    root = tmp_path_factory.mktemp("spoiled") / "vox2"
    shutil.copytree(corpus, root, copy_function=os.link)
    whole = sorted(root.glob("dev/mp4/*/*/*.mp4"))[0]
    speaker = whole.parent.parent

    def place(video: str) -> Path:
        (speaker / video).mkdir()
        return speaker / video / "00001.mp4"

    data = whole.read_bytes()
    place("truncated00").write_bytes(data[: len(data) // 2])
    without_sound(whole, place("silentfilm0"))
    faceless(whole, place("nobodythere"))
    ids = (f"voxceleb2/{speaker.name}/{video}/00001" for video in ("truncated00", "silentfilm0", "nobodythere"))
    return root, BadClips(*ids)


@pytest.fixture(scope="session")
def filled(spoiled, tmp_path_factory):
    """The store that one undisturbed job makes of the spoiled corpus: every constituent of `TRAINED`."""
    from featurestore.store import Store
    from pipelines.job import fill
    from pipelines.sources import read

    store = Store.open_or_create(str(tmp_path_factory.mktemp("filled") / "store"))
    store.register(read("voxceleb2", spoiled[0]))
    fill(store, TRAINED)
    return store
