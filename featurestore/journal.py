"""Finished chunks as Arrow tables, and the journal: those that are kept in files until their fragment is committed.

A chunk's table holds row ids, for each constituent its columns and who made them, and what was rejected. A job keeps
the chunks of a fragment that takes long in the journal, so that a kill costs minutes and not the fragment. Rows are
known by their stable row ids: what is in the journal is used whatever chunks a later plan is cut into. A file is an
Arrow file and, in its last 32 bytes, the SHA-256 of what is before them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.catalogue import CATALOGUE, Constituent
from featurestore.errors import VoxportraitError
from featurestore.failpoints import reach
from featurestore.places import Place
from featurestore.schema import encode, half_precision_losses, value_fields

FOLDER = "_journal"


class JournalDamaged(VoxportraitError):
    """A kept chunk is not as it was written: a disk that lost its power, or flipped a bit."""


@dataclass(frozen=True)
class Rejected:
    """A clip that could not give `constituent` (or `media`, `sound`, `face`, and so nothing that needs it)."""

    clip_id: str
    constituent: str
    maker: str
    reason: str
    message: str
    attempts: int = 1

    @property
    def key(self) -> str:
        """The key of its row in the quarantine table."""
        return f"{self.clip_id}|{self.constituent}|{self.maker}"

    def row(self, job_id: str) -> dict[str, Any]:
        """The row of the quarantine table."""
        return {"key": self.key, **asdict(self), "job_id": job_id}


@dataclass(frozen=True)
class Entry:
    """What a journal file holds, values aside: row ids, maker numbers by constituent (-1: not made), rejections."""

    name: str
    row_ids: np.ndarray
    makers: dict[str, np.ndarray]
    rejected: list[Rejected]


def dtypes(constituent: Constituent) -> dict[str, str]:
    """numpy type of the bytes of each value column of a constituent."""
    extras = {f"{constituent.key}_{name}": kind.split("(")[0] for name, kind in constituent.extras}
    return {constituent.key: constituent.dtype, **extras}


def chunk_table(
    row_ids: Sequence[int],
    keys: Sequence[str],
    values: Sequence[Mapping[str, Any]],
    maker_ids: Mapping[str, int],
    rejected: Sequence[Rejected],
) -> tuple[pa.Table, dict[str, int]]:
    """One chunk as a table: for each of its clips the columns that were made; and float16 losses by constituent.

    values: one mapping of column -> value a clip; a constituent is made for a clip if its first column is there. A
    value of the wrong size raises ValueError.
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
    return table, {key: count for key, count in losses.items() if count}


def rejections(table: pa.Table) -> list[Rejected]:
    """What a chunk could not make, and why."""
    return [Rejected(**row) for row in json.loads((table.schema.metadata or {}).get(b"rejected", b"[]"))]


def write(place: Place, name: str, table: pa.Table) -> None:
    """Keep a chunk."""
    whole = pa.BufferOutputStream()
    with pa.ipc.new_file(whole, table.schema) as writer:
        writer.write_table(table)
    body = whole.getvalue()
    place.write_file(f"{FOLDER}/{name}.arrow", b"".join((body, hashlib.sha256(body).digest())))
    reach("journal")


def names(place: Place) -> list[str]:
    """The chunks that are kept."""
    found = sorted(info.base_name for info in place.list(FOLDER))
    return [name.removesuffix(".arrow") for name in found if name.endswith(".arrow") and not name.startswith(".")]


def read(place: Place, name: str) -> pa.Table:
    """A kept chunk. Raises JournalDamaged where it is not as it was written."""
    with place.files.open_input_file(f"{FOLDER}/{name}.arrow") as file:
        whole = file.read_buffer()
    body, digest = whole[:-32], whole[-32:]
    if digest.to_pybytes() != hashlib.sha256(body).digest():
        raise JournalDamaged(
            f"the finished chunk {FOLDER}/{name}.arrow is damaged: nothing of it is used. Run the command again: what "
            "was in it is made anew."
        )
    return pa.ipc.open_file(body).read_all()


def entry(place: Place, name: str) -> Entry | None:
    """What a kept chunk holds; None of a file that is damaged or gone."""
    try:
        table = read(place, name)
    except (JournalDamaged, FileNotFoundError):
        return None
    keys = [key for key, c in CATALOGUE.items() if c.maker_column in table.column_names]
    makers = {key: table[CATALOGUE[key].maker_column].fill_null(-1).to_numpy().copy() for key in keys}
    return Entry(name, table["_rowid"].to_numpy().copy(), makers, rejections(table))


def remove(place: Place, chunks: Iterable[str]) -> None:
    """Remove kept chunks; one that is gone already is no error."""
    for name in chunks:
        try:
            place.files.delete_file(f"{FOLDER}/{name}.arrow")
        except FileNotFoundError:
            continue


def mark(place: Place, name: str, what: Sequence[str]) -> None:
    """Note what a chunk is at, to be read if its worker dies there."""
    place.write_file(f"{FOLDER}/.at-{name}", json.dumps(list(what)).encode())


def marked(place: Place, name: str) -> list[str]:
    """What a chunk was at last; nothing if it got nowhere. The note is removed."""
    path = f"{FOLDER}/.at-{name}"
    try:
        with place.files.open_input_stream(path) as stream:
            what = json.loads(stream.read())
        place.files.delete_file(path)
    except (FileNotFoundError, ValueError):
        return []
    return what


def sweep(place: Place) -> None:
    """Remove half-written files. Only while nobody else writes."""
    for info in place.list(FOLDER):
        if info.base_name.startswith("."):
            place.files.delete_file(info.path)


def pending(place: Place) -> int:
    """How many chunks wait in the journal."""
    return len(names(place))
