"""Small real mp4 files, the corpus with three bad clips in it, and the store that an undisturbed job makes of it."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from featurestore.clip import Clip
from tests.conftest import TRAINED

FPS, RATE = 25, 16_000
TROUBLE = Path(__file__).parent / "trouble"


@pytest.fixture(scope="session")
def make_mp4():
    return write_mp4


def write_mp4(
    path: Path,
    seconds: float = 2.0,
    picture: bool = True,
    sound: bool = True,
    amplitude: float = 0.3,
    rotation: int = 0,
    channels: str = "mono",
    index_first: bool = False,
) -> Path:
    """Write an mp4: frame i is grey of brightness 10 + 3 i with a white left upper quarter, the sound a 440 Hz tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "+faststart"} if index_first else {}) as out:
        video = out.add_stream("libx264", rate=FPS) if picture else None
        audio = out.add_stream("aac", rate=RATE, layout=channels) if sound else None
        if video:
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            video.options = {"crf": "10", "g": "12"}
            if rotation:
                video.set_display_rotation(rotation)
            for i in range(round(seconds * FPS)):
                frame = np.full((48, 64, 3), 10 + 3 * i % 200, np.uint8)
                frame[:24, :32] = 255
                out.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(video.encode(None))
        if audio:
            time = np.arange(round(seconds * RATE)) / RATE
            tone = (amplitude * 32_767 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)
            tone = np.repeat(tone, 2) if channels == "stereo" else tone
            samples = av.AudioFrame.from_ndarray(tone[None], format="s16", layout=channels)
            samples.sample_rate, samples.time_base, samples.pts = RATE, Fraction(1, RATE), 0
            out.mux(audio.encode(samples))
            out.mux(audio.encode(None))
    return path


@pytest.fixture(scope="session")
def talking_head(corpus) -> Clip:
    """The first clip of the synthetic corpus, with a face and a voice."""
    from pipelines.sources import read

    return next(read("voxceleb2", corpus))


@dataclass(frozen=True)
class BadClips:
    """Clip ids of the clips that were spoiled."""

    truncated: str
    without_sound: str
    without_face: str


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="package")
def ray_here(tmp_path_factory) -> Iterator[str]:
    """The Ray of all jobs that bring down nothing but their workers, which have the package of trouble; its address."""
    from featurestore.ray_cluster import start_ray, stop_ray
    from tests.faults.drill import cluster

    notes = tmp_path_factory.mktemp("notes")
    with cluster({"PYTHONPATH": str(TROUBLE), "TROUBLE_NOTES": str(notes)}) as ray:
        start_ray(ray.address)
        yield ray.address
        stop_ray()


@pytest.fixture(scope="package")
def filled(spoiled, ray_here, tmp_path_factory):
    """The store that one undisturbed job makes of the spoiled corpus: every constituent of `TRAINED`."""
    from featurestore.store import Store
    from pipelines.job import fill
    from pipelines.sources import read

    store = Store.open_or_create(str(tmp_path_factory.mktemp("filled") / "store"))
    store.register(read("voxceleb2", spoiled[0]))
    fill(store, TRAINED)
    return store


@pytest.fixture
def closed(monkeypatch) -> Callable[[Path], None]:
    """closed(folder): from now on it cannot be listed, as for lack of permission."""

    def close(folder: Path) -> None:
        scandir = os.scandir

        def listing(path):
            if Path(path) == folder:
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", listing)

    return close


@pytest.fixture(scope="module")
def models(untrained_models):
    """The folder of never trained checkpoints, in use; what packages carry is trained in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOXPORTRAIT_MODELS", str(untrained_models))
        yield untrained_models


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """The folder of the package of trouble, which this process and those that it starts have."""
    from featurestore.catalogue import CATALOGUE
    from pipelines import extractors

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TROUBLE))
        patch.setenv("TROUBLE_NOTES", str(tmp_path_factory.mktemp("notes")))
        patch.syspath_prepend(str(TROUBLE))
        import troublekit

        patch.setattr(extractors, "AVAILABLE", ("steady", "trouble"))
        for made_by in (troublekit.Steady, troublekit.Trouble):
            patch.setitem(CATALOGUE, made_by.name, getattr(troublekit, made_by.name.upper()))
            patch.setitem(extractors.EXTRACTORS, made_by.name, made_by)
        yield TROUBLE
