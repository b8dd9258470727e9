"""In which order clips are trained on, and which rank takes which: a function of (seed, epoch) and of nothing else.

An epoch shuffles all clips and cuts them into global batches of a fixed size; each rank takes its part of each. So the
stream is the same on any number of ranks, a place in it is (epoch, batch), and a run may go on on other ranks.
"""

from dataclasses import dataclass, field
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
    _epochs: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        choose("remainder", self.remainder, REMAINDERS)
        if not 0 <= self.rank < self.ranks:
            raise UsageError(f"rank {self.rank} of {self.ranks} ranks: ranks are counted from 0")
        if self.batch_size < 1 or self.batch_size % self.ranks:
            raise UsageError(f"a batch of {self.batch_size} cannot be shared evenly by {self.ranks} ranks")
        if not self.batches_per_epoch:
            raise VoxportraitError(
                f"{self.clips} clips do not fill a batch of {self.batch_size}: take a smaller batch, or keep the rest"
            )

    @cached_property
    def batches_per_epoch(self) -> int:
        whole, rest = divmod(self.clips, self.batch_size)
        return whole + bool(rest and self.remainder == "keep")

    def positions(self, number: int) -> np.ndarray:
        """This rank's places in an epoch for batch `number`: (B,) int64."""
        first = number * self.batch_size
        size = min(self.batch_size, self.clips - first)
        return np.arange(first + size * self.rank // self.ranks, first + size * (self.rank + 1) // self.ranks)

    def clips_at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """The numbers of the clips that stand at these places of an epoch."""
        if (order := self._epochs.get(epoch)) is None:
            order = epoch_order(self.clips, self.seed, epoch)
            self._epochs.clear()
            self._epochs[epoch] = order
        return order[positions]

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

    def place(self, state: dict[str, Any]) -> tuple[int, int]:
        """(epoch, batch) of a state of this order, on any number of ranks; a VoxportraitError names what differs."""
        for name, own in self.state(0, 0).items():
            if name not in ("epoch", "batch") and state.get(name) != own:
                raise VoxportraitError(
                    f"the state has {name} {str(state.get(name))[:8]}, this loader {str(own)[:8]}: "
                    + ("open the snapshot it was made with" if name in ("clips", "identity") else "use the same")
                )
        return divmod(state["epoch"] * self.batches_per_epoch + state["batch"], self.batches_per_epoch)
