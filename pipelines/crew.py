"""The workers of a job: what each must be able to make, what it takes of a node, and how many there can be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import Any

from featurestore.errors import VoxportraitError
from pipelines.actor import FillActor
from pipelines.extractors import Extractor
from pipelines.options import Options
from pipelines.recipe import Recipe

GIB = 2**30
WORKER_MEMORY = 1.2
"""GiB of a worker without models: Ray, Lance, torch, libraries that models share, and the clips of a group."""


@dataclass(frozen=True)
class Crew:
    """What every worker of a job is made of. digests: of the makers of constituents and of what they share."""

    extractors: Sequence[Extractor]
    recipe: Recipe
    digests: dict[str, str]
    options: Options

    @property
    def resources(self) -> dict[str, float]:
        """What Ray must have free for one worker: CPU, GPU and bytes of memory."""
        memory = WORKER_MEMORY + sum(e.resources.memory for e in self.extractors)
        on_gpu = self.options.device.startswith("cuda")
        gpu = min(1.0, max(0.05, round(sum(e.resources.gpu for e in self.extractors), 2))) if on_gpu else 0.0
        return {"CPU": 1.0, "GPU": gpu, "memory": memory * GIB}

    def on(self, nodes: Sequence[Mapping[str, float]]) -> "Crew":
        """The crew with the device decided: for `auto` the GPU where a node has one. VoxportraitError without a GPU."""
        chosen, has_gpu = self.options.device, any(node.get("GPU") for node in nodes)
        if chosen == "cuda" and not has_gpu:
            raise VoxportraitError("no node of Ray has a GPU: say --device cpu, or nothing")
        if chosen == "auto":
            chosen = "cuda" if has_gpu else "cpu"
        return replace(self, options=replace(self.options, device=chosen))

    def size(self, nodes: Sequence[Mapping[str, float]], chunks: int) -> int:
        """How many workers to start on nodes of these resources: no more than fit, than asked for, than chunks.

        Raises VoxportraitError if not even one fits.
        """
        needs = {name: need for name, need in self.resources.items() if need}
        fits = sum(min(floor(node.get(name, 0) / need) for name, need in needs.items()) for node in nodes)
        if not fits:
            best = {name: max((node.get(name, 0) for node in nodes), default=0) for name in needs}
            scarce = min(needs, key=lambda name: best[name] / needs[name])
            raise VoxportraitError(
                f"a worker needs {_amount(scarce, needs[scarce])} and no node of Ray has more than "
                f"{_amount(scarce, best[scarce])}. Fill fewer constituents at a time (--constituents)."
            )
        return max(1, min(self.options.workers or fits, fits, chunks))

    def start(self, uri: str, constituents: Sequence[str], maker_ids: dict[str, int]) -> Any:
        """A new worker, which still has to load its models."""
        needs = self.resources
        actor = FillActor.options(  # type: ignore[attr-defined]
            num_cpus=needs["CPU"], num_gpus=needs["GPU"], memory=int(needs["memory"]), max_concurrency=2
        )
        return actor.remote(uri, constituents, maker_ids, self.digests, self.recipe, self.options.device, 1)


def _amount(resource: str, value: float) -> str:
    return f"{value / GIB:.1f} GiB of memory" if resource == "memory" else f"{value:g} {resource}"
