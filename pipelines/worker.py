"""One clip through its extractors: opened once, decoded once, and what fails is kept apart from what does not.

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
from featurestore.schema import value_fields
from pipelines.extractors import Extractor, Values
from pipelines.faces import DEFAULT_DETECTOR, DETECTORS, find_face
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


@dataclass(frozen=True)
class Rejection:
    """What a clip could not give: `media`, `sound`, `face` or a constituent; the class that is counted; the message."""

    what: str
    reason: str
    message: str


@dataclass
class Outcome:
    """What became of one clip.

    values: column -> value, of the wanted constituents alone; seconds: by constituent, where opening the file counts
    as `media`, decoding its sound as `sound` and finding the face as `face`.
    """

    values: dict[str, Any] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))


class Worker:
    """Extractors and the face detector in memory, for one clip after another. Threads are the caller's to set."""

    def __init__(self, extractors: Sequence[Extractor], device: str = "cpu"):
        self.extractors = list(extractors)
        self.device = device
        self._detector = DETECTORS[DEFAULT_DETECTOR]()

    def load(self) -> None:
        """Bring every model into memory on the device."""
        for extractor in self.extractors:
            extractor.load(self.device)
        if any(extractor.needs == "face" for extractor in self.extractors):
            self._detector.load(self.device)

    def fill(self, clip: Clip, wanted: frozenset[str]) -> Outcome:
        """Make the wanted constituents of one clip. Never raises for the clip's sake: see `Outcome.rejected`.

        A rejected part blocks the extractors that need it; the others go on.
        """
        sample = Sample(clip, partial(find_face, self._detector))
        outcome = Outcome()
        missing: set[str] = set()
        for extractor in self.extractors:
            makes = [key for key in extractor.makes if key in wanted]
            known = all(getattr(clip, column) is not None for column in extractor.requires)
            if makes and known and _prepare(sample, extractor.needs, missing, outcome):
                made = _attempt(makes, partial(extractor.extract, sample), outcome)
                _keep(made or {}, makes, outcome)
        return outcome


def _prepare(sample: Sample, needs: str, missing: set[str], outcome: Outcome) -> bool:
    """Make the parts of the sample that are needed; False if one cannot be had. Each is tried once, then `missing`."""
    for part in PARTS[needs]:
        if part in missing:
            return False
        if _attempt([part], partial(getattr, sample, part), outcome) is None:
            missing.add(part)
            return False
    return True


def _attempt(whats: Sequence[str], make: Callable[[], Any], outcome: Outcome) -> Any:
    """What `make` gives, or None and a rejection; its time is shared by `whats`."""
    started = time.perf_counter()
    try:
        return make()
    except Reject as reject:
        outcome.rejected.append(Rejection(reject.what, reject.reason, reject.message))
    except Exception as error:  # noqa: BLE001 - foreign code on strangers' files: one clip must not end the job
        text = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_MESSAGE]
        outcome.rejected += [Rejection(what, "extractor error", text) for what in whats]
    finally:
        for what in whats:
            outcome.seconds[what] += (time.perf_counter() - started) / len(whats)
    return None


def _keep(made: Values, makes: Sequence[str], outcome: Outcome) -> None:
    """Put the columns of each wanted constituent into the outcome, unless a number in them is not finite."""
    for key in makes:
        columns = {field.name: made[field.name] for field in value_fields(CATALOGUE[key]) if field.name in made}
        broken = [name for name, value in columns.items() if not _is_finite(value)]
        if broken:
            outcome.rejected.append(Rejection(key, "not finite", f"{', '.join(broken)} holds NaN or infinity"))
        else:
            outcome.values.update(columns)


def _is_finite(value: Any) -> bool:
    return not isinstance(value, (np.ndarray, float)) or bool(np.isfinite(value).all())
