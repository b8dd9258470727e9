"""Large tables in little time: real registration and real commits, columns made for a whole fragment at once."""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import lance
import pyarrow as pa

from featurestore import filling
from featurestore.clip import Clip
from featurestore.filling import Sealed
from featurestore.leases import Lease
from featurestore.store import Store

COMMIT_FRAGMENTS = 512


def clips(count: int) -> Iterator[Clip]:
    """Clips as VoxCeleb2 has them: 16 of a video, 10 videos of a speaker."""
    for n in range(count):
        speaker = f"id{n // 160:05d}"
        clip_id = f"voxceleb2/{speaker}/{n // 16:011d}/{n % 16:05d}"
        split = "train" if n // 160 % 20 else "test"
        yield Clip(clip_id, f"/data/{clip_id}.mp4", split, licence="CC-BY-4.0", corpus_gender="woman")


def write_columns(store: Store, make: Callable[[int, int], Mapping[str, pa.Array]]) -> None:
    """Write columns that the table has into all fragments. make: the columns, by a fragment's number and its clips."""
    dataset = store.table("clips")
    fragments = dataset.get_fragments()

    def write(fragment: lance.LanceFragment) -> Sealed:
        row_ids = fragment.scanner(columns=[], with_row_id=True).to_table()["_rowid"]
        number, before = fragment.fragment_id, json.dumps(fragment.metadata.to_json())
        metadata, fields = fragment.update_columns(pa.table({"_rowid": row_ids, **make(number, len(row_ids))}))
        return Sealed(number, dataset.version, before, json.dumps(metadata.to_json()), tuple(fields), {}, ())

    with Lease(store.place, ["bench"], "measuring") as lease, ThreadPoolExecutor() as pool:
        for first in range(0, len(fragments), COMMIT_FRAGMENTS):
            filling.commit(store, list(pool.map(write, fragments[first : first + COMMIT_FRAGMENTS])), lease, "bench")
