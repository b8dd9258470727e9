"""Forgetting: a person or a clip leaves the store, its journal, indices, old versions and pictures, with proof.

    erasure = forget(store, speakers=["voxceleb2/id00012"], asked_by="the person", reason="consent withdrawn")

Steps that may be killed at any moment, and each done again without harm: the same command, or `resume`, ends what was
begun, which knows whom it is about by keyed hashes alone. docs/forgetting.md says what the proof proves.
"""

import difflib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import artifacts, journal, proof
from featurestore.artifacts import Settled
from featurestore.errors import UsageError, VoxportraitError
from featurestore.failpoints import reach
from featurestore.forgotten import FOLDER, Forgotten, has_file
from featurestore.leases import STORE, Lease, who_am_i
from featurestore.redaction import redact
from featurestore.store import FRAGMENT_CLIPS, Store, lance_errors

HOLDING = ("clips", "quarantine", "artifacts", "snapshots")
"""Tables that hold something of people, or may name them: their deleted rows and old versions go."""

_NAMES = ("clip_id", "path", "sound_path")

Told = Callable[[str], None]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Erasure:
    """An erasure that is done. proof: see docs/forgetting.md; settled: what was removed outside, and is to be trained
    again."""

    erasure_id: str
    epoch: int
    clips: int
    proof: dict[str, Any]
    settled: Settled


def forget(
    store: Store,
    speakers: Sequence[str] = (),
    clips: Sequence[str] = (),
    asked_by: str = "",
    reason: str = "",
    wait: float = 0.0,
    told: Told = lambda line: None,
    progress: Progress = lambda done, total, note: None,
) -> Erasure:
    """Forget speakers (`dataset/speaker`, or the speaker alone where one dataset has it) and clips, for ever.

    asked_by, reason: kept with the proof, so they must not name who is forgotten. wait: seconds to wait for who is at
    work in the store, else LeaseHeld. What was begun before and not done is done first; where that was this, it is
    returned. progress: called with steps done, steps, and what is being done.
    Raises UsageError for unknown names, VoxportraitError where bytes are left: the erasure then stays begun.
    """
    with lance_errors("forgetting"), Lease(store.place, [STORE], "forgetting", wait, told) as lease:
        ended = _end_all(store, lease, told, progress)
        forgotten = Forgotten.of(store.place, make_key=True)
        chosen = _choose(store, speakers, clips, forgotten)
        for line in chosen.gone:
            told(line)
        if not chosen.rows and ended:
            return ended[-1]
        if not chosen.rows:
            raise UsageError(chosen.gone[0] if chosen.gone else "name a speaker or a clip that is to be forgotten")
        for name in chosen.names:
            if name in f"{asked_by}\n{reason}":
                raise UsageError(f"the reason is kept for ever and names {name}: say it otherwise")
        row = {
            "erasure_id": f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}",
            "epoch": epoch(store) + 1,
            "state": "begun",
            "asked_by": asked_by or who_am_i(),
            "reason": reason,
            "started": datetime.now(UTC),
            "ended": None,
            "clips": len(chosen.rows),
            "hashes": chosen.hashes,
            "proof": None,
        }
        lease.check()
        store.insert("erasures", [row])
        reach("forget")
        return _end(store, row, lease, told, progress)


def resume(
    store: Store,
    wait: float = 0.0,
    told: Told = lambda line: None,
    progress: Progress = lambda done, total, note: None,
) -> list[Erasure]:
    """End the erasures that were begun and not done. See `forget`."""
    with lance_errors("forgetting"), Lease(store.place, [STORE], "forgetting", wait, told) as lease:
        return _end_all(store, lease, told, progress)


