"""What leaves the journal: rows and rejections of clips that are forgotten, reset or released."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict

import pyarrow as pa

from featurestore import journal
from featurestore.journal import Rejected
from featurestore.places import Place


def redact(
    place: Place,
    names: Iterable[str],
    leaves: Callable[[Rejected], bool],
    stays: Callable[[pa.ChunkedArray], pa.ChunkedArray] | None = None,
) -> list[Rejected]:
    """Take rows and rejections out of kept chunks; returns the rejections that left.

    leaves: of a rejection; stays: of stable row ids which ones, by default all. A chunk that is damaged, or of which no
    row stays, is removed; one that is gone is left alone. Needs the lease of the fragments of the chunks' rows, or of
    the whole store.
    """
    left: list[Rejected] = []
    for name in names:
        try:
            table = journal.read(place, name)
        except FileNotFoundError:
            continue
        except journal.JournalDamaged:
            journal.remove(place, [name])
            continue
        rejected = journal.rejections(table)
        kept = table.filter(stays(table["_rowid"])) if stays else table
        going = [one for one in rejected if leaves(one)]
        if not len(kept):
            journal.remove(place, [name])
        elif going or len(kept) < len(table):
            staying = json.dumps([asdict(one) for one in rejected if one not in going]).encode()
            journal.write(place, name, kept.replace_schema_metadata({b"rejected": staying}))
        left += going
    return left
