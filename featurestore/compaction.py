"""Keeping a store small: small fragments merged, indices brought up to date, old versions and orphan files removed.

Rows keep their stable row ids and their values; where their fragment stands in the table may change. Everything here
holds the lease of the whole store, and may be killed at any moment: a merged fragment counts when its commit is in the
table, and what is left over is removed by the next run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from lance.commit import CommitConflictError
from lance.optimize import Compaction, CompactionOptions

from featurestore import journal
from featurestore.errors import VoxportraitError
from featurestore.failpoints import reach
from featurestore.leases import STORE, Lease, LeaseHeld
from featurestore.schema import TABLES
from featurestore.store import FRAGMENT_CLIPS, Store, lance_errors

KEPT = timedelta(hours=1)
"""How long the versions that a reader may be reading are kept by `tidy`."""

SCATTERED = 16
"""From so many small fragments without values on, `compact_small` merges them."""

UNDER_LEASES = ("clips", "makers", "quarantine", "snapshots", "erasures", "artifacts")
"""Tables that nobody writes to while another holds the whole store: all their files are known then."""

_COMMIT_TASKS = 16
_ALWAYS_KEPT = timedelta(minutes=10)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Compacted:
    """What a compaction did.

    fragments_before, fragments_after: of `clips`; bytes_freed: the store's size before less its size after;
    versions_removed: of all tables; orphans_removed: files that no version referred to, as killed processes leave them.
    """

    fragments_before: int
    fragments_after: int
    bytes_freed: int
    versions_removed: int
    orphans_removed: int


def compact(
    store: Store,
    wait: float = 0.0,
    told: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
    discard_journal: bool = False,
) -> Compacted:
    """Merge small fragments into ones of 512 clips and more, and remove what nothing needs any more.

    Deleted rows leave the files, indices are brought up to date, every version but the newest goes: a query that is
    under way may have to be asked again. The journal stays as it is, unless `discard_journal`: then what stopped jobs
    had finished and not committed is lost. wait: seconds to wait for who is at work in the store, else LeaseHeld;
    progress: called with the merges done and to do.
    """
    with lance_errors("compacting"), Lease(store.place, [STORE], "compacting", wait, told) as lease:
        before, size = len(store.table("clips").get_fragments()), _size(store)
        journal.sweep(store.place)
        if discard_journal:
            journal.remove(store.place, journal.names(store.place))
        _merge(store, lease, (), progress)
        optimize_indices(store)
        reach("compaction")
        for name in TABLES:
            if name != "clips":
                _compact_table(store, name)
        lost = sum(len(orphans(store, name)) for name in UNDER_LEASES)
        lease.check()
        removed = _clean(store, timedelta(0))
        reach("compaction")
        return Compacted(before, len(store.table("clips").get_fragments()), size - _size(store), removed, lost)


def tidy(store: Store) -> bool:
    """Remove what killed processes left, and versions older than an hour, if nobody is at work in the store now.

    Returns whether it was done.
    """
    try:
        with lance_errors("tidying the store"), Lease(store.place, [STORE], "tidying"):
            journal.sweep(store.place)
            _clean(store, KEPT)
    except LeaseHeld:
        return False
    return True


def compact_small(store: Store) -> int:
    """Merge small fragments without values if many piled up and nobody is at work in the store now.

    Cheap: whether they piled up is in the manifest, and what is merged holds no value. A merge that fails is left for
    the next time. Returns how many fragments there are less than before.
    """
    if len(_empty(store)) < SCATTERED:
        return 0
    try:
        with lance_errors("merging small registrations"), Lease(store.place, [STORE], "merging registrations") as lease:
            before = store.table("clips").get_fragments()
            empty = _empty(store)
            _merge(store, lease, [f.fragment_id for f in before if f.fragment_id not in empty])
            return len(before) - len(store.table("clips").get_fragments())
    except (VoxportraitError, CommitConflictError):
        return 0


def optimize_indices(store: Store) -> None:
    """Bring the indices of `clips` up to date with its rows."""
    dataset = store.table("clips")
    if dataset.describe_indices():
        dataset.optimize.optimize_indices()


def orphans(store: Store, name: str) -> list[str]:
    """Files of a table that none of its versions refers to, by their paths in the table."""
    dataset = store.table(name)
    known = {path for batch in dataset.tracked_files() for path in batch["path"].to_pylist()}
    found = (path for batch in dataset.all_files() for path in batch["path"].to_pylist())
    return sorted(
        path for path in found if path.startswith(("data/", "_deletions/", "_indices/")) and path not in known
    )


def _merge(store: Store, lease: Lease, excluded: Sequence[int] = (), progress: Progress | None = None) -> None:
    """Merge small fragments of `clips`, and rewrite those with deleted rows, one at a time."""
    dataset = store.table("clips")
    options: CompactionOptions = {
        "target_rows_per_fragment": FRAGMENT_CLIPS,
        "materialize_deletions_threshold": 0.0,
        "excluded_fragment_ids": list(excluded),
    }
    tasks = Compaction.plan(dataset, options).tasks
    rewritten = []
    for done, task in enumerate(tasks, 1):
        rewritten.append(task.execute(dataset))
        if len(rewritten) == _COMMIT_TASKS or done == len(tasks):
            reach("compaction")
            lease.check()
            Compaction.commit(store.table("clips"), rewritten)
            reach("compaction")
            rewritten = []
        if progress:
            progress(done, len(tasks))


def _empty(store: Store) -> set[int]:
    """Fragments with fewer clips than the unit of work and no value at all."""
    dataset = store.table("clips")
    small = [f for f in dataset.get_fragments() if f.metadata.num_rows < FRAGMENT_CLIPS]
    makers = [name for name in dataset.schema.names if name.endswith("_maker")]
    found = {f.fragment_id for f in small}
    if len(small) < SCATTERED or not makers:
        return found
    for batch in dataset.scanner(columns=makers, fragments=small, with_row_address=True).to_batches():
        is_made = np.logical_or.reduce([batch[name].is_valid().to_numpy(zero_copy_only=False) for name in makers])
        found -= set((batch["_rowaddr"].to_numpy()[is_made] >> np.uint64(32)).tolist())
    return found


def _compact_table(store: Store, name: str) -> None:
    """Merge the fragments of a small table; one that another process writes to right now stays as it is."""
    try:
        store.table(name).optimize.compact_files()
    except (CommitConflictError, OSError) as error:  # Lance says a conflict in either way
        if "conflict" not in str(error):
            raise


def _clean(store: Store, older_than: timedelta) -> int:
    """Remove old versions and unreferenced files of all tables; returns the versions removed.

    Tables that are written without a lease keep their last minutes and files that may be somebody's next version.
    """
    removed = 0
    for name in TABLES:
        alone = name in UNDER_LEASES
        removed += (
            store.table(name)
            .cleanup_old_versions(
                older_than if alone else max(older_than, _ALWAYS_KEPT),
                delete_unverified=alone,
                error_if_tagged_old_versions=False,
            )
            .old_versions
        )
    return removed


def _size(store: Store) -> int:
    return sum(file.size for file in store.place.list("", recursive=True))
