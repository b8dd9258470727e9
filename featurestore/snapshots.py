"""Snapshots: which clips there were, in which order, and who made each of their values. A name for training data.

A snapshot promises rows and makers, not file versions. Its places are in the order of clip ids and never shift: the
place of a clip that was erased since stays empty. It holds no value, and so keeps none from being erased.

The digest is the sha256 over the following, numbers little-endian:

    "voxportrait snapshot 1\\n"
    for each of clip_id, media_sha256: its name and "\\n"; the length in bytes of each place's text, int32, -1 where
        there is none; all texts one after another, UTF-8
    "split\\n"; for each place the number of its split, int8: 0 train, 1 val, 2 test, -1 none of these
    for each constituent that any place has, by name: its name and "\\n"; the digests of its makers, sorted, each
        followed by "\\n"; for each place the number of its maker among them, int16, -1 where there is no value
"""

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import erasure
from featurestore.catalogue import CATALOGUE
from featurestore.clip import SPLITS
from featurestore.errors import UsageError, VoxportraitError, choose
from featurestore.leases import Lease, who_am_i
from featurestore.policy import Policy
from featurestore.schema import SNAPSHOTS
from featurestore.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TEXTS_AT_ONCE = 1 << 16
_LISTED = ["name", "created", "who", "clips", "digest", "selection", "erasure_epoch"]


@dataclass(frozen=True)
class Recorded:
    """Who made a constituent's values: digests of makers, and for each place the number of one of them, -1 = none."""

    digests: tuple[str, ...]
    codes: np.ndarray


@dataclass(frozen=True)
class Snapshot:
    """Clips in fixed places, and the makers of their values.

    row_ids: (n,) uint64, stable row ids; splits: (n,) int8, places in `clip.SPLITS`; makers: by constituent; present:
    (n,) bool, False where the clip was erased since; selection: the policy and the condition that chose the clips;
    erasure_epoch: of the store at that time. name: "" of one that is not kept.
    """

    name: str
    created: datetime
    who: str
    digest: str
    selection: dict[str, Any]
    erasure_epoch: int
    row_ids: np.ndarray = field(repr=False)
    splits: np.ndarray = field(repr=False)
    makers: dict[str, Recorded] = field(repr=False)
    present: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.row_ids)

    def had(self, constituent: str) -> np.ndarray:
        """The places that had a value when the snapshot was taken: (n,) bool. Those erased since are among them."""
        recorded = self.makers.get(constituent)
        return recorded.codes >= 0 if recorded else np.zeros(len(self), bool)

    def places(self, split: str, constituents: Collection[str]) -> np.ndarray:
        """Row ids of the places of a split that had all of `constituents`, in order."""
        return self.row_ids[self.has(split, constituents)]

    def has(self, split: str, constituents: Collection[str]) -> np.ndarray:
        """The places of a split that had all of `constituents`: (n,) bool."""
        usable = self.splits == SPLITS.index(choose("split", split, SPLITS))
        for key in constituents:
            usable &= self.had(key)
        return usable

    def policy(self, judged: date) -> Policy:
        """The policy that chose its clips, judged on a day."""
        was = self.selection["policy"]
        return Policy(was["require_consent"], tuple(was["licences"]), judged)

    def describe(self) -> dict[str, Any]:
        """What to record of it, for a run and for a person."""
        return {
            "name": self.name,
            "created": self.created.isoformat(timespec="seconds"),
            "who": self.who,
            "digest": self.digest,
            "selection": self.selection,
            "erasure_epoch": self.erasure_epoch,
            "clips": len(self),
            "erased": int((~self.present).sum()),
            "constituents": {key: int((one.codes >= 0).sum()) for key, one in self.makers.items()},
        }


