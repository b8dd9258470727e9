"""A small store of made-up speakers with two videos each, and a hardly trained system of each kind."""

import io

import numpy as np
import pytest
from PIL import Image

from featurestore import inprocess
from featurestore.clip import Clip
from featurestore.conditioning import SYSTEMS
from featurestore.filling import Want
from featurestore.jobs import Job
from featurestore.journal import Rejected
from featurestore.makers import Maker
from featurestore.pictures import image_guide
from featurestore.store import Store
from training.loop import train

SPEAKERS, TEST_SPEAKERS = 12, 5
KEYS = ("ecapa", "face", "face_128", "age", "gender")


def face_of(speaker: int, video: int) -> np.ndarray:
    """(128, 128, 3) uint8: stripes of the speaker's own colours, a little lighter in the second video."""
    colours = np.random.default_rng(speaker).integers(0, 200, (8, 3), dtype=np.uint8)
    return np.repeat(np.repeat(colours, 16, 0)[:, None], 128, 1) + np.uint8(20 * video)


def values(clip: Clip) -> dict[str, object]:
    """The columns of a clip."""
    speaker, video = int(clip.speaker_id[2:]), int(clip.video_id[-1])
    face, encoded = face_of(speaker, video), io.BytesIO()
    Image.fromarray(face).resize((256, 256)).save(encoded, "JPEG")
    return {
        "ecapa": np.random.default_rng(speaker).normal(0, 20, 192).astype(np.float32),
        "face": encoded.getvalue(),
        "face_box": np.zeros(4, np.float32),
        "face_probability": 1.0,
        "face_frame": 10,
        "face_128": face,
        "face_128_guide": image_guide(face),
        "age": 20.0 + speaker,
        "gender": "man" if speaker % 2 else "woman",
    }


def fill(store: Store, consent: str = "synthetic") -> None:
    """Register the clips and fill them as a job does; one clip more is quarantined."""
    clips = [
        Clip(
            f"made/id{speaker:05d}/video{video}/00001",
            "/nowhere.mp4",
            "test" if speaker >= SPEAKERS - TEST_SPEAKERS else "val" if speaker == 0 else "train",
            licence="CC0-1.0",
            consent=consent,
        )
        for speaker in range(SPEAKERS)
        for video in range(2)
    ]
    store.register(
        [*clips, Clip("made/id00001/video9/00001", "/nowhere.mp4", "train", licence="CC0-1.0", consent=consent)]
    )
    wants = [Want(key, Maker(key, f"maker of {key}", "numpy", "f00d" * 16, trained=key != "ecapa")) for key in KEYS]
    job = Job(store, "fill")

    def make(clip: Clip, wanted: frozenset[str]) -> dict | Rejected:
        if clip.video_id == "video9":
            return Rejected(clip.clip_id, "face", "detector", "no face", "none in 5 <frames>")
        return values(clip)

    inprocess.fill(store, wants, make, job.job_id)
    job.end("finished", {"clips": 25, "filled": dict.fromkeys(KEYS, 24)}, {"face": 3.0, "ecapa": 5.0, "wall": 4.0})


@pytest.fixture(scope="package")
def store(tmp_path_factory) -> Store:
    made = Store.open_or_create(str(tmp_path_factory.mktemp("made") / "store"))
    fill(made)
    return made


@pytest.fixture(scope="package")
def runs(store, tmp_path_factory):
    """Both U-Nets of one system with the guide and one without, trained for six steps."""
    folder = tmp_path_factory.mktemp("runs")
    for system in ("full-input", "only-audio"):
        for unet in ("unet1", "unet2"):
            loader = store.batches(SYSTEMS[system].layout(), batch_size=4, missing="zero")
            run = folder / f"{system}-{unet}"
            train(run, loader, system, unet, "micro", steps=6, report_every=2, validate_every=3, device="cpu")
    return folder


@pytest.fixture(scope="package")
def portraitists(runs):
    from training.sampling import Portraitist

    return {
        system: Portraitist.load(runs / f"{system}-unet1", runs / f"{system}-unet2", device="cpu")
        for system in ("full-input", "only-audio")
    }


@pytest.fixture(scope="package")
def drawn(store, portraitists, tmp_path_factory):
    """A folder with the portraits of both systems, one of them at two scales."""
    from evaluation.portraits import draw_portraits

    folder = tmp_path_factory.mktemp("portraits")
    draw_portraits(store, portraitists["full-input"], [1.0, 3.0], folder)
    draw_portraits(store, portraitists["only-audio"], [2.0], folder)
    return folder
