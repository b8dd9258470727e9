"""What other installed packages add: constituents and extractors, named as entry points (docs/extractors.md)."""

from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from featurestore.errors import VoxportraitError


def added(group: str, taken: Collection[str]) -> dict[str, EntryPoint]:
    """Entry points of a group by name. A VoxportraitError if one is in `taken` or comes twice: nothing is replaced."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.get(point.name)
        if point.name in taken or other:
            by = f"{_package(other)} too" if other else "voxportrait itself"
            raise VoxportraitError(f"{_package(point)} adds {point.name!r} to {group}, which is made by {by}")
        found[point.name] = point
    return found


def load(point: EntryPoint) -> Any:
    """What an entry point names; a VoxportraitError tells which package is broken."""
    try:
        return point.load()
    except Exception as error:
        raise VoxportraitError(
            f"{_package(point)} cannot be used: {point.value} fails with {type(error).__name__}: {error}. "
            "Mend the package or uninstall it."
        ) from error


def _package(point: EntryPoint | None) -> str:
    return f"package {point.dist.name}" if point and point.dist else "a package"
