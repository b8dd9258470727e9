"""A recording to portraits: what a model hears in a file, made by the extractors that its training data was made by.

    heard = hear(portraitist, ["voice.wav"], image_guide="photo.png")
    sheets = draw_each(heard.records, portraitist, [0, 1, 3], "portraits", heard.names, sources=heard.sources)

A recording is a clip that no store knows: it goes through `pipelines.worker.Worker`, as in a fill job, and becomes
records in memory, from which portraits are drawn as from any others. Source: the algorithm of the SLF paper.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.families import prior_of
from evaluation.portraits import draw, made_otherwise, note
from evaluation.sheet import scales_sheet
from featurestore.catalogue import CATALOGUE
from featurestore.clip import Clip
from featurestore.conditioning import PORTRAITISTS, SYSTEMS, System, attribute_code
from featurestore.errors import UsageError, VoxportraitError
from featurestore.loader import Loader
from featurestore.memory_records import MemoryRecords
from featurestore.records import ARRAYS, Records, fields_of

if TYPE_CHECKING:
    from pipelines.extractors.base import Extractor
    from pipelines.recipe import Recipe
    from training.portraitist import AnyPortraitist

EVERY = (*SYSTEMS.values(), *PORTRAITISTS.values())
GUIDE, GUIDE_SIZE = "face_128", 8
"""The constituent that a photo's guide is cut from, and the side of a picture that is a guide already."""


@dataclass(frozen=True)
class Heard:
    """What was made of recordings. records: of all of them; names: clip id -> how the recording's folder is called;
    sources: clip id -> `recording` and `image_guide`, the sha256 of their files; untrained: the constituents that were
    made by weights that were never trained."""

    records: MemoryRecords
    names: dict[str, str]
    sources: dict[str, dict[str, str]]
    untrained: list[str]


def check_inputs(system: System, recordings: Sequence[str], image_guide: str | None) -> None:
    """Refuse what the system cannot draw from, before anything is loaded. Raises UsageError."""
    if system.image_guide and image_guide is None:
        without = ", ".join(one.name for one in EVERY if not one.image_guide)
        raise UsageError(f"{system.name} needs --image-guide, a photo; systems that need none: {without}")
    if image_guide is not None and not system.image_guide:
        with_one = ", ".join(one.name for one in EVERY if one.image_guide)
        raise UsageError(f"{system.name} takes no --image-guide; systems that do: {with_one}")
    hears = "audio" not in system.off
    if hears and not recordings:
        raise UsageError(f"{system.name} hears a voice: say whose with --audio")
    if recordings and not hears:
        raise UsageError(f"{system.name} hears nothing: leave --audio out; --image-guide is what it draws from")


def hear(
    portraitist: "AnyPortraitist",
    recordings: Sequence[str],
    image_guide: str | None = None,
    given: Sequence[str] = (),
    told: Callable[[str], None] = lambda line: None,
) -> Heard:
    """Make what the model takes of sound files or videos, and of a photo the guide.

    recordings: none where the system hears nothing; then the photo is what portraits are drawn from. image_guide: a
    photo, whose face is found, cut out and reduced as in training, or a picture of 8 x 8, which is taken as it is.
    given: attributes that a person gives, so that they are not made. told: is told what is being done.
    Raises VoxportraitError that names the file where it has no sound, is silent or broken, or shows no face, and where
    models are missing or others than those of the training.
    """
    files = {path: _sha256(path) for path in (*recordings, *([image_guide] if image_guide else ()))}
    guide = None if image_guide is None else _own_guide(image_guide)
    wanted = _heard_by(portraitist, given) if recordings else []
    shown = [GUIDE] if image_guide is not None and guide is None else []
    recipe = _recipe(portraitist) if shown else None
    extractors, makers, untrained = _extractors(portraitist, [*wanted, *shown], recipe)
    made: dict[str, dict[str, Any]] = {}
    if extractors:
        from pipelines.recipe import Recipe
        from pipelines.worker import Worker

        worker = Worker(extractors, portraitist.device.type, recipe or Recipe())
        told(f"loading the models of {', '.join([*wanted, *shown])}")
        if broken := worker.load():
            raise VoxportraitError(next(iter(broken.values())))
        made = {path: _values(worker, path, files[path], wanted, told) for path in recordings}
        if shown and image_guide is not None:
            guide = _values(worker, image_guide, files[image_guide], shown, told)[f"{GUIDE}_guide"]
    drawn_from = {_clip_id(files[path]): path for path in recordings or files}
    shape = len(drawn_from)
    compact = {key: np.stack([_compact(key, made[path]) for path in drawn_from.values()]) for key in wanted}
    guides = None if guide is None else np.repeat(np.asarray(guide, np.uint8)[None], shape, 0)
    about = {"makers": makers, "untrained": untrained}
    target = np.zeros((shape, 128, 128, 3), np.uint8)
    return Heard(
        MemoryRecords(list(drawn_from), compact, target, guides, about=about),
        {clip_id: _name(path, files[path]) for clip_id, path in drawn_from.items()},
        {clip_id: _source(files, path if recordings else None, image_guide) for clip_id, path in drawn_from.items()},
        untrained,
    )


