"""A voice or a face from outside finds its own clips, and is not compared with what another maker made."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from featurestore import inprocess
from featurestore.errors import VoxportraitError
from featurestore.search import Space
from featurestore.store import Store
from pipelines.decoding import open_media
from pipelines.similar import vector_of
from pipelines.sources import read
from tests.featurestore.conftest import want
from voxportrait import app


def ask(store: Store, *arguments: object) -> dict:
    said = CliRunner().invoke(app, ["store", "similar", *map(str, arguments), "--store", store.uri, "--json"])
    assert said.exit_code == 0, said.output
    return json.loads(said.stdout.splitlines()[-1])


def test_a_film_from_outside_finds_itself_by_voice_and_by_face(filled, corpus):
    (film, *_) = sorted(corpus.glob("test/mp4/*/*/*.mp4"))  # of test films, as of those from outside, the same frame
    own = f"voxceleb2/{film.parent.parent.name}/{film.parent.name}/{film.stem}"
    voice = ask(filled, film, "-k", 3)
    assert (voice["by"], voice["metric"], voice["maker"]["trained"]) == ("ecapa", "cosine", True)
    assert voice["clips"][0]["clip_id"] == own
    assert voice["clips"][0]["similarity"] == pytest.approx(1, abs=1e-3)
    face = ask(filled, film, "--by", "face_embedding_dlib", "-k", 3)
    assert face["clips"][0]["clip_id"] == own
    assert face["clips"][0]["distance"] == pytest.approx(0, abs=1e-2)


def test_a_picture_from_outside_finds_its_person(filled, corpus, tmp_path):
    clip = next(read("voxceleb2", corpus))
    Image.fromarray(open_media(clip.path).frame(5)).save(tmp_path / "face.png")
    found = ask(filled, tmp_path / "face.png", "--by", "face_embedding_dlib", "-k", 1)["clips"]
    assert found[0]["speaker_id"] == clip.speaker_id


def test_a_clip_is_asked_by_its_id_with_conditions(filled, corpus):
    clip = next(read("voxceleb2", corpus))
    found = ask(filled, clip.clip_id, "--where", "split = 'test'", "--other-speakers", "-k", 4)["clips"]
    assert len(found) == 4
    assert {one["split"] for one in found} == {"test"}
    assert clip.speaker_id not in {one["speaker_id"] for one in found}


def test_a_file_that_gives_none_says_why(filled, spoiled):
    place = spoiled[1].without_sound.split("/")
    film = spoiled[0] / "dev" / "mp4" / place[1] / place[2] / f"{place[3]}.mp4"
    with pytest.raises(VoxportraitError, match="no sound"):
        vector_of(filled, Space.of(filled, "ecapa"), str(film))


def test_a_file_is_not_compared_with_what_another_maker_made(tmp_path, talking_head):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register([talking_head])
    inprocess.fill(store, [want("ecapa")], lambda clip, keys: {"ecapa": np.ones(192, np.float32)})
    with pytest.raises(VoxportraitError, match=re.escape("would not be comparable")):
        vector_of(store, Space.of(store, "ecapa"), talking_head.path)
