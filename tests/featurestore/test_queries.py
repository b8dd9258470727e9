import base64
import json
from dataclasses import replace
from datetime import date
from typing import Any

import duckdb
import lance
import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
from typer.testing import CliRunner

import featurestore
from featurestore import inprocess
from featurestore.cli import app
from featurestore.errors import UsageError
from featurestore.journal import Rejected
from featurestore.store import Store
from tests.featurestore.conftest import clip, fill, value, want


def test_coverage_counts_filled_missing_quarantined_and_untrained(store):
    fill(store, [want("ecapa"), want("face_128")], {clip(4).clip_id: "no sound"})
    found = featurestore.open(store.uri).coverage()
    assert found["clips"] == 300
    assert found["constituents"]["ecapa"] == {"filled": 299, "missing": 1, "quarantined": 0, "untrained": 299}
    assert found["constituents"]["media"]["quarantined"] == 1
    assert found["constituents"]["titanet"] == {"filled": 0, "missing": 300, "quarantined": 0, "untrained": 0}
    assert found["systems"]["only-image-guide"] == 299
    assert found["systems"]["full-input"] == 0


def test_sql_answers_and_reads_vectors_where_they_are_named(store):
    fill(store, [want("ecapa")])
    counts = store.sql("select split, count(*) n from clips group by split order by split")
    assert counts.to_dict("list") == {"split": ["test", "train"], "n": [60, 240]}
    first = store.sql("select clip_id, ecapa from clips order by clip_id limit 1")
    made = value("ecapa", first.clip_id[0])["ecapa"].astype(np.float16)
    np.testing.assert_array_equal(np.array(first.ecapa[0], np.float16), made)
    assert "ecapa" not in store.sql("select * from clips limit 1").columns
    assert store.sql("select model from makers").model.tolist() == ["made-up"]


@pytest.mark.parametrize(
    "query",
    [
        "select nothing from clips",
        "selec 1",
        "select * from read_csv('/etc/passwd')",
        "copy clips to '/tmp/clips.csv'",
        "attach '/tmp/x.db'",
    ],
)
def test_a_bad_or_a_writing_query_is_one_clear_line(store, query):
    with pytest.raises(UsageError) as error:
        store.sql(query)
    assert "\n" not in str(error.value)


def test_coverage_tells_candidates_and_their_quarantine_apart(store):
    fill(store, [want("ecapa")])
    other, refused = want("ecapa", 1), {clip(n).clip_id for n in range(3)}

    def make(one, keys):
        if one.clip_id in refused:
            return Rejected(one.clip_id, "ecapa", other.maker.digest, "not finite", "made up")
        return value("ecapa", one.clip_id, 1)

    inprocess.fill(store, [other], make)
    found = store.coverage()
    name = f"ecapa@{other.maker.digest[:8]}"
    assert found["candidates"] == {name: {"filled": 297, "missing": 3, "quarantined": 3, "untrained": 297}}
    assert found["constituents"]["ecapa"] == {"filled": 300, "missing": 0, "quarantined": 0, "untrained": 300}
    column = store.sql(f'select clip_id, "{name}" from clips where "{name}_maker" is not null')
    assert len(column) == 297
    first = value("ecapa", column.clip_id[0], 1)["ecapa"].astype(np.float16)
    np.testing.assert_array_equal(np.array(column[name][0], np.float16), first)
    said = CliRunner().invoke(app, ["coverage", "--store", store.uri])
    assert name in said.stdout


CONDITIONS = (
    "split = 'test'",
    "split in ('test', 'val') and speaker_id < 'id00100'",
    "speaker_id between 'id00010' and 'id00020' or clip_id like '%7/video1%'",
    "ecapa is null",
    "ecapa is not null and split = 'train'",
    "ecapa[1] > 0",
    "consent_until is null or consent_until >= date '2026-01-01'",
    "consent_until < date '2026-01-01'",
    "ecapa_maker is not null and corpus_age is null",
    "corpus_gender <> 'man' and not (split = 'test')",
    "lower(split) = 'test' and gender_probability > 0.5",
    "false",
)


