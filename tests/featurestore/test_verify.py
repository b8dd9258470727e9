import hashlib
import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from featurestore import compaction, filling, forgotten, inprocess, journal, snapshots, stale
from featurestore.cli import app
from featurestore.leases import Lease
from featurestore.makers import Maker
from featurestore.store import Store
from featurestore.verify import verify
from tests.featurestore.conftest import clip, fill, value, want


def jpeg(size: int = 256) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), "gray").save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def store(tmp_path):
    made = Store.open_or_create(str(tmp_path / "store"))
    made.register(clip(n) for n in range(40))
    inprocess.fill(
        made,
        [want(key) for key in ("ecapa", "gender", "face", "age", "mel")],
        lambda one, wanted: {
            **value("ecapa", one.clip_id),
            **value("gender", one.clip_id),
            "face": jpeg(),
            "face_box": np.array([0, 0, 1, 1], np.float32),
            "face_probability": 1.0,
            "face_frame": 0,
            "age": 30.0,
            "age_probability": None,
            "mel": np.ones((111, 128), np.float32),
        },
    )
    compaction.compact(made)
    assert verify(made) == []
    return made


def found(store: Store, **options) -> list[tuple[str, str, str]]:
    return [(f.check, f.where, f.what) for f in verify(store, **options)]


def put(store: Store, number: int, **values):
    """Change columns of a clip behind the store's back."""
    fragment = store.table("clips").get_fragments()[0]
    table = fragment.scanner(columns=["clip_id"], with_row_id=True).to_table()
    row = table["clip_id"].to_pylist().index(clip(number).clip_id)
    fields = [store.table("clips").schema.field(name) for name in values]
    update = {"_rowid": table["_rowid"].slice(row, 1)}
    update |= {f.name: pa.array([values[f.name]], f.type) for f in fields}
    metadata, changed = fragment.update_columns(pa.table(update))
    operation = lance.LanceOperation.Update(
        updated_fragments=[metadata], fields_modified=changed, update_mode="rewrite_columns"
    )
    store.place.commit("clips", operation, store.table("clips").version)


def bent(number: float) -> np.ndarray:
    ecapa = value("ecapa", clip(5).clip_id)["ecapa"].astype(np.float16)
    ecapa[17] = number
    return ecapa


@pytest.mark.parametrize(
    ("column", "bad", "what"),
    [
        ("ecapa", bent(np.nan), "have NaN or infinite values in ecapa"),
        ("ecapa", bent(np.inf), "have NaN or infinite values in ecapa"),
        ("mel", np.full((111, 128), np.inf, np.float16).tobytes(), "have NaN or infinite values in mel"),
        ("age", np.nan, "have NaN or infinite values in age"),
        ("face_probability", np.inf, "have NaN or infinite values in face_probability"),
        ("ecapa", None, "have a maker and no value"),
        ("ecapa_maker", None, "have a value and no maker"),
        ("ecapa_maker", 99, "have a maker that is not known"),
        ("gender", "sailor", "have a label that is not in the vocabulary"),
        ("face", b"no picture", "have a picture that cannot be decoded"),
        ("face", jpeg()[:300], "have a picture that cannot be decoded"),
        ("face", jpeg(128), "have a picture that is not 256 x 256"),
    ],
)
def test_a_value_that_is_wrong_is_named_with_its_clip(store, column, bad, what):
    put(store, 5, **{column: bad})
    key = "face" if column.startswith("face") else column.removesuffix("_maker")
    assert found(store) == [("values", f"clips.{key}", f"1 clips {what}, such as {clip(5).clip_id!r}")]
    assert "store reset --clip" in verify(store)[0].todo


def test_a_value_by_the_maker_of_another_constituent_is_named(store):
    put(store, 5, ecapa_maker=store.known_makers()[want("gender").maker.digest])
    assert found(store)[0][2].startswith("1 clips have a maker of another constituent")


def test_a_candidate_is_looked_at_too(store):
    fill(store, [want("ecapa", 1)])
    name = f"ecapa@{want('ecapa', 1).maker.digest[:8]}"
    put(store, 5, **{name: bent(np.nan)})
    compaction.compact(store)
    assert [where for _, where, _ in found(store)] == [f"clips.{name}"]


def test_nothing_is_repaired(store):
    put(store, 5, ecapa=None)
    version = store.table("clips").version
    assert verify(store) == verify(store) != []
    assert store.table("clips").version == version


def test_clips_registered_twice_malformed_or_of_no_split_are_named(store):
    columns = store.table("clips").schema
    rows = store.table("clips").to_table(filter=f"clip_id = '{clip(3).clip_id}'").to_pylist()[0]
    odd = [rows, {**rows, "clip_id": "no/clip"}, {**rows, "clip_id": "made/id7/video1/1"}]
    odd.append({**rows, "clip_id": "made/id00001/video1/x", "split": "dev"})
    store.place.write_table("clips", pa.Table.from_pylist(odd, columns), mode="append")
    assert [(check, what.split(",")[0]) for check, _, what in found(store)] == [
        ("clip ids", "1 clips registered twice"),
        ("clip ids", "1 clips not <dataset>/<speaker>/<video>/<utterance>"),
        ("clip ids", "2 clips not of the speaker in its row"),
        ("splits", "1 clips in a split that is none of train"),
    ]


