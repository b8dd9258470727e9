"""A fill job in this process, without Ray: for values that are cheap, or that are there already."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from featurestore import filling, journal
from featurestore.clip import Clip
from featurestore.filling import Want
from featurestore.journal import Rejected
from featurestore.leases import Lease
from featurestore.store import Store

Make = Callable[[Clip, frozenset[str]], Mapping[str, Any] | Rejected]
"""Gives the columns of the constituents that a clip lacks, or why it cannot."""


def fill(store: Store, wants: Sequence[Want], make: Make, job_id: str = "in process") -> dict[str, int]:
    """Fill what clips lack of `wants`; returns the clips that got each constituent. Raises as a fill job does."""
    with Lease(store.place, ["columns"], "preparing a fill"):
        maker_numbers = store.enter_makers(want.maker for want in wants)
        store.ensure_columns(filling.plan(store, wants).columns)
        fragments = filling.plan(store, wants).fragments
    maker_ids = {want.constituent: maker_numbers[want.maker.digest] for want in wants}
    filled = Counter[str]()
    with Lease(store.place, [f"fragment:{fragment}" for fragment in fragments], "filling") as lease:
        todo = filling.plan(store, wants)
        for fragment in set(fragments) & set(todo.fragments):
            tables = []
            for chunk in todo.chunks(fragment):
                clips, row_ids = filling.read_clips(store, chunk)
                made = [make(clip, wanted) for clip, wanted in zip(clips, chunk.wanted, strict=True)]
                values = [{} if isinstance(one, Rejected) else one for one in made]
                rejected = [one for one in made if isinstance(one, Rejected)]
                keys = sorted(frozenset.union(*chunk.wanted))
                tables.append(journal.chunk_table(row_ids, keys, values, maker_ids, rejected)[0])
            kept = todo.journal.get(fragment, [])
            sealed = filling.seal(store, fragment, todo.columns, tables, kept)
            filling.commit(store, [sealed], lease, job_id)
            journal.remove(store.place, set(kept) - todo.foreign)
            filled.update(sealed.filled)
    return dict(filled)
