"""Every constituent of the catalogue, by its own library from official files, for three clips in one job."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from featurestore.catalogue import ATTRIBUTES, CATALOGUE, Constituent
from featurestore.conditioning import PORTRAITISTS, SYSTEMS
from featurestore.schema import decode, value_fields
from featurestore.store import Store
from pipelines.extractors import AVAILABLE
from pipelines.sources import read
from tests.conftest import CLIPS, SPEAKERS, TRAINED

THREE = 3
TRAINED_HERE = set(TRAINED) - set(ATTRIBUTES) - {"age"}
"""DeepFace makes the attributes here, with weights that were never trained."""


def voxportrait(models, *arguments: object) -> str:
    environment = os.environ | {"VOXPORTRAIT_MODELS": str(models), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "voxportrait", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def job(corpus, untrained_models, tmp_path_factory) -> tuple[Store, dict]:
    """The store of a clip each of three speakers, and what the one job that filled it said."""
    store = Store.open_or_create(str(tmp_path_factory.mktemp("every") / "store"))
    clips = list(read("voxceleb2", corpus))[:: CLIPS // SPEAKERS][:THREE]
    store.register(clips)
    choices = ("--constituents", "all", "--attributes", "deepface", "--detector", "fastmtcnn", "--workers", "1")
    said = voxportrait(untrained_models, "fill", "--store", store.uri, *choices, "--json")
    return store, json.loads(said.splitlines()[-1])


def test_one_job_fills_every_constituent_of_the_catalogue(job):
    _, said = job
    assert said["filled"] == dict.fromkeys(AVAILABLE, THREE)
    assert set(said["filled"]) == set(CATALOGUE)
    assert (said["clips"], said["quarantined"], said["left_out"]) == (THREE, {}, {})


def test_what_untrained_weights_made_is_said_everywhere(job, untrained_models):
    store, said = job
    coverage = json.loads(voxportrait(untrained_models, "store", "coverage", "--store", store.uri, "--json"))
    assert set(coverage["constituents"]["ecapa"]) == {"filled", "missing", "quarantined", "untrained"}
    assert coverage["systems"] == dict.fromkeys([*SYSTEMS, *PORTRAITISTS], THREE)
    untrained = {key for key, counts in coverage["constituents"].items() if counts["untrained"]}
    assert untrained == set(said["untrained"]) == set(CATALOGUE) - TRAINED_HERE
    assert all(counts["untrained"] in (0, THREE) for counts in coverage["constituents"].values())
    makers = store.table("makers").to_table().to_pylist()
    assert {row["constituent"] for row in makers if not row["trained"]} == untrained
    described = store.batches(SYSTEMS["full-input"].layout(), batch_size=2).describe()
    assert set(described["untrained"]) == untrained & set(described["makers"])


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE)
def test_values_have_their_shape_and_are_whole(job, entry: Constituent):
    table = job[0].table("clips").to_table(columns=[field.name for field in value_fields(entry)])
    if entry.kind in ("vector", "block"):
        values = decode(table[entry.key], entry.shape, entry.dtype)
        assert values.shape == (THREE, *entry.shape)
        assert np.isfinite(values.astype(np.float32)).all()
        for one in values:
            last = one[-1].astype(np.float32) if one.ndim > 1 and len(one) > 3 else one.astype(np.float32)
            assert np.ptp(last) > 0, "the last row is padding"
        assert len(np.unique(values.reshape(THREE, -1), axis=0)) == THREE
    elif entry.kind == "picture":
        for encoded in table[entry.key].to_pylist():
            with Image.open(io.BytesIO(encoded)) as picture:
                assert (picture.format, picture.size, picture.mode) == ("JPEG", (256, 256), "RGB")
    elif entry.kind in ("label", "number"):
        probabilities = table[f"{entry.key}_probability"].to_numpy()
        assert ((probabilities > 0) & (probabilities <= 1)).all()
        for value in table[entry.key].to_pylist():
            assert value in ATTRIBUTES[entry.key] if entry.kind == "label" else 0 < value < 100
    for name, _ in entry.extras:
        assert table[f"{entry.key}_{name}"].null_count == 0


def test_landmarks_lie_in_the_picture_and_are_a_face(job):
    values = decode(job[0].table("clips").to_table(columns=["face_parts"])["face_parts"], (468, 2), "float16")
    forehead, nose, chin, left_eye, right_eye = (values[:, i].astype(np.float32) for i in (10, 1, 152, 33, 263))
    assert ((values > -0.3) & (values < 1.3)).all()
    assert (forehead[:, 1] < nose[:, 1]).all()
    assert (nose[:, 1] < chin[:, 1]).all()
    assert (left_eye[:, 0] < right_eye[:, 0]).all()


def test_the_sliding_windows_and_the_long_ones_are_the_same_models_rows(job):
    columns = ["pyannote", "pyannote_all"]
    table = job[0].table("clips").to_table(columns=columns)
    few, every = (decode(table[key], CATALOGUE[key].shape, "float16").astype(np.float32) for key in columns)
    of_three_seconds = 94 + 46
    np.testing.assert_allclose(few[:, :5], every[:, of_three_seconds + 1 : of_three_seconds + 10 : 2], atol=1e-3)
    np.testing.assert_allclose(few[:, -15:], every[:, -15:], atol=1e-3)
