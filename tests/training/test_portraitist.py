"""Portraits by codec and latent stages: decided by their own seed and speech, leaning on whom they may."""

import shutil
from typing import Any

import numpy as np
import pytest

from featurestore.errors import UsageError, VoxportraitError
from featurestore.loader import Loader
from featurestore.memory_records import MemoryRecords
from training.latent.encoded import encoded
from training.latent.portraitist import LatentPortraitist
from training.latent.priors import EncodedPriors
from training.loop import train
from training.portraitist import load
from training.stages import settings_of

CLIPS = [f"made/id{i // 4:05d}/video{i // 2 % 2}/{i % 2:05d}" for i in range(12)]
"""Three people in two videos each, two clips a video; the last person is held out."""
STAGES = {"one-stage": ["face"], "two-stage": ["bottom", "upper"], "fine-portraitist": ["bottom", "upper"]}


@pytest.fixture(scope="module")
def records():
    random = np.random.default_rng(0)
    face = random.integers(0, 255, (12, 8, 8, 3), np.uint8).repeat(32, 1).repeat(32, 2)
    bottom = np.zeros((12, 256, 256), bool)
    bottom[:, 128:] = True
    speech = random.integers(-3000, 3000, (12, 96000)).astype(np.int16)
    return MemoryRecords(CLIPS, {"speech": speech}, pictures={"face": face, "bottom": bottom}, held_out=range(8, 12))


def train_stages(runs, records, systems=tuple(STAGES)):
    for system in systems:
        for stage in STAGES[system]:
            settings: Any = settings_of(stage, "micro")
            known = encoded(records, runs, system, stage, settings, "cpu")
            train(runs / f"{system}-{stage}", Loader(known, 4), system, stage, "micro", steps=2, device="cpu")


@pytest.fixture(scope="module")
def runs(records, tmp_path_factory):
    """All stages of the three systems, hardly trained."""
    folder = tmp_path_factory.mktemp("runs")
    codec = folder / "fine-portraitist-codec"
    train(codec, Loader(records, 4), "fine-portraitist", "codec", "micro", steps=2, device="cpu")
    train_stages(folder, records)
    return folder


@pytest.fixture(scope="module")
def priors(runs, records):
    return EncodedPriors.of(records, LatentPortraitist.load(runs, "fine-portraitist", "cpu").codec)


@pytest.fixture(scope="module")
def painter(runs, priors):
    return LatentPortraitist.load(runs, "fine-portraitist", "cpu").leaning(priors)


@pytest.fixture(scope="module")
def unseen(records):
    return {"speech": records.arrays["speech"][8:11]}


def paint(painter, inputs, seeds, *arguments, **options):
    some = {**inputs, **painter.lean([f"recording/{seed}/file/1" for seed in seeds], inputs).inputs}
    return painter.paint(some, seeds, *arguments, **{"steps": 2, "batch_size": 4, **options})


@pytest.mark.parametrize(
    ("system", "beside"), [("one-stage", ()), ("two-stage", ("bottom",)), ("fine-portraitist", ("bottom", "prior"))]
)
def test_each_system_makes_its_pictures_at_the_codecs_side(runs, priors, unseen, system, beside):
    painter = LatentPortraitist.load(runs, system, "cpu").leaning(priors)
    assert (painter.system, painter.beside, painter.variant) == (system, beside, "")
    made = paint(painter, unseen, [1, 2, 3])
    assert set(made) == {"picture", *beside}
    assert all((one.shape, one.dtype) == ((3, 64, 64, 3), np.uint8) for one in made.values())
    assert [about["stage"] for about in painter.about] == ["codec", *STAGES[system]]
    assert len({*painter.weights}) == 1 + len(STAGES[system])
    assert painter.plan(None, None) == [("ddim", 10)] * len(STAGES[system])
    assert painter.plan("dpm-solver++", 3) == [("dpm-solver++", 3)] * len(STAGES[system])
    with pytest.raises(UsageError, match="unknown sampler 'euler'"):
        painter.plan("euler", None)


@pytest.mark.parametrize("cond_scale", [0.0, 1.0, 3.0])
def test_a_portrait_is_decided_by_its_seed_and_speech_and_not_by_its_batch(painter, unseen, cond_scale):
    together = paint(painter, unseen, [1, 2, 3], cond_scale)
    turned = paint(painter, {"speech": unseen["speech"][::-1]}, [3, 2, 1], cond_scale, batch_size=3)
    for i in range(3):
        alone = paint(painter, {"speech": unseen["speech"][i : i + 1]}, [i + 1], cond_scale)
        for name, pictures in together.items():
            np.testing.assert_array_equal(alone[name][0], pictures[i])
            np.testing.assert_array_equal(turned[name][2 - i], pictures[i])
    other = paint(painter, unseen, [1, 2, 4], cond_scale)
    assert (other["picture"][2] != together["picture"][2]).any()
    np.testing.assert_array_equal(other["picture"][:2], together["picture"][:2])


