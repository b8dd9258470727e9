import numpy as np
import psutil
import pytest

from featurestore.store import Store
from infra.bench.objects import serving
from infra.bench.random_store import LAYOUT, random_store
from infra.bench.reading import forget_pages, run


def test_the_bench_of_reading_measures_each_way_to_read():
    found = run(rows=64, batch_size=16, rounds=1)
    near = {f"{source}_{pages}" for source in ("store", "export") for pages in ("hot", "cold", "cold_4")}
    ways = near | {f"store_object_store{end}" for end in ("", "_4", "_8")}
    for what in ("samples_per_second", "waited", "spread"):
        assert ways <= set(found[what])
    for way in ("store_hot", "export_hot", "store_object_store"):
        assert found["samples_per_second"][way] > 0
        assert 0 <= found["waited"][way] <= 1
    assert found["requests_per_sample"]["store_object_store"] > 0
    assert found["disk_bytes_per_sample"].keys() == {name for name in found["waited"] if "cold" in name}


def test_a_store_in_the_late_object_store_gives_the_same_batches(tmp_path):
    near = random_store(str(tmp_path / "store"), 40)
    with serving(tmp_path, latency=0.001) as server:
        far = Store.open(server.address("store"))
        before = server.requests()
        for one, other in zip(near.batches(LAYOUT, 16).batches(3), far.batches(LAYOUT, 16).batches(3), strict=True):
            assert one.clip_ids == other.clip_ids
            np.testing.assert_array_equal(one.target, other.target)
            for key, values in one.compact.items():
                np.testing.assert_array_equal(values, other.compact[key])
        assert server.requests() > before


def test_forgotten_pages_come_from_the_disk_again(tmp_path):
    file = tmp_path / "folder" / "numbers"
    file.parent.mkdir()
    file.write_bytes(np.random.default_rng(0).bytes(8 << 20))

    def read() -> int:
        before = psutil.Process().io_counters().read_bytes
        file.read_bytes()
        return psutil.Process().io_counters().read_bytes - before

    assert read() == 0
    forget_pages(tmp_path)
    if not (found := read()):
        pytest.skip("a file system in memory")
    assert found >= 8 << 20
