"""In which order clips are trained on, and which rank takes which: a function of (seed, epoch) and of nothing else.

An epoch shuffles all clips and cuts them into global batches of a fixed size; each rank takes its part of each. So the
stream is the same on any number of ranks, a place in it is (epoch, batch), and a run may go on on other ranks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from featurestore.draws import epoch_order
from featurestore.errors import UsageError, VoxportraitError, choose

REMAINDERS = ("drop", "keep")
"""What becomes of the clips that do not fill an epoch's last batch: `drop` leaves them to other epochs, `keep` gives a
smaller batch, whose parts may differ in size from rank to rank."""


@dataclass(frozen=True)
class Order:
    """The batches of `clips` clips for one rank.

    clips: how many. batch_size: of the global batch. identity: of what is ordered, so that a state of other clips is
    refused. Raises UsageError where a batch cannot be shared evenly, VoxportraitError where clips do not fill one.
    """

    clips: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    ranks: int = 1
    remainder: str = "drop"
    identity: str = ""

    def __post_init__(self):
        choose("remainder", self.remainder, REMAINDERS)
        if not 0 <= self.rank < self.ranks:
            raise UsageError(f"rank {self.rank} of {self.ranks} ranks: ranks are counted from 0")
        if self.batch_size < 1 or self.batch_size % self.ranks:
            raise UsageError(f"a batch of {self.batch_size} cannot be shared evenly by {self.ranks} ranks")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"{self.seed} is no seed: a whole number from 0 to 2^63 - 1")
        if not self.batches_per_epoch:
            raise VoxportraitError(
                f"{self.clips} clips do not fill a batch of {self.batch_size}: take a smaller batch, or keep the rest"
            )

    @cached_property
    def batches_per_epoch(self) -> int:
        whole, rest = divmod(self.clips, self.batch_size)
        return whole + bool(rest and self.remainder == "keep")

    def epoch(self, number: int) -> np.ndarray:
        """The clips of an epoch in its order, each by its number: (clips,) int64."""
        return epoch_order(self.clips, self.seed, number)

    def everybody(self, batch: int) -> np.ndarray:
        """The places of global batch `batch` in an epoch: (B,) int64, fewer for the last where it is kept."""
        first = batch * self.batch_size
        return np.arange(first, min(first + self.batch_size, self.clips))

    def positions(self, batch: int) -> np.ndarray:
        """This rank's part of them; may be empty where the last batch is smaller than the ranks are many."""
        places = self.everybody(batch)
        return places[len(places) * self.rank // self.ranks : len(places) * (self.rank + 1) // self.ranks]

    def state(self, epoch: int, batch: int) -> dict[str, Any]:
        """Where a run stands, as JSON: before batch `batch` of an epoch. The same on every rank."""
        return {
            "epoch": epoch,
            "batch": batch,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "remainder": self.remainder,
            "clips": self.clips,
            "identity": self.identity,
        }

    def place(self, state: Mapping[str, Any]) -> tuple[int, int]:
        """(epoch, batch) of a state of this order, on any number of ranks; a VoxportraitError names what differs."""
        own = self.state(0, 0)
        if not (own.keys() <= state.keys() and all(_is_count(state[name]) for name in ("epoch", "batch"))):
            raise VoxportraitError(f"not a loader's state: {str(dict(state))[:80]}")
        for name in ("batch_size", "seed", "remainder"):
            if state[name] != own[name]:
                raise VoxportraitError(f"the state has {name} {state[name]}, this loader {own[name]}: use the same")
        if (state["clips"], state["identity"]) != (self.clips, self.identity):
            raise VoxportraitError(
                f"the state is of {state['clips']} clips ({str(state['identity'])[:8]}), this loader has {self.clips} "
                f"({self.identity[:8]}): open the snapshot that it was made with; without one, begin anew"
            )
        return divmod(state["epoch"] * self.batches_per_epoch + state["batch"], self.batches_per_epoch)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0
