"""What lies in a folder, in a fixed order and one folder in memory at a time. No file is opened."""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import UsageError


@dataclass(frozen=True, slots=True)
class Odd:
    """Something that is no clip, or that a clip lacks. what: the kind of it; name: a path, a speaker or a file:line."""

    what: str
    name: str


def unreadable(folder: str | Path) -> Odd:
    return Odd("folder that cannot be read", str(folder))


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in the folder, sorted by name; nothing if it is no folder. Raises UsageError if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}.") from error


def listed(folder: str | Path) -> list[os.DirEntry[str]] | Odd:
    """`entries` of one folder among many: an Odd if it cannot be read."""
    try:
        return entries(folder)
    except UsageError:
        return unreadable(folder)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether the entry, or what it links to, is a folder."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_text(name: str) -> bool:
    """Whether the name can be stored and printed: UTF-8 without control characters."""
    return name.isprintable() or all(unicodedata.category(letter) not in ("Cc", "Cs") for letter in name)


def oddity(name: str) -> str:
    """Why nothing of this name is part of a clip; "" if it can be."""
    if name.startswith("."):
        return "hidden file or folder"
    return "" if is_text(name) else "name with control characters or not in UTF-8"


def walk(folder: str | Path, above: frozenset[str] = frozenset()) -> Iterator[list[os.DirEntry[str]] | Odd]:
    """The files of each folder from `folder` down, following links; what is odd by its name is not gone into.

    Raises UsageError if `folder` itself cannot be read; a folder below it that cannot be is odd.
    """
    here = os.path.realpath(folder)
    if here in above:
        yield Odd("link to a folder that it lies in", str(folder))
        return
    found = listed(folder) if above else entries(folder)
    if isinstance(found, Odd):
        yield found
        return
    files, folders = [], []
    for entry in found:
        if what := oddity(entry.name):
            yield Odd(what, entry.path)
        elif is_folder(entry):
            folders.append(entry.path)
        else:
            files.append(entry)
    if files:
        yield files
    for each in folders:
        yield from walk(each, above | {here})