def draw_each(
    records: Records,
    portraitist: "AnyPortraitist",
    scales: Sequence[float],
    out: str | os.PathLike[str],
    names: Mapping[str, str],
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[Path]:
    """Draw clips one by one, each in a folder of its own, with a sheet of all its scales: the sheets' paths.

    names: clip id -> the folder under `out`. progress: called with (pictures drawn, all). options: of `portraits.draw`.
    """
    sheets: list[Path] = []
    total = len(names) * len(set(scales))
    for clip_id, name in names.items():
        done = len(sheets) * len(set(scales))

        def drawn_here(here: int, _: int, done: int = done) -> None:
            if progress:
                progress(done + here, total)

        drawings = draw(
            records,
            portraitist,
            scales,
            Path(out) / name,
            batch_size=1,
            clips=[clip_id],
            progress=drawn_here,
            **options,
        )
        sheet = Path(out) / name / f"{drawings[0].system}.png"
        row = records.rows[records.clip_ids(records.rows).index(clip_id)]
        (batch,) = (one.copy() for one in Loader(records, 1, remainder="keep").in_order(np.array([row])))
        priors = {prior for drawing in drawings if (prior := prior_of(drawing))}
        note(records, {sheet: [int(row)]}, portraitist.lender, {sheet: priors})
        shown = {
            told: batch.pictures[key][0]
            for key, told in _SHOWN.items()
            if key in batch.pictures and key in (*portraitist.shown, "face")
        }
        sheets.append(scales_sheet(drawings, shown, sheet))
    return sheets


_SHOWN = {"guide": "image guide", "face": "true face"}
"""Pictures of records that a sheet shows beside the portraits, and their names on it."""


def _heard_by(portraitist: "AnyPortraitist", given: Sequence[str]) -> list[str]:
    """The constituents of the model's inputs that are made of sound alone."""
    from pipelines.extractors import AVAILABLE, extractors_for

    absent = {key for about in portraitist.about for key in about["data"].get("absent", ())}
    layout = portraitist.layout
    inputs = [key for key in layout.constituents if key in AVAILABLE and key not in (*absent, *given, *layout.withheld)]
    return [key for key in inputs if extractors_for([key])[0].needs == "sound"]


def _recipe(portraitist: "AnyPortraitist") -> "Recipe":
    """How the faces were found that the model was trained on, as far as it can be done to a photo."""
    from pipelines.detectors import DETECTORS
    from pipelines.extractors.face import FaceCrop
    from pipelines.readiness import ready
    from pipelines.recipe import FACES, Recipe

    known = {digest for about in portraitist.about for digest in about["data"].get("makers", {}).get(GUIDE, ())}
    recipes = [Recipe(detector, face) for detector, face in product(DETECTORS, FACES) if detector != "track"]
    for recipe in recipes:
        if not (left_out := ready([GUIDE], recipe).left_out) and FaceCrop(recipe).makers()[GUIDE].digest in known:
            return recipe
    why = f" {left_out[GUIDE]}" if left_out else ""
    raise VoxportraitError(
        "the faces that this model was trained on were found or cut out otherwise than is possible here: give "
        f"--image-guide as a picture of {GUIDE_SIZE} x {GUIDE_SIZE}, or see voxportrait models verify.{why}"
    )


def _extractors(
    portraitist: "AnyPortraitist", keys: Sequence[str], recipe: "Recipe | None"
) -> tuple[list["Extractor"], dict[str, list[str]], list[str]]:
    """What makes these constituents; the digests of their makers; those of them that are untrained.

    Raises VoxportraitError where weights are missing, or other than those of the training.
    """
    from pipelines.readiness import ready
    from pipelines.recipe import Recipe

    found = ready(keys, recipe or Recipe())
    if found.left_out:
        raise VoxportraitError(next(iter(found.left_out.values())))
    makers = {key: maker for one in found.extractors for key, maker in one.makers().items() if key in keys}
    digests = {key: [maker.digest] for key, maker in makers.items()}
    if others := made_otherwise(portraitist, digests):
        models = dict.fromkeys(name for one in found.extractors if {*one.makes} & {*others} for name in one.models)
        fetch = f"voxportrait models fetch {' '.join(models)}, and " if models else ""
        raise VoxportraitError(
            f"{', '.join(others)} would be made here by other weights or another library version than this model was "
            f"trained on. To have the same: {fetch}the versions in requirements.lock; else train it again"
        )
    return found.extractors, digests, found.untrained


def _values(worker: Any, path: str, sha256: str, wanted: Sequence[str], told: Callable[[str], None]) -> dict[str, Any]:
    """The columns that a worker makes of one file; a VoxportraitError says why it cannot."""
    from pipelines.faults import Unfit

    told(f"{path}: making {', '.join(wanted)}")
    try:
        outcome = worker.fill(Clip(_clip_id(sha256), path, "test"), frozenset(wanted))
    except Unfit as fault:
        raise VoxportraitError(f"{path}: {fault.reason}: {fault.message}") from None
    if outcome.rejected:
        first = outcome.rejected[0]
        raise VoxportraitError(f"{path}: {first.reason}: {first.message}")
    return outcome.values


def _compact(key: str, values: Mapping[str, Any]) -> np.ndarray:
    """A constituent as a store would hand it over."""
    field = fields_of([key], ())[key]
    if CATALOGUE[key].kind in ARRAYS:
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(values[key]).astype(field.dtype).reshape(field.shape)
    value = attribute_code(key, values[key]) if CATALOGUE[key].kind == "label" else values[key]
    return np.asarray(value, field.dtype)


def _own_guide(path: str) -> np.ndarray | None:
    """A picture of 8 x 8 as it is; None for any other."""
    from pipelines.decoding import open_media
    from pipelines.reject import Reject

    try:
        media = open_media(path)
        return media.frame(0) if (media.width, media.height) == (GUIDE_SIZE, GUIDE_SIZE) else None
    except Reject as reject:
        raise VoxportraitError(f"{path}: {reject.reason}: {reject.message}") from None


def _sha256(path: str) -> str:
    from pipelines.files import read_file
    from pipelines.reject import Reject

    try:
        return hashlib.sha256(read_file(path)).hexdigest()
    except Reject as reject:
        raise VoxportraitError(f"{path}: {reject.reason}: {reject.message}") from None


def _clip_id(sha256: str) -> str:
    """A name for a file that depends on what is in it alone, as its portraits' noise does."""
    return f"recording/{sha256[:16]}/file/00001"


def _name(path: str, sha256: str) -> str:
    stem = re.sub(r"[^\w-]", "-", Path(path).stem)
    return f"{stem[:40]}-{sha256[:8]}"


def _source(files: Mapping[str, str], recording: str | None, image_guide: str | None) -> dict[str, str]:
    paths = {"recording": recording, "image_guide": image_guide}
    return {name: files[path] for name, path in paths.items() if path is not None}
