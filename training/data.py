"""Where training meets the store, or an export of it: the only module of this room that imports Lance."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from featurestore.conditioning import Layout
from featurestore.errors import VoxportraitError
from featurestore.exports import ExportRecords
from featurestore.loader import Loader

_EVER = -1
"""Before the first erasure."""


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
    **options: Any,
) -> Loader:
    """A loader of an export's training clips, which needs no store.

    store_uri: of the store it was made from, where that is at hand: then clips that were forgotten since, and values
    made anew, are a VoxportraitError; without it `told` is called with a line that says what is not known.
    options: see `featurestore.exports.ExportRecords`.
    """
    records = ExportRecords(export, layout, **options)
    if store_uri is None:
        told(records.told)
    else:
        import featurestore
        from featurestore.exporting import check

        check(featurestore.open(store_uri), records)
    return Loader(records, batch_size, seed)


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


def note_run(run: Path, loader: Loader) -> None:
    """Enter in the store of a loader, if it has one, that the checkpoints of this run are trained on its clips.

    Forgetting somebody lists the run then. A store that cannot be written costs a warning, not the training.
    """
    if (store := getattr(loader.records, "store", None)) is None:
        return
    from featurestore import artifacts

    artifacts.note(store, "checkpoint", {run: loader.records.rows})
