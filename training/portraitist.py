"""What draws portraits, whatever it is made of: a cascade, or a codec and latent stages.

    portraitist = load("runs", "full-input", "cuda")

Importable without Arrow, Lance or Ray.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from featurestore.conditioning import Layout
from featurestore.conditioning import system as system_named

if TYPE_CHECKING:
    from featurestore.store import Store


@dataclass(frozen=True)
class Leaning:
    """What the portraits of B clips lean on beside the clips themselves. about: what the pictures of each say of it, B
    of them; inputs: name -> (B, ...), for `paint`."""

    about: Sequence[Mapping[str, Any]]
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)


class AnyPortraitist(Protocol):
    """The trained stages of a system, ready to draw.

    layout: of what it takes. pictures: of `records.PICTURES`, what records hold for it; shown: those of them that it is
    given. about: what each checkpoint says of itself, with `run`, its folder's name; weights: sha256 of each one's.
    beside: the names of the pictures that it makes on its way to a portrait, the portrait's own apart. variant: how it
    draws, where that is not its usual way. lender: the store of the faces that it leans on, if they are a store's.
    """

    @property
    def system(self) -> str: ...
    @property
    def device(self) -> Any: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def pictures(self) -> tuple[str, ...]: ...
    @property
    def shown(self) -> tuple[str, ...]: ...
    @property
    def about(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def weights(self) -> Sequence[str]: ...
    @property
    def beside(self) -> tuple[str, ...]: ...
    @property
    def variant(self) -> str: ...
    @property
    def lender(self) -> "Store | None": ...

    @property
    def missing(self) -> str:
        """What becomes of clips that lack an input: see `selection.MISSING`."""
        ...

    def plan(self, sampler: str | None, steps: int | None) -> list[tuple[str, int]]:
        """The sampler and the number of its steps of each stage that draws: asked for, or its own."""
        ...

    def lean(self, clip_ids: Sequence[str], inputs: Mapping[str, np.ndarray]) -> Leaning:
        """What the portraits of clips lean on. inputs: the clips' own, as for `paint`."""
        ...

    def paint(
        self,
        inputs: Mapping[str, np.ndarray],
        seeds: Sequence[int],
        cond_scale: float = 1.0,
        sampler: str | None = None,
        steps: int | None = None,
        batch_size: int = 8,
    ) -> Mapping[str, np.ndarray]:
        """`picture` and what is `beside`, (N, S, S, 3) uint8 each.

        inputs: name -> (N, ...): constituents as in `records.Batch`, pictures that are `shown`, and what is leaned on.
        seeds: N numbers >= 0; a portrait is decided by its own seed and inputs, not by its batch. batch_size: how many
        at once. Raises VoxportraitError where the device has no room for them.
        """
        ...


def load(runs: str | os.PathLike[str], system: str, device: str | None = None) -> AnyPortraitist:
    """A system's stages from a folder of runs. One that leans on retrieved faces is told on whose: see `leaning` of
    `training.latent.portraitist.LatentPortraitist`.

    Raises UsageError where a stage is not trained or no device of this name is there, VoxportraitError where the
    checkpoints do not go together.
    """
    from training.cli import run_folder
    from training.sampling import Portraitist

    chosen, folder = system_named(system), Path(runs)
    if "codec" in chosen.stages:
        from training.latent.portraitist import LatentPortraitist

        return LatentPortraitist.load(folder, chosen.name, device)
    first, second = (run_folder(folder, chosen.name, stage) for stage in chosen.stages)
    return Portraitist.load(first, second, device)
