"""What is looked at in a store, check by check. Each gives findings, reads with bounded memory, and changes nothing."""

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from featurestore import clip, compaction, erasure, forgotten, journal, snapshots
from featurestore.catalogue import ATTRIBUTES, CATALOGUE, Constituent
from featurestore.clip import SPLITS
from featurestore.errors import VoxportraitError
from featurestore.makers import Maker
from featurestore.schema import CLIPS, TABLES, candidates, columns_of, decode, value_fields
from featurestore.store import Store

PICTURE = (256, 256)
"""Pixels of a stored picture."""

LOGS = "_logs"
"""The folder of the logs of jobs."""

PARTS = ("media", "sound", "face")
"""What a clip may be quarantined under for everything that needs it."""

_ROWS = 64
_REFILL = "its values cannot be trusted: take them away with voxportrait store reset --clip, and fill again"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong. check: which one found it; where: the table, column or file; what is wrong; todo."""

    check: str
    where: str
    what: str
    todo: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def schema(store: Store) -> Iterator[Finding]:
    """Every table there, with the columns that this version of voxportrait knows."""
    for name, expected in TABLES.items():
        if not store.exists(name):
            yield Finding("schema", name, "the table is not there", "restore it from a backup of the store")
            continue
        found = store.table(name).schema
        yield from _fields(name, found, list(expected))
    found = store.table("clips").schema if store.exists() else CLIPS
    known = set(CLIPS.names)
    for column, entry in columns(found.names):
        fields = columns_of(entry, column)
        known |= {field.name for field in fields}
        yield from _fields("clips", found, fields)
    for column in found.names:
        if column not in known:
            todo = "install the package that adds this constituent, or drop the column"
            yield Finding("schema", f"clips.{column}", "a column of no known constituent", todo)


def _fields(table: str, found: pa.Schema, expected: list[pa.Field]) -> Iterator[Finding]:
    for field in expected:
        where = f"{table}.{field.name}"
        if field.name not in found.names:
            yield Finding("schema", where, "the column is not there", "restore the table from a backup of the store")
        elif not _same_type(found.field(field.name).type, field.type):
            what = f"the column is {found.field(field.name).type}, not {field.type}"
            yield Finding("schema", where, what, "another version of voxportrait wrote it: use that, or extract anew")


def _same_type(a: pa.DataType, b: pa.DataType) -> bool:
    return str(a).replace("element:", "item:") == str(b).replace("element:", "item:")


def columns(names: list[str]) -> list[tuple[str, Constituent]]:
    """What constituents' columns are called in a table: those that are live, and candidates."""
    live = [(key, entry) for key, entry in CATALOGUE.items() if entry.maker_column in names]
    others = candidates(names)
    return live + [(name, CATALOGUE[key]) for key in others if key in CATALOGUE for name in others[key]]


def clips(store: Store) -> Iterator[Finding]:
    """Ids unique and well-formed, their parts as the columns say, splits valid, nobody there who was forgotten."""
    table = store.table("clips").to_table(columns=["clip_id", "dataset", "speaker_id", "video_id", "split"])
    ids = table["clip_id"]
    counted = pc.value_counts(ids.combine_chunks())
    twice = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    remove = "remove it by voxportrait store forget --clip, and register it anew"
    yield from _clips("clip ids", "clips", twice, "registered twice", "restore the table from a backup of the store")
    is_well = pc.match_substring_regex(ids, f"^(?:{clip._CLIP_ID.pattern})$")
    malformed = ids.filter(pc.invert(is_well))
    yield from _clips("clip ids", "clips", malformed, "not <dataset>/<speaker>/<video>/<utterance>", remove)
    parts = pc.binary_join_element_wise(table["dataset"], table["speaker_id"], table["video_id"], "", "/")
    is_own = np.array([i.startswith(p or "\0") for i, p in zip(ids.to_pylist(), parts.to_pylist(), strict=True)], bool)
    yield from _clips("clip ids", "clips", ids.filter(pa.array(~is_own)), "not of the speaker in its row", remove)
    is_split = pc.is_in(table["split"], value_set=pa.array(SPLITS))
    what = f"in a split that is none of {', '.join(SPLITS)}"
    yield from _clips("splits", "clips.split", ids.filter(pc.invert(is_split)), what, remove)
    try:
        was_forgotten = forgotten.Forgotten.of(store.place).clips()
    except VoxportraitError as error:
        yield Finding("erasures", forgotten.KEY, str(error), "restore the file from a backup of the store")
        return
    back = pa.array([i for i in ids.to_pylist() if was_forgotten(i)], pa.string())
    if line := erasure.unfinished(store):
        yield Finding("erasures", "erasures", line.split(":")[0], line.split(": ", 1)[1])
    else:
        yield from _clips("erasures", "clips", back, "there though they were forgotten", "forget them again")


