"""The store in an object store, against a server that the test starts: everything as on a disk."""

import json
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import soundfile

from featurestore import compaction, erasure, filling, inprocess, journal
from featurestore.errors import VoxportraitError
from featurestore.leases import Lease, LeaseHeld
from featurestore.places import Place
from featurestore.queries import digest
from featurestore.store import Store
from tests.featurestore.conftest import clip, fill, value, want
from tests.s3 import SECRET, Server, serving

WANTS = [want("ecapa"), want("gender")]
REJECTED = {clip(7).clip_id: "truncated"}


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


def made(address: str, clips: int = 300) -> Store:
    store = Store.open_or_create(address)
    store.register(clip(n) for n in range(clips))
    return store


def test_the_server_honours_conditional_writes(server):
    only_if_absent = {"If-None-Match": "*"}
    assert [server.put("once", b"mine", only_if_absent) for _ in range(2)] == [200, 412]


def test_a_job_killed_half_way_goes_on_from_its_journal(server, tmp_path):
    store, undisturbed = made(server.address("killed")), made(str(tmp_path / "undisturbed"))
    whole = fill(undisturbed, WANTS, REJECTED)
    assert fill(store, WANTS, REJECTED, only=5) == 5
    assert journal.pending(store.place) == 5
    assert fill(Store.open(server.address("killed")), WANTS, REJECTED) == whole - 5
    assert journal.pending(store.place) == 0
    assert digest(store) == digest(undisturbed)
    assert filling.plan(store, WANTS).fragments == []


def test_a_fill_in_this_process_and_its_figures(server):
    store = made(server.address("figures"), 40)
    ecapa = {"ecapa": np.ones(192, np.float32)}
    assert inprocess.fill(store, [want("ecapa")], lambda clip, wanted: ecapa) == {"ecapa": 40}
    assert store.coverage()["constituents"]["ecapa"]["filled"] == 40
    assert store.info()["bytes"] > 40 * 384
    assert store.sql("select count(ecapa_maker) n from clips").n.item() == 40


def test_of_two_processes_one_holds_the_lease_and_who_is_killed_frees_it(server):
    store = made(server.address("leased"), 1)
    code = f"""
import sys
from featurestore.leases import Lease
from featurestore.places import Place
Lease(Place({store.uri!r}), ["fragment:0", "fragment:1"], "filling").acquire()
print("held", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        with Lease(store.place, ["fragment:2"], "filling too") as lease:
            lease.check()
        with pytest.raises(LeaseHeld, match="filling"):
            Lease(store.place, ["fragment:1"], "filling too").acquire()
        other.kill()
    with Lease(store.place, ["fragment:1"], "filling too") as lease:
        lease.check()


def test_compaction_keeps_the_content_and_its_ids(server):
    store = Store.open_or_create(server.address("scattered"))
    for first in range(0, 60, 10):
        store.register(clip(n) for n in range(first, first + 10))
    fill(store, WANTS, REJECTED)
    content = digest(store)
    done = compaction.compact(store)
    assert (done.fragments_before, done.fragments_after) == (6, 1)
    assert done.bytes_freed > 0
    assert digest(store) == content
    assert filling.plan(store, WANTS).fragments == []


def test_a_forgotten_clip_leaves_no_byte_and_is_refused(server):
    store = made(server.address("forgotten"), 60)
    fill(store, WANTS)
    gone = clip(13)
    bits = value("ecapa", gone.clip_id)["ecapa"].astype(np.float16).tobytes()

    def is_anywhere() -> bool:
        files = store.place.list("", recursive=True)
        return any(bits in store.place.files.open_input_file(file.path).read() for file in files)

    assert is_anywhere()
    done = erasure.forget(store, clips=[gone.clip_id], asked_by="a test")
    assert done.clips == 1
    assert not is_anywhere()
    assert store.register([gone]).new == 0
    assert store.coverage()["clips"] == 59


def test_the_command_fills_a_store_in_an_object_store_with_ray_and_prints_no_secret(server, tmp_path):
    for number in range(4):
        folder = tmp_path / "corpus" / f"somebody {number}"
        folder.mkdir(parents=True)
        sound = np.random.default_rng(number).normal(scale=0.1, size=8 * 16_000)
        soundfile.write(folder / "one.wav", sound, 16_000)
        PIL.Image.new("RGB", (64, 64)).save(folder / "one.jpg")
    address = server.address("by command")
    command = [sys.executable, "-m", "voxportrait", "extract", "folder", str(tmp_path / "corpus"), "--json"]
    named = ["--constituents", "media,mel,speech", "--workers", "1", "--journal-every", "0"]
    run = subprocess.run(
        [*command, *named, "--store", address], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["filled"] == {"media": 4, "mel": 4, "speech": 4}
    info = [sys.executable, "-m", "voxportrait", "store", "info", "--store", address]
    said = subprocess.run(info, capture_output=True, text=True, check=True)
    assert SECRET not in run.stdout + run.stderr + said.stdout + said.stderr
    store = Store.open(address)
    assert journal.pending(store.place) == 0
    assert not any(SECRET in str(row) for row in store.table("jobs").to_table().to_pylist())


def test_the_environment_says_where_as_well(server, monkeypatch):
    for name, setting in server.environment.items():
        monkeypatch.setenv(name, setting)
    store = made("s3://voices/by environment", 10)
    fill(store, [want("gender")])
    assert Store.open(server.address("by environment")).coverage()["constituents"]["gender"]["filled"] == 10
    assert Place("s3://voices/by environment").list("clips.lance/data")


def test_errors_name_the_place_and_no_secret(server):
    nobody_answers = Server(9).address("store")
    for address in (server.address("nothing"), nobody_answers):
        with pytest.raises(VoxportraitError) as error:
            Store.open(address)
        assert "s3://voices/" in str(error.value)
        assert SECRET not in str(error.value)
    with pytest.raises(VoxportraitError, match="cannot be read"):
        Store.open_or_create(nobody_answers)
