"""Filling: plan what is missing, make it chunk by chunk, write a fragment's columns once, commit many at once.

    wants -> plan -> chunks -> (workers) tables -> seal a fragment -> commit

A chunk is a fixed range of positions of one fragment, whatever is missing in it, so that a rerun makes the same bits.
Everything here may be killed at any moment: a fragment counts when its commit is in the table.
"""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.commit import CommitConflictError

from featurestore import journal
from featurestore.catalogue import CATALOGUE
from featurestore.clip import Clip
from featurestore.errors import VoxportraitError
from featurestore.failpoints import reach
from featurestore.journal import Rejected
from featurestore.leases import Lease, is_dead
from featurestore.makers import Maker
from featurestore.policy import COLUMNS, Policy
from featurestore.schema import CLIPS, candidate, columns_of, row_clip
from featurestore.store import Store

CHUNK_CLIPS = 16
"""Clips in a chunk: what is handed to a worker at a time."""

NO_MAKER, UNKNOWN_MAKER = -1, -2


@dataclass(frozen=True)
class Want:
    """A constituent that is to be there, by which maker.

    requires: columns of the clip's row that must not be NULL. blockers: (what, maker digest) pairs; a clip quarantined
    under one of them cannot have this constituent.
    """

    constituent: str
    maker: Maker
    requires: tuple[str, ...] = ()
    blockers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Chunk:
    """Clips of one range of positions of a fragment, with what each lacks. name: of its journal file."""

    fragment: int
    name: str
    offsets: tuple[int, ...]
    wanted: tuple[frozenset[str], ...]

    def alone(self) -> list["Chunk"]:
        """The same clips, each in a chunk of its own: to find the one that kills its worker."""
        return [self.part([i], str(offset)) for i, offset in enumerate(self.offsets)]

    def part(self, members: Sequence[int], suffix: str) -> "Chunk":
        """Some of its clips as a chunk."""
        return Chunk(
            self.fragment,
            f"{self.name}-{suffix}",
            tuple(self.offsets[i] for i in members),
            tuple(self.wanted[i] for i in members),
        )

    def without(self, keys: frozenset[str], suffix: str) -> "Chunk":
        """The same clips, wanting these constituents no more."""
        return Chunk(
            self.fragment, f"{self.name}-{suffix}", self.offsets, tuple(wanted - keys for wanted in self.wanted)
        )


@dataclass
class Plan:
    """What is to be done, and counts over the whole table.

    columns: constituent -> what its columns are called: its key, or a candidate's name where another maker's values are
    live. missing: clips to fill; filled: clips that have it from the wanted maker; quarantined: clips that cannot have
    it; not_allowed: clips that the policy leaves out, which lack nothing. journal: fragment -> kept chunks with rows of
    it; resumed: clips in them; leftover: kept chunks of no more use, with the fragments of their rows; foreign: kept
    chunks with what this plan does not want: other constituents, clips, or values of another maker.
    """

    clips: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    filled: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    not_allowed: int = 0
    resumed: int = 0
    journal: dict[int, list[str]] = field(default_factory=dict)
    leftover: dict[str, frozenset[int]] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()
    _keys: tuple[str, ...] = ()
    _makers: tuple[int, ...] = ()
    _fragments: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def fragments(self) -> list[int]:
        """Fragments with something to do, in order."""
        return sorted(self._fragments.keys() | self.journal.keys())

    @property
    def work(self) -> int:
        """Clips that must be opened."""
        return sum(len(offsets) for offsets, _, _ in self._fragments.values())

    def chunks(self, fragment: int) -> list[Chunk]:
        """The chunks of a fragment, in order."""
        if fragment not in self._fragments:
            return []
        offsets, masks, row_ids = self._fragments[fragment]
        sets = {int(mask): frozenset(k for i, k in enumerate(self._keys) if mask >> i & 1) for mask in np.unique(masks)}
        numbers = offsets // CHUNK_CLIPS
        chunks = []
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)
            content = [self._keys, self._makers, row_ids[rows].tolist(), masks[rows].tolist()]
            digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
            wanted = tuple(sets[int(mask)] for mask in masks[rows])
            name = f"{fragment}-{number:04d}-{digest}"
            chunks.append(Chunk(fragment, name, tuple(offsets[rows].tolist()), wanted))
        return chunks

    def only(self, fragments: Iterable[int]) -> None:
        """Leave the other fragments out."""
        chosen = frozenset(fragments)
        self._fragments = {f: rows for f, rows in self._fragments.items() if f in chosen}
        self.journal = {f: names for f, names in self.journal.items() if f in chosen}
        self.leftover = {name: theirs for name, theirs in self.leftover.items() if theirs <= chosen}


