"""Recall apart by recogniser, and by what is known of people."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.report.cells import Group, Line, Table, recogniser_words, reference_name, share, spoken
from evaluation.sweep import best_rows, recalls


def by_recogniser(evaluation: Mapping[str, Any]) -> Table | None:
    """R@1 of each system at its best scale, by each recogniser and gallery; None where there is only one recogniser."""
    recognisers = evaluation["recognisers"]
    if len(recognisers) < 2:
        return None
    columns = [(gallery, key) for key in recognisers for gallery in evaluation["galleries"]]
    rows = [(name, f"scale {row['cond_scale']:g}", row, "here") for name, row in best_rows(evaluation).items()]
    rows += [(reference_name(row), "", row, "reference") for row in evaluation["references"]]
    first = str(evaluation["ranks"][0]) if evaluation["ranks"] else "1"
    lines = [
        Line(kind, name, [share(recalls(row, gallery, key).get(first)) for gallery, key in columns], about)
        for name, about, row, kind in rows
    ]
    heads = [
        f"{recogniser_words(recognisers[key])}, {spoken(gallery)}"
        + (" (untrained)" if recognisers[key]["untrained"] else "")
        for gallery, key in columns
    ]
    caption = "R@1 of the same pictures by every recogniser that was asked, at the scale chosen by the first one."
    return Table("recognisers", "By other recognisers", heads, [Group(lines)], caption=caption)


def by_group(evaluation: Mapping[str, Any], recogniser: str, compare: Sequence[str]) -> Table | None:
    """R@1 by groups of people, a column a system at its best scale; None where nobody is known to be of a group.

    recogniser: by which; compare: how far the numbers can be compared.
    """
    best = {name: row for name, row in best_rows(evaluation).items() if row.get("groups")}
    if not best:
        return None
    kinds = list(dict.fromkeys(kind for row in best.values() for kind in row["groups"]))
    galleries = list(evaluation["galleries"])
    groups = []
    for kind in kinds:
        values = sorted({value for row in best.values() for value in row["groups"].get(kind, ())}, key=_natural)
        lines = []
        for value in values:
            members = {name: row["groups"].get(kind, {}).get(value) for name, row in best.items()}
            for gallery in galleries:
                found = {name: recalls(one, gallery, recogniser) if one else {} for name, one in members.items()}
                if any(found.values()):
                    n = max(one["1"]["n"] for one in found.values() if "1" in one)
                    shares = [share(one.get("1")) for one in found.values()]
                    lines.append(Line("here", value, shares, f"{spoken(gallery)}, n {n}"))
        groups.append(Group(lines, kind.replace("_", " ")))
    return Table(
        "groups",
        "R@1 by group",
        [f"{name}, scale {row['cond_scale']:g}" for name, row in best.items()],
        groups,
        compare=compare,
        caption="The same hits as above, apart by what is known of the speakers. Guessing is among the whole gallery.",
    )


def _natural(value: str) -> tuple[int, str]:
    digits = "".join(letter for letter in value.split("-")[0] if letter.isdigit())
    return (int(digits) if digits else -1, value)