def test_a_maker_that_is_not_what_its_digest_says_is_named(store):
    digest = want("ecapa").maker.digest
    store.table("makers").update({"trained": "true"}, where=f"digest = '{digest}'")
    assert found(store) == [("makers", f"makers {digest[:8]}", "is not what its digest says")]


def test_two_makers_of_one_number_are_named(store):
    maker = Maker("ecapa", "other", "numpy")
    store.enter_makers([maker])
    store.table("makers").update({"id": "0"}, where=f"digest = '{maker.digest}'")
    assert [check for check, _, _ in found(store)] == ["makers"]


def test_columns_that_are_gone_or_unknown_or_of_another_type_are_named(store):
    store.table("clips").add_columns({"shoe_size": "cast(3 as int)"})
    store.table("clips").drop_columns(["gender_probability"])
    store.table("clips").alter_columns({"path": "age", "data_type": pa.float64()})
    assert set(found(store)) == {
        ("schema", "clips.gender_probability", "the column is not there"),
        ("schema", "clips.age", "the column is double, not float"),
        ("schema", "clips.shoe_size", "a column of no known constituent"),
    }


def test_a_table_that_is_gone_is_named(store):
    store.place.files.delete_dir("quarantine.lance")
    assert found(store) == [("schema", "quarantine", "the table is not there")]


