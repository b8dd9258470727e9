"""Every example of docs/asking.md runs."""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from featurestore import inprocess
from featurestore.clip import Clip
from featurestore.store import Store
from tests.featurestore.conftest import clip, fill, value, want
from voxportrait import app

PAGE = (Path(__file__).parent.parent / "docs" / "asking.md").read_text()
COMMANDS = re.findall(r"^    voxportrait (.+)$", PAGE, re.MULTILINE)
OTHER = want("ecapa", 1)


JPEG = cv2.imencode(".jpg", np.full((256, 256, 3), 128, np.uint8))[1].tobytes()
LANDMARKS = np.load(Path(__file__).parent / "featurestore" / "data" / "face_landmarks.npy")
FACE = ("face", "face_parts", "face_embedding_dlib")


def face(one: Clip, keys: frozenset[str]) -> dict[str, Any]:
    embedding = value("ecapa", one.clip_id)["ecapa"][:128]
    return {"face": JPEG, "face_parts": LANDMARKS, "face_embedding_dlib": embedding}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    made = Store.open_or_create(str(tmp_path_factory.mktemp("asking") / "store"))
    made.register(replace(clip(n), consent="yes") for n in range(40))
    fill(made, [want("ecapa")])
    fill(made, [OTHER])
    inprocess.fill(made, [want(key) for key in FACE], face)
    return made


def test_the_page_has_examples():
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_an_example_runs(command, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = command.replace("$CLIP", clip(3).clip_id).replace("1f2e3d4c", OTHER.maker.digest[:8])
    done = CliRunner().invoke(app, shlex.split(named), env={"VOXPORTRAIT_STORE": store.uri})
    assert done.exit_code == 0, done.output


def test_the_python_example_runs(store):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(code.replace("/data/features", store.uri), names)
    assert len(names["near"]) == 5
    assert names["hits"].rows.shape == (40, 5)