_CLAIM = "live:"


def claims(wants: Sequence[Want], columns: Mapping[str, str], job: str) -> list[str]:
    """What a job leases beside its fragments: that it makes live values, of which constituent and by which maker."""
    return [
        f"{_CLAIM}{want.constituent}:{want.maker.digest}:{job}"
        for want in wants
        if columns[want.constituent] == want.constituent
    ]


def claimed(store: Store) -> dict[str, str]:
    """The makers of live values that jobs at work will make: constituent -> digest."""
    found = {}
    for row in store.table("leases").to_table().to_pylist():
        if row["resource"].startswith(_CLAIM) and row["expires"] > time.time() and not is_dead(row["process"]):
            _, key, digest, _ = row["resource"].split(":")
            found[key] = digest
    return found


def plan(
    store: Store, wants: Sequence[Want], policy: Policy | None = None, claimed: Mapping[str, str] | None = None
) -> Plan:
    """Find, from the small columns alone, what each clip lacks of `wants`. Only reads.

    A constituent of which another maker's values are live, or will be (`claimed`), is planned into a candidate beside
    them, for every clip. A clip that `policy` does not allow lacks nothing.
    """
    policy, claimed = policy or Policy(), claimed or {}
    if len(wants) > 64:
        raise VoxportraitError("more than 64 constituents at a time; name some with --constituents")
    ids = store.known_makers()
    dataset = store.table("clips")
    present = set(dataset.schema.names)
    entries = {name: journal.entry(store.place, name) for name in journal.names(store.place)}
    kept = [entry for entry in entries.values() if entry]
    quarantine = store.table("quarantine").to_table(columns=["key", "clip_id", "constituent", "maker"])
    known_bad = set(quarantine["key"].to_pylist()) if kept else set()
    rejected = [r for entry in kept for r in entry.rejected]

    small = {column for want in wants for column in want.requires}
    small |= {CATALOGUE[want.constituent].maker_column for want in wants} & present
    small |= {f"{candidate(want.constituent, want.maker.digest)}_maker" for want in wants} & present
    if len(quarantine) or rejected:
        small.add("clip_id")
    if not policy.takes_all:
        small.update(COLUMNS)
    table = dataset.to_table(columns=sorted(small), with_row_address=True, with_row_id=True)
    blocked = _blocked(table, quarantine, rejected)
    allowed = policy.allows(table)

    def made_by(column: str) -> np.ndarray:
        if column not in small:
            return np.full(len(table), NO_MAKER, np.int16)
        return table[column].fill_null(NO_MAKER).to_numpy()

    result = Plan(clips=len(table), not_allowed=int((~allowed).sum()))
    masks = np.zeros(len(table), np.uint64)
    wanted_ids = {want.constituent: ids.get(want.maker.digest, UNKNOWN_MAKER) for want in wants}
    for bit, want in enumerate(wants):
        key, wanted_id = want.constituent, wanted_ids[want.constituent]
        column, makers = key, made_by(CATALOGUE[key].maker_column)
        is_others = claimed.get(key, want.maker.digest) != want.maker.digest
        if is_others or ((makers != NO_MAKER) & (makers != wanted_id)).any():
            column = candidate(key, want.maker.digest)
            makers = made_by(f"{column}_maker")
        filled = makers == wanted_id
        barred = np.zeros(len(table), bool)
        for blocker in want.blockers:
            barred[blocked.get(blocker, [])] = True
        lacking = ~filled & ~barred & allowed
        for needed in want.requires:
            lacking &= table[needed].is_valid().to_numpy()
        masks |= lacking.astype(np.uint64) << np.uint64(bit)
        result.columns[key] = column
        result.missing[key] = int(lacking.sum())
        result.filled[key] = int(filled.sum())
        result.quarantined[key] = int((barred & ~filled).sum())

    addresses, row_ids = table["_rowaddr"].to_numpy(), table["_rowid"].to_numpy()
    fragments = (addresses >> np.uint64(32)).astype(np.int64)
    result.leftover = {name: frozenset() for name, entry in entries.items() if not entry}
    if kept:
        _use_journal(result, kept, known_bad, wanted_ids, masks, row_ids, fragments, allowed)
    result._keys = tuple(want.constituent for want in wants)
    result._makers = tuple(wanted_ids.values())
    rows = np.flatnonzero(masks)
    starts = np.flatnonzero(np.diff(fragments[rows], prepend=-1))
    for part in np.split(rows, starts[1:]) if len(rows) else []:
        offsets = (addresses[part] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        result._fragments[int(fragments[part[0]])] = offsets, masks[part], row_ids[part]
    return result


def _blocked(
    table: pa.Table, quarantine: pa.Table, rejected: Sequence[Rejected]
) -> dict[tuple[str, str], list[int] | np.ndarray]:
    """(what, maker) -> rows of the clips that are quarantined under it, or will be when the journal is committed."""
    if "clip_id" not in table.column_names:
        return {}
    clip_ids = [*quarantine["clip_id"].to_pylist(), *(r.clip_id for r in rejected)]
    whats = [*quarantine["constituent"].to_pylist(), *(r.constituent for r in rejected)]
    makers = [*quarantine["maker"].to_pylist(), *(r.maker for r in rejected)]
    places = pc.index_in(pa.array(clip_ids, pa.string()), value_set=table["clip_id"].combine_chunks())
    rows: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, what, maker in zip(places.to_pylist(), whats, makers, strict=True):
        if row is not None:
            rows[what, maker].append(row)
    return dict(rows)


def _use_journal(
    result: Plan,
    kept: Sequence[journal.Entry],
    known_bad: set[str],
    wanted_ids: Mapping[str, int],
    masks: np.ndarray,
    row_ids: np.ndarray,
    fragments: np.ndarray,
    allowed: np.ndarray,
) -> None:
    """Take from `masks` what the journal has, and note in the plan which kept chunks each fragment needs.

    A chunk is used whole or not at all: one with a value of another maker, or of a clip that is not allowed, is not.
    """
    bits = {key: np.uint64(1 << bit) for bit, key in enumerate(wanted_ids)}
    order = np.argsort(row_ids)
    known = np.append(row_ids[order], np.iinfo(np.uint64).max)
    taken_over = np.zeros(len(row_ids), bool)
    foreign = set()
    for entry in kept:
        at = np.searchsorted(known, entry.row_ids)
        is_here = known[at] == entry.row_ids
        found = order[at[is_here]]
        makers = {key: numbers[is_here] for key, numbers in entry.makers.items() if key in bits}
        is_ours = all(np.isin(numbers, (NO_MAKER, wanted_ids[key])).all() for key, numbers in makers.items())
        used = np.zeros(len(found), bool)
        if is_ours and allowed[found].all():
            for key, numbers in makers.items():
                useful = (numbers == wanted_ids[key]) & (masks[found] & bits[key] > 0)
                masks[found[useful]] &= ~bits[key]
                used |= useful
            if any(r.key not in known_bad for r in entry.rejected):
                used[:] = True
        for fragment in np.unique(fragments[found[used]]):
            result.journal.setdefault(int(fragment), []).append(entry.name)
        taken_over[found[used]] = True
        if not (entry.makers.keys() <= bits.keys() and is_ours and allowed[found].all()):
            foreign.add(entry.name)
        elif not used.any():
            result.leftover[entry.name] = frozenset(fragments[found].tolist())
    result.resumed = int(taken_over.sum())
    result.foreign = frozenset(foreign)


def read_clips(store: Store, chunk: Chunk) -> tuple[list[Clip], list[int]]:
    """The clips of a chunk, and their stable row ids, in the chunk's order."""
    table = _rows(store.table("clips"), chunk.fragment, chunk.offsets, CLIPS.names)
    return [row_clip(row) for row in table.to_pylist()], table["_rowid"].to_pylist()


def _fragment(dataset: lance.LanceDataset, fragment: int) -> lance.LanceFragment:
    found = dataset.get_fragment(fragment)
    if found is None:
        raise VoxportraitError(f"fragment {fragment} is gone: the table was compacted. Run the command again to go on.")
    return found


def _rows(dataset: lance.LanceDataset, fragment: int, offsets: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """Rows of a fragment by their physical positions, in that order, with `_rowid`."""
    found = dataset.scanner(
        columns=list(columns), fragments=[_fragment(dataset, fragment)], with_row_id=True, with_row_address=True
    ).to_table()
    place = {address & 0xFFFFFFFF: row for row, address in enumerate(found["_rowaddr"].to_pylist())}
    return found.take([place[offset] for offset in offsets]).drop_columns(["_rowaddr"])


@dataclass(frozen=True)
class Sealed:
    """A fragment whose new columns are written and wait for their commit. A few KB: it travels between processes.

    before, after: the fragment's metadata ("" where no column changes); fields: ids of the columns that change; filled:
    clips that got each constituent; rejected: what goes to quarantine; kept: journal files it was made from.
    """

    fragment: int
    version: int
    before: str
    after: str
    fields: tuple[int, ...]
    filled: dict[str, int]
    rejected: tuple[Rejected, ...]
    kept: tuple[str, ...] = ()


def seal(
    store: Store,
    fragment: int,
    columns: Mapping[str, str],
    tables: Sequence[pa.Table],
    kept: Sequence[str] = (),
) -> Sealed:
    """Write the new columns of a fragment, once, from its chunks; nothing is visible until `commit`.

    columns: constituent -> what its columns are called; kept: chunks in the journal. A clip whose chunk did not make a
    constituent keeps what it had.
    """
    tables = [*tables, *(journal.read(store.place, name) for name in kept)]
    rejected = tuple(dict.fromkeys(r for table in tables for r in journal.rejections(table)))
    dataset = store.table("clips")
    handle = _fragment(dataset, fragment)
    before = json.dumps(handle.metadata.to_json())
    made = _merge(handle, tables, [key for key in columns if any(_makes(table, key) for table in tables)])
    filled = {
        key: len(made) - made[CATALOGUE[key].maker_column].null_count
        for key in columns
        if CATALOGUE[key].maker_column in made.column_names
    }
    filled = {key: count for key, count in filled.items() if count}
    if not filled:
        return Sealed(fragment, dataset.version, before, "", (), {}, rejected, tuple(kept))
    update = {"_rowid": made["_rowid"]}
    for key in filled:
        for old, new in zip(columns_of(CATALOGUE[key]), columns_of(CATALOGUE[key], columns[key]), strict=True):
            update[new.name] = made[old.name]
    table = pa.table(update)
    partial = [key for key in filled if filled[key] < len(made)]
    if partial:
        table = _keep_present(handle, table, [(key, columns[key]) for key in partial])
    metadata, fields = handle.update_columns(table.combine_chunks())
    reach("column file")
    after = json.dumps(metadata.to_json())
    return Sealed(fragment, dataset.version, before, after, tuple(fields), filled, rejected, tuple(kept))


def _makes(table: pa.Table, key: str) -> bool:
    maker = CATALOGUE[key].maker_column
    return maker in table.column_names and table[maker].null_count < len(table)


def _merge(handle: lance.LanceFragment, tables: Sequence[pa.Table], keys: Sequence[str]) -> pa.Table:
    """The rows of a fragment that are in `tables`, each once, with the columns of `keys`, NULL where none made them."""
    names = ["_rowid", *(f.name for key in keys for f in columns_of(CATALOGUE[key]))]
    parts = [table.select([n for n in names if n in table.column_names]).replace_schema_metadata() for table in tables]
    whole = pa.concat_tables(parts, promote_options="default")
    here = handle.scanner(columns=[], with_row_id=True).to_table()["_rowid"]
    is_here = pc.is_in(whole["_rowid"], value_set=here)
    if not pc.all(is_here).as_py():
        whole = whole.filter(is_here)
    targets, inverse = np.unique(whole["_rowid"].to_numpy(), return_inverse=True)
    if len(targets) == len(whole):
        return whole
    merged = {"_rowid": pa.array(targets)}
    for key in keys:
        valid = np.flatnonzero(whole[CATALOGUE[key].maker_column].is_valid().to_numpy())
        index = np.full(len(targets), -1)
        index[inverse[valid]] = valid
        for f in columns_of(CATALOGUE[key]):
            merged[f.name] = whole[f.name].take(pa.array(index, mask=index < 0))
    return pa.table(merged)


def _keep_present(handle: lance.LanceFragment, made: pa.Table, keys: Sequence[tuple[str, str]]) -> pa.Table:
    """Where `made` lacks a constituent, put what the fragment holds already. keys: constituents and column names."""
    fields = {column: columns_of(CATALOGUE[key], column) for key, column in keys}
    makers = [f"{column}_maker" for column in fields]
    present = handle.scanner(columns=makers).to_table()
    if all(present[maker].null_count == len(present) for maker in makers):
        return made
    held = handle.scanner(columns=[f.name for fs in fields.values() for f in fs], with_row_id=True).to_table()
    place = {row_id: row for row, row_id in enumerate(held["_rowid"].to_pylist())}
    old_rows = np.array([place[row_id] for row_id in made["_rowid"].to_pylist()]) + len(made)
    for column, parts in fields.items():
        is_new = made[f"{column}_maker"].is_valid().to_numpy()
        take = np.where(is_new, np.arange(len(made)), old_rows)
        for f in parts:
            both = pa.chunked_array([*made[f.name].chunks, *held[f.name].chunks], f.type)
            made = made.set_column(made.schema.get_field_index(f.name), f, both.take(pa.array(take)))
    return made


def commit(store: Store, sealed: Sequence[Sealed], lease: Lease, job_id: str) -> None:
    """Enter the quarantined clips of sealed fragments, and make their columns visible.

    One commit for all fragments that changed the same columns. A kill between two steps repeats work but loses none.
    The journal files they were made from may be removed afterwards.
    """
    reach("before commit")
    lease.check()
    store.insert("quarantine", [r.row(job_id) for one in sealed for r in one.rejected])
    groups: dict[tuple[int, ...], list[Sealed]] = defaultdict(list)
    for one in sealed:
        if one.after:
            groups[one.fields].append(one)
    for group in groups.values():
        _commit_group(store, group, lease)
    reach("after commit")


def _commit_group(store: Store, group: list[Sealed], lease: Lease, tries: int = 10) -> None:
    operation = lance.LanceOperation.Update(
        updated_fragments=[lance.fragment.FragmentMetadata.from_json(one.after) for one in group],
        fields_modified=list(group[0].fields),
        update_mode="rewrite_columns",
    )
    version = min(one.version for one in group)
    for _ in range(tries):
        lease.check()
        try:
            store.place.commit("clips", operation, version)
            return
        except CommitConflictError:
            dataset = store.table("clips")
            for one in group:
                if json.dumps(_fragment(dataset, one.fragment).metadata.to_json()) != one.before:
                    raise VoxportraitError(
                        f"fragment {one.fragment} was changed by another job while this one held its lease; nothing of "
                        "it is written. Run the command again to go on."
                    ) from None
            version = dataset.version
    raise VoxportraitError(
        f"the table kept changing: {tries} commits were refused. What is finished is kept; run the command again."
    )
