"""Systems that are judged alike: of what their portraits are likenesses, and what their paper measures.

    family_of("two-stage").picture            # "face"
    rows_of(drawings)                         # (system, scale, exclusion) -> drawings

Importable without Arrow, Lance or Ray.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from evaluation.gallery import ANOTHER_VIDEO, EVERY_IMAGE, IDENTITY_MEAN, OTHER_IMAGES, SAME_FRAME
from featurestore.conditioning import PORTRAITISTS, SYSTEMS
from featurestore.errors import choose
from featurestore.records import PICTURES

if TYPE_CHECKING:
    from evaluation.portraits import Drawing

EXCLUSIONS = (None, "clip", "video", "identity")
"""What of the speaker's own a retrieval passed over, the least first; None: nothing was retrieved."""


@dataclass(frozen=True)
class Family:
    """The systems of one paper. picture: of `records.PICTURES`, what portraits are compared with; ranks: the k of the
    paper's recall at k; galleries: those that portraits are searched in; has_prior: whether some lean on a retrieved
    face, so that copying is looked for."""

    name: str
    systems: tuple[str, ...]
    picture: str
    ranks: tuple[int, ...]
    galleries: tuple[str, ...]
    has_prior: bool = False

    @property
    def side(self) -> int:
        """Pixels of the side at which portraits are judged."""
        return PICTURES[self.picture].shape[0]


SLF = Family("slf", tuple(SYSTEMS), "target", (1, 3, 5, 10), (SAME_FRAME, ANOTHER_VIDEO))
FINE_PORTRAITIST = Family(
    "fine-portraitist",
    tuple(PORTRAITISTS),
    "face",
    (1, 2, 5),
    (SAME_FRAME, ANOTHER_VIDEO, EVERY_IMAGE, OTHER_IMAGES, IDENTITY_MEAN),
    has_prior=True,
)
FAMILIES = (SLF, FINE_PORTRAITIST)
ORDER = tuple(system for family in FAMILIES for system in family.systems)
"""Every system, in the papers' order."""


class Key(NamedTuple):
    """What portraits have in common that are judged together."""

    system: str
    cond_scale: float
    exclusion: str | None


def family_of(system: str) -> Family:
    """The family of a system; a UsageError lists the known systems."""
    name = choose("system", system, ORDER)
    return next(family for family in FAMILIES if name in family.systems)


def families_of(drawings: Iterable["Drawing"]) -> list[Family]:
    """The families of which there are drawings; SLF's where there are none."""
    names = {drawing.system for drawing in drawings}
    return [family for family in FAMILIES if names & set(family.systems)] or [SLF]


def leaning_words(system: str, exclusion: str | None) -> str:
    """For a person: whose faces a row of portraits could not lean on; "" of a system that leans on none."""
    if exclusion:
        return f"{exclusion} excluded"
    return "null prior" if system == "fine-portraitist" else ""


def exclusion_of(drawing: "Drawing") -> str | None:
    """What of the speaker's own was passed over when a drawing's prior was retrieved; None where none was."""
    return (drawing.about.get("retrieval") or {}).get("exclusion")


def prior_of(drawing: "Drawing") -> str | None:
    """The clip whose face a drawing leaned on; None where it had no prior."""
    return (drawing.about.get("retrieval") or {}).get("clip_id")


def rows_of(drawings: Iterable["Drawing"]) -> dict[Key, list["Drawing"]]:
    """The drawings by system, scale and exclusion, in this order: systems as in the papers, clips by id."""
    rows: dict[Key, list[Drawing]] = {}
    for one in drawings:
        rows.setdefault(Key(one.system, one.cond_scale, exclusion_of(one)), []).append(one)
    return {key: sorted(rows[key], key=lambda one: one.clip_id) for key in sorted(rows, key=_order)}


def part_of(evaluation: Mapping[str, Any], family: Family) -> Mapping[str, Any]:
    """What `evaluate` said of one family: its rows, galleries and ranks; {} where none of its systems was judged."""
    rows = {
        kind: [row for row in evaluation.get(kind, ()) if row.get("family", SLF.name) == family.name]
        for kind in ("systems", "references")
    }
    if not rows["systems"]:
        return {}
    told = evaluation.get("families", {}).get(family.name, {})
    known = evaluation["galleries"]
    return {
        **evaluation,
        **rows,
        "galleries": {name: about for name, about in known.items() if name in told.get("galleries", known)},
        "ranks": [k for k in evaluation["ranks"] if k in told.get("ranks", evaluation["ranks"])],
    }


def drawn_by(family: Family, drawings: Iterable["Drawing"]) -> list["Drawing"]:
    """Those of a family's systems."""
    return [one for one in drawings if one.system in family.systems]


def _order(key: Key) -> tuple[int, int, float]:
    return ORDER.index(key.system), EXCLUSIONS.index(key.exclusion), key.cond_scale
