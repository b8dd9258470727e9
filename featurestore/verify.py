"""Is a store what it should be? Looks at everything, names what is wrong and what to do, and repairs nothing."""

from collections.abc import Callable, Iterator

from featurestore import checks, stale
from featurestore.checks import Finding
from featurestore.errors import VoxportraitError
from featurestore.leases import is_dead
from featurestore.store import Store

Progress = Callable[[int, int, str], None]

_FEW = 20
"""Findings of one kind and place that are told one by one."""


def verify(
    store: Store,
    sources: bool = False,
    progress: Progress = lambda done, total, note: None,
    told: Callable[[str], None] = lambda line: None,
) -> list[Finding]:
    """Everything that is wrong with a store. Reads fragment by fragment, and only reads.

    sources: also whether each source file is there and is the one that the values were made from; reads every byte of
    the corpus. progress: called with fragments and sources done, how many there are, and what is looked at. told: what
    was not looked at, because a job is at work.
    """
    found = list(checks.schema(store))
    if found:
        told("the schema is not as it should be: only it was looked at")
        return found
    dataset = store.table("clips")
    fragments = dataset.get_fragments()
    total = len(fragments) + (stale.count(store) if sources else 0)
    progress(0, total, "rows")
    for check in (checks.clips, checks.makers, checks.quarantine, checks.kept):
        found += _readable(check(store), "clips")
    if at_work := _at_work(store):
        told(f"the journal and orphan files were not looked at: the store is in use by {at_work}")
    else:
        found += checks.files(store)
    for done, fragment in enumerate(fragments, 1):
        found += _readable(checks.values(store, dataset, fragment), f"clips, fragment {fragment.fragment_id}")
        progress(done, total, "values")
    if sources:
        for done, finding in enumerate(stale.look(store), len(fragments) + 1):
            found += [finding] if finding else []
            progress(done, total, "sources")
    return _together(found)


def _at_work(store: Store) -> str:
    """Who holds a lease now; "" if nobody."""
    rows = store.table("leases").to_table(columns=["who", "process"]).to_pylist()
    return ", ".join(sorted({row["who"] for row in rows if not is_dead(row["process"])}))


def _readable(found: Iterator[Finding], where: str) -> list[Finding]:
    try:
        return list(found)
    except (OSError, ValueError, VoxportraitError) as error:
        what = str(error).strip().splitlines()[0][:200]
        return [Finding("values", where, f"cannot be read: {what}", "restore the file from a backup of the store")]


def _together(found: list[Finding]) -> list[Finding]:
    """The findings, of each kind and place the first few and how many more."""
    counts: dict[tuple[str, str, str], int] = {}
    kept = []
    for finding in found:
        key = (finding.check, finding.where if finding.check == "values" else "", finding.todo)
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= _FEW:
            kept.append(finding)
    for (check, where, todo), count in counts.items():
        if count > _FEW:
            kept.append(Finding(check, where, f"and {count - _FEW} more like these", todo))
    return kept
