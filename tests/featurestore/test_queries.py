import base64
import json

import numpy as np
import pytest
from typer.testing import CliRunner

import featurestore
from featurestore.cli import app
from featurestore.errors import UsageError
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
