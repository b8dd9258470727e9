"""A fill job in this process, without Ray: for values that are cheap, or that are there already."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from featurestore import filling, journal
from featurestore.clip import Clip
from featurestore.filling import Chunk, Want
from featurestore.journal import Rejected
from featurestore.leases import Lease
from featurestore.policy import Policy
from featurestore.store import Store

Make = Callable[[Clip, frozenset[str]], Mapping[str, Any] | Rejected]
"""Gives the columns of the constituents that a clip lacks, or why it cannot."""


def fill(
    store: Store, wants: Sequence[Want], make: Make, job_id: str = "in process", policy: Policy | None = None
) -> dict[str, int]:
    """Fill what clips lack of `wants`; returns the clips that got each constituent. Raises as a fill job does."""
    with Lease(store.place, ["columns"], "preparing a fill") as lease:
        lease.check()
        maker_numbers = store.enter_makers(want.maker for want in wants)
        todo = filling.plan(store, wants, policy)
        lease.check()
        store.ensure_columns(todo.columns)
    maker_ids = {want.constituent: maker_numbers[want.maker.digest] for want in wants}
    filled = Counter[str]()
    fragments = todo.fragments
    with Lease(store.place, [f"fragment:{fragment}" for fragment in fragments], "filling") as lease:
        todo = filling.plan(store, wants, policy)  # now that nobody else can change these fragments
        todo.only(fragments)
        for fragment in todo.fragments:
            tables = [fill_chunk(store, chunk, make, maker_ids) for chunk in todo.chunks(fragment)]
            sealed = filling.seal(store, fragment, todo.columns, tables, todo.journal.get(fragment, []))
            filling.commit(store, [sealed], lease, job_id)
            filled.update(sealed.filled)
        used = {name for names in todo.journal.values() for name in names}
        journal.remove(store.place, {*used, *todo.leftover} - todo.foreign)
    return dict(filled)


def fill_chunk(store: Store, chunk: Chunk, make: Make, maker_ids: Mapping[str, int]) -> pa.Table:
    """A chunk's table: see `journal.chunk_table`."""
    clips, row_ids = filling.read_clips(store, chunk)
    made = [make(clip, wanted) for clip, wanted in zip(clips, chunk.wanted, strict=True)]
    values = [{} if isinstance(one, Rejected) else one for one in made]
    rejected = [one for one in made if isinstance(one, Rejected)]
    keys = sorted(frozenset.union(*chunk.wanted))
    return journal.chunk_table(row_ids, keys, values, maker_ids, rejected)[0]