def test_a_column_file_that_is_damaged_is_named(store, tmp_path):
    largest = max((tmp_path / "store" / "clips.lance" / "data").iterdir(), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    assert any("cannot be read" in what for _, _, what in found(store))


def test_what_killed_processes_left_is_named(store):
    with Lease(store.place, ["columns"], "testing"):
        ids = store.enter_makers([want("face_128").maker])
        store.ensure_columns({"face_128": "face_128"})
    chunk = filling.plan(store, [want("face_128")]).chunks(0) or filling.plan(store, [want("face_128")]).chunks(1)
    clips, rows = filling.read_clips(store, chunk[0])
    values = [value("face_128", c.clip_id) for c in clips]
    table, _ = journal.chunk_table(rows, ["face_128"], values, {"face_128": ids[want("face_128").maker.digest]}, [])
    filling.seal(store, chunk[0].fragment, {"face_128": "face_128"}, [table])
    journal.write(store.place, "whole", table)
    for name in ("broken.arrow", ".half"):
        with store.place.files.open_output_stream(f"_journal/{name}") as file:
            file.write(b"half")
    store.place.files.create_dir("_logs")
    for name in ("notes.txt", "_logs/job.jsonl"):
        with store.place.files.open_output_stream(name) as file:
            file.write(b"mine")
    assert [(check, where) for check, where, _ in found(store)] == [
        ("journal", "_journal"),
        ("journal", "_journal"),
        ("journal", "_journal"),
        ("orphan files", "clips"),
        ("unknown files", "notes.txt"),
    ]
    told: list[str] = []
    with Lease(store.place, ["fragment:0"], "filling"):
        assert verify(store, told=told.append) == []
    assert "in use by" in told[0]


def test_a_quarantine_that_cannot_be_is_named(store):
    digest = want("ecapa").maker.digest
    rejected = [
        journal.Rejected(clip(3).clip_id, "ecapa", digest, "odd", "filled too"),
        journal.Rejected("made/id9/video0/00001", "ecapa", digest, "odd", "not registered"),
        journal.Rejected(clip(4).clip_id, "shoe", digest, "odd", "no constituent"),
        journal.Rejected(clip(4).clip_id, "sound", "decoder", "no sound", "as it should be"),
    ]
    rows = [one.row("job") for one in rejected]
    rows.append({**journal.Rejected(clip(6).clip_id, "face", "f", "odd", "odd").row("job"), "key": "other"})
    store.insert("quarantine", rows)
    assert {(where, what.split(",")[0]) for _, where, what in found(store)} == {
        ("quarantine", "1 clips under a key that is not theirs"),
        ("quarantine", "1 clips quarantined under no known constituent"),
        ("quarantine", "1 clips quarantined that are not registered"),
        ("clips.ecapa", "1 clips filled and quarantined by one maker"),
    }


def test_a_snapshot_that_cannot_be_read_and_an_index_that_lacks_rows_are_named(store):
    store.register(clip(n) for n in range(40, 340))
    fill(store, [want("ecapa")])
    store.table("clips").create_index("ecapa", "IVF_PQ", num_partitions=2, num_sub_vectors=16, metric="cosine")
    compaction.compact(store)
    snapshots.take(store, "first")
    assert verify(store) == []
    store.register([clip(400)])
    store.table("clips").delete(f"clip_id = '{clip(9).clip_id}'")
    assert {(check, where) for check, where, _ in found(store)} >= {("snapshots", "first"), ("indices", "ecapa_idx")}


def test_an_erasure_that_is_begun_and_not_done_is_named(store):
    row = {"erasure_id": "e", "epoch": 1, "state": "begun", "asked_by": "x", "started": datetime.now(UTC), "clips": 1}
    store.insert("erasures", [row])
    forgotten.read_key(store.place, make=True)
    ((check, where, what),) = found(store)
    assert (check, where) == ("erasures", "erasures")
    assert "is begun and not done" in what
    assert "--resume" in verify(store)[0].todo


def test_many_findings_of_one_kind_are_few_lines(store):
    for number in range(30):
        with store.place.files.open_output_stream(f"note{number}.txt") as file:
            file.write(b"mine")
    lines = found(store)
    assert len(lines) == 21
    assert lines[-1][2] == "and 10 more like these"


def with_sources(folder, count: int) -> Store:
    """A store whose clips have files, and the hashes of these."""
    made = Store.open_or_create(str(folder / "store"))
    clips = []
    for number in range(count):
        path, sound = folder / f"{number}.mp4", folder / f"{number}.wav"
        path.write_bytes(b"picture %d" % number)
        sound.write_bytes(b"sound %d" % number)
        clips.append(replace(clip(number), path=str(path), sound_path=str(sound) if number % 2 else ""))
    made.register(clips)

    def make(one, wanted):
        hashes = [hashlib.sha256(Path(p).read_bytes()).hexdigest() for p in (one.path, one.sound_path) if p]
        lines = "".join(f"{h}  {role}\n" for h, role in zip(hashes, ("picture", "sound"), strict=False))
        sha256 = hashes[0] if len(hashes) == 1 else hashlib.sha256(lines.encode()).hexdigest()
        return {"media_sha256": sha256, "media_duration": 1.0, **value("ecapa", one.clip_id)}

    inprocess.fill(made, [want("media"), want("ecapa")], make)
    return made


def test_a_source_that_is_gone_or_another_makes_its_clip_stale(tmp_path):
    store = with_sources(tmp_path, 6)
    assert verify(store, sources=True) == []
    (tmp_path / "1.wav").write_bytes(b"another sound")
    (tmp_path / "2.mp4").write_bytes(b"another picture")
    (tmp_path / "4.mp4").unlink()
    assert verify(store) == []
    assert [(check, where, what.split(":")[0]) for check, where, what in found(store, sources=True)] == [
        ("sources", clip(1).clip_id, "its source is another file than its values were made from"),
        ("sources", clip(2).clip_id, "its source is another file than its values were made from"),
        ("sources", clip(4).clip_id, "its source is missing"),
    ]
    assert "store reset --stale" in verify(store, sources=True)[0].todo


def test_stale_clips_are_reset_and_filled_anew(tmp_path):
    store = with_sources(tmp_path, 6)
    (tmp_path / "2.mp4").write_bytes(b"another picture")
    (tmp_path / "4.mp4").unlink()
    assert stale.stale_clips(store) == [clip(2).clip_id]
    assert stale.reset(store, stale.stale_clips(store)) == 1
    assert filling.plan(store, [want("media"), want("ecapa")]).work == 1
    assert [check for check, _, _ in found(store) if check != "orphan files"] == []
    ids = store.table("clips").to_table(columns=["clip_id"])["clip_id"].to_pylist()
    assert sorted(ids) == [clip(n).clip_id for n in range(6)]


def test_progress_is_told_fragment_by_fragment_and_source_by_source(tmp_path):
    store = with_sources(tmp_path, 6)
    seen = []
    verify(store, sources=True, progress=lambda done, total, note: seen.append((done, total, note)))
    assert seen[0] == (0, 7, "rows")
    assert [done for done, _, _ in seen] == list(range(8))
    assert {note for _, _, note in seen[2:]} == {"sources"}


def test_the_command_ends_with_1_where_something_is_wrong_and_says_it_to_machines(store):
    asked = ["verify", "--store", store.uri, "--json"]
    well = CliRunner().invoke(app, asked)
    assert (well.exit_code, json.loads(well.stdout)) == (0, {"ok": True, "findings": []})
    put(store, 5, ecapa=None)
    ill = CliRunner().invoke(app, asked)
    assert ill.exit_code == 1
    (finding,) = json.loads(ill.stdout)["findings"]
    assert finding.keys() == {"check", "where", "what", "todo"}
    assert CliRunner().invoke(app, ["reset", "--store", store.uri, "--clip", clip(5).clip_id]).exit_code == 0
    assert CliRunner().invoke(app, asked).exit_code == 0
