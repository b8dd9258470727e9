"""How clips and constituents lie in Arrow: column types, encoding of extracted values, decoding of stored ones."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.catalogue import Constituent
from featurestore.clip import Clip

FORMAT = b"3"
"""Version of the store's layout, kept in the schema metadata of `clips`."""

_KEY = {b"lance-schema:unenforced-primary-key": b"true"}

_TRACK = pa.list_(
    pa.struct(
        [("frame", pa.int32()), ("x", pa.float32()), ("y", pa.float32()), ("w", pa.float32()), ("h", pa.float32())]
    )
)


def key_field(name: str) -> pa.Field:
    """A non-null text field that Lance treats as the table's primary key when rows are merged."""
    return pa.field(name, pa.string(), nullable=False, metadata=_KEY)


CLIPS = pa.schema(
    [
        key_field("clip_id"),
        ("dataset", pa.string()),
        ("speaker_id", pa.string()),
        ("video_id", pa.string()),
        ("split", pa.string()),
        ("path", pa.string()),
        ("sound_path", pa.string()),
        ("licence", pa.string()),
        ("consent", pa.string()),
        ("consent_until", pa.date32()),
        ("corpus_age", pa.float32()),
        ("corpus_gender", pa.string()),
        ("corpus_ethnicity", pa.string()),
        ("face_track", _TRACK),
    ],
    metadata={b"voxportrait.format": FORMAT},
)
MAKERS = pa.schema(
    [
        key_field("digest"),
        ("id", pa.int16()),
        ("constituent", pa.string()),
        ("model", pa.string()),
        ("library", pa.string()),
        ("weights", pa.string()),
        ("parameters", pa.string()),
        ("trained", pa.bool_()),
    ]
)
JOBS = pa.schema(
    [
        key_field("job_id"),
        ("kind", pa.string()),
        ("state", pa.string()),
        ("who", pa.string()),
        ("code", pa.string()),
        ("started", pa.timestamp("ms", "UTC")),
        ("ended", pa.timestamp("ms", "UTC")),
        ("counts", pa.string()),
        ("seconds", pa.string()),
        ("gpu_seconds", pa.string()),
        ("policy", pa.string()),
    ]
)
QUARANTINE = pa.schema(
    [
        key_field("key"),
        ("clip_id", pa.string()),
        ("constituent", pa.string()),
        ("maker", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("job_id", pa.string()),
    ]
)
LEASES = pa.schema(
    [
        key_field("resource"),
        ("holder", pa.string()),
        ("who", pa.string()),
        ("process", pa.string()),
        ("renewed", pa.float64()),
        ("expires", pa.float64()),
    ]
)
SNAPSHOTS = pa.schema(
    [
        key_field("name"),
        ("created", pa.timestamp("ms", "UTC")),
        ("who", pa.string()),
        ("clips", pa.int64()),
        ("digest", pa.string()),
        ("selection", pa.string()),
        ("erasure_epoch", pa.int32()),
        ("row_ids", pa.list_(pa.uint64())),
        ("splits", pa.list_(pa.int8())),
        (
            "makers",
            pa.list_(
                pa.struct(
                    [
                        ("constituent", pa.string()),
                        ("digests", pa.list_(pa.string())),
                        ("codes", pa.list_(pa.int16())),
                    ]
                )
            ),
        ),
    ]
)
ARTIFACTS = pa.schema(
    [
        key_field("artifact_id"),
        ("kind", pa.string()),
        ("path", pa.string()),
        ("created", pa.timestamp("ms", "UTC")),
        ("who", pa.string()),
        ("row_ids", pa.list_(pa.uint64())),
        ("erased", pa.int64()),
    ]
)
ERASURES = pa.schema(
    [
        key_field("erasure_id"),
        ("epoch", pa.int32()),
        ("state", pa.string()),
        ("asked_by", pa.string()),
        ("reason", pa.string()),
        ("started", pa.timestamp("ms", "UTC")),
        ("ended", pa.timestamp("ms", "UTC")),
        ("clips", pa.int64()),
        ("hashes", pa.list_(pa.string())),
        ("proof", pa.string()),
    ]
)
TABLES = {
    "clips": CLIPS,
    "makers": MAKERS,
    "jobs": JOBS,
    "quarantine": QUARANTINE,
    "leases": LEASES,
    "snapshots": SNAPSHOTS,
    "artifacts": ARTIFACTS,
    "erasures": ERASURES,
}


def clip_rows(clips: Sequence[Clip]) -> pa.Table:
    """The rows of `clips` in the table's schema, constituents left out."""
    names = [f.name for f in CLIPS if f.name != "face_track"]
    columns = {name: pa.array([getattr(c, name) for c in clips], CLIPS.field(name).type) for name in names}
    fields = [f.name for f in _TRACK.value_type]
    tracks = [[dict(zip(fields, row, strict=True)) for row in c.face_track] or None for c in clips]
    return pa.table({**columns, "face_track": pa.array(tracks, _TRACK)}, schema=CLIPS)


def row_clip(row: Mapping[str, Any]) -> Clip:
    """The Clip of a row of `clips` as a dictionary."""
    track = tuple(tuple(box.values()) for box in row["face_track"] or ())
    return Clip(**{name: row[name] for name in Clip.__slots__ if name != "face_track"}, face_track=track)


def _extra_field(key: str, name: str, kind: str) -> pa.Field:
    column = f"{key}_{name}"
    if block := re.fullmatch(r"(\w+)\(([\d,]+)\)", kind):
        count = int(np.prod([int(n) for n in block[2].split(",")]))
        return pa.field(column, pa.binary(count * np.dtype(block[1]).itemsize))
    if vector := re.fullmatch(r"(\w+)\[(\d+)\]", kind):
        return pa.field(column, pa.list_(pa.type_for_alias(vector[1]), int(vector[2])))
    return pa.field(column, pa.type_for_alias(kind))


def value_fields(constituent: Constituent) -> list[pa.Field]:
    """The columns that hold a constituent's value (its maker's column aside), in order."""
    key = constituent.key
    value: dict[str, list[pa.Field]] = {
        "vector": [pa.field(key, pa.list_(pa.float16(), constituent.shape[0] if constituent.shape else 0))],
        "block": [pa.field(key, pa.binary(constituent.nbytes or 1))],
        "picture": [pa.field(key, pa.binary())],
        "label": [pa.field(key, pa.string()), pa.field(f"{key}_probability", pa.float32())],
        "number": [pa.field(key, pa.float32()), pa.field(f"{key}_probability", pa.float32())],
        "record": [],
    }
    return value[constituent.kind] + [_extra_field(key, name, kind) for name, kind in constituent.extras]


def columns_of(constituent: Constituent, column: str = "") -> list[pa.Field]:
    """All columns of a constituent: its value and its maker. column: what they are called after, if not its key."""
    fields = [*value_fields(constituent), pa.field(constituent.maker_column, pa.int16())]
    if not column:
        return fields
    return [field.with_name(column + field.name.removeprefix(constituent.key)) for field in fields]


def candidate(key: str, digest: str) -> str:
    """The name of the columns that hold a constituent by a maker who is not the live one: `ecapa@1f2e3d4c`."""
    return f"{key}@{digest[:8]}"


def candidates(names: Sequence[str]) -> dict[str, list[str]]:
    """The candidates among a table's columns, by constituent."""
    found: dict[str, list[str]] = {}
    for name in names:
        if match := re.fullmatch(r"(\w+)@[0-9a-f]{8}_maker", name):
            found.setdefault(match[1], []).append(name.removesuffix("_maker"))
    return found


def half_precision_losses(values: np.ndarray) -> tuple[int, int]:
    """(overflows, underflows): finite values that float16 turns into infinity, and non-zero ones it turns into 0."""
    with np.errstate(over="ignore", under="ignore"):
        half = np.asarray(values).astype(np.float16)
    finite = np.isfinite(values)
    return int((np.isinf(half) & finite).sum()), int(((half == 0) & (values != 0)).sum())


def encode(field: pa.Field, dtype: str, values: Sequence[Any]) -> pa.Array:
    """One column of extracted values (None = not made) as an Arrow array of the field's type.

    dtype: of the bytes of a block. A value of another size or a NaN-free contract broken upstream raises ValueError.
    """
    kind = field.type
    if pa.types.is_fixed_size_binary(kind):
        encoded = [None if v is None else np.ascontiguousarray(v, dtype).tobytes() for v in values]
        wrong = next((len(b) for b in encoded if b is not None and len(b) != kind.byte_width), None)
        if wrong is not None:
            raise ValueError(f"column {field.name} takes {kind.byte_width} bytes a row, was given {wrong}")
        return pa.array(encoded, kind)
    if pa.types.is_fixed_size_list(kind):
        width = kind.list_size
        flat = np.zeros((len(values), width), kind.value_type.to_pandas_dtype())
        with np.errstate(over="ignore", under="ignore"):
            for i, v in enumerate(values):
                if v is not None:
                    flat[i] = np.asarray(v).reshape(width)
        missing = pa.array([v is None for v in values])
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), type=kind, mask=missing)
    return pa.array(values, kind)


def decode(column: pa.ChunkedArray | pa.Array, shape: tuple[int, ...], dtype: str, nulls: bool = False) -> np.ndarray:
    """A vector or block column as an array (rows, *shape), without a copy where it is one chunk.

    nulls: whether there may be NULLs, whose places then hold anything; else they are a ValueError.
    """
    array = column
    if isinstance(array, pa.ChunkedArray):  # `combine_chunks` copies a single one too
        array = (
            array.chunk(0) if array.num_chunks == 1 else pa.concat_arrays(array.chunks or [pa.array([], array.type)])
        )
    if array.null_count and not nulls:
        raise ValueError(f"{array.null_count} of {len(array)} values are missing")
    n = len(array)
    if pa.types.is_fixed_size_list(array.type):
        width = array.type.list_size
        return array.values.slice(array.offset * width, n * width).to_numpy(zero_copy_only=False).reshape(n, *shape)
    width = array.type.byte_width
    start = array.offset * width
    return np.frombuffer(array.buffers()[1], dtype=np.uint8)[start : start + n * width].view(dtype).reshape(n, *shape)
