"""`voxportrait store similar`: the clips nearest to a clip of the store, or to a file from outside.

A file is taken through the very extractor that made the store's vectors, or not at all.
"""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.console import Json, Licences, RequireConsent, Store, print_json, print_table, say

if TYPE_CHECKING:
    import numpy as np

    from featurestore.search import Space
    from featurestore.store import Store as FeatureStore


def vector_of(store: "FeatureStore", space: "Space", path: str) -> "np.ndarray":
    """The vector (d,) float32 of a film, a sound or a picture, as the maker of `space` makes it.

    Raises VoxportraitError if this machine cannot, or would make another one, or if the file does not give it.
    """
    from featurestore.clip import Clip
    from featurestore.errors import VoxportraitError
    from pipelines.job import detector_of
    from pipelines.readiness import ready, resolve
    from pipelines.recipe import Recipe
    from pipelines.worker import Worker

    key = space.constituent.key
    recipe = resolve(Recipe(), detector_of(store))
    able = ready([key], recipe)
    if why := able.left_out.get(key):
        raise VoxportraitError(why)
    (extractor,) = able.extractors
    maker = extractor.makers()[key]
    if maker.digest != space.maker["digest"]:
        raise VoxportraitError(
            f"{key} made here would not be comparable: here by {maker.model}, {maker.library}; in the store by "
            f"{space.maker['model']}, {space.maker['library']}; or with other weights or parameters (store sql says: "
            f"select * from makers where id = {space.maker['id']}). Ask where the store was filled, or by a clip of it."
        )
    worker = Worker([extractor], recipe=recipe)
    if broken := worker.load():
        raise VoxportraitError(broken[key])
    outcome = worker.fill(Clip("outside/nobody/none/0", path, "test"), frozenset({key}))
    if key not in outcome.values:
        reasons = "; ".join(f"{one.reason}: {one.message}" for one in outcome.rejected)
        raise VoxportraitError(f"{path} gives no {key}: {reasons}")
    return outcome.values[key]


def similar(
    to: Annotated[str, typer.Argument(metavar="CLIP", help="A clip's id, or a film, sound or picture from outside.")],
    store: Store,
    by: Annotated[str, typer.Option(help="What is compared: a vector of the catalogue, or a candidate.")] = "ecapa",
    k: Annotated[int, typer.Option("-k", "--count", min=1, help="How many clips.")] = 10,
    where: Annotated[str | None, typer.Option(help="Only clips that meet this, in SQL: split = 'test'.")] = None,
    other_speakers: Annotated[bool, typer.Option("--other-speakers", help="None of the clip's own speaker.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector, index or not.")] = False,
    require_consent: RequireConsent = False,
    licences: Licences = None,
    as_json: Json = False,
) -> None:
    """The clips whose voice or face is nearest to a clip's, or to a file's."""
    import featurestore
    from featurestore.policy import policy_of
    from featurestore.search import Space
    from featurestore.search import similar as ask

    opened = featurestore.open(store)
    asked: Any = to
    if os.path.exists(to):
        asked = vector_of(opened, Space.of(opened, by), to)
    policy = policy_of(require_consent, licences)
    found = ask(opened, asked, by, k, where, policy, other_speakers, indexed=False if exact else None)
    if not found.space.maker["trained"]:
        say(f"untrained weights made these vectors of {by}: what is near by them says nothing about people")
    if as_json:
        maker = {name: found.space.maker[name] for name in ("model", "library", "trained")}
        print_json({"by": by, "metric": found.space.metric, "maker": maker, "clips": found.table.to_pylist()})
        return
    print_table(found.table.column_names, ([_short(v) for v in row.values()] for row in found.table.to_pylist()))


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
