"""What the frozen codec says of every clip, and what the bottom stage draws of it: made once and kept in files.

<runs>/fine-portraitist-codec/encoded/clips-<content>.safetensors holds of the clips that are trained and validated on:
row_id, face_latent, bottom_latent, tokens, query, and for each of `retrieval.EXCLUSIONS` which line holds the nearest
training clip, and how near it is. drawn-<content>.safetensors beside it holds the bottom stage's own drawings, line for
line. Files are called after what is in them: the codec, the clips that may be used now, their makers. One process makes
a file, others wait; the store knows of it, and forgetting somebody in it removes it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from featurestore.conditioning import NO_MATRIX
from featurestore.console import bar
from featurestore.draws import sample_seed
from featurestore.errors import UsageError, VoxportraitError
from featurestore.exports import NOTE
from featurestore.feed import Feed
from featurestore.loader import Loader
from featurestore.records import Batch, Records
from featurestore.tensor_file import Tensor, TensorFile, Writer, claimed
from training.checkpoint import open_run
from training.data import entered
from training.latent.codec import Frozen
from training.latent.denoising import SHORT, draw_latents, load_stage
from training.latent.presets import QUERY
from training.latent.retrieval import EXCLUSIONS, Nearest, nearest

if TYPE_CHECKING:
    from training.latent.encoded import EncodedRecords

FORMAT = "1"

FOLDER = "encoded"
"""In the codec's run."""

AT_ONCE = 32
"""Clips that the codec takes at once."""

MEASURED = 512
"""Clips of whose latents the standard deviation is taken."""

Told = Callable[[str], None]
Shapes = Mapping[str, Tensor]


