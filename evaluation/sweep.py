"""A sweep: every trained system at every conditional scale, drawn once, and which scale is each system's best.

    drawings = sweep(Source(store), trained_systems(runs), runs, [0, 2, 4, 6, 8], "portraits")
    best_rows(evaluate(store, drawings))["full-input"]["cond_scale"]

Importable without Arrow, Lance or Ray.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.faces import held_out_of
from evaluation.families import EXCLUSIONS, ORDER
from evaluation.gallery import SAME_FRAME
from evaluation.portraits import Drawing, draw
from featurestore.conditioning import LAYOUTS, Layout
from featurestore.conditioning import system as system_named
from featurestore.policy import Policy
from featurestore.records import Records

if TYPE_CHECKING:
    from featurestore.store import Store


@dataclass(frozen=True)
class Source:
    """Where people's data comes from: a store, or the file of an export, which is checked against the store if that is
    at hand too. split: whose portraits are drawn. policy: which clips may be used."""

    store: "Store | None" = None
    export: Path | None = None
    split: str = "test"
    policy: Policy | None = None

    def records(
        self,
        layout: Layout | None,
        missing: str = "zero",
        held_out: str = "val",
        pictures: Sequence[str] = ("target", "guide"),
    ) -> Records:
        """The split's records in a layout; of an export, None: with all that the file has."""
        if self.export is None:
            from featurestore.store_records import StoreRecords

            assert self.store is not None
            chosen = layout or LAYOUTS["slf"]
            return StoreRecords(self.store, chosen, pictures, missing, self.split, held_out, policy=self.policy)
        from featurestore.exports import ExportRecords

        records = ExportRecords(self.export, layout, pictures, missing, self.split, held_out, self.policy)
        if self.store is not None:
            from featurestore.exporting import check

            check(self.store, records)
        return records

    @property
    def judged(self) -> "Store | Records":
        """What `evaluate` takes: the store, else the export's records with all the faces that it has, of which other
        speakers are held out."""
        if self.export is None:
            assert self.store is not None
            return self.store
        from featurestore.exports import About
        from featurestore.tensor_file import TensorFile

        about = About.of(TensorFile(self.export))
        faces = [name for name in ("target", "guide", "face") if name in about.pictures]
        return self.records(None, held_out=held_out_of(self.split, about.splits), pictures=faces)


def trained_systems(runs: str | os.PathLike[str]) -> list[str]:
    """The systems under a folder of runs whose stages all have a checkpoint, in the papers' order."""
    from training.checkpoint import latest_checkpoint
    from training.cli import run_folder

    return [
        name
        for name in ORDER
        if all(latest_checkpoint(run_folder(Path(runs), name, stage)) for stage in system_named(name).stages)
    ]


def sweep(
    source: Source,
    systems: Sequence[str],
    runs: str | os.PathLike[str],
    scales: Sequence[float],
    out: str | os.PathLike[str],
    device: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    exclusions: Sequence[str] = ("identity",),
    told: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> list[Drawing]:
    """Draw the portraits of each system at each scale; those that are there are not drawn again.

    exclusions: of a system that leans on retrieved faces, each once: `clip`, `video`, `identity`, or `none` for its
    null prior. told: is told where the faces come from.
    options: of `portraits.draw` (seed, sampler, steps). progress: called with (done, total, system) over all systems.
    Returns the drawings, system by system. Raises what `portraitist.load`, `priors.leaning` and `draw` raise.
    """
    from evaluation.priors import leaning_by
    from training.portraitist import load

    drawings: list[Drawing] = []
    for at, system in enumerate(systems):
        loaded = load(runs, system, device)
        where = {"store": source.store, "export": source.export, "policy": source.policy or Policy(), "told": told}
        several = leaning_by(loaded, exclusions, **where)
        records = source.records(loaded.layout, loaded.missing, pictures=loaded.pictures)
        for number, portraitist in enumerate(several):
            before, left = len(drawings), (len(systems) - at - 1) + len(several) - number

            def drawn(done: int, total: int, system: str = system, before: int = before, left: int = left) -> None:
                if progress:
                    progress(before + done, before + total * left, system)

            drawings += draw(records, portraitist, scales, out, progress=drawn, **options)
    return drawings


def leading(evaluation: Mapping[str, Any]) -> tuple[str, str]:
    """The gallery and the recogniser by which systems are put in order: the paper's where they were had and the
    recogniser is trained, else the first trained one's; ("", "") where nothing was judged."""
    galleries, recognisers = list(evaluation.get("galleries", ())), evaluation.get("recognisers", {})
    trained = [key for key, about in recognisers.items() if not about["untrained"]] or list(recognisers)
    paper = [key for key in trained if recognisers[key]["name"] == "vgg_face" and recognisers[key]["metric"] == "l2"]
    gallery = SAME_FRAME if SAME_FRAME in galleries else next(iter(galleries), "")
    return gallery, next(iter([*paper, *trained]), "")


def recalls(row: Mapping[str, Any], gallery: str, recogniser: str) -> dict[str, Any]:
    """A row's recalls in a gallery by a recogniser, by k; {} where they were not had."""
    return row["recall"].get(gallery, {}).get(recogniser, {})


def best_rows(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """System -> its row of the scale with the highest R@1 (see `leading`), in the papers' order.

    Where several scales are equal in it: the highest at the next k, and the smallest scale of those equal in all. Scale
    0, which hears nothing, is the best only where there is no other. Of several exclusions it is the strictest: the
    fewest of the speaker's own faces could be retrieved.
    """
    gallery, recogniser = leading(evaluation)

    def merit(row: Mapping[str, Any]) -> tuple[Any, ...]:
        found = recalls(row, gallery, recogniser)
        strict = -EXCLUSIONS.index(row.get("exclusion"))
        unheard = row["cond_scale"] == 0
        return strict, unheard, tuple(-found[k]["value"] for k in sorted(found, key=int)), row["cond_scale"]

    rows = sorted(evaluation.get("systems", ()), key=lambda row: ORDER.index(row["name"]))
    return {name: min((row for row in rows if row["name"] == name), key=merit) for name in _names(rows)}


def best_scales(evaluation: Mapping[str, Any]) -> dict[tuple[str, str | None], Mapping[str, Any]]:
    """(system, exclusion) -> its row of the best scale, as `best_rows` chooses it, in the papers' order."""
    rows: dict[tuple[str, str | None], list[Mapping[str, Any]]] = {}
    for row in sorted(evaluation.get("systems", ()), key=lambda row: ORDER.index(row["name"])):
        rows.setdefault((row["name"], row.get("exclusion")), []).append(row)
    return {
        (name, exclusion): best_rows({**evaluation, "systems": some})[name] for (name, exclusion), some in rows.items()
    }


def _names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["name"] for row in rows))
