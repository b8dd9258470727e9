"""Where training meets the store: the only module of this room that imports Lance."""

from featurestore.conditioning import Layout, Loader


def loader_for(store_uri: str, layout: Layout, batch_size: int, seed: int = 0) -> Loader:
    """A loader of the store's training clips, validated on its `val` speakers. Raises as `featurestore.open` does."""
    import featurestore

    return featurestore.open(store_uri).batches(layout, batch_size=batch_size, seed=seed)
