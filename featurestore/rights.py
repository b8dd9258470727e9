"""Licence and consent of clips that the store knows: what their source says now against what it said before.

The source's word wins where it says something. "" is no word: a source that is silent changes nothing, and a consent is
withdrawn by a word (`policy.NO_CONSENT`). A word on consent brings its last day with it, or none; a last day alone
changes the last day alone.
"""

import json
from collections.abc import Callable, Mapping
from datetime import date
from typing import NamedTuple

import lance
import numpy as np
import pyarrow as pa

from featurestore.clip import Clip
from featurestore.filling import Sealed, commit
from featurestore.leases import Lease
from featurestore.schema import CLIPS
from featurestore.store import Store

_COMMIT_FRAGMENTS = 256


class Rights(NamedTuple):
    """What may be done with a clip, as its columns in `clips` say it."""

    licence: str
    consent: str
    consent_until: date | None


def after(before: Rights, clip: Clip) -> Rights:
    """The rights of a clip when its source has spoken again."""
    consent, until = (clip.consent, clip.consent_until) if clip.consent else (before.consent, clip.consent_until)
    if not clip.consent and until is None:
        until = before.consent_until
    return Rights(clip.licence or before.licence, consent, until)


def known(store: Store) -> tuple[dict[str, int], list[Rights]]:
    """The clips of a store, each with the number of its rights; and the rights, each once."""
    table = store.table("clips").to_table(columns=["clip_id", *Rights._fields]).combine_chunks()
    codes = np.zeros(len(table), np.int64)
    for name in Rights._fields if len(table) else ():
        column = table[name].combine_chunks().dictionary_encode("encode")
        codes = codes * len(column.dictionary) + column.indices.to_numpy()
    _, first, numbers = np.unique(codes, return_index=True, return_inverse=True)
    rows = table.select(Rights._fields).take(pa.array(first)).to_pylist()
    rights = [Rights(row["licence"] or "", row["consent"] or "", row["consent_until"]) for row in rows]
    return dict(zip(table["clip_id"].to_pylist(), numbers.tolist(), strict=True)), rights


def write(
    store: Store,
    changed: Mapping[str, Rights],
    wait: float = 0.0,
    told: Callable[[str], None] = lambda line: None,
) -> None:
    """Write the rights of clips, by clip id: small columns alone, of the fragments that the clips are in.

    Holds the lease of these fragments; needs the lease `register`. Raises LeaseHeld, after `wait` seconds, where a job
    is at work on them.
    """
    table = store.table("clips").to_table(columns=["clip_id"], with_row_id=True, with_row_address=True)
    rows = np.flatnonzero([clip_id in changed for clip_id in table["clip_id"].to_pylist()])
    table = table.take(pa.array(rows))
    fragments = (table["_rowaddr"].to_numpy() >> np.uint64(32)).astype(int)
    rights = [changed[clip_id] for clip_id in table["clip_id"].to_pylist()]
    columns = {"_rowid": table["_rowid"].combine_chunks()}
    for name in Rights._fields:
        columns[name] = pa.array([getattr(one, name) for one in rights], CLIPS.field(name).type)
    update, numbers = pa.table(columns), np.unique(fragments).tolist()
    resources = [f"fragment:{number}" for number in numbers]
    with Lease(store.place, resources, "entering licences and consents", wait, told) as lease:
        for start in range(0, len(numbers), _COMMIT_FRAGMENTS):
            dataset = store.table("clips")
            handles = {handle.fragment_id: handle for handle in dataset.get_fragments()}
            sealed = [
                _sealed(dataset.version, handles[number], update.filter(pa.array(fragments == number)))
                for number in numbers[start : start + _COMMIT_FRAGMENTS]
            ]
            commit(store, sealed, lease, "")


def _sealed(version: int, handle: lance.LanceFragment, update: pa.Table) -> Sealed:
    """A fragment, as it is at a version of the table, with some rows of some columns written anew."""
    before = json.dumps(handle.metadata.to_json())
    metadata, fields = handle.update_columns(update.combine_chunks())
    return Sealed(handle.fragment_id, version, before, json.dumps(metadata.to_json()), tuple(fields), {}, ())
