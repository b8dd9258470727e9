import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from featurestore.records import fields_of
from infra.bench import assembly, reading
from infra.bench.random_store import LAYOUT, random_store
from infra.bench.rounds import alternate, summary
from voxportrait import app

ROWWISE = "f91d3650e417155a177e493c2bd90f01010403d178f34c4900f03b793103f9b8"


def test_the_row_at_a_time_yardstick_is_as_it_was_taken_over():
    file = Path(assembly.__file__).with_name("rowwise.py")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == ROWWISE


def test_the_bench_of_assembly_measures_what_it_names(monkeypatch):
    monkeypatch.setattr(assembly, "WARM", 0)
    found = assembly.run(rows=96, batch_size=16, rounds=2, seconds=0.0)
    speeds = found["samples_per_second"]
    assert {"rowwise", "assembled", "compact", "cached", "cached_compact", "memcpy"} <= set(speeds)
    assert {"assembled_vs_rowwise", "assembled_vs_memcpy", "compact_vs_memcpy", "cached_vs_memcpy"} <= set(
        found["ratios"]
    )
    for name, ratio in found["ratios"].items():
        one, other = name.split("_vs_")
        assert ratio == pytest.approx(speeds[one] / speeds[other])
    for name, (slowest, fastest) in found["spread"].items():
        assert 0 < slowest <= speeds[name] <= fastest
    assert found["limited_by"] in ("lance reads", "assembly")
    assert found["cached_limited_by"] in ("cache reads", "assembly")
    assert (found["rows"], found["batch_size"], found["rounds"]) == (96, 16, 2)


def test_the_bytes_of_a_sample_are_its_row_its_rectangles_and_its_pictures():
    stored = 192 + 31 * 512 + 192 + 256 + 79 * 68 + 111 * 128
    cells = 192 + 26 * 512 + 192 + 256 + 79 * 68 + 111 * 128 + 45 + 768 + 2 + 6
    pixels = 3 * (128 * 128 + 8 * 8)
    labels = 4 + 3 * 8
    found = assembly.bytes_per_sample(fields_of(LAYOUT.constituents), LAYOUT)
    assert found == stored * 2 + labels + pixels + 4 * cells + 4 * pixels


def test_a_random_store_has_everything_that_the_layout_reads(tmp_path):
    loader = random_store(str(tmp_path / "store"), 24).batches(LAYOUT, 24, missing="refuse")
    batch = next(loader.batches(0))
    assert set(batch.compact) == set(LAYOUT.constituents)
    assert not np.isnan(batch.compact["age"]).any()
    for key in ("gender", "ethnicity", "language"):
        assert (batch.compact[key] >= 0).all()
        assert len(set(batch.compact[key].tolist())) > 1
    for values in (*(batch.compact[key] for key in ("ecapa", "pyannote", "mel")), batch.target, batch.guide):
        assert len({value.tobytes() for value in values}) == 24


def test_contenders_take_turns_and_are_closed():
    seen = []

    def contender(name):
        def work():
            seen.append(name)
            try:
                while True:
                    yield 1
            finally:
                seen.append(f"{name} closed")

        return work

    rates = alternate({"one": contender("one"), "two": contender("two")}, 2, 0.0)
    assert seen == ["one", "one closed", "two", "two closed"] * 2
    assert {name: len(values) for name, values in rates.items()} == {"one": 2, "two": 2}


def test_a_summary_is_medians_and_extremes():
    assert summary({"one": [3.0, 1.0, 8.0]}) == {"samples_per_second": {"one": 3.0}, "spread": {"one": [1.0, 8.0]}}


@pytest.mark.parametrize("benchmark", [assembly, reading])
def test_rows_and_batch_size_reach_a_benchmark_and_its_numbers_come_back(benchmark, monkeypatch):
    name = benchmark.__name__.rpartition(".")[2]
    monkeypatch.setattr(benchmark, "run", lambda **given: {"given": given, "cold": None})
    asked = ["bench", name, "--rows", "300", "--batch-size", "32"]
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert json.loads(done.stdout.splitlines()[-1]) == {"given": {"rows": 300, "batch_size": 32}, "cold": None}
    shown = CliRunner().invoke(app, asked).stdout
    assert "given batch size" in shown
    assert "not measured" in shown


def test_rows_are_refused_where_a_benchmark_has_none(capsys):
    done = CliRunner().invoke(app, ["bench", "corpus", "--rows", "300"])
    assert "--rows is of assembly and reading, not of corpus" in str(done.exception)