def test_conditions_mean_the_same_whoever_judges_them(tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(replace(clip(n), consent_until=date(2025, 1, 1 + n) if n % 3 else None) for n in range(30))
    fill(store, [want("ecapa"), want("gender")], {clip(n).clip_id: "no sound" for n in range(0, 30, 4)})
    in_memory = duckdb.connect()
    whole = store.sql("select *, ecapa, ecapa_maker from clips", "arrow")
    in_memory.register("clips", whole)
    for condition in CONDITIONS:
        for chosen in ("clip_id, ecapa", "count(*)"):
            query = f"select {chosen} from clips where {condition} order by 1"
            assert store.sql(query, "arrow").to_pylist() == in_memory.sql(query).to_arrow_table().to_pylist(), query


def test_of_a_large_column_only_the_rows_that_meet_the_condition_are_read(store, monkeypatch):
    fill(store, [want("face_128")])
    read = []
    batches = lance.LanceScanner.to_batches

    def counted(self):
        for batch in batches(self):
            read.append(batch.nbytes)
            yield batch

    monkeypatch.setattr(lance.LanceScanner, "to_batches", counted)
    (face,) = store.sql(f"select face_128 from clips where clip_id = '{clip(7).clip_id}'").face_128
    assert face == value("face_128", clip(7).clip_id)["face_128"].tobytes()
    assert sum(read) < 2 * len(face)
    assert store.sql("select count(*) n from clips where face_128_maker is not null").n[0] == 300
    assert sum(read) < 3 * len(face)


def test_an_answer_is_a_table_of_pandas_arrow_or_polars(store):
    query = "select split, count(*) n from clips group by 1 order by 1"
    answers = [store.sql(query), store.sql(query, "arrow"), store.sql(query, "polars")]
    assert [type(answer) for answer in answers] == [pandas.DataFrame, pa.Table, polars.DataFrame]
    for answer in answers:
        assert list(map(tuple, pa.table(answer).to_pandas().to_numpy())) == [("test", 60), ("train", 240)]


def test_every_table_but_the_leases_can_be_asked_and_nobodys_hashes_are_shown(store):
    for name in ("clips", "makers", "jobs", "quarantine", "snapshots", "artifacts", "erasures"):
        store.sql(f"select * from {name}")
    for query in ("select * from leases", "select hashes from erasures"):
        with pytest.raises(UsageError):
            store.sql(query)


@pytest.mark.parametrize(
    ("query", "near"),
    [
        ("select splt from clips", "split"),
        ("select ecapa_makr from clips", "ecapa_maker"),
        ('select "ecapa@00000000" from clips', "ecapa"),
        ("select * from clip", "clips"),
        ("select trianed from makers", "trained"),
    ],
)
def test_a_mistyped_name_is_told_with_those_near(store, query, near):
    fill(store, [want("ecapa")])
    with pytest.raises(UsageError, match=rf"Near: .*\b{near}\b"):
        store.sql(query)


def test_a_variable_of_the_caller_is_no_table(store):
    secret = pa.table({"x": [1]})
    assert len(secret) == 1
    for query in ("select * from secret", "select * from dataset"):
        with pytest.raises(UsageError, match="does not exist"):
            store.sql(query)


@pytest.mark.parametrize("written", ["csv", "json", "parquet"])
def test_an_answer_goes_to_a_file(store, tmp_path, written):
    out = tmp_path / f"answer.{written}"
    query = "select clip_id, consent_until, null::int n from clips where split = 'test' order by 1"
    arguments = ["sql", query, "--store", store.uri, "--format", written, "--out", str(out)]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    read: Any = {"csv": pandas.read_csv, "json": pandas.read_json, "parquet": pandas.read_parquet}[written]
    assert read(out).clip_id.tolist() == store.sql(query).clip_id.tolist()


def test_the_command_honours_a_policy(store):
    store.register([replace(clip(1000), consent="yes", licence="cc-by")])
    asked = ["sql", "select clip_id from clips", "--store", store.uri, "--format", "json"]
    for policy in (["--require-consent"], ["--licence", "cc-by", "--licence", "other"]):
        said = CliRunner().invoke(app, [*asked, *policy])
        assert json.loads(said.stdout) == [{"clip_id": clip(1000).clip_id}]
        counted = CliRunner().invoke(app, ["coverage", "--store", store.uri, "--json", *policy])
        assert json.loads(counted.stdout)["clips"] == 1


def test_sql_leaves_the_store_as_it_was(store):
    for query in ("delete from clips", "drop table clips", "update clips set split = 'test'"):
        with pytest.raises(UsageError):
            store.sql(query)
    assert store.sql("select count(*) n from clips").n[0] == 300


def test_info_tells_the_store_in_numbers(store):
    found = store.info()
    assert (found["clips"], found["speakers"], found["splits"]) == (300, 150, {"test": 60, "train": 240})
    assert found["bytes"] > 0
    assert found["last_job"] is None


def test_a_folder_that_is_no_store_is_told_apart(tmp_path):
    with pytest.raises(UsageError, match="there is no store at"):
        Store.open(str(tmp_path))
    import lance
    import pyarrow as pa

    lance.write_dataset(pa.table({"x": [1]}), str(tmp_path / "clips.lance"))
    with pytest.raises(UsageError, match="did not make"):
        Store.open_or_create(str(tmp_path))


@pytest.mark.parametrize("written", ["json", "csv", "table"])
def test_bytes_are_text_that_can_be_read_back_or_a_size(store, written):
    fill(store, [want("face_128")])
    query = "select face_128 from clips where face_128_maker is not null limit 1"
    said = CliRunner().invoke(app, ["sql", query, "--store", store.uri, "--format", written])
    assert said.exit_code == 0, said.output
    if written == "table":
        assert "<49,152 bytes>" in said.stdout
    else:
        text = json.loads(said.stdout)[0]["face_128"] if written == "json" else said.stdout.splitlines()[1]
        (stored,) = store.sql(query).face_128
        assert base64.b64decode(text) == stored