def preview(store: Store, speakers: Sequence[str] = (), clips: Sequence[str] = ()) -> dict[str, Any]:
    """What `forget` would remove, in numbers: {"speakers", "clips", "fragments", "quarantined", "pictures", "exports",
    "checkpoints"}. Only reads."""
    chosen = _choose(store, speakers, clips, Forgotten.of(store.place))
    if not chosen.rows:
        raise UsageError(chosen.gone[0] if chosen.gone else "name a speaker or a clip that is to be forgotten")
    clip_ids = pa.array(chosen.rows, pa.string())
    table = store.table("clips").to_table(columns=["clip_id"], with_row_id=True, with_row_address=True)
    table = table.filter(pc.is_in(table["clip_id"], value_set=clip_ids))
    quarantine = store.table("quarantine").to_table(columns=["clip_id"])["clip_id"]
    row_ids = table["_rowid"].to_numpy()
    return {
        "speakers": chosen.speakers,
        "clips": len(table),
        "fragments": len(np.unique(table["_rowaddr"].to_numpy() >> np.uint64(32))),
        "quarantined": pc.sum(pc.is_in(quarantine, value_set=clip_ids)).as_py() or 0,
        "pictures": len(artifacts.made_of(store, "picture", row_ids)),
        "exports": len(artifacts.made_of(store, "export", row_ids)),
        "checkpoints": len(artifacts.made_of(store, "checkpoint", row_ids)),
    }


def epoch(store: Store) -> int:
    """The erasure epoch: grows when an erasure begins and when it is done. Whoever copies values notes it before."""
    return pc.max(store.table("erasures").to_table(columns=["epoch"])["epoch"]).as_py() or 0


def unfinished(store: Store) -> str | None:
    """A line that says so if an erasure was begun and is not done."""
    begun = store.table("erasures").to_table(columns=["started", "asked_by"], filter="state = 'begun'").to_pylist()
    if not begun:
        return None
    return (
        f"a forgetting that {begun[0]['asked_by']} asked for on {begun[0]['started']:%Y-%m-%d} is begun and not done: "
        f"end it with voxportrait store forget --resume --store {store.place.shown}"
    )


def check(store: Store, made_at: int, what: str, row_ids: Iterable[int] | None = None) -> None:
    """Refuse a copy of the store's values if somebody in it was forgotten since it was made.

    made_at: the erasure epoch before it was made; what: the copy, for a person; row_ids: the clips in it, by their
    stable row ids. Without them every later erasure counts. Raises VoxportraitError.
    """
    if epoch(store) == made_at:
        return
    if row_ids is None:
        raise VoxportraitError(f"{what} was made before somebody was forgotten: remove it and make it again")
    wanted = np.fromiter(row_ids, np.uint64)
    if gone := int((~np.isin(wanted, artifacts.row_ids_of(store))).sum()):
        raise VoxportraitError(f"{what} holds {gone} clips that were forgotten since: remove it and make it again")


# -- whom ----------------------------------------------------------------------------------------------------------


@dataclass
class _Chosen:
    """rows: ids of the clips that go; hashes: of them and of the speakers; names: of all of them, as they may not be
    written anywhere; gone: a line for each that was forgotten before."""

    rows: list[str] = field(default_factory=list)
    speakers: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


