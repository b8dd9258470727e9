"""Stale clips: those whose source file is not the one that their values were made from."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from featurestore import artifacts, journal
from featurestore.checks import Finding, columns
from featurestore.leases import STORE, Lease
from featurestore.redaction import redact
from featurestore.schema import columns_of
from featurestore.store import Store, lance_errors

State = Literal["same", "another", "missing", "unreadable"]

REMEDY = "put the file back, or make its values anew: voxportrait store reset --stale, then fill again"


def count(store: Store) -> int:
    """The clips whose source can be compared: those with a recorded hash."""
    dataset = store.table("clips")
    return dataset.count_rows("media_sha256 IS NOT NULL") if "media_sha256" in dataset.schema.names else 0


def look(store: Store) -> Iterator[Finding | None]:
    """For each clip with a recorded hash what is wrong with its source, or None."""
    for clip_id, state, what in _sources(store):
        yield Finding("sources", clip_id, what, REMEDY) if state != "same" else None


def stale_clips(store: Store) -> list[str]:
    """The clips whose source is there and is another one than their values were made from."""
    return [clip_id for clip_id, state, _ in _sources(store) if state == "another"]


def reset(
    store: Store, clip_ids: Sequence[str], wait: float = 0.0, told: Callable[[str], None] = lambda line: None
) -> int:
    """Take away all values of clips, so that the next fill makes them anew. Returns how many clips.

    Candidates go too, what waits in the journal, and the clips' rows of quarantine: another file may be a good one. May
    be killed and run again. Raises LeaseHeld, after `wait` seconds, where another job is at work.
    """
    with lance_errors("resetting clips"), Lease(store.place, [STORE], "resetting clips", wait, told) as lease:
        dataset = store.table("clips")
        names = {f.name: "NULL" for column, c in columns(dataset.schema.names) for f in columns_of(c, column)}
        theirs = frozenset(clip_ids)
        row_ids = pa.array(artifacts.row_ids_of(store, clip_ids), pa.uint64())
        lease.check()
        redact(
            store.place,
            journal.names(store.place),
            leaves=lambda one: one.clip_id in theirs,
            stays=lambda found: pc.invert(pc.is_in(found, value_set=row_ids)),
        )
        done = 0
        for first in range(0, len(clip_ids), 500):
            chosen = ", ".join("'" + one.replace("'", "''") + "'" for one in clip_ids[first : first + 500])
            lease.check()
            store.table("quarantine").delete(f"clip_id IN ({chosen})")
            done += store.table("clips").update(names, where=f"clip_id IN ({chosen})")["num_rows_updated"]
        return done


def _sources(store: Store) -> Iterator[tuple[str, State, str]]:
    """(clip id, state of its source, what is wrong) of every clip with a recorded hash."""
    dataset = store.table("clips")
    if "media_sha256" not in dataset.schema.names:
        return
    names = ["clip_id", "path", "sound_path", "media_sha256"]
    batches = dataset.to_batches(columns=names, filter="media_sha256 IS NOT NULL", batch_size=1024)
    for row in chain.from_iterable(batch.to_pylist() for batch in batches):
        yield row["clip_id"], *_compare(row["path"], row["sound_path"], row["media_sha256"])


def _compare(path: str, sound_path: str, recorded: str) -> tuple[State, str]:
    """The state of a clip's source, and what is wrong. Of a folder of frames only that it is there is looked at."""
    if "://" not in path and Path(path).is_dir():
        return "same", ""
    both = sound_path and sound_path != path
    try:
        hashes = {"picture": _sha256(path), **({"sound": _sha256(sound_path)} if both else {})}
    except FileNotFoundError:
        return "missing", f"its source is missing: {path}{f' or {sound_path}' if both else ''}"
    except (OSError, ValueError) as error:
        return "unreadable", f"its source cannot be read: {error}"
    lines = [f"{digest}  {role}\n" for role, digest in hashes.items()]
    possible = {_text("".join(lines)), *map(_text, lines)} if both else {hashes["picture"]}
    if recorded in possible:
        return "same", ""
    return "another", f"its source is another file than its values were made from: {path}"


def _text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: str) -> str:
    if "://" not in path:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    system, name = fs.FileSystem.from_uri(path)
    content = hashlib.sha256()
    with system.open_input_stream(name) as stream:
        while data := stream.read(1 << 20):
            content.update(data)
    return content.hexdigest()
