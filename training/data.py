"""Where training meets the store, or an export of it: the only module of this room that imports Lance."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.conditioning import Layout
from featurestore.conditioning import system as system_named
from featurestore.errors import UsageError, VoxportraitError
from featurestore.exports import ExportRecords
from featurestore.loader import Loader
from featurestore.policy import Policy
from featurestore.records import Records
from training.settings import Settings

_EVER = -1
"""Before the first erasure."""


@dataclass(frozen=True)
class Source:
    """What is trained on, by name: each worker opens it for itself.

    store: a folder or URI; export: a file made from one, which then is trained on, and a store beside it says whether
    it still holds. snapshot, cache: of a store. missing, policy: see `featurestore.store_records.StoreRecords`.
    Raises UsageError where these do not go together.
    """

    store: str | None = None
    export: Path | None = None
    snapshot: str | None = None
    cache: str | None = None
    missing: str = "refuse"
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self):
        if self.store is None and self.export is None:
            raise UsageError("say what to train on: --store, or --export for a file of voxportrait store export")
        if self.export is not None and (self.snapshot or self.cache):
            raise UsageError("an export has its clips: --snapshot and --cache are for a store")

    def loader(
        self,
        layout: Layout,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        told: Callable[[str], None] = lambda line: None,
        pictures: Sequence[str] = ("target", "guide"),
    ) -> Loader:
        """The loader of one worker. told: see `loader_from_export`; pictures: names in `records.PICTURES`."""
        common: dict[str, Any] = {
            "missing": self.missing,
            "policy": self.policy,
            "pictures": pictures,
            "rank": rank,
            "ranks": ranks,
        }
        if self.export is not None:
            return loader_from_export(self.export, layout, batch_size, seed, self.store, told, **common)
        store = self.store or ""
        return loader_for(store, layout, batch_size, seed, snapshot=self.snapshot, cache=self.cache, **common)

    def absolute(self) -> "Source":
        """The same for a process that stands in another folder."""
        store = self.store if self.store is None or "://" in self.store else os.path.abspath(self.store)
        cache = None if self.cache is None else os.path.abspath(self.cache)
        return replace(self, store=store, cache=cache, export=self.export and self.export.absolute())


@dataclass(frozen=True)
class Opening:
    """How each worker opens what a stage learns from.

    layout: the system's. run: the stage's own; the runs beside it are of the stages that it is built on. device: where
    a codec works, for the stages that learn from what it says of the clips; settings: how they are trained.
    """

    source: Source
    system: str
    stage: str
    layout: Layout
    batch_size: int
    seed: int
    run: Path
    device: str | None = None
    settings: Settings | None = None

    def __call__(self, rank: int = 0, ranks: int = 1, told: Callable[[str], None] = lambda line: None) -> Loader:
        """The loader of one worker. Raises UsageError where a stage that this one is built on is not trained."""
        pictures = system_named(self.system).pictures
        loader = self.source.loader(self.layout, self.batch_size, self.seed, rank, ranks, told, pictures)
        if self.stage in ("face", "bottom", "upper"):
            from training.latent.encoded import encoded

            settings: Any = self.settings
            records = encoded(loader.records, self.run.parent, self.system, self.stage, settings, self.device, told)
            return Loader(records, self.batch_size, self.seed, rank, ranks)
        return loader


def loader_for(store_uri: str, layout: Layout, batch_size: int, seed: int = 0, **options: Any) -> Loader:
    """A loader of the store's training clips, validated on its `val` speakers. Raises as `featurestore.open` does.

    options: see `featurestore.store.Store.batches`.
    """
    import featurestore

    return featurestore.open(store_uri).batches(layout, batch_size=batch_size, seed=seed, **options)


def loader_from_export(
    export: Path,
    layout: Layout,
    batch_size: int,
    seed: int = 0,
    store_uri: str | None = None,
    told: Callable[[str], None] = lambda line: None,
    rank: int = 0,
    ranks: int = 1,
    **options: Any,
) -> Loader:
    """A loader of an export's training clips, which needs no store.

    store_uri: of the store it was made from, where that is at hand: then clips that were forgotten since, and values
    made anew, are a VoxportraitError; without it `told` is called with a line that says what is not known.
    rank, ranks: which of how many workers. options: see `featurestore.exports.ExportRecords`.
    """
    records = ExportRecords(export, layout, **options)
    if store_uri is None:
        told(records.told)
    else:
        import featurestore
        from featurestore.exporting import check

        check(featurestore.open(store_uri), records)
    return Loader(records, batch_size, seed, rank, ranks)


def check_run(run: Path, loader: Loader) -> None:
    """Say that clips which this run was trained on were forgotten since, where the loader has a store.

    Raises VoxportraitError; with a snapshot, whose places stay empty, the run goes on and a warning says it.
    """
    if (store := getattr(loader.records, "store", None)) is None:
        return
    from featurestore import artifacts, erasure

    try:
        erasure.check(store, _EVER, f"the run {run}", artifacts.made_from(store, "checkpoint", run))
    except VoxportraitError as gone:
        if "snapshot" not in loader.describe():
            raise
        warnings.warn(str(gone), stacklevel=2)


def rights_of(loader: Loader) -> dict[str, dict[str, int]]:
    """Of the clips trained on, how many have which consent and which licence, where the loader has a store."""
    if (store := getattr(loader.records, "store", None)) is None:
        return {}
    names = ("consent", "licence")
    table = store.table("clips").to_table(columns=list(names), with_row_id=True)
    ours = table.filter(np.isin(table["_rowid"].to_numpy(), loader.records.rows))
    counted = {name: ours[name].fill_null("").value_counts().to_pylist() for name in names}
    return {name: {one["values"]: one["counts"] for one in counts} for name, counts in counted.items()}


def note_run(run: Path, loader: Loader) -> None:
    """Enter in the store of a loader, if it has one, that the checkpoints of this run are trained on its clips.

    Forgetting somebody lists the run then. A store that cannot be written costs a warning, not the training.
    """
    if (store := getattr(loader.records, "store", None)) is None:
        return
    from featurestore import artifacts

    artifacts.note(store, "checkpoint", {run: loader.records.rows})


@contextmanager
def entered(path: Path, rows: np.ndarray, records: Records) -> Iterator[None]:
    """While a file is made of what these rows hold: the store of the records, if they have one, knows of it, so that
    forgetting somebody in it removes it.

    Raises VoxportraitError where somebody is being forgotten, or was meanwhile: then nothing is left of the file.
    """
    if (store := getattr(records, "store", None)) is None:
        yield
        return
    from featurestore import artifacts, erasure

    if begun := erasure.unfinished(store):
        raise VoxportraitError(begun)
    epoch = erasure.epoch(store)
    erasure.check(store, records.describe()["erasure_epoch"], f"what {path} is made of", rows)
    artifacts.note(store, "export", {path: rows})
    try:
        yield
        if erasure.epoch(store) != epoch:
            path.unlink(missing_ok=True)
            raise VoxportraitError(f"somebody was forgotten while {path} was written: nothing is left of it; run again")
    except BaseException:
        artifacts.withdraw(store, "export", path)
        raise


def note_pictures(paths: Sequence[Path], rows: np.ndarray, loader: Loader) -> None:
    """Enter in the store of a loader, if it has one, that these files show what was made of these clips' rows.

    Forgetting somebody removes them then.
    """
    if (store := getattr(loader.records, "store", None)) is None:
        return
    from featurestore import artifacts

    artifacts.note(store, "picture", dict.fromkeys(paths, rows))