def take(store: Store, name: str, policy: Policy | None = None, where: str | None = None) -> Snapshot:
    """Record the clips that there are, and the makers of their live values, under a name.

    policy, where (SQL over the small columns of `clips`): which clips. Raises UsageError on a name that is taken or is
    none, on a condition that cannot be read, and where no clip is chosen.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a snapshot: letters, digits, dots, dashes; at most 64 of them")
    with Lease(store.place, [f"snapshot:{name}"], "taking a snapshot") as lease:
        if name in _names(store):
            raise UsageError(f"there is a snapshot {name!r}: choose another name, or drop that one")
        snapshot = replace(look(store, policy, where), name=name)
        lease.check()
        store.place.write_table("snapshots", _row(snapshot), mode="append")
    return snapshot


def look(store: Store, policy: Policy | None = None, where: str | None = None) -> Snapshot:
    """What `take` would record, under no name. Only reads."""
    policy, epoch, dataset = policy or Policy(), erasure.epoch(store), store.table("clips")
    condition = " AND ".join(f"({part})" for part in (policy.where, where) if part) or None
    table = _rows(dataset, condition)
    if not len(table):
        raise UsageError("no clip is chosen: voxportrait store info says what is there")
    splits = pc.index_in(table["split"], value_set=pa.array(SPLITS)).fill_null(-1).to_numpy().astype(np.int8)
    makers = _recorded(store, table)
    return Snapshot(
        "",
        datetime.now(UTC),
        who_am_i(),
        _digest(table, splits, makers),
        {"policy": policy.record(), "where": where},
        epoch,
        table["_rowid"].to_numpy(),
        splits,
        makers,
        np.ones(len(table), bool),
    )


def read(store: Store, name: str, constituents: Collection[str] | None = None) -> Snapshot:
    """A snapshot as it is now: the same clips in the same places, less those that were erased since.

    constituents: see `check`. Raises UsageError on an unknown name, and what `check` raises.
    """
    table = store.table("snapshots").to_table(filter=f"name = '{choose('snapshot', name, _names(store))}'")
    row = table.select(_LISTED).to_pylist()[0]
    row_ids, splits = (table[column].combine_chunks().flatten().to_numpy() for column in ("row_ids", "splits"))
    makers = {
        one["constituent"].as_py(): Recorded(
            tuple(one["digests"].as_py()), one["codes"].values.to_numpy(zero_copy_only=False)
        )
        for one in table["makers"].combine_chunks().flatten()
    }
    snapshot = Snapshot(
        name,
        row["created"],
        row["who"],
        row["digest"],
        json.loads(row["selection"]),
        row["erasure_epoch"],
        row_ids,
        splits,
        makers,
        np.ones(len(row_ids), bool),
    )
    return check(store, snapshot, store.table("clips"), constituents)


def check(
    store: Store, snapshot: Snapshot, dataset: lance.LanceDataset, constituents: Collection[str] | None = None
) -> Snapshot:
    """The snapshot with the places that are still there in a version of `clips`.

    constituents: those whose makers must be as they were, by default all that are recorded. Raises VoxportraitError
    where a recorded value has another maker now or is gone, or where clips are missing though nobody was forgotten.
    """
    checked = [key for key in snapshot.makers if constituents is None or key in constituents]
    columns = [f"{key}_maker" for key in checked if f"{key}_maker" in dataset.schema.names]
    now = dataset.to_table(columns=columns, with_row_id=True)
    places, present = find(now["_rowid"].to_numpy(), snapshot.row_ids)
    called = f"the snapshot {snapshot.name!r}" if snapshot.name else "what was opened"
    if not present.all() and erasure.epoch(store) == snapshot.erasure_epoch:
        raise VoxportraitError(
            f"{int((~present).sum())} clips of {called} are gone, and nobody was forgotten since: see voxportrait "
            "store verify"
        )
    snapshot = replace(snapshot, present=present)
    _check_makers(store, snapshot, called, checked, now, places)
    return snapshot


def listed(store: Store) -> list[dict[str, Any]]:
    """The snapshots, oldest first: name, created, who, clips, digest, selection, erasure_epoch."""
    rows = store.table("snapshots").to_table(columns=_LISTED).sort_by("created").to_pylist()
    return [{**row, "selection": json.loads(row["selection"])} for row in rows]


def drop(store: Store, name: str) -> None:
    """Remove a snapshot; the clips and their values stay. A UsageError on an unknown name."""
    with Lease(store.place, [f"snapshot:{name}"], "dropping a snapshot") as lease:
        known = choose("snapshot", name, _names(store))
        lease.check()
        store.table("snapshots").delete(f"name = '{known}'")


def _names(store: Store) -> list[str]:
    return store.table("snapshots").to_table(columns=["name"])["name"].to_pylist()


def _rows(dataset: lance.LanceDataset, condition: str | None) -> pa.Table:
    """Row ids, clip ids, splits, hashes and makers of the clips under a condition, in the order of clip ids."""
    makers = [c.maker_column for c in CATALOGUE.values() if c.maker_column in dataset.schema.names]
    columns = ["clip_id", "split", *(["media_sha256"] if "media_sha256" in dataset.schema.names else []), *makers]
    try:
        table = dataset.to_table(columns=columns, filter=condition, with_row_id=True)
    except (ValueError, OSError) as error:
        first = str(error).strip().splitlines()[0][:200]
        raise UsageError(f"the condition {condition} cannot be read: {first}") from error
    return table.take(pc.sort_indices(table["clip_id"])).combine_chunks()


def _recorded(store: Store, table: pa.Table) -> dict[str, Recorded]:
    """The makers of a table's values, by constituent."""
    digests = {number: digest for digest, number in store.known_makers().items()}
    found = {}
    for key, entry in sorted(CATALOGUE.items()):
        if entry.maker_column not in table.column_names:
            continue
        numbers = table[entry.maker_column].fill_null(-1).to_numpy()
        used = [number for number in np.unique(numbers).tolist() if number >= 0]
        if unknown := [number for number in used if number not in digests]:
            raise VoxportraitError(f"{key} has values of the unknown maker {unknown[0]}: see voxportrait store verify")
        used.sort(key=digests.__getitem__)
        codes = np.full(len(numbers), -1, np.int16)
        for code, number in enumerate(used):
            codes[numbers == number] = code
        if used:
            found[key] = Recorded(tuple(digests[number] for number in used), codes)
    return found