def test_scale_0_does_not_hear_the_speech(runs, unseen):
    painter, turned = load(runs, "two-stage", "cpu"), {"speech": unseen["speech"][::-1]}
    for scale, same in ((0.0, True), (3.0, False)):
        one, other = (paint(painter, inputs, [1, 2, 3], scale)["picture"] for inputs in (unseen, turned))
        assert (one == other).all() == same


def test_the_prior_is_of_nobody_who_is_excluded(painter, records):
    speech = {"speech": records.arrays["speech"][:8]}
    for exclusion, alike in (("clip", 4), ("video", 3), ("identity", 2)):
        told = painter.leaning(painter.priors, exclusion).lean(CLIPS[:8], speech).about
        for clip_id, about in zip(CLIPS, told, strict=False):
            prior = about["retrieval"]["clip_id"]
            assert prior in CLIPS[:8]
            assert prior.split("/")[:alike] != clip_id.split("/")[:alike]
            assert about["retrieval"]["exclusion"] == exclusion
            assert -1 <= about["retrieval"]["similarity"] < 1
    assert painter.leaning(painter.priors, "video").variant == "exclusion-video"
    with pytest.raises(UsageError, match="unknown exclusion 'speaker'"):
        painter.leaning(painter.priors, "speaker")


def test_the_prior_is_the_training_clip_whose_speech_is_nearest(painter, records):
    heard = painter.lean(["recording/1/file/1"], {"speech": records.arrays["speech"][5:6]})
    assert heard.about[0]["retrieval"] == {"exclusion": "identity", "clip_id": CLIPS[5], "similarity": 1.0}
    face, bottom = (painter.priors.file.arrays[f"{name}_latent"][5] for name in ("face", "bottom"))
    np.testing.assert_array_equal(heard.inputs["prior_face"][0], face.astype(np.float32))
    np.testing.assert_array_equal(heard.inputs["prior_bottom"][0], bottom.astype(np.float32))


def test_nobody_is_leaned_on_who_may_not_be(runs, records, painter, unseen):
    of_one = [clip_id for clip_id in CLIPS[:8] if "id00001" in clip_id]
    few = painter.leaning(EncodedPriors.of(records, painter.codec, of_one))
    assert all(about["retrieval"]["clip_id"] in of_one for about in few.lean(["a/b/c/d"] * 3, unseen).about)
    with pytest.raises(
        VoxportraitError, match=f"nobody is left for {of_one[0]} to lean on with the exclusion identity"
    ):
        few.lean(of_one[:1], {"speech": records.arrays["speech"][4:5]})
    with pytest.raises(VoxportraitError, match="there is nobody to lean on"):
        EncodedPriors.of(records, painter.codec, CLIPS[8:])


def test_the_null_prior_is_drawn_on_only_where_it_is_asked_for(runs, painter, unseen):
    loaded = LatentPortraitist.load(runs, "fine-portraitist", "cpu")
    with pytest.raises(VoxportraitError, match="--no-prior"):
        loaded.lean(["a/b/c/d"] * 3, unseen)
    null = loaded.leaning(None)
    assert (null.beside, null.variant, null.lender) == (("bottom",), "no-prior", None)
    assert list(null.lean(["a/b/c/d"] * 3, unseen).about) == [{"retrieval": None}] * 3
    without, leaning = (paint(one, unseen, [1, 2, 3])["picture"] for one in (null, painter))
    assert (without != leaning).any()


def test_stages_of_another_codec_are_refused(runs, records, tmp_path):
    other = shutil.copytree(runs, tmp_path / "runs")
    codec = other / "fine-portraitist-codec"
    train(codec, Loader(records, 4), "fine-portraitist", "codec", "micro", steps=3, device="cpu")
    with pytest.raises(VoxportraitError, match=r"one-stage-face was trained with the codec \w{8}, and .* holds \w{8}"):
        load(other, "one-stage", "cpu")


def test_each_folder_must_hold_its_stage(runs, tmp_path):
    other = shutil.copytree(runs, tmp_path / "runs")
    shutil.rmtree(other / "two-stage-bottom")
    with pytest.raises(UsageError, match="two-stage-bottom holds no checkpoint"):
        load(other, "two-stage", "cpu")
    shutil.copytree(runs / "two-stage-upper", other / "two-stage-bottom")
    with pytest.raises(UsageError, match="two-stage-bottom holds two-stage-upper, not two-stage-bottom"):
        load(other, "two-stage", "cpu")