@dataclass(frozen=True)
class ScaledCodec:
    """The frozen codec with its latents divided by their standard deviation: diffusion takes them to be of size 1."""

    frozen: Frozen
    scale: float

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.frozen.latent_shape

    @property
    def token_shape(self) -> tuple[int, int]:
        return self.frozen.token_shape

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) in -1..1 -> (B, c, h, w)."""
        return self.frozen.encode(pictures) / self.scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, c, h, w) -> (B, 3, side, side) in -1..1."""
        return self.frozen.decode(latents * self.scale)

    def hear(self, beside: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, T, W) and queries (B, QUERY): see `Frozen.hear`."""
        return self.frozen.hear(beside)


def encodings(records: Records, frozen: Frozen, told: Told = lambda line: None) -> tuple[ScaledCodec, TensorFile]:
    """What the codec says of the clips that the records give now, made where it is not there."""
    folder = frozen.run / FOLDER
    folder.mkdir(exist_ok=True)
    rows = np.concatenate([records.rows, records.held_out])
    rows = rows[records.only(()).read(rows, {})]
    codec = ScaledCodec(frozen, _scale(records, frozen, folder, rows, told))
    made_of = {name: value for name, value in records.describe().items() if name != "erasure_epoch"}
    path = folder / f"clips-{_digest(FORMAT, frozen.weights, codec.scale, made_of, rows)}.safetensors"
    shapes = _shapes(codec, len(rows))
    return codec, _kept(path, shapes, told, lambda claim: _encode(records, codec, path, claim, rows, shapes, told))


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part).encode())
    return digest.hexdigest()[:32]


def _kept(path: Path, shapes: Shapes, told: Told, make: Callable[[int], None]) -> TensorFile:
    """The file of this name with these tensors, made where it is not there or damaged.

    make: given the claimed file, writes it. One process makes it, others wait.
    """
    while (file := _opened(path, shapes, told)) is None:
        with claimed(path, told) as claim:
            if _opened(path, shapes) is None:
                make(claim)
    return file


def _opened(path: Path, shapes: Shapes, told: Told = lambda line: None) -> TensorFile | None:
    """The file, None where there is none or it is not what it should be."""
    if not path.exists():
        return None
    try:
        file = TensorFile(path)
        for name, wanted in shapes.items():
            has = file.tensors.get(name)
            if has is None or (has.dtype, has.shape) != (wanted.dtype, wanted.shape):
                raise VoxportraitError(f"{path} is damaged: {name} is {has and has.shape}, not {wanted.shape}")
    except VoxportraitError as error:
        told(f"{error}; it is made again")
        return None
    return file


def _shapes(codec: ScaledCodec, clips: int) -> Shapes:
    latent = Tensor("float16", (clips, *codec.latent_shape))
    return {
        "row_id": Tensor("uint64", (clips,)),
        "face_latent": latent,
        "bottom_latent": latent,
        "tokens": Tensor("float16", (clips, *codec.token_shape)),
        "query": Tensor("float16", (clips, QUERY)),
        **{f"nearest.{exclusion}": Tensor("int64", (clips,)) for exclusion in EXCLUSIONS},
        **{f"similarity.{exclusion}": Tensor("float32", (clips,)) for exclusion in EXCLUSIONS},
    }


def _scale(records: Records, frozen: Frozen, folder: Path, places: np.ndarray, told: Told) -> float:
    """The standard deviation of the codec's latents: of the first clips that it was asked to encode, and kept, so that
    all that is built on this codec has the same."""
    path, shapes = folder / f"scale-{frozen.weights[:32]}.safetensors", {"scale": Tensor("float32", (1,))}

    def measure(claim: int) -> None:
        latents = [
            said[name]
            for said in _said(records, ScaledCodec(frozen, 1.0), places[:MEASURED], path)
            for name in ("face_latent", "bottom_latent")
        ]
        writer = Writer(path, claim, shapes, {})
        writer.write("scale", np.array([max(float(torch.cat(latents).std()), 1e-6)], np.float32))
        writer.finish()

    return float(f"{_kept(path, shapes, told, measure).arrays['scale'][0]:.4g}")


def _encode(
    records: Records, codec: ScaledCodec, path: Path, claim: int, rows: np.ndarray, shapes: Shapes, told: Told
) -> None:
    """Write what the codec says of these rows, and whose face each leans on."""
    told(f"encoding {len(rows):,} clips with the codec {codec.frozen.weights[:8]}: {path}")
    queries = np.zeros((len(rows), QUERY), np.float32)
    with entered(path, rows, records), bar("codec", "clips") as progress:
        writer = Writer(path, claim, shapes, {"voxportrait.encoded": FORMAT, "note": NOTE})
        writer.write("row_id", rows)
        done = 0
        for said in _said(records, codec, rows, path):
            size = len(said["query"])
            queries[done : done + size] = said["query"].cpu().numpy()
            for name, values in said.items():
                writer.write(name, values.cpu().numpy().astype(np.float16), done)
            done += size
            progress(done, len(rows))
        for exclusion in EXCLUSIONS:
            found = _prior(records, rows, queries, exclusion, codec.frozen.device)
            writer.write(f"nearest.{exclusion}", found.places)
            writer.write(f"similarity.{exclusion}", found.similarity)
        writer.finish()


def _said(records: Records, codec: ScaledCodec, rows: np.ndarray, path: Path) -> Iterator[dict[str, torch.Tensor]]:
    """What the codec says of these rows in their order, in batches. path: of the file that it is for."""
    keys = ("speech", *codec.frozen.preset.fused)
    loader = Loader(records.only((*keys, "face", "bottom")), AT_ONCE, remainder="keep")
    feed = Feed(loader, replace(NO_MATRIX, beside=keys), codec.frozen.device, allow_missing=True)
    for batch in _all_of(loader, rows, path):
        fed = feed.move(batch)
        tokens, query = codec.hear(fed.beside)
        latents = {f"{name}_latent": codec.encode(fed.pictures[name] * 2 - 1) for name in ("face", "bottom")}
        yield {**latents, "tokens": tokens, "query": query}


def _all_of(loader: Loader, rows: np.ndarray, path: Path) -> Iterator[Batch]:
    """Batches of these rows in their order; a VoxportraitError where one of them is gone. path: what is made."""
    done = 0
    with closing(loader.in_order(rows)) as batches:
        for batch in batches:
            if not np.array_equal(batch.rows, rows[done : done + loader.batch_size]):
                break
            yield batch
            done += len(batch)
    if done < len(rows):
        raise VoxportraitError(f"clips were forgotten while {path} was made: nothing is left of it; run again")


def _prior(records: Records, rows: np.ndarray, queries: np.ndarray, exclusion: str, device: torch.device) -> Nearest:
    """The line of the training clip that each leans on. Held-out clips are no candidates, and exclude none."""
    is_trained, ids = np.isin(rows, records.rows), records.clip_ids(rows)
    trained = np.flatnonzero(is_trained)
    lines, similarity = np.full(len(rows), -1, np.int64), np.zeros(len(rows), np.float32)
    candidates, candidate_ids = queries[trained], [ids[line] for line in trained]
    for asking, excluded in ((trained, exclusion), (np.flatnonzero(~is_trained), None)):
        asking_ids = [ids[line] for line in asking]
        found = nearest(queries[asking], candidates, asking_ids, candidate_ids, excluded, device)
        lines[asking] = np.where(found.places >= 0, trained[found.places], -1)
        similarity[asking] = found.similarity
    return Nearest(lines, similarity)


# -- drawings ------------------------------------------------------------------------------------------------------


def drawings(records: "EncodedRecords", file: TensorFile, run: Path, device: torch.device, told: Told) -> TensorFile:
    """What the bottom stage of a run draws of each line of an encoded file, made where it is not there."""
    checkpoint = open_run(run)
    codec, now = checkpoint.about["data"].get("codec"), records.codec.frozen.weights
    if codec != now:
        raise VoxportraitError(
            f"{run} was trained with the codec {str(codec)[:8]}, and {records.codec.frozen.run} holds {now[:8]}: "
            "train the bottom stage again"
        )
    stage = load_stage(checkpoint, records.codec, device)
    made_of = {block.constituent for block in stage.layout.blocks}
    if lacking := sorted(made_of - records.fields.keys()):
        raise UsageError(f"{run} was trained with {lacking[0]}, which is not read here: use the layout it has")
    with (checkpoint.folder / "average.safetensors").open("rb") as weights:
        drawn_by = hashlib.file_digest(weights, "sha256").hexdigest()
    sampler, steps = stage.preset.sampler, min(stage.preset.sampler_steps, SHORT)
    content = _digest(file.path.name, drawn_by, records.exclusion, sampler, steps)
    path, rows = file.path.with_name(f"drawn-{content}.safetensors"), file.arrays["row_id"]
    shapes = {"drawn_bottom": Tensor("float16", (len(rows), *records.codec.latent_shape))}

    def make(claim: int) -> None:
        told(f"drawing {len(rows):,} bottom faces with {run}: {path}")
        loader = Loader(records, AT_ONCE, remainder="keep")
        feed = Feed(loader, stage.layout, device, allow_missing=True)
        with entered(path, rows, records), bar("bottom faces", "clips") as progress:
            writer = Writer(path, claim, shapes, {"note": NOTE, "drawn_by": drawn_by})
            for batch in _all_of(loader, rows, path):
                inputs, first = stage.inputs(feed.move(batch)), int(batch.positions[0])
                seeds = [sample_seed(0, 0, int(place), "drawn bottom") for place in batch.positions]
                latents = draw_latents(stage, inputs.condition, inputs.given, seeds, 1.0, sampler, steps, AT_ONCE)
                writer.write("drawn_bottom", latents.cpu().numpy().astype(np.float16), first)
                progress(first + len(batch), len(rows))
            writer.finish()

    return _kept(path, shapes, told, make)
