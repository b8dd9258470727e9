"""Portraits of speakers that a model has not seen, one picture a speaker and scale, on disk with what made them.

    drawings = draw(ExportRecords("clips.safetensors", layout, split="test"), portraitist, [1.0, 3.0], "portraits")
    drawings = draw_portraits(store, portraitist, [1.0, 3.0], "portraits")

<out>/<system>/scale-3/<speaker>-<digest>.png; beside it what was made on the way to it, of SLF ...-coarse.png, the 32
px picture of the first U-Net, of Fine-portraitist ...-bottom.png and ...-prior.png; and index.json, which is there when
all of them are. Every picture says in its own metadata that it is generated, from what and by which weights; drawing
again makes only those that are not there or were made otherwise, whatever the code's version. Importable without Arrow,
Lance or Ray.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from evaluation.faces import speaker_of
from evaluation.families import ORDER, prior_of
from featurestore.conditioning import given
from featurestore.errors import UsageError, VoxportraitError, choose
from featurestore.loader import Loader
from featurestore.records import Records
from featurestore.version import code_version

if TYPE_CHECKING:
    from featurestore.records import Batch
    from featurestore.store import Store
    from training.portraitist import AnyPortraitist

INDEX = "index.json"
METADATA = "voxportrait"
"""Name of the PNG text entry that holds, as JSON, what made a picture."""


@dataclass(frozen=True)
class Drawing:
    """A drawn portrait. picture: PNG; beside: the PNGs that were made on the way to it (`coarse`, that it was enlarged
    from; `bottom`, that it was completed from; `prior`, that it leaned on); about: what made it.

    about: generated, clip_id, system, cond_scale, seed (the picture's own, made of the `base_seed` that was asked for),
    sampler and its steps, input (sha256 of what the model was given), checkpoints, untrained, absent, code;
    `given`: the attributes that were given instead of the stored ones; `retrieval`: whose face it leaned on
    ({"exclusion", "clip_id", "similarity"}, None where it leaned on none); of a recording `recording` and
    `image_guide`: sha256 of the files.
    """

    picture: Path
    beside: Mapping[str, Path]
    about: dict[str, Any]

    @property
    def files(self) -> dict[str, Path]:
        """All of its pictures, the portrait as `picture`."""
        return {"picture": self.picture, **self.beside}

    @property
    def coarse(self) -> Path:
        return self.beside["coarse"]

    @property
    def clip_id(self) -> str:
        return self.about["clip_id"]

    @property
    def speaker(self) -> str:
        return speaker_of(self.clip_id)

    @property
    def system(self) -> str:
        return self.about["system"]

    @property
    def cond_scale(self) -> float:
        return self.about["cond_scale"]


def draw_portraits(
    store: "Store",
    portraitist: "AnyPortraitist",
    scales: Sequence[float],
    out: str | os.PathLike[str],
    split: str = "test",
    **options: Any,
) -> list[Drawing]:
    """`draw` the speakers of a split of a store, whose missing inputs count as they did in training."""
    from featurestore.store_records import StoreRecords

    records = StoreRecords(store, portraitist.layout, portraitist.pictures, portraitist.missing, split)
    return draw(records, portraitist, scales, out, **options)


def draw(
    records: Records,
    portraitist: "AnyPortraitist",
    scales: Sequence[float],
    out: str | os.PathLike[str],
    seed: int = 0,
    batch_size: int = 8,
    sampler: str | None = None,
    steps: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    attributes: Mapping[str, float | str | None] | None = None,
    clips: Sequence[str] = (),
    sources: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Drawing]:
    """Draw every speaker of the records' `rows` at each scale: the first clip (by its id) that has all the system uses.

    seed: with the clip's id it decides the noise, which is the same at every scale and for every system.
    sampler, steps: instead of the presets'. progress: called with (done, total).
    attributes: instead of the stored ones, of every clip (see `conditioning.given`).
    clips: ids of the clips that are drawn instead of each speaker's first. sources: clip id -> what its pictures say
    more of what they were made of.
    Stores that the records or the faces that are leaned on come from are told which files are made of whom.
    Returns the drawings, scale by scale, speakers in order.
    Raises VoxportraitError where no clip can be drawn, or where the records' inputs are not those of the training.
    """
    attributes, sources = dict(attributes or {}), sources or {}
    common = _describe(portraitist, records, sampler, steps) | ({"given": attributes} if attributes else {})
    for key in attributes:
        choose("input of the model", key, [k for k in portraitist.layout.constituents if k not in common["absent"]])
    given({}, attributes)
    chosen = _rows_of(records, clips) if clips else _first_of_each_speaker(records)
    if not chosen:
        raise VoxportraitError("there is nobody to draw: every clip was erased or may not be used")
    rows = np.array(list(chosen.values()), np.uint64)
    drawings: dict[float, list[Drawing]] = {float(scale): [] for scale in scales}
    names = {scale: "-".join(filter(None, (f"scale-{scale:g}", portraitist.variant))) for scale in drawings}
    folders = {scale: Path(out) / common["system"] / name for scale, name in names.items()}
    if portraitist.lender is None:
        note(records, _files(folders.values(), chosen, portraitist.beside))
    total, done, leaned_on = len(rows) * len(drawings), 0, set[str]()
    for batch in Loader(records, batch_size, remainder="keep").in_order(rows):
        inputs = given(_inputs(portraitist, batch, common["absent"]), attributes)
        leaning = portraitist.lean(batch.clip_ids, inputs)
        abouts = [
            {**common, **sources.get(clip_id, {}), **_describe_input(clip_id, i, inputs, seed), **more}
            for i, (clip_id, more) in enumerate(zip(batch.clip_ids, leaning.about, strict=True))
        ]
        wanted_of = {
            scale: [_drawing(folder, {**about, "cond_scale": scale}, portraitist.beside) for about in abouts]
            for scale, folder in folders.items()
        }
        _note_leaning(records, portraitist, [one for some in wanted_of.values() for one in some], chosen, leaned_on)
        for scale, so_far in drawings.items():
            wanted = wanted_of[scale]
            so_far += _drawn(portraitist, wanted, {**inputs, **leaning.inputs}, batch_size, sampler, steps)
            done += len(wanted)
            if progress:
                progress(done, total)
    for drawn in drawings.values():
        _write_index(drawn)
    return [one for drawn in drawings.values() for one in drawn]


def read_drawings(folder: str | os.PathLike[str]) -> list[Drawing]:
    """The drawings of every system and scale under a folder; a UsageError if there are none."""
    indices = sorted(Path(folder).glob(f"*/scale-*/{INDEX}"))
    if not indices:
        raise UsageError(f"{folder} holds no portraits. Draw some with: voxportrait sample --out {folder}")
    return [
        Drawing(index.parent / entry.pop("picture"), {name: index.parent / one for name, one in entry.items()}, about)
        for index in indices
        for entry in json.loads(index.read_text())
        for about in (entry.pop("about"),)
    ]


def by_system_and_scale(drawings: Iterable[Drawing]) -> dict[tuple[str, float], list[Drawing]]:
    """The drawings of each system and scale, systems in the papers' order, scales ascending, clips by id."""
    groups: dict[tuple[str, float], list[Drawing]] = {}
    for drawing in sorted(drawings, key=lambda d: (ORDER.index(d.system), d.cond_scale, d.clip_id)):
        groups.setdefault((drawing.system, drawing.cond_scale), []).append(drawing)
    return groups


def other_code(drawings: Iterable[Drawing]) -> str:
    """A line about pictures that another version of the code drew than this one; "" where there are none."""
    codes = [one.about["code"] for one in drawings]
    others = [code for code in codes if code != code_version()]
    if not others:
        return ""
    return (
        f"{len(others)} of {len(codes)} portraits were there before, drawn by version {', '.join(sorted(set(others)))} "
        f"of the code; this is {code_version()}. To draw them anew, remove them first"
    )


def digest(drawings: Iterable[Drawing]) -> str:
    """sha256 over what drawings say of themselves, in any order: equal for the same pictures."""
    return hashlib.sha256(
        "\n".join(sorted(json.dumps(one.about, sort_keys=True) for one in drawings)).encode()
    ).hexdigest()


def read_about(path: Path) -> dict[str, Any]:
    """What made a picture, as it says itself; a UsageError where it is no picture of this program."""
    if not path.exists():
        raise UsageError(f"there is no {path}")
    if (about := _metadata(path)) is None:
        raise UsageError(f"{path} does not say how it was made: it is no whole PNG of voxportrait sample")
    return about


def read_picture(path: Path) -> np.ndarray:
    """A picture as (H, W, 3) uint8; a VoxportraitError if it is gone or broken."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise VoxportraitError(f"{path} cannot be read ({error}): draw the portraits again") from None


def note(
    records: Records,
    files: Mapping[Path, Sequence[int]],
    lender: "Store | None" = None,
    leaned_on: Mapping[Path, Iterable[str]] | None = None,
) -> None:
    """Enter in the store of the records, if they have one, which files are of whose rows; and in the store that lends
    faces to lean on, which files were made of whose: forgetting any of these people removes them.

    leaned_on: file -> ids of the clips whose faces it shows.
    """
    own, made = getattr(records, "store", None), dict(files)
    if lender is not None and leaned_on:
        lent = _lent(lender, leaned_on)
        if own is not None and own.uri == lender.uri:
            made = {path: [*made.get(path, ()), *lent.get(path, ())] for path in {**made, **lent}}
        else:
            _note(lender, lent)
    if own is not None:
        _note(own, made)


def _note(store: "Store", made: Mapping[Path, Sequence[int]]) -> None:
    from featurestore import artifacts

    artifacts.note(store, "picture", made)


def _lent(lender: "Store", leaned_on: Mapping[Path, Iterable[str]]) -> dict[Path, list[int]]:
    """The same by stable row id."""
    table = lender.table("clips").to_table(columns=["clip_id"], with_row_id=True)
    wanted = {clip_id for some in leaned_on.values() for clip_id in some}
    pairs = zip(table["clip_id"].to_pylist(), table["_rowid"].to_pylist(), strict=True)
    rows = {clip_id: row for clip_id, row in pairs if clip_id in wanted}
    return {path: [rows[clip_id] for clip_id in some if clip_id in rows] for path, some in leaned_on.items()}


def made_otherwise(portraitist: "AnyPortraitist", makers: Mapping[str, Iterable[str]]) -> list[str]:
    """The constituents of which some makers (by digest) are none of those that the checkpoints were trained on."""
    known = [about["data"].get("makers", {}) for about in portraitist.about]
    return [key for key, by in makers.items() if any(one.get(key) and not set(by) <= set(one[key]) for one in known)]


_TOLD = ("run", "stage", "preset", "step", "layout_fingerprint", "code")
"""What pictures say of a checkpoint, beside its weights."""


def _describe(
    portraitist: "AnyPortraitist", records: Records, sampler: str | None, steps: int | None
) -> dict[str, Any]:
    """What all pictures of a call have in common. Raises where the inputs have other makers than in training."""
    known = [about["data"] for about in portraitist.about] + [here := records.describe()]
    absent, untrained = (
        sorted({key for one in known for key in one.get(name, ())}) for name in ("absent", "untrained")
    )
    makers = {key: digests for key, digests in here.get("makers", {}).items() if key not in absent}
    if others := made_otherwise(portraitist, makers):
        store = getattr(records, "store", None)
        where = store.place.shown if store else getattr(records, "path", "the records")
        raise VoxportraitError(
            f"{', '.join(others)} in {where} was made otherwise than what this model was trained on: train it again"
        )
    samplers, numbers = zip(*portraitist.plan(sampler, steps), strict=True)
    return {
        "generated": True,
        "system": portraitist.system,
        "sampler": list(samplers),
        "sampler_steps": list(numbers),
        "checkpoints": [
            {**{name: about[name] for name in _TOLD if name in about}, "weights": weights}
            for about, weights in zip(portraitist.about, portraitist.weights, strict=True)
        ],
        "untrained": untrained,
        "absent": absent,
        "code": code_version(),
    }


def _inputs(portraitist: "AnyPortraitist", batch: "Batch", absent: Sequence[str]) -> dict[str, np.ndarray]:
    """What the system sees of a batch: constituent -> (B, ...), and pictures, as `guide`, where it uses them."""
    seen = {key: values for key, values in batch.compact.items() if key not in absent}
    return {**seen, **{name: batch.pictures[name] for name in portraitist.shown}}


def _describe_input(clip_id: str, i: int, inputs: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
    content = hashlib.sha256()
    for key in sorted(inputs):
        content.update(key.encode() + np.ascontiguousarray(inputs[key][i]).tobytes())
    own = hashlib.sha256(f"{seed}/{clip_id}".encode()).digest()
    return {
        "clip_id": clip_id,
        "seed": int.from_bytes(own[:6], "big"),
        "base_seed": seed,
        "input": content.hexdigest(),
    }


def _drawn(
    portraitist: "AnyPortraitist",
    wanted: Sequence[Drawing],
    inputs: Mapping[str, np.ndarray],
    batch_size: int,
    sampler: str | None,
    steps: int | None,
) -> list[Drawing]:
    """Those of one batch and scale: drawn and saved where they are not there, broken, or made otherwise."""
    there = [_there(one) for one in wanted]
    lacking = [i for i, one in enumerate(there) if one is None]
    if not lacking:
        return [one for one in there if one]
    wanted[0].picture.with_name(INDEX).unlink(missing_ok=True)
    made = portraitist.paint(
        {key: values[lacking] for key, values in inputs.items()},
        [wanted[i].about["seed"] for i in lacking],
        wanted[0].cond_scale,
        sampler,
        steps,
        batch_size,
    )
    for number, i in enumerate(lacking):
        for name, path in reversed(wanted[i].files.items()):
            _save(path, made[name][number], wanted[i].about)
    return [one or asked for one, asked in zip(there, wanted, strict=True)]


def _note_leaning(
    records: Records,
    portraitist: "AnyPortraitist",
    wanted: Sequence[Drawing],
    rows: Mapping[str, int],
    before: set[str],
) -> None:
    """Have the lender know of the pictures of a batch. before: the priors of those before it, which grow by these."""
    priors = {one: prior for one in range(len(wanted)) if (prior := prior_of(wanted[one]))}
    if portraitist.lender is None:
        return
    before |= set(priors.values())
    files: dict[Path, list[int]] = {}
    leaned_on: dict[Path, Iterable[str]] = {}
    for number, prior in priors.items():
        one = wanted[number]
        index = one.picture.with_name(INDEX)
        files |= {path: [rows[one.clip_id]] for path in one.files.values()} | {index: list(rows.values())}
        leaned_on |= {path: [prior] for path in one.files.values()} | {index: before}
    note(records, files, portraitist.lender, leaned_on)


def _there(wanted: Drawing) -> Drawing | None:
    """What is on disk already, as it says of itself; None where a picture lacks or was made otherwise.

    The code's version is let be different: a change of code seldom changes pictures, and to draw thousands again for
    each would be waste. `other_code` tells of it.
    """
    found = [_metadata(path) for path in wanted.files.values()]
    if all(one is not None and {**one, "code": ""} == {**wanted.about, "code": ""} for one in found):
        return Drawing(wanted.picture, wanted.beside, found[0] or {})
    return None


def _first_of_each_speaker(records: Records) -> dict[str, int]:
    """The first clip of each speaker, by clip id, and its row; sorted by clip id."""
    first: dict[str, tuple[str, int]] = {}
    for clip_id, row in sorted(_rows_by_id(records)):
        first.setdefault(speaker_of(clip_id), (clip_id, row))
    return dict(first.values())


def _rows_of(records: Records, clips: Sequence[str]) -> dict[str, int]:
    """The rows of clips; a UsageError where one is not there."""
    rows = dict(_rows_by_id(records))
    if gone := [clip_id for clip_id in clips if clip_id not in rows]:
        split = getattr(records, "split", "these")
        raise UsageError(f"clip {gone[0]} is not among the {split} clips that have what the model takes: see --split")
    return {clip_id: rows[clip_id] for clip_id in sorted(clips)}


def _rows_by_id(records: Records) -> Iterable[tuple[str, int]]:
    pairs = zip(records.clip_ids(records.rows), records.rows.tolist(), strict=True)
    return ((clip_id, row) for clip_id, row in pairs if clip_id)


def _files(folders: Iterable[Path], rows: Mapping[str, int], beside: Sequence[str]) -> dict[Path, list[int]]:
    """All files of these folders, and the rows of the clips that each is of. rows: clip id -> row."""
    made: dict[Path, list[int]] = {}
    for folder in folders:
        made[folder / INDEX] = list(rows.values())
        for clip_id, row in rows.items():
            made |= {path: [row] for path in _drawing(folder, {"clip_id": clip_id}, beside).files.values()}
    return made


def _drawing(folder: Path, about: dict[str, Any], beside: Sequence[str]) -> Drawing:
    speaker = re.sub(r"[^\w-]", "-", about["clip_id"].split("/")[1])
    name = f"{speaker}-{hashlib.sha256(about['clip_id'].encode()).hexdigest()[:8]}"
    return Drawing(folder / f"{name}.png", {one: folder / f"{name}-{one}.png" for one in beside}, about)


def _metadata(path: Path) -> dict[str, Any] | None:
    """What a whole picture says of how it was made; None if it is not there or not one of these."""
    try:
        with Image.open(path) as picture:
            picture.load()
            about = json.loads(picture.info[METADATA])
            return about if isinstance(about, dict) else None
    except (OSError, KeyError, ValueError, UnidentifiedImageError):
        return None


def without_meaning(untrained: Iterable[str]) -> str:
    """The sentence about inputs that untrained weights made; "" where there are none."""
    names = ", ".join(sorted(set(untrained)))
    return f"Made with untrained weights, without meaning: {names}." if names else ""


def save(path: Path, picture: Image.Image, about: Mapping[str, Any], description: str) -> None:
    """Write a PNG whole or not at all, with what made it and, for whoever opens it, sentences about it: the
    description, and which of its inputs untrained weights made."""
    entries, description = PngInfo(), " ".join(filter(None, (description, without_meaning(about["untrained"]))))
    entries.add_text("Software", f"voxportrait {about['code']}")
    entries.add_text("Description", description)
    entries.add_text(METADATA, json.dumps(about))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    picture.save(unfinished, "PNG", pnginfo=entries)
    unfinished.rename(path)


def _save(path: Path, picture: np.ndarray, about: Mapping[str, Any]) -> None:
    description = f"Generated by a {about['system']} model. Not a photograph of anybody."
    save(path, Image.fromarray(picture), about, description)


def _write_index(drawings: Iterable[Drawing]) -> None:
    drawings = list(drawings)
    entries = [{**{name: path.name for name, path in d.files.items()}, "about": d.about} for d in drawings]
    index = drawings[0].picture.with_name(INDEX)
    unfinished = index.with_name(f".{INDEX}")
    unfinished.write_text(json.dumps(entries, indent=1))
    unfinished.rename(index)
