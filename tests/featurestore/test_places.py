import os
from pathlib import Path

import pytest

from featurestore.errors import UsageError, VoxportraitError
from featurestore.places import Place
from featurestore.store import Store
from tests.featurestore.conftest import clip, fill, want


@pytest.mark.parametrize("name", ["a store", "folder?x=1", "hash#tag", "50%20", "ünïcode", "deeper/than/that"])
def test_a_path_is_taken_as_it_is_written(tmp_path, name):
    store = Store.open_or_create(str(tmp_path / name))
    store.register([clip(0)])
    fill(store, [want("gender")])
    assert (tmp_path / name / "clips.lance").is_dir()
    assert Store.open(str(tmp_path / name)).coverage()["constituents"]["gender"]["filled"] == 1
    assert "clips.lance" in {Path(info.path).parts[0] for info in store.place.list("", recursive=True)}


def test_a_relative_path_stays_the_same_place_when_the_folder_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store.open_or_create("here")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.register([clip(0)])
    assert store.place.shown == str(tmp_path / "here")
    assert store.coverage()["clips"] == 1


def test_a_file_uri_is_the_folder_that_it_names(tmp_path):
    made = Store.open_or_create(f"file://{tmp_path}/a%20store/")
    assert made.place.address == str(tmp_path / "a store")
    assert Store.open(f"{tmp_path}/a store").exists()


def test_options_are_for_object_stores_and_a_misspelt_one_is_named(tmp_path):
    place = Place("s3://voices/some/store/?endpoint=http://127.0.0.1:1&secret_access_key=hush")
    assert (place.root, place.options["endpoint"]) == ("s3://voices/some/store", "http://127.0.0.1:1")
    assert (place.storage_options or {})["aws_secret_access_key"] == "hush"
    assert "hush" not in f"{place} {place!r} {place.shown}"
    assert Place("s3://voices/store?secret_access_key=ab+cd/ef%2B%20").options == {"secret_access_key": "ab+cd/ef+ "}
    with pytest.raises(UsageError, match="endpoint"):
        Place("s3://voices/store?endpiont=http://127.0.0.1:1")
    with pytest.raises(UsageError, match="s3://"):
        Place("gs://voices/store?endpoint=http://127.0.0.1:1")


def test_a_file_has_its_name_when_it_is_whole(tmp_path):
    place = Place(str(tmp_path))
    place.write_file("folder/name", b"first")
    place.write_file("folder/name", b"second")
    assert (tmp_path / "folder" / "name").read_bytes() == b"second"
    assert [info.path for info in place.list("folder")] == ["folder/name"]
    assert place.list("no such folder") == []


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = {}

    def noting(descriptor: int, sync=os.fsync) -> None:
        sync(descriptor)
        state = os.fstat(descriptor)
        synced[state.st_ino] = (state.st_size, (tmp_path / "folder" / "name").exists())

    monkeypatch.setattr(os, "fsync", noting)
    Place(str(tmp_path)).write_file("folder/name", b"whole")
    assert synced[(tmp_path / "folder" / "name").stat().st_ino] == (5, False)


def test_what_is_no_store_is_told_from_what_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="there is no store at"):
        Store.open(str(tmp_path / "nothing"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file is a file"):
        Store.open_or_create(str(tmp_path / "file" / "deeper"))
    store = Store.open_or_create(str(tmp_path / "store"))
    for manifest in (tmp_path / "store" / "clips.lance" / "_versions").iterdir():
        manifest.write_bytes(b"rotten")
    for attempt in (Store.open, Store.open_or_create):
        with pytest.raises(VoxportraitError, match="cannot be read"):
            attempt(store.uri)
