"""Both latent stages learn eight people: from clips they have not heard they draw them, by speech or by the prior."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from featurestore.assembly import Assembler
from featurestore.conditioning import LAYOUTS
from featurestore.loader import Loader
from featurestore.memory_records import MemoryRecords
from training.checkpoint import open_run
from training.latent.denoising import draw_latents, load_stage
from training.latent.encoded import encoded
from training.latent.retrieval import nearest
from training.loop import train
from training.stages import settings_of

CPU = torch.device("cpu")
PEOPLE, TRAINED_ON, SIDE = 8, 4, 64
LAYOUT = replace(LAYOUTS["slf"].only("ecapa"), beside=("speech", "ecapa"))
"""Stages attend to the matrix, the codec hears what is beside it."""
THEMSELVES = np.arange(PEOPLE)
OTHERS = (THEMSELVES + 3) % PEOPLE
SEEDS = list(range(PEOPLE))
CODEC = {"fused": ("ecapa",), "contrast": 0.0}
"""Nothing is heard but real ECAPA embeddings of real synthetic voices, which need no contrast to be told apart."""
STAGE: dict[str, Any] = {"exclusion": "clip", "prior_drop": 0.5}
"""The prior is another clip of the same person, or none: so the stage must know how to draw by speech alone, too."""
STEPS = {"codec": 250, "bottom": 150, "upper": 150}


@pytest.fixture(scope="module")
def people():
    """Of eight synthetic people six embeddings each, (8, 6, 192), and one face, (8, 64, 64, 3).

    One face for all of a person's clips: where each has its own light, pose and background, the true faces of other
    clips are themselves not nearest to their own people in pixels.
    """
    with np.load(Path(__file__).with_name("people.npz")) as held:
        faces = [cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for face in held["faces"]]
        return held["ecapa"], np.stack(faces)


def clips_of(people, clips: range) -> MemoryRecords:
    """The bottom face is the lower half: a plain line is enough to see that it is drawn first."""
    ecapa, faces = people
    count = PEOPLE * len(clips)
    bottom = np.zeros((count, SIDE, SIDE), bool)
    bottom[:, SIDE // 2 :] = True
    return MemoryRecords(
        [f"made/id{person:05d}/video{clip}/00001" for person in range(PEOPLE) for clip in clips],
        {"ecapa": ecapa[:, clips].reshape(-1, 192), "speech": np.zeros((count, 96000), np.int16)},
        pictures={"face": faces.repeat(len(clips), 0), "bottom": bottom},
    )


class Painter:
    """All that was trained."""

    def __init__(self, records, runs: Path, unheard: MemoryRecords):
        self.records, self.codec = records, records.codec
        self.bottom, self.upper = (
            load_stage(open_run(runs / f"fine-portraitist-{stage}"), self.codec, CPU) for stage in ("bottom", "upper")
        )
        heard = {key: torch.from_numpy(unheard.arrays[key]) for key in ("speech", "ecapa")}
        self.matrix, (_, queries) = Assembler(LAYOUT, CPU)(heard), self.codec.hear(heard)
        held, ids = records.file.arrays, records.clip_ids(records.rows)
        found = nearest(queries.numpy(), held["query"], unheard.clip_ids(unheard.rows), ids, None)
        self.leaned_on = [ids[place] for place in found.places]
        self.priors = {
            name: torch.from_numpy(held[f"{name}_latent"][found.places]).float() for name in ("face", "bottom")
        }

    def draw(self, whose: np.ndarray = THEMSELVES, cond_scale: float = 1.0, prior: np.ndarray | None = None, **more):
        """Pictures (8, 3, 64, 64) through both stages. whose: speech; prior: whose retrieved faces, None for none."""
        matrix, told = self.matrix[whose], dict[str, dict[str, Any]](bottom={}, upper={})
        if prior is not None:
            told = {"bottom": {"prior": self.priors["bottom"][prior]}, "upper": {"prior": self.priors["face"][prior]}}
        told = {stage: {**given, **more} for stage, given in told.items()}
        bottoms = draw_latents(self.bottom, matrix, told["bottom"], SEEDS, cond_scale)
        faces = draw_latents(self.upper, matrix, {"bottom": bottoms, **told["upper"]}, SEEDS, cond_scale)
        return self.codec.decode(faces)


@pytest.fixture(scope="module")
def painter(people, tmp_path_factory):
    """Trained on four clips of each; the fifth is what it hears."""
    runs, known = tmp_path_factory.mktemp("people"), clips_of(people, range(TRAINED_ON))
    options: dict[str, Any] = {"layout": LAYOUT, "device": "cpu", "validate_every": 10**9}
    run = runs / "fine-portraitist-codec"
    train(run, Loader(known, 4), "fine-portraitist", "codec", "micro", choices=CODEC, steps=STEPS["codec"], **options)
    records: Any = known
    for stage in ("bottom", "upper"):
        settings: Any = settings_of(stage, "micro", STAGE)
        records = encoded(known, runs, "fine-portraitist", stage, settings, "cpu")
        run, loader = runs / f"fine-portraitist-{stage}", Loader(records, settings.batch_size)
        train(run, loader, "fine-portraitist", stage, "micro", choices=STAGE, steps=STEPS[stage], **options)
    return Painter(records, runs, clips_of(people, range(TRAINED_ON, TRAINED_ON + 1)))


@pytest.fixture
def found(people):
    """The person whose face is nearest in pixels to each picture."""
    faces = torch.from_numpy(people[1]).permute(0, 3, 1, 2).double() / 127.5 - 1
    return lambda pictures: (pictures.double()[:, None] - faces).square().sum((2, 3, 4)).argmin(1).numpy()


def test_clips_that_were_not_heard_draw_their_own_people_through_both_stages(painter, found):
    assert (found(painter.draw()) == THEMSELVES).sum() >= 6
    shuffled = found(painter.draw(OTHERS))
    assert (shuffled == THEMSELVES).sum() <= 3
    assert (shuffled == OTHERS).sum() >= 6


def test_a_prior_helps_where_it_tells_something_and_speech_does_not(painter, found):
    assert [one.split("/")[1] for one in painter.leaned_on] == [f"id{person:05d}" for person in range(PEOPLE)]
    by_prior = found(painter.draw(cond_scale=0.0, prior=THEMSELVES))
    by_nothing = found(painter.draw(cond_scale=0.0))
    assert (by_prior == THEMSELVES).sum() >= 6
    assert (by_nothing == THEMSELVES).sum() <= 3


def test_a_null_prior_is_no_prior_to_the_bit(painter):
    none = torch.zeros(PEOPLE, dtype=torch.bool)
    assert torch.equal(painter.draw(prior=OTHERS, has_prior=none), painter.draw())
    assert not torch.equal(painter.draw(prior=OTHERS), painter.draw())
