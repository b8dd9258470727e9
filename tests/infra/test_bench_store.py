from infra.bench.store import Size, run


def test_the_bench_of_the_store_measures_what_it_names():
    found = run(Size(clips=700, filled=300, rounds=1, vectors=600, queries=5))
    assert found["chunks"] == -(-256 // 16) * 2 + -(-(700 - 512) // 16)
    assert 0 < found["plan_1m"]["seconds"] < 300
    assert 0 < found["plan_1m"]["peak_gib"] < 2
    assert found["coverage_1m_seconds"] > 0
    ratios = found["bytes_per_payload_byte"]
    assert 1 < ratios["one_pass"] < 1.15
    assert 1 < ratios["backfill"] < 1.15
    assert 2 < ratios["one_pass_journaled"] < 2.15
    assert found["similar"]["recall_at_10"] > 0.5