def _digest(table: pa.Table, splits: np.ndarray, makers: dict[str, Recorded]) -> str:
    content = hashlib.sha256(b"voxportrait snapshot 1\n")
    for name in ("clip_id", "media_sha256"):
        texts = table[name] if name in table.column_names else pa.nulls(len(table), pa.string())
        content.update(f"{name}\n".encode())
        content.update(pc.binary_length(texts).fill_null(-1).to_numpy().astype("<i4").tobytes())
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            part = texts.slice(first, _TEXTS_AT_ONCE).to_pylist()
            content.update("".join(text or "" for text in part).encode())
    content.update(b"split\n" + splits.tobytes())
    for key, one in sorted(makers.items()):
        content.update(f"{key}\n".encode() + b"".join(f"{digest}\n".encode() for digest in one.digests))
        content.update(one.codes.astype("<i2").tobytes())
    return content.hexdigest()


def _row(snapshot: Snapshot) -> pa.Table:
    """The row of `snapshots`."""
    makers = [
        {"constituent": key, "digests": list(one.digests), "codes": one.codes} for key, one in snapshot.makers.items()
    ]
    columns = {
        "name": snapshot.name,
        "created": snapshot.created,
        "who": snapshot.who,
        "clips": len(snapshot),
        "digest": snapshot.digest,
        "selection": json.dumps(snapshot.selection),
        "erasure_epoch": snapshot.erasure_epoch,
        "row_ids": snapshot.row_ids,
        "splits": snapshot.splits,
        "makers": makers,
    }
    return pa.table({name: pa.array([value], SNAPSHOTS.field(name).type) for name, value in columns.items()}, SNAPSHOTS)


def find(here: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each of `wanted` is in `here`, and whether it is: both (n,)."""
    if not len(here):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    order = np.argsort(here)
    places = order[np.minimum(np.searchsorted(here, wanted, sorter=order), len(order) - 1)]
    return places, here[places] == wanted


def _check_makers(
    store: Store, snapshot: Snapshot, called: str, keys: list[str], now: pa.Table, places: np.ndarray
) -> None:
    """Raise a VoxportraitError unless the recorded values of `keys` have the makers that they had."""
    digests = {number: digest for digest, number in store.known_makers().items()}
    numbers = {digest: number for number, digest in digests.items()}
    for key in keys:
        has, recorded = snapshot.present & snapshot.had(key), snapshot.makers[key]
        column = f"{key}_maker"
        live = now[column].fill_null(-1).to_numpy() if column in now.column_names else np.full(len(now), -1)
        was = np.array([numbers.get(digest, -2) for digest in recorded.digests])[recorded.codes[has]]
        changed = live[places[has]] != was
        if changed.any():
            first = int(np.flatnonzero(changed)[0])
            before = recorded.digests[recorded.codes[has][first]]
            after = digests.get(int(live[places[has]][first]))
            raise VoxportraitError(
                f"{key} of {int(changed.sum())} clips of {called} was made by {before[:8]} and "
                + (f"is by {after[:8]} now" if after else "is gone now")
                + f": promote {key}@{before[:8]} again if it is kept, or take another snapshot"
            )
