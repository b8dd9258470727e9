"""sha256 of weights files, and the two notes beside them: what was recorded when fetched, and what is untrained."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from featurestore.errors import VoxportraitError

KNOWN, RECORDED, UNTRAINED = ".sha256.json", "SHA256SUMS", "UNTRAINED.json"
_seen: dict[Path, tuple[list[int], str]] = {}


def sha256_now(path: Path) -> str:
    """The file's sha256, read from the disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(path: Path) -> str:
    """The file's sha256; read again only if its size or time changed since it was known, here or in another process.

    What is known is kept in `.sha256.json` beside the file, where the folder can be written.
    """
    facts = path.stat()
    stamp = [facts.st_size, facts.st_mtime_ns]
    if path not in _seen or _seen[path][0] != stamp:
        known = _known(path.parent / KNOWN)
        if path.name not in known or known[path.name][0] != stamp:
            known[path.name] = (stamp, sha256_now(path))
            with suppress(OSError):
                write(path.parent / KNOWN, json.dumps(known))
        _seen[path] = known[path.name]
    return _seen[path][1]


def untrained(folder: Path) -> dict[str, str]:
    """File name -> sha256 of the files in `folder` that were written and never trained.

    A note that cannot be read raises VoxportraitError: nothing may pass for trained by mistake.
    """
    note = folder / UNTRAINED
    try:
        return dict(json.loads(note.read_text())["files"]) if note.is_file() else {}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise VoxportraitError(
            f"{note} cannot be read ({error}). Remove {folder} and bring its files again."
        ) from error


def mark_untrained(folder: Path, sums: dict[str, str]) -> None:
    note = "Never trained: written by `voxportrait models untrained`, to prove code and not results."
    write(folder / UNTRAINED, json.dumps({"note": note, "files": sums}, indent=1) + "\n")


def recorded(folder: Path) -> dict[str, str]:
    """File name -> sha256 as they were when first fetched, for files that nobody pinned."""
    sums = folder / RECORDED
    lines = sums.read_text().splitlines() if sums.is_file() else []
    return {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}


def record(folder: Path, sums: dict[str, str]) -> None:
    """Writes SHA256SUMS as `sha256sum` does, so that `sha256sum -c` reads it."""
    write(folder / RECORDED, lines_of(sums))


def lines_of(sums: dict[str, str]) -> str:
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items())


def write(path: Path, text: str) -> None:
    """Writes beside and renames, so that nobody reads half of it."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    beside.write_text(text)
    os.replace(beside, path)


def _known(path: Path) -> dict[str, tuple[list[int], str]]:
    with suppress(OSError, ValueError, TypeError):
        return {name: (stamp, sha256) for name, (stamp, sha256) in json.loads(path.read_text()).items()}
    return {}