def _clips(check: str, where: str, found: pa.Array | pa.ChunkedArray, what: str, todo: str) -> Iterator[Finding]:
    """One finding for all clips in `found`, if there are any."""
    if count := len(found):
        yield Finding(check, where, f"{count} clips {what}, such as {found[0].as_py()!r}", todo)


def makers(store: Store) -> Iterator[Finding]:
    """Each maker's number once, and its digest that of what is said of it."""
    numbers: dict[int, str] = {}
    for row in store.table("makers").to_table().to_pylist():
        number, digest = row.pop("id"), row.pop("digest")
        where = f"makers {digest[:8]}"
        if number in numbers:
            what = f"has the number {number} of {numbers[number][:8]} too"
            yield Finding("makers", where, what, "nobody can tell whose values are whose: restore the table")
        numbers[number] = digest
        if Maker(**{**row, "parameters": json.loads(row["parameters"])}).digest != digest:
            yield Finding(
                "makers", where, "is not what its digest says", "restore the table from a backup of the store"
            )


def values(store: Store, dataset: lance.LanceDataset, fragment: lance.LanceFragment) -> Iterator[Finding]:
    """One fragment's values: makers known, value and maker both there or none, and each value what it should be."""
    known: dict[int, str] = {}
    for row in store.table("makers").to_table(columns=["id", "constituent"]).to_pylist():
        known[row["id"]] = row["constituent"]
    for column, entry in columns(dataset.schema.names):
        fields = [f.name for f in columns_of(entry, column)]
        if any(name not in dataset.schema.names for name in fields):
            continue
        wrong: dict[str, list[str]] = {}
        for batch in fragment.scanner(columns=["clip_id", *fields], batch_size=_ROWS).to_batches():
            made = pa.table({f.name: batch[name] for f, name in zip(columns_of(entry), fields, strict=True)})
            for what, bad in _faults(entry, made, known):
                wrong.setdefault(what, []).extend(batch["clip_id"].filter(pa.array(bad)).to_pylist())
        for what, ids in wrong.items():
            yield from _clips("values", f"clips.{column}", pa.array(ids), what, _REFILL)


def _faults(entry: Constituent, made: pa.Table, known: dict[int, str]) -> Iterator[tuple[str, np.ndarray]]:
    """(what is wrong, for which rows) of the columns of a constituent, called by its key."""
    maker, fields = made[entry.maker_column], value_fields(entry)
    has_maker = maker.is_valid().to_numpy()
    there = [made[f.name].is_valid().to_numpy() for f in fields]
    has_value = np.logical_or.reduce(there) if entry.kind == "record" else there[0]
    numbers = maker.fill_null(-1).to_numpy()
    by = np.array([known.get(number, "") for number in numbers.tolist()])
    checks = [
        ("have a maker and no value", has_maker & ~has_value),
        ("have a value and no maker", np.logical_or.reduce(there) & ~has_maker),
        ("have a maker that is not known", has_maker & (by == "")),
        ("have a maker of another constituent", has_maker & (by != "") & (by != entry.key)),
    ]
    for field, valid in zip(fields, there, strict=True):
        dtype = entry.dtype if field.name == entry.key else ""
        bad = np.zeros(len(made), bool)
        bad[valid] = ~_finite(made[field.name].filter(pa.array(valid)).combine_chunks(), dtype)
        checks.append((f"have NaN or infinite values in {field.name}", bad))
    if entry.kind == "picture":
        checks += _bad_pictures(made[entry.key], PICTURE if entry.key == "face" else None)
    if entry.key in ATTRIBUTES:
        is_known = pc.is_in(made[entry.key], value_set=pa.array(ATTRIBUTES[entry.key])).to_numpy()
        checks.append(("have a label that is not in the vocabulary", has_value & ~is_known))
    yield from ((what, bad) for what, bad in checks if bad.any())


