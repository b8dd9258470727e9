"""Records of what the frozen codec says of every clip: what the latent stages learn from.

    records = encoded(records, Path("runs"), "fine-portraitist", "bottom", settings, device="cuda")

They are made once and kept in files beside the codec: see `encoding`.
"""

import copy
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featurestore.conditioning import system as system_named
from featurestore.errors import UsageError, VoxportraitError
from featurestore.records import PICTURES, Field, Records
from featurestore.tensor_file import TensorFile
from training.device import device_named
from training.latent.codec import Frozen
from training.latent.denoising import leans
from training.latent.encoding import ScaledCodec, Told, drawings, encodings
from training.latent.presets import QUERY, LatentPreset

LATENTS = ("face_latent", "bottom_latent")
PRIORS = {"prior_face": "face_latent", "prior_bottom": "bottom_latent"}
"""Fields of a prior, and of the clip that it is of."""


class EncodedRecords:
    """Records of what the codec says of others: see `records.Records`.

    fields: face_latent, bottom_latent (c, h, w), tokens (T, W), query (QUERY,); with a prior prior_face, prior_bottom
    (c, h, w) and has_prior; with drawings drawn_bottom (c, h, w); what a matrix is made of passes through. codec: that
    says it. file: see `encoding`; places of clips that are not in it are empty. exclusion: whose clips a prior is not
    of, None for no prior. store: that the records are of, if they are.
    """

    def __init__(self, records: Records, codec: ScaledCodec, file: TensorFile, exclusion: str | None = None):
        self.codec, self.file, self.exclusion = codec, file, exclusion
        self.rows, self.held_out, self.records = records.rows, records.held_out, records
        self.store: Any = getattr(records, "store", None)
        through = [name for name in records.fields if name not in PICTURES and name != "speech"]
        self._through = records.only(through)
        self._order = np.argsort(file.arrays["row_id"])
        self._files = [file]
        self._latent = Field(codec.latent_shape, "float16")
        self.fields: Mapping[str, Field] = {
            **{name: records.fields[name] for name in through},
            **dict.fromkeys(LATENTS, self._latent),
            "tokens": Field(codec.token_shape, "float16"),
            "query": Field((QUERY,), "float16"),
        }
        if exclusion:
            self.fields = {**self.fields, **dict.fromkeys(PRIORS, self._latent), "has_prior": Field((), "uint8")}
        self.identity = hashlib.sha256(f"{records.identity} {codec.frozen.weights}".encode()).hexdigest()
        self._about: dict[str, Any] = {}

    def with_drawings(self, file: TensorFile) -> "EncodedRecords":
        """The same records with the bottom stage's own drawings, which the file holds line for line."""
        other = copy.copy(self)
        other.fields = {**self.fields, "drawn_bottom": self._latent}
        other._files = [self.file, file]
        other._about = {"drawn_by": file.metadata["drawn_by"]}
        return other

    def only(self, names: Iterable[str]) -> "EncodedRecords":
        names, other = set(names), copy.copy(self)
        other.fields = {name: field for name, field in self.fields.items() if name in names}
        other._through = self._through.only(names)
        return other

    def read(self, rows: np.ndarray, out: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `records.Records`. Raises VoxportraitError where a file was removed since, as forgetting does."""
        for file in self._files:
            if file.is_removed():
                raise VoxportraitError(
                    f"{file.path} was removed while it was read, as forgetting somebody in it does: run the same "
                    "command again, it is made anew"
                )
        here = self.lines(rows) >= 0
        here[here] = self._through.read(rows[here], out)
        lines = self.lines(rows[here])
        leaned_on = self.file.arrays[f"nearest.{self.exclusion}"][lines] if self.exclusion else np.empty(0)
        for name in self.fields:
            target = out[name][: len(lines)]
            if name in PRIORS:
                _take(self.file, PRIORS[name], leaned_on, target)
                target[leaned_on < 0] = 0
            elif name == "has_prior":
                target[...] = leaned_on >= 0
            elif name not in self._through.fields:
                _take(self._files[name == "drawn_bottom"], name, lines, target)
        return here

    def lines(self, rows: np.ndarray) -> np.ndarray:
        """The line of the file that holds each row, -1 where none does."""
        held = self.file.arrays["row_id"]
        found = self._order[np.minimum(np.searchsorted(held, rows, sorter=self._order), len(held) - 1)]
        return np.where(held[found] == rows, found, -1)

    def clip_ids(self, rows: np.ndarray) -> list[str]:
        return self.records.clip_ids(rows)

    def describe(self) -> dict[str, Any]:
        """What is trained on: what the records say, the codec, and of the priors of the clips that are trained on how
        many there are, and quantiles (5, 50 and 95 %) of their similarity."""
        codec = {"codec": self.codec.frozen.weights, "latent_scale": self.codec.scale}
        about = {**self.records.describe(), **codec, **self._about}
        if self.exclusion:
            lines = self.lines(self.rows)
            lines = lines[lines >= 0]
            has = self.file.arrays[f"nearest.{self.exclusion}"][lines] >= 0
            similarity = self.file.arrays[f"similarity.{self.exclusion}"][lines][has]
            quantiles = np.quantile(similarity, (0.05, 0.5, 0.95)).round(3).tolist() if len(similarity) else []
            about |= {"exclusion": self.exclusion, "prior": {"clips": int(has.sum()), "similarity": quantiles}}
        return about


def encoded(
    records: Records,
    runs: Path,
    system: str,
    stage: str,
    settings: LatentPreset,
    device: str | torch.device | None = None,
    told: Told = lambda line: None,
) -> EncodedRecords:
    """The records that a latent stage of a system learns from. settings: the stage's.

    The codec is that of the folder of runs, and the drawings, where the settings want some, are of the system's bottom
    stage there. told: called with a line where a file is made, waited for or damaged. Raises UsageError where the codec
    or the bottom stage is not trained, or takes what the records do not hold; VoxportraitError where the disk is full,
    the bottom stage was trained with another codec, or somebody was forgotten meanwhile.
    """
    from training.cli import run_folder

    where, run = device_named(device), run_folder(runs, system, "codec")
    frozen = Frozen.load(run, where)
    if lacking := [key for key in ("speech", *frozen.preset.fused, "face", "bottom") if key not in records.fields]:
        raise UsageError(f"the codec of {run} takes {lacking[0]}, which is not read here: use the layout it has")
    codec, file = encodings(records, frozen, told)
    made = EncodedRecords(records, codec, file, settings.exclusion if leans(system_named(system), stage) else None)
    if stage == "upper" and settings.drawn_share:
        made = made.with_drawings(drawings(made, file, run_folder(runs, system, "bottom"), where, told))
    return made


def _take(file: TensorFile, name: str, lines: np.ndarray, out: np.ndarray) -> None:
    np.take(file.arrays[name], lines, axis=0, out=out, mode="clip")