def _choose(store: Store, speakers: Sequence[str], clips: Sequence[str], forgotten: Forgotten) -> _Chosen:
    table = store.table("clips").to_table(columns=["clip_id", "dataset", "speaker_id"])
    owners = pc.binary_join_element_wise(table["dataset"], table["speaker_id"], "/")
    known = sorted(owners.unique().to_pylist())
    chosen = _Chosen()
    for name in dict.fromkeys(speakers):
        found = [one for one in known if name in (one, one.partition("/")[2])]
        if len(found) > 1:
            raise UsageError(f"speaker {name!r} is in several datasets: say which of {', '.join(found)}")
        if found:
            chosen.speakers += found
        elif forgotten.has("speaker", name) or forgotten.has("name", name):
            chosen.gone.append(f"speaker {name!r} was forgotten before; nothing of it is here")
        else:
            raise UsageError(_unknown("speaker", name, known))
    clip_ids = table["clip_id"]
    for name in dict.fromkeys(clips):
        if pc.index(clip_ids, name).as_py() >= 0:
            chosen.rows.append(name)
        elif forgotten.clips()(name):
            chosen.gone.append(f"clip {name!r} was forgotten before; nothing of it is here")
        else:
            raise UsageError(_unknown("clip", name, clip_ids.to_pylist()))
    theirs = clip_ids.filter(pc.is_in(owners, value_set=pa.array(chosen.speakers, pa.string()))).to_pylist()
    chosen.rows = list(dict.fromkeys([*chosen.rows, *theirs]))
    bare = [speaker.partition("/")[2] for speaker in chosen.speakers]
    chosen.names = [*chosen.rows, *chosen.speakers, *bare]
    if chosen.rows:
        chosen.hashes = [
            *(forgotten.hash("clip", name) for name in chosen.rows),
            *(forgotten.hash("speaker", name) for name in chosen.speakers),
            *(forgotten.hash("name", name) for name in bare),
        ]
    return chosen


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, [*known, *(one.partition("/")[2] for one in known)], n=3, cutoff=0.8)
    return f"no {what} {name!r} in this store." + (f" Did you mean {' or '.join(near)}?" if near else "")


# -- how -----------------------------------------------------------------------------------------------------------


@dataclass
class _Work:
    """One erasure on its way. row: of `erasures`; forgotten: the names of this erasure alone."""

    store: Store
    row: dict[str, Any]
    forgotten: Forgotten
    told: Told
    settled: Settled = field(default_factory=lambda: Settled(0, [], {}))

    @property
    def kept(self) -> str:
        """The file that holds what is searched for, until the proof is there."""
        return f"{FOLDER}/{self.row['erasure_id']}.arrow"

    def rows(self, name: str) -> pa.Table:
        """`clip_id` and `_rowid` of the rows of a table that go."""
        table = self.store.table(name).to_table(columns=["clip_id"], with_row_id=True)
        is_theirs = self.forgotten.clips()
        return table.filter(pa.array([is_theirs(one) for one in table["clip_id"].to_pylist()], pa.bool_()))

    def write(self, **changes: Any) -> None:
        """Change the row of `erasures`."""
        self.row |= changes
        self.store.insert("erasures", [self.row], update=True)


def _end_all(store: Store, lease: Lease, told: Told, progress: Progress) -> list[Erasure]:
    begun = store.table("erasures").to_table(filter="state = 'begun'").to_pylist()
    ended = []
    for row in begun:
        told(f"going on with the forgetting that was begun on {row['started']:%Y-%m-%d %H:%M}")
        ended.append(_end(store, row, lease, told, progress))
    return ended


def _end(store: Store, row: dict[str, Any], lease: Lease, told: Told, progress: Progress) -> Erasure:
    work = _Work(store, row, Forgotten.of(store.place).only(row["hashes"]), told)
    steps = _STEPS if row["proof"] is None else _STEPS[-1:]
    for number, (what, step) in enumerate(steps):
        progress(number, len(steps), what)
        lease.check()
        step(work)
        reach("forget")
    progress(len(steps), len(steps), "done")
    return Erasure(row["erasure_id"], row["epoch"], row["clips"], json.loads(row["proof"]), work.settled)


def _note(work: _Work) -> None:
    """Keep a piece of every value that goes, and count how many of them are found in the files now."""
    store = work.store
    if has_file(store.place, work.kept):
        return
    rows = work.rows("clips")
    pieces: dict[bytes, None] = {}
    values = even = 0
    for value in _values_of(store, rows["_rowid"].to_pylist()):
        values += 1
        if (piece := proof.piece(value)) is None:
            even += 1
        else:
            pieces[piece] = None
    for speaker in {"/".join(clip_id.split("/")[:2]) for clip_id in rows["clip_id"].to_pylist()}:
        if work.forgotten.has("speaker", speaker) and (piece := proof.piece(speaker.encode())):
            pieces[piece] = None
    found, _, _ = proof.search(store.place, list(pieces))
    counts = {"values": values, "unprovable": even, "pieces": len(pieces), "found_before": len(found)}
    counts["pictures"] = len(artifacts.made_of(store, "picture", rows["_rowid"].to_numpy()))
    table = pa.table({"piece": pa.array(list(pieces), pa.binary())}).replace_schema_metadata(
        {b"counts": json.dumps(counts).encode()}
    )
    whole = pa.BufferOutputStream()
    with pa.ipc.new_file(whole, table.schema) as writer:
        writer.write_table(table)
    store.place.write_file(work.kept, whole.getvalue())


