"""Clips through their extractors: opened once, decoded once, and what fails is kept apart from what does not.

worker = Worker(extractors_for(["ecapa", "face"]))
worker.load()
outcome = worker.fill(clip, frozenset({"ecapa", "face"}))
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from featurestore.catalogue import CATALOGUE
from featurestore.clip import Clip
from featurestore.errors import VoxportraitError
from featurestore.journal import dtypes
from featurestore.schema import encode, value_fields
from pipelines.batching import Batches
from pipelines.extractors.base import Extractor, Network, Values
from pipelines.faces import FaceFinder
from pipelines.faults import READ_ERROR, Unfit, fault_of, is_full, is_passing
from pipelines.recipe import Recipe
from pipelines.reject import Reject
from pipelines.sample import Sample

PARTS: dict[str, tuple[str, ...]] = {
    "corpus": (),
    "media": ("media",),
    "sound": ("media", "sound"),
    "face": ("media", "face"),
}
"""What of a Sample must be there for an extractor that needs the key, in the order in which it is made."""

LONGEST_MESSAGE = 300

PAUSES = (0.2, 1.0)
"""Seconds until reading is tried again."""

At = Callable[[Sequence[str], Sequence[str]], None]
"""Told what is made next: ids of clips, one or those of a batch, and parts or constituents of them."""


@dataclass(frozen=True)
class Rejection:
    """What a clip could not give: `media`, `sound`, `face` or a constituent; the class that is counted; the message."""

    what: str
    reason: str
    message: str
    attempts: int = 1


@dataclass
class Outcome:
    """What became of one clip.

    values: column -> value, of the wanted constituents alone; seconds: by constituent, where opening the file counts
    as `media`, decoding its sound as `sound` and finding the face as `face`; inference: the seconds of those in which a
    network ran.
    """

    values: dict[str, Any] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    inference: dict[str, float] = field(default_factory=lambda: defaultdict(float))


class Worker:
    """Extractors and the face detector in memory. Threads are the caller's to set.

    group: how many clips to fill at once, so that every network gets batches of its size: 1 where none takes more.
    """

    def __init__(self, extractors: Sequence[Extractor], device: str = "cpu", recipe: Recipe = Recipe()):
        self.extractors = list(extractors)
        self.device = device
        self.finder = FaceFinder(recipe)
        sizes = {e.name: _batch_size(e, device) for e in self.extractors}
        self.group = max(sizes.values(), default=1)
        self._batches = {e.name: Batches(e.infer, sizes[e.name]) for e in self.extractors if isinstance(e, Network)}

    def load(self) -> dict[str, str]:
        """Bring every model into memory on the device. Returns constituent -> why, where one cannot be loaded.

        Such constituents are not made; they stay missing. A detector that cannot be loaded costs all that need a face.
        """
        broken: dict[str, str] = {}
        why_no_face = None
        if any(extractor.needs == "face" for extractor in self.extractors):
            why_no_face = _load(self.finder.load, self.device)
        for extractor in list(self.extractors):
            why = why_no_face if why_no_face and extractor.needs == "face" else _load(extractor.load, self.device)
            if why:
                broken |= dict.fromkeys(extractor.makes, why)
                self.extractors.remove(extractor)
        return broken

    def fill(self, clip: Clip, wanted: frozenset[str]) -> Outcome:
        """Make the wanted constituents of one clip: a group of one."""
        (outcome,) = self.fill_group([clip], [wanted], [0])
        return outcome

    def fill_group(
        self,
        clips: Sequence[Clip],
        wanted: Sequence[frozenset[str]],
        places: Sequence[int],
        at: At = lambda clip_ids, whats: None,
    ) -> list[Outcome]:
        """Make the wanted constituents of clips at their places in a group (0 to `PLACES` - 1).

        Never raises for a clip's sake: see `Outcome.rejected`. A rejected part blocks the extractors that need it; the
        others go on. `at` is called with what is made next, of which clips. Raises Unfit when memory or device fails:
        then another worker has to do it; OSError when a disk is full.
        """
        outcomes = [Outcome() for _ in clips]
        inputs: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
        for clip, keys, place, outcome in zip(clips, wanted, places, outcomes, strict=True):
            sample, missing = Sample(clip, self.finder.find), set[str]()
            for extractor in self.extractors:
                makes = [key for key in extractor.makes if key in keys]
                known = all(getattr(clip, column) is not None for column in extractor.requires)
                here = partial(at, [clip.clip_id])
                if not (makes and known and _prepare(sample, extractor.needs, missing, outcome, here)):
                    continue
                here(makes)
                if isinstance(extractor, Network):
                    given = _attempt(makes, partial(extractor.inputs, sample), outcome)
                    if given is not None:
                        inputs[extractor.name][place] = given
                else:
                    _keep(_attempt(makes, partial(extractor.extract, sample), outcome), makes, outcome)
        by_place = {place: (keys, outcome) for keys, place, outcome in zip(wanted, places, outcomes, strict=True)}
        for extractor in self.extractors:
            if isinstance(extractor, Network) and inputs[extractor.name]:
                members = [i for i, place in enumerate(places) if place in inputs[extractor.name]]
                makes = [key for key in extractor.makes if any(key in wanted[i] for i in members)]
                at([clips[i].clip_id for i in members], makes)
                self._infer(extractor, inputs[extractor.name], by_place)
        return outcomes

    def _infer(
        self, extractor: Network, inputs: dict[int, np.ndarray], by_place: dict[int, tuple[frozenset[str], Outcome]]
    ) -> None:
        """Run a network over its inputs and put what it makes into the outcomes, its time shared by the clips."""
        started = time.perf_counter()
        results = self._batches[extractor.name].run(inputs)
        share = (time.perf_counter() - started) / len(inputs)
        for place, result in results.items():
            wanted, outcome = by_place[place]
            makes = [key for key in extractor.makes if key in wanted]
            for key in makes:
                outcome.seconds[key] += share / len(makes)
                outcome.inference[key] += share / len(makes)
            _keep(_attempt(makes, partial(_values, extractor, result), outcome), makes, outcome)


def _batch_size(extractor: Extractor, device: str) -> int:
    if not isinstance(extractor, Network):
        return 1
    return extractor.resources.batch if device.startswith("cuda") else extractor.resources.cpu_batch


def _values(extractor: Network, result: Any) -> Values:
    if isinstance(result, Exception):
        raise result
    return extractor.values(result)


def _prepare(
    sample: Sample, needs: str, missing: set[str], outcome: Outcome, here: Callable[[Sequence[str]], None]
) -> bool:
    """Make the parts of the sample that are needed; False if one cannot be had. Each is tried once, then `missing`."""
    for part in PARTS[needs]:
        if part in missing:
            return False
        here([part])
        if _attempt([part], partial(getattr, sample, part), outcome) is None:
            missing.add(part)
            return False
    return True


def _attempt(whats: Sequence[str], make: Callable[[], Any], outcome: Outcome) -> Any:
    """What `make` gives, or None and a rejection; its time is shared by `whats`."""
    started = time.perf_counter()
    try:
        return _read_again(make)
    except Reject as reject:
        refused = [reject.what] if reject.what in PARTS else whats
        outcome.rejected += [Rejection(what, reject.reason, _plain(reject.message)) for what in refused]
    except Exception as error:
        text = _plain(f"{type(error).__name__}: {error}")
        if fault := fault_of(error):
            raise Unfit(fault, f"{', '.join(whats)}: {text}") from error
        if is_full(error):
            raise
        reason, tries = (READ_ERROR, 1 + len(PAUSES)) if is_passing(error) else ("extractor error", 1)
        outcome.rejected += [Rejection(what, reason, text, tries) for what in whats]
    finally:
        for what in whats:
            outcome.seconds[what] += (time.perf_counter() - started) / len(whats)
    return None


def _read_again(make: Callable[[], Any]) -> Any:
    """What `make` gives, after another try or two where a disk or a network stumbles."""
    for pause in PAUSES:
        try:
            return make()
        except OSError as error:
            if not is_passing(error):
                raise
            time.sleep(pause)
    return make()


def _keep(made: Values | None, makes: Sequence[str], outcome: Outcome) -> None:
    """Put the columns of each wanted constituent into the outcome, unless they cannot be stored."""
    if made is None:
        return
    for key in makes:
        columns = {field.name: made[field.name] for field in value_fields(CATALOGUE[key]) if field.name in made}
        broken = [name for name, value in columns.items() if not _is_finite(value)]
        if broken:
            outcome.rejected.append(Rejection(key, "not finite", f"{', '.join(broken)} holds NaN or infinity"))
        elif why := _misfit(key, columns):
            outcome.rejected.append(Rejection(key, "extractor error", _plain(why)))
        else:
            outcome.values.update(columns)


def _is_finite(value: Any) -> bool:
    return not isinstance(value, (np.ndarray, float)) or bool(np.isfinite(value).all())


def _misfit(key: str, columns: Values) -> str | None:
    """Why a constituent's columns cannot be stored as the catalogue says; None if they can."""
    for column in value_fields(CATALOGUE[key]):
        if column.name not in columns:
            return f"the extractor of {key} gave no {column.name}"
        try:
            encode(column, dtypes(CATALOGUE[key]).get(column.name, ""), [columns[column.name]])
        except (ValueError, TypeError) as error:
            return f"the extractor of {key} gave a {column.name} that does not fit: {error}"
    return None


def _load(load: Callable[[str], None], device: str) -> str | None:
    """Load a model; why it cannot be, or None."""
    try:
        load(device)
    except VoxportraitError as error:
        return _plain(str(error))
    except Exception as error:
        if fault := fault_of(error):
            raise Unfit(fault, _plain(str(error))) from error
        return f"its model cannot be loaded: {_plain(f'{type(error).__name__}: {error}')}"
    return None


def _plain(text: str) -> str:
    """One line that any table can hold, of a text from anywhere."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())[:LONGEST_MESSAGE]
