"""Where training meets the store: the only module of this room that imports Lance."""

from pathlib import Path
from typing import Any

from featurestore.conditioning import Layout, Loader


def loader_for(store_uri: str, layout: Layout, batch_size: int, seed: int = 0, **options: Any) -> Loader:
    """A loader of the store's training clips, validated on its `val` speakers. Raises as `featurestore.open` does.

    options: `snapshot` and `policy`, as `featurestore.loader.Loader` takes them.
    """
    import featurestore

    return featurestore.open(store_uri).batches(layout, batch_size=batch_size, seed=seed, **options)


def note_run(run: Path, loader: Loader) -> None:
    """Enter in the store of a loader, if it has one, that the checkpoints of this run are trained on its clips.

    Forgetting somebody lists the run then. A store that cannot be written costs a warning, not the training.
    """
    if (store := getattr(loader, "store", None)) is None:
        return
    from featurestore import artifacts

    artifacts.note(store, "checkpoint", {run: loader.rows})  # type: ignore[attr-defined]