def _delete(work: _Work) -> None:
    """Delete the rows, by their row ids: the names would stay in the transaction."""
    for name in ("clips", "quarantine"):
        if row_ids := work.rows(name)["_rowid"].to_pylist():
            work.store.table(name).delete(f"_rowid IN ({', '.join(map(str, row_ids))})")


def _journal(work: _Work) -> None:
    """Take the rows out of the journal that no clip of the store has."""
    place, is_theirs = work.store.place, work.forgotten.clips()
    live = pa.array(artifacts.row_ids_of(work.store), pa.uint64())
    redact(
        place,
        journal.names(place),
        leaves=lambda one: is_theirs(one.clip_id),
        stays=lambda row_ids: pc.is_in(row_ids, value_set=live),
    )
    journal.sweep(place)


def _settle(work: _Work) -> None:
    """Remove generated pictures and exports, and list checkpoints."""
    work.settled = artifacts.settle(work.store, artifacts.row_ids_of(work.store))


def _compact(work: _Work) -> None:
    """Rewrite the fragments with deleted rows without them."""
    for name in HOLDING:
        dataset = work.store.table(name)
        whole = [fragment.fragment_id for fragment in dataset.get_fragments() if not fragment.num_deletions]
        dataset.optimize.compact_files(
            target_rows_per_fragment=FRAGMENT_CLIPS,
            materialize_deletions=True,
            materialize_deletions_threshold=0.0,
            excluded_fragment_ids=whole,
        )


def _indices(work: _Work) -> None:
    """Build the indices of `clips` anew from the rows that are left; drop one that cannot be."""
    before = _index_files(work.store)
    for name in before:
        try:
            work.store.table("clips").optimize.optimize_indices(index_names=[name], retrain=True)
        except (OSError, ValueError) as error:
            work.told(f"index {name} cannot be built anew: {str(error).splitlines()[0][:200]}")
    for name, files in _index_files(work.store).items():
        if files & before[name]:
            work.store.table("clips").drop_index(name)
            work.told(f"index {name} could not be built anew and was dropped: build it again where it pays")


def _index_files(store: Store) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for index in store.table("clips").describe_indices():
        found[index.name] = {str(segment.uuid) for segment in index.segments}
    return found


def _clean(work: _Work) -> None:
    """Remove old versions, the tags that hold them, and files that no version names."""
    for name in HOLDING:
        dataset = work.store.table(name)
        for tag in dataset.tags.list():
            dataset.tags.delete(tag)
        dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)


def _prove(work: _Work) -> None:
    """Search every file for what was kept; nothing may be found that the clips that are left do not hold themselves."""
    store = work.store
    pieces, counts = _pieces(work)
    began = datetime.now(UTC)
    found, files, size = proof.search(store.place, pieces, [work.kept])
    others = np.setdiff1d(artifacts.row_ids_of(store), work.rows("clips")["_rowid"].to_numpy())
    shared = _held(store, others, [pieces[number] for number in found]) if found else set()
    left = {path for number, paths in found.items() if pieces[number] not in shared for path in paths}
    if left:
        some = ", ".join(sorted(left)[:5]) + (", ..." if len(left) > 5 else "")
        raise VoxportraitError(
            f"the proof failed: bytes of what is to be forgotten are still in {some}. Remove by hand what is not the "
            "store's own, drop a snapshot whose condition names them, and run the command again: it stays begun."
        )
    seconds = (datetime.now(UTC) - began).total_seconds()
    report = {**counts, "found_after": 0, "shared": len(shared), "files": files, "bytes": size, "seconds": seconds}
    work.write(proof=json.dumps(report))


