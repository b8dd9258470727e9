"""`voxportrait store info|coverage|sql`."""

from base64 import b64encode
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.console import Json, Store, print_json, print_table, say

if TYPE_CHECKING:
    import pyarrow


class Format(StrEnum):
    """How an answer is written."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def info(store: Store, as_json: Json = False) -> None:
    """Clips, speakers, hours, splits, size, and the last job."""
    import featurestore

    found = featurestore.open(store).info()
    if as_json:
        print_json(found)
        return
    job = found.pop("last_job")
    rows = [(name.replace("_", " "), _short(value)) for name, value in found.items()]
    if job:
        rows.append(("last job", f"{job['job_id']} {job['kind']}, {job['state']}, by {job['who']}"))
    print_table(("", "the store"), rows)


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name or '(none)'} {number:,}" for name, number in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "nobody"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def coverage(store: Store, as_json: Json = False) -> None:
    """How far each constituent is filled, and how many clips each system could be trained on."""
    import featurestore
    from featurestore.catalogue import CATALOGUE

    found = featurestore.open(store).coverage()
    if as_json:
        print_json(found)
        return
    rows = [
        (
            name,
            f"{100 * counts['filled'] / max(found['clips'], 1):.1f} %",
            *counts.values(),
            CATALOGUE[name].about if name in CATALOGUE else "decoded, not stored",
        )
        for name, counts in found["constituents"].items()
    ]
    print_table(("constituent", "share", "filled", "missing", "quarantined", "untrained", "what it is"), rows)
    print_table(("system", "clips with all it needs"), found["systems"].items())


def sql(
    query: Annotated[str, typer.Argument(help="For example: select split, count(*) from clips group by 1")],
    store: Store,
    output_format: Annotated[Format, typer.Option("--format", help="How to write the answer.")] = Format.table,
    out: Annotated[Path | None, typer.Option(help="Write to this file, not to standard output.")] = None,
) -> None:
    """Ask clips, makers, jobs and quarantine in SQL (DuckDB, read-only).

    Values of vectors and blocks are read where the query names them; `*` leaves them out. In csv and JSON pictures and
    blocks are base64, in parquet bytes.
    """
    import featurestore
    from featurestore.errors import UsageError
    from featurestore.queries import sql as ask

    answer = ask(featurestore.open(store), query)
    if output_format is Format.parquet:
        if out is None:
            raise UsageError("parquet goes to a file: add --out answer.parquet")
        import pyarrow.parquet

        pyarrow.parquet.write_table(answer, out)
        say(f"{len(answer):,} rows in {out}")
        return
    if output_format is Format.table and out is None:
        print_table(answer.column_names, ([_cell(v) for v in row.values()] for row in answer.to_pylist()))
        return
    frame = _printable(answer).to_pandas()
    text = frame.to_csv(index=False) if output_format is not Format.json else frame.to_json(orient="records") + "\n"
    if out:
        out.write_text(text)
        say(f"{len(answer):,} rows in {out}")
    else:
        typer.echo(text, nl=False)


def _printable(answer: "pyarrow.Table") -> "pyarrow.Table":
    """The answer with bytes (pictures, blocks) as base64 text, which csv and JSON can hold."""
    import pyarrow

    for i, field in enumerate(answer.schema):
        if pyarrow.types.is_binary(field.type) or pyarrow.types.is_fixed_size_binary(field.type):
            text = [None if value is None else b64encode(value).decode() for value in answer[i].to_pylist()]
            answer = answer.set_column(i, field.name, pyarrow.array(text, pyarrow.string()))
    return answer


def _cell(value: object) -> object:
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if value is None or type(value) is int else str(value)


COMMANDS = (info, coverage, sql)
