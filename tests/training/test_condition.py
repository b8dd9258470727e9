"""The condition works: a small U-Net draws people it knows from clips it has not heard; masks and nulls reach it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featurestore.assembly import Assembler
from featurestore.conditioning import LAYOUTS
from featurestore.loader import Loader
from featurestore.memory_records import MemoryRecords
from training.cascade import CascadeStage
from training.checkpoint import open_run
from training.loop import train
from training.presets import GENERATION, stage_preset
from training.sampling import draw_stage, load_stage

CPU = torch.device("cpu")
PEOPLE, TRAINED_ON = 8, 4
"""People, and the clips of each that are trained on, of six."""
STEPS, BATCH = 250, 8


@pytest.fixture(scope="module")
def people():
    """Real ECAPA embeddings (8, 6, 192) of six clips of each synthetic voice; one face of each person (8, 32, 32, 3).

    One face for all of a person's clips: where each has its own light, pose and background, the true faces of other
    clips are themselves not nearest to their own people in pixels (4 and 6 of 8).
    """
    with np.load(Path(__file__).with_name("people.npz")) as held:
        return held["ecapa"], held["faces"]


@pytest.fixture(scope="module")
def drawn_from(people, tmp_path_factory):
    """U-Net 1 trained on four clips of each; gives pictures (8, 3072) from embeddings (8, 192) at a scale."""
    ecapa, faces = people
    clips = [f"made/id{person:05d}/video{clip}/00001" for person in range(PEOPLE) for clip in range(TRAINED_ON)]
    known = faces.repeat(TRAINED_ON, 0).repeat(4, 1).repeat(4, 2)
    records = MemoryRecords(clips, {"ecapa": ecapa[:, :TRAINED_ON].reshape(-1, 192)}, known)
    run = tmp_path_factory.mktemp("condition") / "run"
    train(
        run, Loader(records, BATCH, 0), "only-audio", "unet1", "micro", steps=STEPS, device="cpu", validate_every=10**9
    )
    checkpoint = open_run(run)
    stage = load_stage(checkpoint, GENERATION, CPU)

    @torch.inference_mode()
    def draw(embeddings: np.ndarray, scale: float) -> np.ndarray:
        assemble = Assembler(checkpoint.layout, CPU, allow_missing=True)
        matrix = assemble({"ecapa": torch.from_numpy(embeddings)}, size=PEOPLE)
        pictures = draw_stage(stage, matrix, list(range(PEOPLE)), scale, steps=8)
        return pictures.permute(0, 2, 3, 1).reshape(PEOPLE, -1).double().numpy()

    return draw


@pytest.fixture
def nearest(people):
    """The person whose face is nearest in pixels to each picture."""
    faces = (people[1].astype(float) / 127.5 - 1).reshape(PEOPLE, -1)
    return lambda pictures: np.square(pictures[:, None] - faces[None]).sum(-1).argmin(1)


def test_clips_that_were_not_trained_on_draw_their_own_people(people, drawn_from, nearest):
    voices, themselves = people[0][:, TRAINED_ON], np.arange(PEOPLE)
    assert (nearest(drawn_from(voices, 1.0)) == themselves).sum() >= 6
    assert (nearest(drawn_from(voices, 0.0)) == themselves).sum() <= 3


def test_the_picture_follows_the_voice_and_not_the_noise(people, drawn_from, nearest):
    others = (np.arange(PEOPLE) + 3) % PEOPLE
    found = nearest(drawn_from(people[0][others, TRAINED_ON], 1.0))
    assert (found == others).sum() >= 6
    assert (found == np.arange(PEOPLE)).sum() <= 2


@pytest.fixture
def stage():
    """An untrained U-Net 1 whose output layer is not zero."""
    torch.manual_seed(0)
    made = CascadeStage(1, GENERATION, replace(stage_preset("micro", 1), condition_gain=1.0), LAYOUTS["slf"], CPU)
    torch.nn.init.normal_(made.network.get_parameter("final_conv.weight"), std=0.1)
    return made


@torch.no_grad()
def predicted(stage, matrix, dropped):
    noisy = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return stage.predict(noisy, torch.zeros(1), matrix, torch.tensor([dropped]))


def test_a_row_of_zeros_is_masked_and_no_other(stage):
    matrix = torch.randn(1, 256, 768, generator=torch.Generator().manual_seed(2))
    null = stage.network.get_parameter("null_text_embed")
    whole = predicted(stage, matrix, False)
    matrix[:, 5] = 0
    masked = predicted(stage, matrix, False)
    with torch.no_grad():
        null[:, 6] += 10
    assert torch.equal(predicted(stage, matrix, False), masked)
    with torch.no_grad():
        null[:, 5] += 10
    assert not torch.allclose(predicted(stage, matrix, False), masked)
    matrix[:, 5] = 1
    assert not torch.allclose(whole, masked)


@pytest.mark.parametrize("learned", ["null_text_embed", "null_text_hidden"])
def test_where_the_condition_is_dropped_the_learned_null_is_used(stage, learned):
    one, other = (torch.randn(1, 256, 768, generator=torch.Generator().manual_seed(n)) for n in (2, 3))
    dropped = predicted(stage, one, True)
    assert torch.equal(predicted(stage, other, True), dropped)
    kept = predicted(stage, one, False)
    assert not torch.allclose(predicted(stage, other, False), kept)
    with torch.no_grad():
        stage.network.get_parameter(learned).add_(10)
    assert not torch.allclose(predicted(stage, one, True), dropped)
    assert torch.equal(predicted(stage, one, False), kept)
