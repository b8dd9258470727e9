"""The feature store: `featurestore.open(uri)` gives coverage, SQL and batches. Nothing heavy is imported until used."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurestore.store import Store


def open(uri: str) -> "Store":
    """Open the store at a path or object-store URI; a UsageError if there is none."""
    from featurestore.store import Store

    return Store.open(uri)


__all__ = ["open"]
