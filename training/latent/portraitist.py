"""Portraits by Fine-portraitist: speech tokens, the retrieved prior, the bottom face, the whole face, pictures.

    portraitist = LatentPortraitist.load(Path("runs"), "fine-portraitist", "cuda").leaning(priors)
    portraitist.paint({"speech": pcm}, seeds)["picture"]

A `training.portraitist.AnyPortraitist`.
"""

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from featurestore.assembly import Assembler
from featurestore.conditioning import System
from featurestore.conditioning import system as system_named
from featurestore.errors import UsageError, VoxportraitError, choose
from training.checkpoint import Checkpoint, open_run
from training.device import device_named
from training.latent.codec import Frozen
from training.latent.denoising import LatentStage, draw_latents, leans, load_stage
from training.latent.encoding import ScaledCodec
from training.latent.priors import Priors
from training.latent.retrieval import EXCLUSIONS
from training.latent.schedule import plan
from training.portraitist import Leaning

if TYPE_CHECKING:
    from featurestore.store import Store

EXCLUSION = "identity"
"""Whose faces are not leaned on, where nobody says: any of the speaker's own."""


class LatentPortraitist:
    """The frozen codec and the latent stages of a system, ready to draw.

    codec: scaled as for the stages. leans: whether the system leans on a retrieved face; until `leaning` says on whose,
    or on none, it draws nothing then.
    """

    pictures, shown = ("face",), ()

    def __init__(
        self, system: System, codec: ScaledCodec, stages: Mapping[str, LatentStage], checkpoints: Sequence[Checkpoint]
    ):
        self.system, self.codec, self.stages = system.name, codec, dict(stages)
        self.device, self.layout = codec.frozen.device, checkpoints[0].layout
        self.leans = any(leans(system, stage) for stage in stages)
        self.priors: Priors | None = None
        self.exclusion, self._asked = EXCLUSION, not self.leans
        folders = [codec.frozen.run, *(checkpoint.folder.parent.parent for checkpoint in checkpoints)]
        told = [codec.frozen.about, *(checkpoint.about for checkpoint in checkpoints)]
        self.about = [{**one, "run": folder.name} for one, folder in zip(told, folders, strict=True)]
        self.weights = [codec.frozen.weights, *(_digest(checkpoint.folder) for checkpoint in checkpoints)]
        self._assembler = Assembler(self.layout, self.device, allow_missing=True)

    @classmethod
    def load(cls, runs: Path, system: str, device: str | None = None) -> "LatentPortraitist":
        """A system's codec and stages from a folder of runs.

        Raises UsageError where one is not trained, VoxportraitError where they were not trained with this very codec
        and one layout.
        """
        from training.cli import run_folder

        chosen, where = system_named(system), device_named(device)
        _, *names = chosen.stages
        frozen = Frozen.load(run_folder(runs, system, "codec"), where)
        folders = [run_folder(runs, system, name) for name in names]
        checkpoints = [open_run(folder) for folder in folders]
        for name, folder, checkpoint in zip(names, folders, checkpoints, strict=True):
            about = checkpoint.about
            if (about["system"], about["stage"]) != (system, name):
                raise UsageError(f"{folder} holds {about['system']}-{about['stage']}, not {system}-{name}")
            if (codec := about["data"]["codec"]) != frozen.weights:
                raise VoxportraitError(
                    f"{folder} was trained with the codec {codec[:8]}, and {frozen.run} holds {frozen.weights[:8]}: "
                    f"train the stage {name} again"
                )
            checkpoints[0].layout.require(checkpoint.layout, f"checkpoint {checkpoint.folder}")
        scale = checkpoints[0].about["data"]["latent_scale"]
        codec = ScaledCodec(frozen, scale)
        stages = {one: load_stage(checkpoint, codec, where) for one, checkpoint in zip(names, checkpoints, strict=True)}
        return cls(chosen, codec, stages, checkpoints)

    def leaning(self, priors: Priors | None, exclusion: str = EXCLUSION) -> Self:
        """The same, leaning on retrieved faces; with None on the learned null prior. exclusion: whose faces are not
        leaned on by portraits of clips that were trained on, see `retrieval.EXCLUSIONS`."""
        other = copy.copy(self)
        other.priors, other._asked = priors if self.leans else None, True
        other.exclusion = choose("exclusion", exclusion, EXCLUSIONS)
        return other

    @property
    def beside(self) -> tuple[str, ...]:
        return ("bottom",) * ("bottom" in self.stages) + ("prior",) * (self.priors is not None)

    @property
    def variant(self) -> str:
        if not self.leans or (self.priors and self.exclusion == EXCLUSION):
            return ""
        return f"exclusion-{self.exclusion}" if self.priors else "no-prior"

    @property
    def lender(self) -> "Store | None":
        return self.priors.lender if self.priors else None

    @property
    def missing(self) -> str:
        """Clips without speech are left out; what else lacks counts as it did in training."""
        return self.about[-1]["data"].get("missing", "zero") if self.layout.blocks else "skip"

    def plan(self, sampler: str | None = None, steps: int | None = None) -> list[tuple[str, int]]:
        return [plan(stage.preset, sampler, steps) for stage in self.stages.values()]

    def lean(self, clip_ids: Sequence[str], inputs: Mapping[str, np.ndarray]) -> Leaning:
        """The faces whose speech is nearest. Raises VoxportraitError where there is none, and none was asked for."""
        if not self._asked:
            raise VoxportraitError(
                f"{self.system} leans on a retrieved face, and was not told where to look for one: give it --store or "
                "--export with the clips that it was trained on, or draw on the null prior with --no-prior"
            )
        if self.priors is None:
            return Leaning([{"retrieval": None} if self.leans else {} for _ in clip_ids])
        _, queries = self.codec.hear(self._tensors(inputs))
        found = self.priors.find(queries.cpu().numpy(), clip_ids, self.exclusion)
        some = [prior for prior in found if prior is not None]
        if len(some) < len(found):
            raise VoxportraitError(
                f"nobody is left for {clip_ids[found.index(None)]} to lean on with the exclusion {self.exclusion}: "
                "take another, or draw on the null prior with --no-prior"
            )
        face, bottom = self.priors.faces(some)
        told = [{"clip_id": prior.clip_id, "similarity": round(prior.similarity, 3)} for prior in some]
        return Leaning(
            [{"retrieval": {"exclusion": self.exclusion, **one}} for one in told],
            {"prior_face": face.cpu().numpy(), "prior_bottom": bottom.cpu().numpy()},
        )

    @torch.inference_mode()
    def paint(
        self,
        inputs: Mapping[str, np.ndarray],
        seeds: Sequence[int],
        cond_scale: float = 1.0,
        sampler: str | None = None,
        steps: int | None = None,
        batch_size: int = 8,
    ) -> dict[str, np.ndarray]:
        """See `AnyPortraitist.paint`. `bottom`: the bottom face that the portrait was completed from; `prior`: the face
        that was leaned on, as the codec gives it back."""
        given = self._tensors(inputs)
        condition, heard = self._condition(given, len(seeds), batch_size)
        latents: dict[str, Tensor] = {}
        for name, stage in self.stages.items():
            told = {**heard, **latents}
            if stage.prior in given:
                told["prior"] = given[stage.prior]
            latents[name] = draw_latents(
                stage, condition, told, seeds, cond_scale, sampler, steps, batch_size=batch_size
            )
        *before, last = latents
        shown = {"picture": latents[last], **{name: latents[name] for name in before}}
        if "prior" in self.beside:
            shown["prior"] = given["prior_face"]
        return {name: self._pictures(some, batch_size) for name, some in shown.items()}

    def _tensors(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        shown = {key: values for key, values in inputs.items() if key not in self.layout.withheld}
        return {key: torch.from_numpy(np.ascontiguousarray(values)).to(self.device) for key, values in shown.items()}

    def _condition(self, given: Mapping[str, Tensor], size: int, batch_size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, 256, 768) matrices where the layout has blocks, else (B, T, W) speech tokens and beside them the query
        (B, QUERY), as the stages learned from them."""
        if self.layout.blocks:
            blocks = {block.constituent for block in self.layout.blocks}
            return self._assembler({key: given[key] for key in blocks & given.keys()}, size=size), {}
        heard = {key: given[key] for key in ("speech", *self.codec.frozen.preset.fused)}
        parts = [
            [said[:count] for said in self.codec.hear({key: values[some] for key, values in heard.items()})]
            for some, count in _padded(size, batch_size)
        ]
        tokens, query = (torch.cat(said).half().float() for said in zip(*parts, strict=True))
        return tokens, {"query": query}

    def _pictures(self, latents: Tensor, batch_size: int) -> np.ndarray:
        """(B, c, h, w) -> (B, side, side, 3) uint8."""
        parts = [self.codec.decode(latents[some])[:count] for some, count in _padded(len(latents), batch_size)]
        scaled = ((torch.cat(parts) + 1) * 127.5).round().clamp(0, 255)
        return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _padded(size: int, batch_size: int) -> Iterator[tuple[list[int], int]]:
    """Rows in parts of one size, the next power of two, padded, and how many of each are meant: in other shapes a
    picture's last bits depend on its place."""
    for first in range(0, size, batch_size):
        chosen = range(first, min(first + batch_size, size))
        yield [chosen[i % len(chosen)] for i in range(1 << (batch_size - 1).bit_length())], len(chosen)


def _digest(checkpoint: Path) -> str:
    with (checkpoint / "average.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
