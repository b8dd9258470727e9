"""SQL over a store: DuckDB reads the tables where they lie, only the columns and rows that a query asks for."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import duckdb
import lance
import pyarrow as pa
import pyarrow.dataset

from featurestore import policy as policies
from featurestore.errors import UsageError
from featurestore.policy import Policy
from featurestore.schema import TABLES
from featurestore.store import Store

SHOWN = tuple(name for name in TABLES if name != "leases")
"""The tables that can be asked."""

SECRET = {"erasures": ("hashes",)}
"""Columns that no query sees, by table."""


FORBIDDEN = ("enable_external_access", "allow_unsigned_extensions", "python_enable_replacements")
"""What DuckDB may not do for a query: files and networks, extensions, variables of this process."""


def sql(store: Store, query: str, policy: Policy = Policy()) -> pa.Table:
    """Answer a query over `SHOWN` with DuckDB.

    The tables are read-only and nothing outside them can be reached. Rows of `clips` that the policy refuses are not
    there. Vectors (lists of float32), blocks, pictures and lists are columns where the query names them
    (`select ecapa from clips`), not of `*`; candidates' are named in quotes (`"ecapa@1f2e3d4c"`). Conditions on plain
    columns are Lance's to judge, so that of a large column only the rows that meet them are read. Raises UsageError
    for a query that is wrong, with the names that are near.
    """
    words = set(re.findall(r"[\w@]+", query.lower()))
    names: set[str] = set()
    with duckdb.connect(config=dict.fromkeys(FORBIDDEN, False)) as connection:
        for name in words.intersection(SHOWN):
            dataset = store.table(name)
            columns = [c for c in dataset.schema.names if c not in SECRET.get(name, ())]
            names.update(columns)
            chosen = [c for c in columns if c.lower() in words or not _is_large(dataset.schema.field(c).type)]
            connection.register(name, _Readable(dataset, chosen, policy if name == "clips" else Policy()))
        connection.execute("SET lock_configuration = true")
        try:
            answer = connection.sql(query)
            if answer is None:
                raise UsageError("this statement has no answer: `store sql` only asks (select ...)")
            return answer.to_arrow_table()
        except duckdb.Error as error:
            raise UsageError(_explained(str(error).splitlines()[0], names)) from error


def _explained(message: str, names: set[str]) -> str:
    """What was wrong with a query, and what may have been meant."""
    unknown = re.search(r'(?:column|Table with name) "?([\w@]+)"?.* (?:not found|does not exist)', message)
    asked = unknown[1] if unknown else ""
    near = get_close_matches(asked, names | set(SHOWN), n=3)
    near += sorted(name for name in names - set(near) if "@" in asked and name.split("@")[0] == asked.split("@")[0])
    hint = f" Near: {', '.join(_quoted(name) for name in near)}." if near else ""
    return f"{message}{hint} Tables: {', '.join(SHOWN)}."


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"\w+", name) else f'"{name}"'


def _is_large(kind: pa.DataType) -> bool:
    """Whether values of a type are too large to be read without being asked for."""
    return pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _readable(field: pa.Field) -> pa.Field:
    """The field as DuckDB can read it: it knows no float16."""
    kind = field.type
    if pa.types.is_fixed_size_list(kind) and pa.types.is_float16(kind.value_type):
        return field.with_type(pa.list_(pa.float32(), kind.list_size))
    return field


class _Readable(pyarrow.dataset.Dataset):
    """Columns of a table as DuckDB sees them: it asks for `schema`, and calls `scanner` for what it reads."""

    def __init__(self, dataset: lance.LanceDataset, columns: Sequence[str], policy: Policy):
        self._dataset, self._policy = dataset, policy
        self._schema = pa.schema([_readable(dataset.schema.field(name)) for name in columns])

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def scanner(
        self, columns: Sequence[str] | None = None, filter: pyarrow.dataset.Expression | None = None, **options: Any
    ) -> "_Scan":
        schema = self._schema if columns is None else pa.schema([self._schema.field(name) for name in columns])
        return _Scan(self._dataset, schema, filter, self._policy)


@dataclass(frozen=True)
class _Scan:
    """One reading of a table: the columns of `schema`, of the rows that meet the condition and the policy."""

    dataset: lance.LanceDataset
    schema: pa.Schema
    condition: pyarrow.dataset.Expression | None
    policy: Policy

    def to_reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self.schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        columns = set(self.schema.names)
        if not self.policy.takes_all:
            columns.update(policies.COLUMNS)
        try:
            scanner, condition = self.dataset.scanner(columns=list(columns), filter=self.condition), None
        except pa.ArrowInvalid:  # a condition on a vector, which Lance cannot judge
            condition = self.condition
            columns.update(name for name in self.dataset.schema.names if name in str(condition))
            scanner = self.dataset.scanner(columns=list(columns))
        for batch in scanner.to_batches():
            if condition is not None:
                batch = batch.filter(condition)
            if not self.policy.takes_all:
                batch = batch.filter(pa.array(self.policy.allows(pa.table(batch))))
            yield batch.select(self.schema.names).cast(self.schema)
