"""The journal: finished chunks of fragments that are not committed yet, one Arrow file a chunk.

A file gets its name when it is whole, and the name says what is in it (clips, constituents, makers): a job that is
started again uses what it finds and makes the rest. Cleared when the fragment is committed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from featurestore.catalogue import CATALOGUE, Constituent
from featurestore.schema import encode, half_precision_losses, value_fields


@dataclass(frozen=True)
class Rejected:
    """A clip that could not give `constituent` (or `media`, `sound`, `face`, and so nothing that needs it)."""

    clip_id: str
    constituent: str
    maker: str
    reason: str
    message: str
    attempts: int = 1

    def row(self, job_id: str) -> dict[str, Any]:
        """The row of the quarantine table."""
        return {"key": f"{self.clip_id}|{self.constituent}|{self.maker}", **asdict(self), "job_id": job_id}


def _folder(uri: str, fragment: int) -> tuple[fs.FileSystem, str]:
    system, path = fs.FileSystem.from_uri(uri) if "://" in uri else (fs.LocalFileSystem(), uri)
    return system, f"{path}/_journal/{fragment}"


def dtypes(constituent: Constituent) -> dict[str, str]:
    """numpy type of the bytes of each value column of a constituent."""
    extras = {f"{constituent.key}_{name}": kind.split("(")[0] for name, kind in constituent.extras}
    return {constituent.key: constituent.dtype, **extras}


def write(
    uri: str,
    fragment: int,
    name: str,
    row_ids: Sequence[int],
    keys: Sequence[str],
    values: Sequence[Mapping[str, Any]],
    maker_ids: Mapping[str, int],
    rejected: Sequence[Rejected],
) -> dict[str, int]:
    """Write one chunk: for each of its clips the columns that were made. Returns float16 losses by constituent.

    values: one mapping of column -> value a clip; a constituent is made for a clip if its first column is there.
    """
    arrays: dict[str, pa.Array] = {"_rowid": pa.array(row_ids, pa.uint64())}
    losses = {}
    for key in keys:
        kinds, fields = dtypes(CATALOGUE[key]), value_fields(CATALOGUE[key])
        made = [fields[0].name in v for v in values]
        for field in fields:
            arrays[field.name] = encode(field, kinds.get(field.name, ""), [v.get(field.name) for v in values])
        arrays[CATALOGUE[key].maker_column] = pa.array([maker_ids[key] if m else None for m in made], pa.int16())
        if CATALOGUE[key].dtype == "float16":
            arrays_made = [v[key] for v in values if isinstance(v.get(key), np.ndarray)]
            losses[key] = sum(sum(half_precision_losses(a)) for a in arrays_made)
    metadata = {b"rejected": json.dumps([asdict(r) for r in rejected]).encode()}
    table = pa.table(arrays).replace_schema_metadata(metadata)
    system, folder = _folder(uri, fragment)
    system.create_dir(folder, recursive=True)
    with system.open_output_stream(f"{folder}/.{name}") as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    system.move(f"{folder}/.{name}", f"{folder}/{name}.arrow")
    return {key: count for key, count in losses.items() if count}


def finished(uri: str, fragment: int) -> set[str]:
    """Names of the chunks of a fragment that are in the journal."""
    system, folder = _folder(uri, fragment)
    found = system.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return {info.base_name.removesuffix(".arrow") for info in found if info.base_name.endswith(".arrow")}


def _read(uri: str, fragment: int, name: str) -> pa.Table:
    system, folder = _folder(uri, fragment)
    with system.open_input_file(f"{folder}/{name}.arrow") as file:
        return pa.ipc.open_file(file).read_all()


def read(uri: str, fragment: int, names: Sequence[str]) -> pa.Table:
    """The chunks of a fragment as one table: `_rowid` and, for each constituent, its columns, NULL where not made."""
    parts = [_read(uri, fragment, name).replace_schema_metadata() for name in names]
    return pa.concat_tables(parts, promote_options="default")


def rejections(uri: str, fragment: int, names: Sequence[str]) -> list[Rejected]:
    """What the chunks of a fragment could not make, and why."""
    return [
        Rejected(**row)
        for name in names
        for row in json.loads((_read(uri, fragment, name).schema.metadata or {})[b"rejected"])
    ]


def clear(uri: str, fragment: int) -> None:
    """Remove a fragment's journal."""
    system, folder = _folder(uri, fragment)
    if system.get_file_info(folder).type != fs.FileType.NotFound:
        system.delete_dir(folder)


def pending(uri: str) -> int:
    """How many chunks wait in the journal of the whole store."""
    system, folder = _folder(uri, 0)
    selector = fs.FileSelector(folder.rsplit("/", 1)[0], allow_not_found=True, recursive=True)
    return sum(info.base_name.endswith(".arrow") for info in system.get_file_info(selector))
