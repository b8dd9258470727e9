"""A person leaves no byte: every file of the store is read here in the plainest way, before and after."""

import io
import json
import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurestore import artifacts, erasure, filling, inprocess, journal
from featurestore.clip import Clip
from featurestore.errors import UsageError, VoxportraitError
from featurestore.forgotten import FOLDER, KEY
from featurestore.leases import Lease, LeaseHeld
from featurestore.queries import digest
from featurestore.store import Store
from tests.featurestore.conftest import want

SPEAKER = "made/id00003"
KEYS = ("ecapa", "face", "speech", "media", "gender")
STEPS = len(erasure._STEPS)


def clip(speaker: int, video: int, dataset: str = "made") -> Clip:
    return Clip(f"{dataset}/id{speaker:05d}/video{video}/00001", f"/nowhere/{dataset}/{speaker}/{video}.mp4", "train")


def values(one: Clip, wanted: frozenset[str] = frozenset(KEYS)) -> dict[str, object]:
    seed = [int(c) for c in one.clip_id.encode()]
    draw = np.random.default_rng(seed)
    picture, encoded = draw.integers(0, 255, (64, 64, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(picture).save(encoded, "JPEG", quality=95)
    every: dict[str, object] = {
        "ecapa": draw.normal(size=192).astype(np.float32),
        "titanet": draw.normal(size=192).astype(np.float32),
        "speech": draw.integers(-9000, 9000, 96000).astype(np.int16),
        "face": encoded.getvalue(),
        "face_box": np.array([0, 0, 1, 1], np.float32),
        "face_probability": 1.0,
        "face_frame": 3,
        "media_sha256": draw.bytes(32).hex(),
        "media_duration": 1.0,
        "media_fps": 25.0,
        "media_width": 64,
        "media_height": 64,
        "gender": "woman",
        "gender_probability": 1.0,
    }
    return {name: value for name, value in every.items() if name.split("_")[0] in wanted}


def candidate(one: Clip, wanted: frozenset[str]) -> dict[str, object]:
    return {"ecapa": -values(one)["ecapa"]}  # type: ignore[operator]


def rejected(one: Clip) -> dict[str, object]:
    return journal.Rejected(one.clip_id, "titanet", "maker", "no sound", "made up").row("job")


def traces(one: Clip) -> dict[str, bytes]:
    """The bytes of a clip that are in the store of `whole`."""
    made = values(one, frozenset({*KEYS, "titanet"}))
    ecapa = np.asarray(made["ecapa"])
    return {
        "vector": ecapa.astype(np.float16).tobytes(),
        "candidate": (-ecapa).astype(np.float16).tobytes(),
        "orphan and journal": np.asarray(made["titanet"]).astype(np.float16).tobytes(),
        "sound": np.asarray(made["speech"]).tobytes(),
        "picture": made["face"],  # type: ignore[dict-item]
        "name": one.clip_id.encode(),
        "file": one.path.encode(),
    }


def files_with(store: Store, wanted: bytes) -> list[str]:
    """The files under a store that hold these bytes."""
    return [str(p) for p in Path(store.uri).rglob("*") if p.is_file() and wanted in p.read_bytes()]


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Store:
    """24 speakers with two clips in two fragments, one also in another dataset, and all that may hold bytes of them:
    an index that keeps vectors as they are, a candidate, a tag, a snapshot, a journal and an orphan column file."""
    store = Store.open_or_create(str(tmp_path_factory.mktemp("template") / "store"))
    for first in (0, 12):
        store.register(clip(speaker, video) for speaker in range(first, first + 12) for video in range(2))
    store.register([clip(3, 0, "other")])
    inprocess.fill(store, [want(key) for key in KEYS], values)
    inprocess.fill(store, [want("ecapa", 1)], candidate)
    store.table("clips").tags.create("training", store.table("clips").version)
    store.table("clips").create_index("ecapa", "IVF_FLAT", metric="l2", num_partitions=2)
    store.table("clips").create_scalar_index("speaker_id", "BITMAP")
    table = store.table("clips").to_table(columns=["clip_id"], with_row_id=True)
    row_ids = table["_rowid"].to_pylist()
    store.insert(
        "snapshots",
        [
            {
                "name": "all",
                "created": datetime.now(UTC),
                "who": "test",
                "clips": len(row_ids),
                "digest": "",
                "erasure_epoch": 0,
                "row_ids": row_ids,
                "makers": [],
            }
        ],
    )
    titanet = want("titanet")
    makers = store.enter_makers([titanet.maker])
    store.ensure_columns({"titanet": "titanet"})
    for fragment in (0, 1):
        for chunk in filling.plan(store, [titanet]).chunks(fragment):
            clips, ids = filling.read_clips(store, chunk)
            made = [values(one, frozenset({"titanet"})) for one in clips]
            chunk_table, _ = journal.chunk_table(ids, ["titanet"], made, {"titanet": makers[titanet.maker.digest]}, [])
            journal.write(store.place, chunk.name, chunk_table)
            filling.seal(store, fragment, {"titanet": "titanet"}, [chunk_table])
    store.insert("quarantine", [rejected(clip(n, 0)) for n in (3, 4)])
    store.place.write_file("_journal/.at-half-written", b'["ecapa"]')
    return store


@pytest.fixture
def store(template, tmp_path) -> Store:
    shutil.copytree(template.uri, tmp_path / "store")
    return Store.open(str(tmp_path / "store"))


def test_every_byte_of_a_speaker_is_there_before_and_nowhere_after(store):
    theirs = [traces(clip(3, video)) for video in range(2)]
    for name in theirs[0]:
        assert all(files_with(store, one[name]) for one in theirs), name
    assert any("_indices" in path for path in files_with(store, theirs[0]["vector"]))
    assert any("_journal" in path for path in files_with(store, theirs[0]["orphan and journal"]))
    assert any("/data/" in path for path in files_with(store, theirs[0]["orphan and journal"]))

    done = erasure.forget(store, [SPEAKER], asked_by="the person", reason="consent withdrawn")

    for one in theirs:
        for name, wanted in one.items():
            assert files_with(store, wanted) == [], name
    assert files_with(store, SPEAKER.encode()) == []
    assert (done.clips, done.epoch, done.proof["found_after"]) == (2, erasure.epoch(store), 0)
    assert done.proof["found_before"] == done.proof["pieces"] > 2 * len(theirs[0])
    assert done.proof["bytes"] > 1e6
    row = store.table("erasures").to_table().to_pylist()[0]
    assert (row["state"], row["asked_by"], row["reason"]) == ("done", "the person", "consent withdrawn")
    assert json.loads(row["proof"]) == done.proof
    assert [p.name for p in (Path(store.uri) / FOLDER).iterdir()] == ["key"]


def test_the_others_keep_their_values_their_row_ids_and_their_journal(store, template):
    rest = f"clip_id NOT LIKE '{SPEAKER}/%'"
    columns = store.table("clips").schema.names
    before = store.table("clips").to_table(columns=columns, filter=rest, with_row_id=True).sort_by("clip_id")
    other = traces(clip(4, 0))
    erasure.forget(store, [SPEAKER])
    after = store.table("clips").to_table(columns=columns, with_row_id=True).sort_by("clip_id")
    assert after.equals(before)
    assert store.table("quarantine").to_table()["clip_id"].to_pylist() == [clip(4, 0).clip_id]
    for name, wanted in other.items():
        assert files_with(store, wanted), name
    for key in ("titanet", "gender"):
        inprocess.fill(store, [want(key)], lambda one, wanted: values(one, wanted))
    assert store.coverage()["constituents"]["titanet"]["filled"] == len(before)
    assert journal.pending(store.place) == 0


def test_an_index_is_built_anew_from_those_who_are_left_or_dropped(store):
    said: list[str] = []
    erasure.forget(store, [SPEAKER], told=said.append)
    indices = {index.name: index.num_rows_indexed for index in store.table("clips").describe_indices()}
    assert indices == {"ecapa_idx": len(store.table("clips"))}
    assert any("speaker_id_idx" in line for line in said)
    wanted = np.asarray(values(clip(4, 0))["ecapa"]).astype(np.float16)
    nearest = store.table("clips").to_table(
        columns=["clip_id"], nearest={"column": "ecapa", "q": wanted, "k": 1, "nprobes": 8}
    )
    assert nearest["clip_id"].to_pylist() == [clip(4, 0).clip_id]


def test_registration_refuses_a_forgotten_speaker_for_ever_and_a_forgotten_clip(store):
    erasure.forget(store, [SPEAKER], [clip(5, 0).clip_id])
    again = store.register([clip(3, 0), clip(3, 7), clip(5, 0), clip(5, 1), clip(5, 2), clip(3, 0, "other")])
    assert (again.new, again.known, again.refused) == (1, 2, 3)
    ids = store.table("clips").to_table(columns=["clip_id"])["clip_id"].to_pylist()
    assert clip(5, 2).clip_id in ids
    assert not [one for one in ids if one.startswith(SPEAKER)]


def test_a_clip_is_forgotten_alone(store):
    gone, kept = clip(7, 0), clip(7, 1)
    erasure.forget(store, clips=[gone.clip_id])
    assert not any(files_with(store, wanted) for wanted in traces(gone).values())
    assert all(files_with(store, wanted) for wanted in traces(kept).values())


def test_the_hashes_do_not_name_anybody_and_differ_between_stores(store, template, tmp_path):
    shutil.copytree(template.uri, tmp_path / "twin")
    twin = Store.open(str(tmp_path / "twin"))
    for one in (store, twin):
        erasure.forget(one, [SPEAKER])
    hashes = [set(one.table("erasures").to_table()["hashes"][0].as_py()) for one in (store, twin)]
    assert hashes[0].isdisjoint(hashes[1])
    assert not [one for one in hashes[0] if "id00003" in one]


def test_without_its_key_a_store_registers_nobody_rather_than_somebody_who_was_forgotten(store):
    erasure.forget(store, [SPEAKER])
    store.place.files.delete_file(KEY)
    with pytest.raises(VoxportraitError, match="Restore it from a backup"):
        store.register([clip(3, 0)])


@pytest.mark.parametrize(
    ("speakers", "clips", "message"),
    [
        (["id00003"], [], "several datasets: say which of made/id00003, other/id00003"),
        (["id0004"], [], "no speaker 'id0004' in this store. Did you mean"),
        ([], ["made/id00003/video0/0001"], "Did you mean made/id00003/video0/00001"),
        ([], [], "name a speaker or a clip"),
    ],
)
def test_whom_it_does_not_know_it_does_not_forget(store, speakers, clips, message):
    with pytest.raises(UsageError, match=message):
        erasure.forget(store, speakers, clips)
    assert len(store.table("erasures")) == 0


def test_a_speaker_alone_is_enough_where_one_dataset_has_it_and_was_forgotten_once(store):
    assert erasure.forget(store, ["id00004"]).clips == 2
    for name in ("id00004", "made/id00004"):
        with pytest.raises(UsageError, match="was forgotten before"):
            erasure.forget(store, [name])


def test_a_reason_does_not_name_who_is_forgotten(store):
    with pytest.raises(UsageError, match="say it otherwise"):
        erasure.forget(store, [SPEAKER], reason="id00003 asked for it")
    assert erasure.preview(store, [SPEAKER])["clips"] == 2


def test_bytes_that_are_left_leave_it_begun_and_are_named(store):
    left = Path(store.uri) / "copy-of-somebody.npy"
    left.write_bytes(b"header" + traces(clip(3, 1))["vector"] + b"end")
    with pytest.raises(VoxportraitError, match=r"still in copy-of-somebody\.npy"):
        erasure.forget(store, [SPEAKER])
    assert store.table("erasures").to_table()["state"].to_pylist() == ["begun"]
    assert "--resume" in (erasure.unfinished(store) or "")
    begun = erasure.epoch(store)
    assert store.register([clip(3, 0)]).refused == 1
    left.unlink()
    assert [one.epoch for one in erasure.resume(store)] == [begun + 1]
    assert erasure.unfinished(store) is None


def test_what_somebody_else_holds_too_is_no_failure_and_is_counted(store):
    twin = clip(9, 5)
    store.register([twin])
    inprocess.fill(store, [want(key) for key in KEYS], lambda one, wanted: values(clip(3, 0), wanted))
    done = erasure.forget(store, [SPEAKER])
    assert done.proof["shared"] >= 4
    assert files_with(store, traces(clip(3, 0))["sound"])
    assert not files_with(store, traces(clip(3, 1))["sound"])


def test_silence_proves_nothing_and_is_counted(store):
    quiet = clip(30, 0)
    store.register([quiet])
    silent = {"speech": np.zeros(96000, np.int16)}
    inprocess.fill(store, [want("speech")], lambda one, wanted: silent)
    assert erasure.forget(store, clips=[quiet.clip_id]).proof["unprovable"] >= 1


KILLED = """
import os, sys
from pathlib import Path
from featurestore import erasure
from featurestore.store import Store
store, step, orders = Store.open(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
def progress(done, total, note):
    if done == step:
        (orders / "forget").touch()
if step < 0:
    (orders / "forget").touch()
erasure.forget(store, ["made/id00003"], progress=progress)
"""


@pytest.mark.parametrize("step", range(-1, STEPS))
def test_killed_after_any_step_it_is_ended_by_the_same_command(store, template, tmp_path, step):
    (tmp_path / "orders").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, store.uri, str(step), str(tmp_path / "orders")],
        env={"VOXPORTRAIT_FAILPOINTS": str(tmp_path / "orders"), "PATH": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    if step < STEPS - 1:
        assert erasure.unfinished(store)
        assert store.register([clip(3, 0)]).refused == 1
        assert erasure.forget(store, [SPEAKER]).proof["found_before"] > 10
    assert erasure.unfinished(store) is None
    row = store.table("erasures").to_table().to_pylist()
    assert [(one["state"], one["epoch"], one["clips"]) for one in row] == [("done", 2, 2)]
    for one in (clip(3, 0), clip(3, 1)):
        assert not any(files_with(store, wanted) for wanted in traces(one).values())
    assert len(store.table("clips")) == len(template.table("clips")) - 2


def test_a_begun_erasure_is_ended_without_naming_anybody(store):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(erasure.proof, "search", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            erasure.forget(store, [SPEAKER])
    assert [one.clips for one in erasure.resume(store)] == [2]
    assert erasure.resume(store) == []


def test_readers_read_while_somebody_is_forgotten(store):
    opened = store.table("clips").scanner(columns=["clip_id", "speech"], batch_size=8).to_batches()
    first = next(iter(opened))
    assert len(first) == 8
    stop, counts = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            for _ in range(5):
                try:
                    counts.append(len(store.table("clips").to_table(columns=["ecapa"])))
                    counts.append(store.coverage()["clips"])
                    break
                except OSError:  # the version that was opened is gone: open the next
                    continue
            else:
                counts.append(-1)

    reader = threading.Thread(target=read)
    reader.start()
    before = len(store.table("clips"))
    erasure.forget(store, [SPEAKER])
    stop.set()
    reader.join()
    assert set(counts) <= {before, before - 2}


def test_with_a_writer_at_work_it_says_so_or_waits(store):
    writer = Lease(store.place, ["fragment:0"], "filling").acquire()
    with pytest.raises(LeaseHeld, match="the store is in use"):
        erasure.forget(store, [SPEAKER])
    said: list[str] = []

    def told(line: str) -> None:
        said.append(line)
        writer.release()

    assert erasure.forget(store, [SPEAKER], wait=60, told=told).clips == 2
    assert "waiting" in said[0]


def test_a_copy_is_refused_once_somebody_in_it_was_forgotten(store):
    made_at = erasure.epoch(store)
    theirs, others = (artifacts.row_ids_of(store, [clip(n, 0).clip_id]) for n in (3, 4))
    erasure.check(store, made_at, "the export", theirs)
    erasure.forget(store, [SPEAKER])
    erasure.check(store, made_at, "the export", others)
    erasure.check(store, erasure.epoch(store), "the export")
    with pytest.raises(VoxportraitError, match="the export holds 1 clips that were forgotten"):
        erasure.check(store, made_at, "the export", theirs)
    with pytest.raises(VoxportraitError, match="make it again"):
        erasure.check(store, made_at, "the export")


def test_everybody_can_be_forgotten(store):
    everybody = [f"made/id{n:05d}" for n in range(24)] + ["other/id00003"]
    erasure.forget(store, everybody)
    assert len(store.table("clips")) == 0
    assert not files_with(store, traces(clip(20, 1))["sound"])
    assert not files_with(store, traces(clip(20, 1))["vector"])


def test_the_rest_has_the_digest_of_a_store_that_never_knew_them(template, store, tmp_path):
    erasure.forget(store, [SPEAKER])
    other = Store.open_or_create(str(tmp_path / "other"))
    other.register(clip(n, v) for n in range(24) for v in range(2) if n != 3)
    other.register([clip(3, 0, "other")])
    inprocess.fill(other, [want(key) for key in KEYS], values)
    other.insert("quarantine", [rejected(clip(4, 0))])
    assert digest(store, KEYS) == digest(other, KEYS)
