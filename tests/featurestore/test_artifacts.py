"""What was made of people outside the store: noted by row ids, removed or listed when they are forgotten."""

import json
import shutil
import warnings

import numpy as np
import pytest
from typer.testing import CliRunner

from featurestore import artifacts, erasure
from featurestore.conditioning import LAYOUTS, SYSTEMS
from featurestore.errors import UsageError
from featurestore.loader import Loader
from featurestore.memory_records import MemoryRecords
from featurestore.store import Store
from tests.featurestore.conftest import clip, fill, want
from training.data import note_run
from voxportrait import app

SPEAKER, THEIRS, OTHERS = "made/id00003", clip(6).clip_id, clip(8).clip_id


@pytest.fixture
def small(tmp_path) -> Store:
    made = Store.open_or_create(str(tmp_path / "store"))
    made.register(clip(n) for n in range(20))
    return made


def test_pictures_go_and_checkpoints_are_listed(small, tmp_path):
    theirs, others = (artifacts.row_ids_of(small, [one]) for one in (THEIRS, OTHERS))
    pictures = [tmp_path / name for name in ("id00003.png", "both.png", "id00004.png")]
    for picture in pictures:
        picture.write_bytes(b"PNG")
    missing = tmp_path / "other-machine" / "id00003.png"
    both = np.concatenate([theirs, others])
    artifacts.register(small, "picture", {pictures[0]: theirs, pictures[1]: both, pictures[2]: others, missing: theirs})
    artifacts.register(small, "checkpoint", {tmp_path / "run": both, tmp_path / "unconcerned": others})

    done = erasure.forget(small, [SPEAKER])

    assert [picture.exists() for picture in pictures] == [False, False, True]
    assert done.settled.removed == 2
    assert [line.split(": ")[1] for line in done.settled.elsewhere] == [str(missing)]
    assert done.settled.checkpoints == {str(tmp_path / "run"): 1}
    left = small.table("artifacts").to_table().to_pylist()
    assert {row["path"] for row in left} == {str(p) for p in (pictures[2], tmp_path / "run", tmp_path / "unconcerned")}
    names = [file.path for file in small.place.list("", recursive=True) if file.path.startswith("artifacts")]
    assert not [path for path in names if b"id00003" in small.place.files.open_input_stream(path).read()]


def test_a_path_made_again_is_entered_once_with_its_new_clips(small, tmp_path):
    for one in (THEIRS, OTHERS):
        artifacts.register(small, "picture", {tmp_path / "a.png": artifacts.row_ids_of(small, [one])})
    rows = small.table("artifacts").to_table().to_pylist()
    assert [row["row_ids"] for row in rows] == [artifacts.row_ids_of(small, [OTHERS]).tolist()]


def test_a_run_is_noted_with_the_clips_it_trains_on(store, tmp_path):
    fill(store, [want("ecapa"), want("face_128")])
    loader = store.batches(SYSTEMS["full-input"].layout(LAYOUTS["slf"]), batch_size=8, missing="zero")
    note_run(tmp_path / "run", loader)
    row = store.table("artifacts").to_table().to_pylist()[0]
    assert (row["kind"], row["path"]) == ("checkpoint", str(tmp_path / "run"))
    train = [clip(n).clip_id for n in range(300) if clip(n).split == "train"]
    assert sorted(row["row_ids"]) == sorted(artifacts.row_ids_of(store, train).tolist())


def test_a_loader_without_a_store_notes_nothing(tmp_path):
    target = np.zeros((2, 128, 128, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        note_run(tmp_path / "run", Loader(MemoryRecords(["a/b/c/d", "a/b/c/e"], {}, target), 1))
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_gone_is_a_warning(small, tmp_path):
    row_ids = artifacts.row_ids_of(small)
    shutil.rmtree(small.uri)
    with pytest.warns(UserWarning, match="forgetting will not know of 1 checkpoints"):
        artifacts.note(small, "checkpoint", {tmp_path / "run": row_ids})


def voxportrait(*arguments: str):
    return CliRunner().invoke(app, ["store", *arguments])


def test_the_command_shows_what_will_go_and_prints_the_proof(small, tmp_path):
    artifacts.register(small, "checkpoint", {tmp_path / "run": artifacts.row_ids_of(small)})
    planned = voxportrait("forget", "--speaker", "id00003", "--dry-run", "--store", small.uri, "--json")
    assert json.loads(planned.stdout)["planned"] == {
        "speakers": [SPEAKER],
        "clips": 2,
        "fragments": 1,
        "quarantined": 0,
        "pictures": 0,
        "exports": 0,
        "checkpoints": 1,
    }
    assert len(small.table("clips")) == 20
    done = voxportrait("forget", "--speaker", "id00003", "--yes", "--store", small.uri, "--json")
    answer = json.loads(done.stdout.splitlines()[-1])[0]
    assert (answer["clips"], answer["proof"]["found_after"], answer["checkpoints"]) == (
        2,
        0,
        {str(tmp_path / "run"): 2},
    )
    listed = json.loads(voxportrait("erasures", "--store", small.uri, "--json").stdout)
    assert [row["state"] for row in listed["erasures"]] == ["done"]
    assert "id00003" not in json.dumps(listed)
    assert "train it again" in voxportrait("erasures", "--store", small.uri).output


def test_the_command_refuses_to_guess(small):
    for arguments in (["--speaker", "id99999"], [], ["--resume", "--speaker", "id00003"]):
        result = voxportrait("forget", *arguments, "--store", small.uri)
        assert isinstance(result.exception, UsageError), arguments
    assert voxportrait("forget", "--resume", "--store", small.uri, "--json").stdout.strip() == "[]"