def _finish(work: _Work) -> None:
    if has_file(work.store.place, work.kept):
        work.store.place.files.delete_file(work.kept)
    work.settled = Settled(work.settled.removed, work.settled.elsewhere, artifacts.checkpoints(work.store))
    work.write(state="done", ended=datetime.now(UTC), epoch=epoch(work.store) + 1)


_STEPS: tuple[tuple[str, Callable[[_Work], None]], ...] = (
    ("noting what goes", _note),
    ("deleting rows", _delete),
    ("the journal", _journal),
    ("pictures, exports and checkpoints", _settle),
    ("rewriting fragments", _compact),
    ("indices", _indices),
    ("old versions", _clean),
    ("proof", _prove),
    ("closing", _finish),
)


# -- values --------------------------------------------------------------------------------------------------------


def _pieces(work: _Work) -> tuple[list[bytes], dict[str, int]]:
    """What is searched for, and the counts of `_note`."""
    with work.store.place.files.open_input_file(work.kept) as file:
        table = pa.ipc.open_file(file).read_all()
    return table["piece"].to_pylist(), json.loads(table.schema.metadata[b"counts"])


def _values_of(store: Store, row_ids: Sequence[int]) -> Iterator[bytes]:
    """The bytes of every value of these clips, live, candidate and in the journal, and of the texts that name them."""
    dataset = store.table("clips")
    where = f"_rowid IN ({', '.join(map(str, row_ids))})"
    for batch in dataset.scanner(columns=_columns(dataset.schema), filter=where, batch_size=64).to_batches():
        yield from _bytes(batch)
    for table in _journaled(store):
        yield from _bytes(table.filter(pc.is_in(table["_rowid"], value_set=pa.array(row_ids, pa.uint64()))))


def _held(store: Store, row_ids: np.ndarray, pieces: Sequence[bytes]) -> set[bytes]:
    """Which pieces the values of these clips hold themselves."""
    finder, dataset = proof.Finder(pieces), store.table("clips")
    rows, held = pa.array(row_ids, pa.uint64()), set[int]()
    batches = dataset.scanner(columns=_columns(dataset.schema), with_row_id=True, batch_size=64).to_batches()
    for part in chain(_journaled(store), batches):
        held |= finder.find(b"".join(_bytes(part.filter(pc.is_in(part["_rowid"], value_set=rows)))))
    return {pieces[number] for number in held}


def _journaled(store: Store) -> Iterator[pa.Table]:
    for name in journal.names(store.place):
        try:
            yield journal.read(store.place, name)
        except journal.JournalDamaged:
            continue


def _columns(schema: pa.Schema) -> list[str]:
    """The columns whose values are searched for: vectors, blocks, pictures, and texts that name a clip."""

    def is_searched(f: pa.Field) -> bool:
        is_bytes = pa.types.is_fixed_size_binary(f.type) or pa.types.is_binary(f.type)
        is_text = f.name in _NAMES or f.name.endswith("_sha256")
        return is_bytes or is_text or pa.types.is_fixed_size_list(f.type)

    return [f.name for f in schema if is_searched(f)]


def _bytes(rows: pa.Table | pa.RecordBatch) -> Iterator[bytes]:
    """The bytes of the values in the columns that are searched for, as Lance writes them."""
    for name in _columns(rows.schema):
        column = rows[name].drop_null()
        if pa.types.is_fixed_size_list(column.type):
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                flat = chunk.flatten().to_numpy(zero_copy_only=False)
                yield from (row.tobytes() for row in flat.reshape(len(chunk), chunk.type.list_size))
        else:
            yield from (v.encode() if isinstance(v, str) else v for v in column.to_pylist() if v)
