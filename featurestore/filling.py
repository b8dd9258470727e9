"""Filling: plan what is missing, journal finished chunks, write a fragment's columns once, commit many at once.

    wants -> plan -> chunks -> (workers) journal -> seal a fragment -> commit -> quarantine

A chunk is a fixed range of positions of one fragment, whatever is missing in it, so that a rerun makes the same bits.
Everything here may be killed at any moment: a chunk counts when its journal file has its name, a fragment when its
commit is in the table.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import lance
import numpy as np
import pyarrow as pa

from featurestore import journal
from featurestore.catalogue import CATALOGUE
from featurestore.clip import Clip
from featurestore.errors import VoxportraitError
from featurestore.leases import Lease
from featurestore.makers import Maker
from featurestore.schema import CLIPS, columns_of, row_clip
from featurestore.store import Store

CHUNK_CLIPS = 16
"""Clips in a chunk: what a kill costs at most per worker."""

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
        return [
            Chunk(self.fragment, f"{self.name}-{offset}", (offset,), (wanted,))
            for offset, wanted in zip(self.offsets, self.wanted, strict=True)
        ]


@dataclass
class Plan:
    """What is to be done: chunks by fragment, and counts over the whole table.

    missing: constituent -> clips to fill; replaced: constituent -> clips whose value another maker made.
    """

    clips: int = 0
    chunks: dict[int, list[Chunk]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    filled: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    replaced: dict[str, int] = field(default_factory=dict)

    @property
    def work(self) -> int:
        """Clips that must be opened."""
        return sum(len(chunk.offsets) for chunks in self.chunks.values() for chunk in chunks)


def plan(store: Store, wants: Sequence[Want]) -> Plan:
    """Find, from the small columns alone, what each clip lacks of `wants`. Only reads."""
    ids = store.known_makers()
    dataset = store.table("clips")
    small = {"clip_id"} | {column for want in wants for column in want.requires}
    small |= {CATALOGUE[want.constituent].maker_column for want in wants} & set(dataset.schema.names)
    table = dataset.to_table(columns=sorted(small), with_row_address=True)
    clip_ids = table["clip_id"].to_pylist()
    blocked = _quarantined(store, clip_ids)

    result = Plan(clips=len(table))
    missing: list[set[str]] = [set() for _ in clip_ids]
    for want in wants:
        key, wanted_id = want.constituent, ids.get(want.maker.digest, UNKNOWN_MAKER)
        made_by = np.full(len(table), NO_MAKER)
        if CATALOGUE[key].maker_column in small:
            made_by = table[CATALOGUE[key].maker_column].fill_null(NO_MAKER).to_numpy()
        possible = np.ones(len(table), bool)
        for column in want.requires:
            possible &= table[column].is_valid().to_numpy()
        barred = np.zeros(len(table), bool)
        for blocker in want.blockers:
            barred[blocked.get(blocker, [])] = True
        barred &= made_by != wanted_id
        lacking = (made_by != wanted_id) & possible & ~barred
        for row in np.flatnonzero(lacking):
            missing[row].add(key)
        result.missing[key] = int(lacking.sum())
        result.filled[key] = int((made_by == wanted_id).sum())
        result.quarantined[key] = int(barred.sum())
        result.replaced[key] = int((lacking & (made_by >= 0)).sum())

    makers = {want.constituent: want.maker.digest for want in wants}
    result.chunks = _chunks(table["_rowaddr"].to_numpy(), clip_ids, missing, makers)
    return result


def _quarantined(store: Store, clip_ids: list[str]) -> dict[tuple[str, str], np.ndarray]:
    """(what, maker) -> rows of the clips quarantined under it."""
    table = store.table("quarantine").to_table(columns=["clip_id", "constituent", "maker"])
    if not len(table):
        return {}
    row_of = {clip_id: row for row, clip_id in enumerate(clip_ids)}
    rows = defaultdict(list)
    for clip_id, what, maker in zip(*(table[c].to_pylist() for c in table.column_names), strict=True):
        if clip_id in row_of:
            rows[what, maker].append(row_of[clip_id])
    return {key: np.array(value) for key, value in rows.items()}


def _chunks(
    addresses: np.ndarray, clip_ids: list[str], missing: list[set[str]], makers: Mapping[str, str]
) -> dict[int, list[Chunk]]:
    grouped: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, address in enumerate(addresses.tolist()):
        if missing[row]:
            fragment, offset = address >> 32, address & 0xFFFFFFFF
            grouped[fragment, offset // CHUNK_CLIPS].append(row)
    chunks: dict[int, list[Chunk]] = defaultdict(list)
    for (fragment, number), rows in sorted(grouped.items()):
        content = [(clip_ids[row], sorted((key, makers[key]) for key in missing[row])) for row in rows]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
        offsets = tuple(int(addresses[row]) & 0xFFFFFFFF for row in rows)
        wanted = tuple(frozenset(missing[row]) for row in rows)
        chunks[fragment].append(Chunk(fragment, f"{number:04d}-{digest}", offsets, wanted))
    return dict(chunks)


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
    """A fragment whose new columns are written and wait for their commit. A few KB: it travels between processes."""

    fragment: int
    version: int
    metadata: str
    fields: tuple[int, ...]
    names: tuple[str, ...]
    filled: dict[str, int]
    """Clips that got each constituent."""


def seal(store: Store, fragment: int, names: Sequence[str], keys: Iterable[str]) -> Sealed:
    """Write the columns `keys` of a fragment from its journal, once; nothing is visible until `commit`.

    A clip whose chunk did not make a constituent keeps what it had.
    """
    dataset = store.table("clips")
    made = journal.read(store.uri, fragment, names)
    keys = [key for key in keys if CATALOGUE[key].maker_column in made.column_names]
    keys = [key for key in keys if made[CATALOGUE[key].maker_column].null_count < len(made)]
    columns = [f.name for key in keys for f in columns_of(CATALOGUE[key])]
    filled = {key: len(made) - made[CATALOGUE[key].maker_column].null_count for key in keys}
    if not keys:
        return Sealed(fragment, dataset.version, "", (), tuple(names), {})
    partial = [key for key in keys if filled[key] < len(made)]
    if partial:
        made = _keep_present(dataset, fragment, made, partial)
    update = made.select(["_rowid", *columns])
    handle = _fragment(dataset, fragment)
    metadata, fields = handle.update_columns(update.combine_chunks())
    return Sealed(fragment, dataset.version, json.dumps(metadata.to_json()), tuple(fields), tuple(names), filled)


def _keep_present(dataset: lance.LanceDataset, fragment: int, made: pa.Table, keys: list[str]) -> pa.Table:
    """Where `made` lacks a constituent, put what the fragment holds already."""
    names = [f.name for key in keys for f in columns_of(CATALOGUE[key])]
    makers = [CATALOGUE[key].maker_column for key in keys]
    handle = _fragment(dataset, fragment)
    present = dataset.scanner(columns=makers, fragments=[handle]).to_table()
    if all(present[maker].null_count == len(present) for maker in makers):
        return made
    held = dataset.scanner(columns=names, fragments=[handle], with_row_id=True).to_table()
    place = {row_id: row for row, row_id in enumerate(held["_rowid"].to_pylist())}
    old_rows = np.array([place[row_id] for row_id in made["_rowid"].to_pylist()]) + len(made)
    for key in keys:
        is_new = made[CATALOGUE[key].maker_column].is_valid().to_numpy()
        take = np.where(is_new, np.arange(len(made)), old_rows)
        for f in columns_of(CATALOGUE[key]):
            both = pa.chunked_array([*made[f.name].chunks, *held[f.name].chunks], f.type)
            made = made.set_column(made.schema.get_field_index(f.name), f, both.take(pa.array(take)))
    return made


def commit(store: Store, sealed: Sequence[Sealed], lease: Lease, job_id: str) -> None:
    """Make sealed fragments visible, enter their quarantined clips, and clear their journals.

    One commit for all fragments that changed the same columns. In this order a kill between two steps repeats work but
    loses none. Where the table changed under a fragment it is sealed again from its journal.
    """
    groups: dict[tuple[int, ...], list[Sealed]] = defaultdict(list)
    for one in sealed:
        if one.metadata:
            groups[one.fields].append(one)
    for group in groups.values():
        _commit_group(store, group, lease)
    for one in sealed:
        rejected = journal.rejections(store.uri, one.fragment, one.names)
        store.insert("quarantine", [r.row(job_id) for r in rejected])
        journal.clear(store.uri, one.fragment)


def _commit_group(store: Store, group: list[Sealed], lease: Lease, tries: int = 5) -> None:
    for _ in range(tries):
        lease.check()
        operation = lance.LanceOperation.Update(
            updated_fragments=[lance.fragment.FragmentMetadata.from_json(one.metadata) for one in group],
            fields_modified=list(group[0].fields),
            update_mode="rewrite_columns",
        )
        version = min(one.version for one in group)
        try:
            lance.LanceDataset.commit(store.table_uri("clips"), operation, read_version=version)
            return
        except lance.commit.CommitConflictError:
            group = [seal(store, one.fragment, one.names, one.filled) for one in group]
    raise VoxportraitError(
        f"the table kept changing: {tries} commits were refused. What was extracted is kept in the journal; run the "
        "command again to go on."
    )
