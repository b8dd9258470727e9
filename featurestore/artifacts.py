"""What was made of people and lies outside the store: checkpoints, generated pictures and exports, and of whose clips.

Clips are known by their stable row ids, which name nobody. When a person is forgotten, pictures and exports are removed
and checkpoints are listed.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import VoxportraitError
from featurestore.leases import Lease, who_am_i
from featurestore.store import Store
from featurestore.tensor_file import remove

Kind = Literal["checkpoint", "picture", "export"]
Made = Mapping[Path, Sequence[int] | np.ndarray]
"""Files or folders, and the stable row ids of the clips they were made of."""

WAIT = 60.0
"""Seconds to wait for who changes the whole store."""


@dataclass(frozen=True)
class Settled:
    """What became of artifacts. removed: pictures and exports; elsewhere: those that are not on this machine any more,
    or never were; checkpoints: path -> clips it was trained on that are forgotten now."""

    removed: int
    elsewhere: list[str]
    checkpoints: dict[str, int]


def register(store: Store, kind: Kind, made: Made) -> None:
    """Enter what was made; a path that is known is entered anew."""
    live = row_ids_of(store) if kind == "checkpoint" else None
    rows = [
        {
            "artifact_id": _artifact_id(kind, path),
            "kind": kind,
            "path": str(path.absolute()),
            "created": datetime.now(UTC),
            "who": who_am_i(),
            "row_ids": np.asarray(row_ids, np.uint64),
            "erased": 0 if live is None else int((~np.isin(np.asarray(row_ids, np.uint64), live)).sum()),
        }
        for path, row_ids in made.items()
    ]
    if rows:
        with Lease(store.place, ["artifacts"], "entering what was made", WAIT) as lease:
            lease.check()
            store.insert("artifacts", rows, update=True)


def note(store: Store, kind: Kind, made: Made) -> None:
    """`register`, where a store that cannot be written is no reason to fail: a warning says what it costs."""
    try:
        register(store, kind, made)
    except (OSError, ValueError, VoxportraitError) as error:
        first = str(error).splitlines()[0][:200]
        warnings.warn(f"forgetting will not know of {len(made)} {kind}s ({next(iter(made))}): {first}", stacklevel=2)


def withdraw(store: Store, kind: Kind, path: Path) -> None:
    """Strike out what came to nothing, where the store can be written: an entry more does no harm."""
    try:
        store.table("artifacts").delete(f"artifact_id = '{_artifact_id(kind, path)}'")
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} stays entered in the store: {str(error).splitlines()[0][:200]}", stacklevel=2)


def _artifact_id(kind: Kind, path: Path) -> str:
    return hashlib.sha256(f"{kind} {who_am_i()} {path.absolute()}".encode()).hexdigest()[:32]


def row_ids_of(store: Store, clip_ids: Sequence[str] | None = None) -> np.ndarray:
    """Stable row ids of those of the clips that are in the store; of all clips where none are named."""
    table = store.table("clips").to_table(columns=["clip_id"] if clip_ids is not None else [], with_row_id=True)
    if clip_ids is not None:
        table = table.filter(pc.is_in(table["clip_id"], value_set=pa.array(clip_ids, pa.string())))
    return table["_rowid"].to_numpy()


def made_of(store: Store, kind: Kind, row_ids: np.ndarray) -> list[str]:
    """Paths of what was made of any of these clips."""
    table = store.table("artifacts").to_table(columns=["path", "row_ids"], filter=f"kind = '{kind}'")
    pairs = zip(table["path"].to_pylist(), table["row_ids"], strict=True)
    return [path for path, ids in pairs if np.isin(ids.values.to_numpy(), row_ids).any()]


def made_from(store: Store, kind: Kind, path: Path) -> np.ndarray:
    """Stable row ids of the clips that something was made of, as it was entered; none of what was not."""
    table = store.table("artifacts").to_table(columns=["path", "row_ids"], filter=f"kind = '{kind}'")
    entered = table.filter(pc.equal(table["path"], str(path.absolute())))["row_ids"]
    return np.unique(np.concatenate([np.empty(0, np.uint64), *(ids.values.to_numpy() for ids in entered)]))


def settle(store: Store, live: np.ndarray) -> Settled:
    """Remove pictures and exports, and count the checkpoints, of clips whose row ids are not among `live` any more.

    Needs the lease of the whole store. May be killed and run again.
    """
    dataset = store.table("artifacts")
    table = dataset.to_table()
    gone = [int((~np.isin(ids.values.to_numpy(), live)).sum()) for ids in table["row_ids"]]
    rows = table.drop_columns(["row_ids"]).to_pylist()
    removed, elsewhere = [], []
    for row, count in zip(rows, gone, strict=True):
        if row["kind"] != "checkpoint" and count:
            if not remove(Path(row["path"])):
                elsewhere.append(f"{row['who']}: {row['path']}")
            removed.append(row["artifact_id"])
        elif count != row["erased"]:
            dataset.update({"erased": str(count)}, where=f"artifact_id = '{row['artifact_id']}'")
    if removed:
        dataset.delete(f"artifact_id IN ({', '.join(repr(one) for one in removed)})")
    return Settled(len(removed) - len(elsewhere), elsewhere, checkpoints(store))


def checkpoints(store: Store) -> dict[str, int]:
    """Path -> forgotten clips, of the checkpoints that were trained on any: they are to be trained again."""
    table = store.table("artifacts").to_table(columns=["path", "erased"], filter="kind = 'checkpoint' AND erased > 0")
    return dict(zip(table["path"].to_pylist(), table["erased"].to_pylist(), strict=True))
