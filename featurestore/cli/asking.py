"""`voxportrait store info|coverage|sql|index|parts`."""

from base64 import b64encode
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.console import Json, Licences, RequireConsent, Store, print_json, print_table, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas
    import pyarrow

    from featurestore.catalogue import Constituent


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


def coverage(
    store: Store, require_consent: RequireConsent = False, licences: Licences = None, as_json: Json = False
) -> None:
    """How far each constituent is filled, and how many clips each system could be trained on."""
    import featurestore
    from featurestore.catalogue import CATALOGUE
    from featurestore.policy import policy_of

    found = featurestore.open(store).coverage(policy_of(require_consent, licences))
    if as_json:
        print_json(found)
        return
    rows = [
        (name, f"{100 * counts['filled'] / max(found['clips'], 1):.1f} %", *counts.values(), _about(name, CATALOGUE))
        for name, counts in (found["constituents"] | found["candidates"]).items()
    ]
    print_table(("constituent", "share", "filled", "missing", "quarantined", "untrained", "what it is"), rows)
    print_table(("system", "clips with all it needs"), found["systems"].items())


def _about(name: str, catalogue: "Mapping[str, Constituent]") -> str:
    if "@" in name:
        return f"a candidate: {name.split('@')[0]} by another maker"
    return catalogue[name].about if name in catalogue else "decoded, not stored"


def sql(
    query: Annotated[str, typer.Argument(help="For example: select split, count(*) from clips group by 1")],
    store: Store,
    output_format: Annotated[Format, typer.Option("--format", help="How to write the answer.")] = Format.table,
    out: Annotated[Path | None, typer.Option(help="Write to this file, not to standard output.")] = None,
    require_consent: RequireConsent = False,
    licences: Licences = None,
) -> None:
    """Ask the store's tables in SQL (DuckDB, read-only).

    The tables are clips, makers, jobs, quarantine, snapshots, artifacts and erasures. Vectors, blocks and pictures are
    read where the query names them; `*` leaves them out. In csv and JSON pictures and blocks are base64, in parquet
    bytes.
    """
    import featurestore
    from featurestore.errors import UsageError
    from featurestore.policy import policy_of

    if output_format is Format.parquet and out is None:
        raise UsageError("parquet goes to a file: add --out answer.parquet")
    answer = featurestore.open(store).sql(query, "arrow", policy_of(require_consent, licences))
    if output_format is Format.parquet:
        import pyarrow.parquet

        pyarrow.parquet.write_table(answer, out)
    elif output_format is Format.table and out is None:
        print_table(answer.column_names, ([_cell(v) for v in row.values()] for row in answer.to_pylist()))
    else:
        frame = _printable(answer).to_pandas(integer_object_nulls=True)
        as_json = output_format is Format.json
        text = _json(frame) if as_json else frame.to_csv(index=False)
        out.write_text(text) if out else typer.echo(text, nl=False)
    if out:
        say(f"{len(answer):,} rows in {out}")


def _json(frame: "pandas.DataFrame") -> str:
    return frame.to_json(orient="records", date_format="iso", double_precision=15) + "\n"


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


def index(
    by: Annotated[str, typer.Argument(help="A vector of the catalogue: ecapa, face_embedding_dlib, ...")],
    store: Store,
    anyway: Annotated[bool, typer.Option("--anyway", help="Build it where it does not pay, too.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for other jobs to leave the store.")] = 0,
    as_json: Json = False,
) -> None:
    """Build the vector index that `store similar` uses, or bring it up to date with what was filled since."""
    import featurestore
    from featurestore.search import build_index

    done = build_index(featurestore.open(store), by, anyway, wait, say)
    if as_json:
        print_json(done)
    elif done["index"] is None:
        say(f"{done['vectors']:,} vectors of {by} are compared as fast without an index; --anyway builds one")
    else:
        say(f"the index of {done['vectors']:,} vectors of {by} is {done['state']}")


def parts(
    store: Store,
    out: Annotated[Path, typer.Option(help="Where the picture goes: .png, .svg or .pdf.")] = Path("parts.png"),
    clips: Annotated[
        list[str] | None, typer.Option("--clip", help="This clip of the split, not some; may be said again.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, max=50, help="Faces, where no clip is named.")] = 4,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    require_consent: RequireConsent = False,
    licences: Licences = None,
) -> None:
    """Draw the parts of faces, and the bottom face that Fine-portraitist says speech tells."""
    import numpy as np

    import featurestore
    from featurestore import artifacts
    from featurestore.conditioning import Layout
    from featurestore.errors import UsageError
    from featurestore.parts_picture import draw
    from featurestore.policy import policy_of
    from featurestore.records import Slab
    from featurestore.store_records import StoreRecords

    opened, layout = featurestore.open(store), Layout("parts", (), beside=("face_parts",))
    policy = policy_of(require_consent, licences)
    records = StoreRecords(opened, layout, ("face",), missing="skip", split=split, policy=policy)
    ids = records.clip_ids(records.rows)
    if gone := [clip for clip in clips or () if clip not in ids]:
        raise UsageError(f"clip {gone[0]} is not among the {split} clips that have face and face_parts")
    places = (
        [ids.index(clip) for clip in clips] if clips else np.linspace(0, len(ids) - 1, min(most, len(ids))).astype(int)
    )
    rows = records.rows[places]
    slab = Slab(records.fields, len(rows))
    rows = rows[records.read(rows, slab.arrays)]
    out.parent.mkdir(parents=True, exist_ok=True)
    artifacts.note(opened, "picture", {out: rows.tolist()})
    faces, landmarks = (slab.arrays[name][: len(rows)] for name in ("face", "face_parts"))
    draw(faces, landmarks, records.clip_ids(rows)).savefig(out)
    say(f"{len(rows)} faces in {out}")


COMMANDS = (info, coverage, sql, index, parts)
