"""Questions to a store: coverage, information, SQL, content digest. All of them only read."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import journal
from featurestore.catalogue import CATALOGUE, constituent
from featurestore.conditioning import LAYOUTS, SYSTEMS
from featurestore.errors import UsageError
from featurestore.leases import is_dead
from featurestore.schema import TABLES, bulky_columns, value_fields
from featurestore.store import Store


def coverage(store: Store) -> dict[str, Any]:
    """How far each constituent is filled, from the small maker columns alone.

    Returns {"clips", "constituents": {name: {"filled", "missing", "quarantined", "untrained"}}, "systems": {name:
    clips that have every constituent of the system}}. Quarantined clips are missing too. A clip whose sound or face
    could not be had counts as quarantined under `sound` or `face`, which are listed when there are any.
    """
    dataset = store.table("clips")
    columns = [c.maker_column for c in CATALOGUE.values() if c.maker_column in dataset.schema.names]
    table = dataset.to_table(columns=["clip_id", *columns])
    makers = store.table("makers").to_table(columns=["id", "trained"])
    untrained = set(makers.filter(pc.invert(makers["trained"]))["id"].to_pylist())
    quarantined = Counter(store.table("quarantine").to_table(columns=["constituent"])["constituent"].to_pylist())

    present: dict[str, np.ndarray] = {}
    counts: dict[str, dict[str, int]] = {}
    for key, entry in CATALOGUE.items():
        made_by = np.full(len(table), -1)
        if entry.maker_column in columns:
            made_by = table[entry.maker_column].fill_null(-1).to_numpy()
        present[key] = made_by >= 0
        counts[key] = {
            "filled": int(present[key].sum()),
            "missing": int((~present[key]).sum()),
            "quarantined": quarantined.pop(key, 0),
            "untrained": int(np.isin(made_by, list(untrained)).sum()),
        }
    for what, number in sorted(quarantined.items()):
        counts[what] = {"filled": len(table) - number, "missing": number, "quarantined": number, "untrained": 0}
    systems = {}
    for name, system in SYSTEMS.items():
        needed = system.layout(LAYOUTS["slf"]).constituents
        systems[name] = int(np.logical_and.reduce([present[key] for key in (*needed, "face_128")]).sum())
    return {"clips": len(table), "constituents": counts, "systems": systems}


def info(store: Store) -> dict[str, Any]:
    """The store in numbers: clips, speakers, hours, splits, datasets, bytes, its jobs."""
    dataset = store.table("clips")
    columns = ["dataset", "speaker_id", "split", "licence", "consent"]
    has_media = "media_duration" in dataset.schema.names
    table = dataset.to_table(columns=[*columns, "media_duration"] if has_media else columns)
    seconds = pc.sum(table["media_duration"]).as_py() if has_media else None
    jobs = store.table("jobs").to_table().sort_by("started").to_pylist()
    holders = store.table("leases").to_table().to_pylist()
    return {
        "uri": store.place.shown,
        "version": dataset.version,
        "clips": len(table),
        "speakers": len(table.group_by(["dataset", "speaker_id"]).aggregate([])),
        "hours": None if seconds is None else seconds / 3600,
        **{
            plural: dict(sorted(Counter(table[column].to_pylist()).items()))
            for column, plural in (
                ("dataset", "datasets"),
                ("split", "splits"),
                ("licence", "licences"),
                ("consent", "consents"),
            )
        },
        "fragments": len(dataset.get_fragments()),
        "bytes": sum(file.size for file in store.place.list("", recursive=True)),
        "chunks_in_journal": journal.pending(store.place),
        "quarantined": len(store.table("quarantine")),
        "in_use_by": sorted({row["who"] for row in holders if not is_dead(row["process"])}),
        "last_job": {**jobs[-1], "counts": json.loads(jobs[-1]["counts"]), "seconds": json.loads(jobs[-1]["seconds"])}
        if jobs
        else None,
    }


def sql(store: Store, query: str) -> pa.Table:
    """Answer a query over `clips`, `makers`, `jobs` and `quarantine` with DuckDB.

    The tables are read-only and nothing outside them can be reached. Values of vectors, blocks and pictures are read
    where the query names their column (`select ecapa from clips`), not by `*`; vectors are lists of float32.
    """
    connection = duckdb.connect(config={"enable_external_access": False, "allow_unsigned_extensions": False})
    words = set(re.findall(r"\w+", query.lower()))
    bulky = bulky_columns()
    tables = {}
    for name in TABLES:
        if name == "leases" or name not in words:
            continue
        dataset = store.table(name)
        columns = [c for c in dataset.schema.names if c not in bulky or c.lower() in words]
        tables[name] = _single_precision(dataset.to_table(columns=columns))
        connection.register(name, tables[name])
    connection.execute("SET lock_configuration = true")
    try:
        answer = connection.sql(query)
        if answer is None:
            raise UsageError("this statement has no answer: `store sql` only asks (select ...)")
        return answer.to_arrow_table()
    except duckdb.Error as error:
        lines = str(error).splitlines()
        raise UsageError(f"{lines[0]} Tables: {', '.join(t for t in TABLES if t != 'leases')}.") from error


def _single_precision(table: pa.Table) -> pa.Table:
    """The table with float16 lists as float32, which DuckDB can read."""
    for i, field in enumerate(table.schema):
        if pa.types.is_fixed_size_list(field.type) and pa.types.is_float16(field.type.value_type):
            table = table.set_column(
                i, field.name, table[field.name].cast(pa.list_(pa.float32(), field.type.list_size))
            )
    return table


def digest(store: Store, constituents: Iterable[str] = tuple(CATALOGUE)) -> str:
    """sha256 over the content: every clip with its values of `constituents` and their makers, and the quarantine.

    Independent of the order of rows, of versions, of fragments and of who filled the store when: two stores with the
    same digest hold the same values.
    """
    dataset = store.table("clips")
    names = {m["id"]: m["digest"] for m in store.table("makers").to_table(columns=["id", "digest"]).to_pylist()}
    chosen = [constituent(key) for key in constituents]
    maker_columns = {c.maker_column for c in chosen}
    known = {f.name for c in chosen for f in value_fields(c)} | maker_columns | set(TABLES["clips"].names)
    columns = sorted(known & set(dataset.schema.names))
    rows = []
    for batch in dataset.to_batches(columns=columns, batch_size=64):
        for row in batch.to_pylist():
            content = hashlib.sha256()
            for column in columns:
                value = names.get(row[column]) if column in maker_columns else row[column]
                if value is not None:
                    content.update(f"{column}={value!r};".encode())
            rows.append(f"{row['clip_id']} {content.hexdigest()}")
    rejected = store.table("quarantine").to_table(columns=["key", "reason", "message"]).to_pylist()
    rows += [f"{r['key']} {r['reason']} {r['message']}" for r in rejected]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()
