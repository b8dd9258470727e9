"""The store: LanceDB tables at a path or an object-store URI, their registration of clips and of makers.

    store = featurestore.open("demo/store")
    store.coverage(); store.sql("select split, count(*) from clips group by 1")

Filling is in `filling`, questions are in `queries`, reading for training in `loader`.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lance
import pyarrow as pa

from featurestore.catalogue import constituent
from featurestore.clip import Clip
from featurestore.errors import UsageError, VoxportraitError
from featurestore.forgotten import Forgotten
from featurestore.leases import Lease
from featurestore.makers import Maker
from featurestore.places import Place
from featurestore.policy import Policy
from featurestore.schema import FORMAT, TABLES, clip_rows, columns_of

if TYPE_CHECKING:
    import pandas

    from featurestore.conditioning import Layout
    from featurestore.loader import Loader

FRAGMENT_CLIPS = 512
"""Clips in a fragment: the unit of lease, of writing and of commit."""

_NEW = -1


@dataclass(frozen=True)
class Registration:
    """Counts of one registration: clips that are new, that were known before, and that were forgotten.

    changed: of the known ones, those whose licence or consent is another now.
    """

    new: int
    known: int
    refused: int = 0
    changed: int = 0


class Store:
    """A feature store. Cheap to open and to send to another process; reads always see the newest version."""

    def __init__(self, uri: str):
        self.place = Place(str(uri))

    @classmethod
    def open(cls, uri: str) -> "Store":
        """Open an existing store; a UsageError says what was found instead."""
        store = cls(uri)
        shown = store.place.shown
        if not store.exists():
            raise UsageError(
                f"there is no store at {shown}. Make one with: voxportrait extract SOURCE ROOT --store {shown}"
            )
        metadata = store.table("clips").schema.metadata or {}
        made_by = metadata.get(b"voxportrait.format")
        if made_by is None:
            raise UsageError(f"{shown} holds a table `clips` that voxportrait did not make")
        if made_by != FORMAT:
            raise UsageError(
                f"{shown} has layout {made_by.decode()} of a store, and this version of voxportrait reads layout "
                f"{FORMAT.decode()}. Extract into a new store."
            )
        return store

    @classmethod
    def open_or_create(cls, uri: str) -> "Store":
        """Open the store at `uri`, or make an empty one there."""
        store = cls(uri)
        if store.exists():
            return cls.open(uri)
        _check_place(store.place)
        with lance_errors(f"making a store at {store.place.shown}"):
            for name, schema in reversed(TABLES.items()):  # `clips` last: a store is one when it is there
                if not store.exists(name):
                    empty, stable = schema.empty_table(), name == "clips"
                    store.place.write_table(name, empty, enable_stable_row_ids=stable)
        return store

    @property
    def uri(self) -> str:
        """The address with its options, secrets among them: not to be printed, `place.shown` is."""
        return self.place.address

    def table(self, name: str) -> lance.LanceDataset:
        """The newest version of a table as a Lance dataset."""
        return self.place.table(name)

    def exists(self, name: str = "clips") -> bool:
        """Whether the table is there; a VoxportraitError where that cannot be told."""
        try:
            self.table(name)
        except (ValueError, OSError) as error:
            if re.search("was not found|Not a directory", str(error)):
                return False
            raise VoxportraitError(f"{self.place.shown} cannot be read: {_first_line(error)}") from error
        return True

    # -- registering ---------------------------------------------------------------------------------------------

    def register(
        self,
        clips: Iterable[Clip],
        progress: Callable[[int], None] | None = None,
        wait: float = 0.0,
        told: Callable[[str], None] = lambda line: None,
    ) -> Registration:
        """Write a row for each clip that is not known yet, and the licence and consent of known ones where the source
        says another now (see `rights`); `progress` is called with the clips seen so far.

        Idempotent, and the same clip twice in `clips` is one clip. Clips that were forgotten, and clips of speakers
        who were, are refused. Holds the lease `register`, and the leases of fragments with a changed clip. Raises
        LeaseHeld after `wait` seconds; what is registered by then stays.
        """
        from featurestore import rights

        seen = new = refused = 0
        with Lease(self.place, ["register"], "registering clips", wait, told) as lease:
            is_forgotten = Forgotten.of(self.place).clips()
            known, before = rights.known(self)
            changed: dict[str, rights.Rights] = {}

            def unknown() -> Iterator[Clip]:
                nonlocal seen, refused
                for clip in clips:
                    seen += 1
                    if progress:
                        progress(seen)
                    if is_forgotten(clip.clip_id):
                        refused += 1
                        continue
                    number = known.get(clip.clip_id)
                    if number is None:
                        known[clip.clip_id] = _NEW
                        yield clip
                    elif number != _NEW and (now := rights.after(before[number], clip)) != before[number]:
                        changed[clip.clip_id] = now

            fresh = unknown()
            while batch := list(islice(fresh, 16 * FRAGMENT_CLIPS)):
                lease.check()
                self.place.write_table("clips", clip_rows(batch), mode="append", max_rows_per_file=FRAGMENT_CLIPS)
                new += len(batch)
            if changed:
                rights.write(self, changed, wait, told)
        return Registration(new, seen - new - refused, refused, len(changed))

    def ensure_columns(self, columns: Mapping[str, str]) -> None:
        """Add columns that the table has not had before; only metadata is written. Needs the lease `columns`.

        columns: constituent -> what its columns are called: its key, or a candidate's name.
        """
        dataset = self.table("clips")
        fields = [
            field
            for key, column in columns.items()
            for field in columns_of(constituent(key), column)
            if field.name not in dataset.schema.names
        ]
        if fields:
            dataset.add_columns(fields)

    def known_makers(self) -> dict[str, int]:
        """The number of each maker by its digest."""
        table = self.table("makers").to_table(columns=["digest", "id"])
        return dict(zip(table["digest"].to_pylist(), table["id"].to_pylist(), strict=True))

    def enter_makers(self, makers: Iterable[Maker]) -> dict[str, int]:
        """Enter makers that are not known yet; returns the number of each by its digest. Needs the lease `columns`."""
        ids = self.known_makers()
        fresh = [maker for maker in {m.digest: m for m in makers}.values() if maker.digest not in ids]
        if fresh:
            start = max(ids.values(), default=-1) + 1
            rows = [
                {
                    "digest": maker.digest,
                    "id": start + i,
                    "constituent": maker.constituent,
                    "model": maker.model,
                    "library": maker.library,
                    "weights": maker.weights,
                    "parameters": json.dumps(maker.parameters, sort_keys=True),
                    "trained": maker.trained,
                }
                for i, maker in enumerate(fresh)
            ]
            self.insert("makers", rows)
            ids |= {maker.digest: start + i for i, maker in enumerate(fresh)}
        return ids

    def insert(self, name: str, rows: list[dict[str, Any]], update: bool = False) -> None:
        """Insert rows by the table's key; a row whose key is there is left alone, or replaced where `update`."""
        if not rows:
            return
        schema = TABLES[name]
        merge = self.table(name).merge_insert(schema.names[0]).when_not_matched_insert_all()
        if update:
            merge = merge.when_matched_update_all()
        merge.conflict_retries(30).execute(pa.Table.from_pylist(rows, schema))

    # -- asking --------------------------------------------------------------------------------------------------

    def coverage(self, policy: Policy = Policy()) -> dict[str, Any]:
        """How much of each constituent is filled: see `queries.coverage`."""
        from featurestore.queries import coverage

        return coverage(self, policy)

    def info(self) -> dict[str, Any]:
        """Clips, speakers, splits, hours, bytes, jobs: see `queries.info`."""
        from featurestore.queries import info

        return info(self)

    def sql(self, query: str, into: Literal["pandas", "arrow", "polars"] = "pandas", policy: Policy = Policy()) -> Any:
        """The answer of DuckDB to a query over the tables, read-only, as a table of `into`: see `sql.sql`."""
        from featurestore.sql import sql

        answer = sql(self, query, policy)
        if into == "polars":
            import polars

            return polars.from_arrow(answer)
        return answer if into == "arrow" else answer.to_pandas()

    def similar(self, to: Any, by: str = "ecapa", k: int = 10, **options: Any) -> "pandas.DataFrame":
        """The clips nearest to a clip, by its id, or to a vector: see `search.similar`."""
        from featurestore.search import similar

        return similar(self, to, by, k, **options).table.to_pandas()

    def batches(self, layout: "Layout", batch_size: int, cache: str | None = None, **options: Any) -> "Loader":
        """A loader of training batches for a layout.

        cache: a folder of this machine where the records are kept in a file, which is made where it is not there: see
        `exporting.cached_records`. options: those of `store_records.StoreRecords` (snapshot, split, policy, pictures,
        missing) and of `loader.Loader` (seed, rank, ranks, remainder, ...).
        """
        from featurestore.loader import Loader
        from featurestore.store_records import StoreRecords

        own = {name: options.pop(name) for name in signature(StoreRecords).parameters if name in options}
        if cache is None:
            return Loader(StoreRecords(self, layout, **own), batch_size, **options)
        from featurestore.exporting import cached_records

        return Loader(cached_records(self, layout, cache, **own), batch_size, **options)


@contextmanager
def lance_errors(doing: str) -> Iterator[None]:
    """Turn a failure of the disk or object store into one clear line."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "Not found: " not in str(error):
            raise
        raise VoxportraitError(
            f"{doing} failed: {_first_line(error)}. Nothing is lost; run the command again to go on."
        ) from error


def _first_line(error: Exception) -> str:
    return re.sub(r",? ?/\S+\.rs:\d+:\d+", "", str(error).strip().splitlines()[0])[:300]


def _check_place(place: Place) -> None:
    """A UsageError if a local path cannot be a store's folder: a file, a folder of other things, not to be written."""
    if place.is_remote:
        return
    path = Path(place.root)
    nearest = next(there for there in (path, *path.parents) if there.exists())
    if not nearest.is_dir():
        raise UsageError(f"{nearest} is a file; a store is a folder")
    if path.is_dir() and any(path.iterdir()) and not any(path.glob("*.lance")):
        raise UsageError(f"{path} holds other things; a store is a folder of its own, such as {path / 'store'}")
    if not os.access(nearest, os.W_OK):
        raise UsageError(f"{path} cannot be made: {nearest} is not writable")