def _finite(column: pa.Array, dtype: str) -> np.ndarray:
    """Which of the values, none of them NULL, have no NaN and no infinity in them."""
    kind = column.type
    if not len(column):
        return np.zeros(0, bool)
    if pa.types.is_fixed_size_list(kind):
        flat = column.flatten()
        return np.isfinite(flat.to_numpy(zero_copy_only=False)).reshape(len(column), -1).all(1) & (not flat.null_count)
    if pa.types.is_fixed_size_binary(kind) and dtype.startswith("float"):
        flat = decode(column, (kind.byte_width // np.dtype(dtype).itemsize,), dtype)
        return np.isfinite(flat).all(1)
    if pa.types.is_floating(kind):
        return np.isfinite(column.to_numpy())
    return np.ones(len(column), bool)


def _bad_pictures(column: pa.ChunkedArray, size: tuple[int, int] | None) -> list[tuple[str, np.ndarray]]:
    """Which pictures cannot be decoded, and which are not of their size, where they have one."""
    broken, odd = np.zeros(len(column), bool), np.zeros(len(column), bool)
    for i, data in enumerate(column.to_pylist()):
        if data is None:
            continue
        try:
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
                odd[i] = picture.size != (size or picture.size)
        except (OSError, SyntaxError, ValueError):
            broken[i] = True
    return [
        ("have a picture that cannot be decoded", broken),
        (f"have a picture that is not {PICTURE[0]} x {PICTURE[1]}", odd),
    ]


def quarantine(store: Store) -> Iterator[Finding]:
    """Rows of clips that are there, under a key of their own; nothing both quarantined and filled by one maker."""
    table = store.table("quarantine").to_table(columns=["key", "clip_id", "constituent", "maker"])
    if not len(table):
        return
    release = "let it out: voxportrait store quarantine release --clip"
    key = pc.binary_join_element_wise(table["clip_id"], table["constituent"], table["maker"], "|")
    odd = table["clip_id"].filter(pc.invert(pc.equal(key, table["key"])))
    yield from _clips("quarantine", "quarantine", odd, "under a key that is not theirs", release)
    whats = [*CATALOGUE, *PARTS]
    unknown = table["clip_id"].filter(pc.invert(pc.is_in(table["constituent"], value_set=pa.array(whats))))
    yield from _clips("quarantine", "quarantine", unknown, "quarantined under no known constituent", release)
    dataset = store.table("clips")
    named = columns(dataset.schema.names)
    rows = dataset.to_table(columns=["clip_id", *(f"{column}_maker" for column, _ in named)])
    places = pc.index_in(table["clip_id"], value_set=rows["clip_id"].combine_chunks())
    lost = table["clip_id"].filter(places.is_null())
    yield from _clips("quarantine", "quarantine", lost, "quarantined that are not registered", release)
    ids = store.known_makers()
    wanted = np.array([ids.get(digest, -2) for digest in table["maker"].to_pylist()])
    at = places.fill_null(0).to_numpy()
    for column, entry in named:
        if entry.key in PARTS:
            continue
        filled = rows[f"{column}_maker"].fill_null(-1).to_numpy()[at] == wanted
        filled &= places.is_valid().to_numpy() & pc.equal(table["constituent"], entry.key).to_numpy()
        both = table["clip_id"].filter(pa.array(filled))
        yield from _clips("quarantine", f"clips.{column}", both, "filled and quarantined by one maker", release)


def files(store: Store) -> Iterator[Finding]:
    """Nothing waits in the journal, no file that nothing refers to, none of unknown origin. While nobody is at work."""
    chunks = journal.names(store.place)
    if damaged := [name for name in chunks if journal.entry(store.place, name) is None]:
        what = f"{len(damaged)} damaged files, such as {damaged[0]}"
        yield Finding("journal", journal.FOLDER, what, "run the fill again: it makes them anew")
    if waiting := len(chunks) - len(damaged):
        what = f"{waiting} finished chunks wait: a job was stopped"
        yield Finding(
            "journal",
            journal.FOLDER,
            what,
            "run the fill again: it takes them up; or, if its models are gone: voxportrait store compact "
            "--discard-journal",
        )
    compact = "voxportrait store compact removes them"
    if partial := [f.base_name for f in store.place.list(journal.FOLDER) if f.base_name.startswith(".")]:
        yield Finding("journal", journal.FOLDER, f"{len(partial)} half-written files", compact)
    for name in compaction.UNDER_LEASES:
        if found := compaction.orphans(store, name):
            what = f"{len(found)} files that no version refers to, such as {found[0]}"
            yield Finding("orphan files", name, what, compact)
    own = {*(f"{name}.lance" for name in TABLES), journal.FOLDER, forgotten.FOLDER, LOGS}
    for info in store.place.list("", recursive=True):
        if info.path.split("/")[0] not in own:
            yield Finding("unknown files", info.path, "a file that voxportrait did not make", "move it elsewhere")


def kept(store: Store) -> Iterator[Finding]:
    """Snapshots can be read as they were taken, and indices have all rows."""
    for row in snapshots.listed(store):
        try:
            snapshots.read(store, row["name"])
        except VoxportraitError as error:
            what, _, todo = str(error).rpartition(": ")
            yield Finding("snapshots", row["name"], what, todo)
    dataset = store.table("clips")
    count = dataset.count_rows()
    for index in dataset.describe_indices():
        if lacking := count - index.num_rows_indexed:
            what = f"{lacking} of {count} rows are not in it"
            yield Finding("indices", index.name, what, "voxportrait store compact brings it up to date")
