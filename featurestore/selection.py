"""Which clips records are of: what becomes of incomplete ones, and what a selection is called.

The same for a store and for its exports, so that a run may go on from one to the other.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping

from featurestore.errors import VoxportraitError

MISSING = ("refuse", "zero", "skip")
"""What becomes of clips that lack a constituent of the layout: `refuse` counts them in an error, `zero` gives zero rows
(an attribute is unknown), `skip` leaves them out. Those without a wanted picture are always left out."""


def identity_of_clips(split: str, clip_ids: Iterable[str]) -> str:
    """What a selection is called: sha256 of its clips' ids in their order, and of its split."""
    return _digest("\n".join(clip_ids), split)


def identity_in_snapshot(split: str, digest: str, missing: str, keys: Iterable[str]) -> str:
    """What a selection from a snapshot is called: those clips of it that have `keys`, all of its places among them."""
    return _digest(f"{digest} {missing} {sorted(set(keys))}", split)


def refuse_lacking(split: str, clips: int, lacking: Mapping[str, int]) -> None:
    """A VoxportraitError that counts the clips which lack a constituent, if there are any."""
    if lacking:
        counts = ", ".join(f"{key} {number}" for key, number in lacking.items())
        raise VoxportraitError(
            f"of {clips} clips of split {split!r} lack: {counts}. Fill them (voxportrait fill), turn those inputs off "
            "(another --system), or choose --missing zero or --missing skip"
        )


def _digest(which: str, split: str) -> str:
    return hashlib.sha256(json.dumps([which, split]).encode()).hexdigest()
