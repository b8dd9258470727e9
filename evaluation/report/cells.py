"""Tables as data that one macro of the template draws, and numbers as the text of their cells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.metrics import wilson_interval
from evaluation.report import paper

ATTRIBUTES = {"gender": "gender", "ethnicity": "ethnicity", "age_group": "age group"}
REFERENCES = {"another video": "true face, other video", "enlarged guide": "guide, enlarged"}
AGAINST = {"judged": "against the judge's word on the true face", "truth": "against the truth"}


@dataclass(frozen=True)
class Cell:
    """A number with its 95 % interval, as text. line: where the interval, the number and guessing lie between 0 and 1,
    for shares: {"low", "high", "value", "random"}, random None where it is not known. note: a word below it."""

    value: str
    interval: str = ""
    line: Mapping[str, float | None] | None = None
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A row. kind: `paper`, `here`, `other` (another author's) or `reference` (drawn by no model)."""

    kind: str
    name: str
    cells: Sequence[Cell | None]
    about: str = ""


@dataclass(frozen=True)
class Group:
    """Rows below a heading of their own, or without one."""

    lines: Sequence[Line]
    head: str = ""
    about: str = ""


@dataclass(frozen=True)
class Table:
    """A table. source: which of the paper's it stands beside, "" for none; compare: how far the two can be compared;
    corner: what the rows' names are; numeric: its cells are numbers flush right, not shares with their lines."""

    key: str
    title: str
    columns: Sequence[str]
    groups: Sequence[Group]
    source: str = ""
    compare: Sequence[str] = ()
    caption: str = ""
    corner: str = ""
    numeric: bool = False


def share(found: Mapping[str, Any] | None) -> Cell | None:
    """A measured share with its interval; None where it was not had."""
    if not found:
        return None
    n = found["n"]
    line = {"low": found["low"], "high": found["high"], "value": found["value"], "random": found.get("random")}
    return Cell(percent(found["value"], n), ends(found["low"], found["high"]), line)


def published_share(value: float | None, k: int | None = None) -> Cell | None:
    """A share of the paper's 118 portraits in percent, with Wilson's interval; k: what guessing is to find it at."""
    if value is None:
        return None
    low, high = wilson_interval(round(value / 100 * paper.SPEAKERS), paper.SPEAKERS)
    line = {"low": low, "high": high, "value": value / 100, "random": None if k is None else k / paper.SPEAKERS}
    return Cell(as_printed(value), ends(low, high), line)


def as_printed(value: float) -> str:
    """A published percentage with the digits that it was printed with, at least one after the point."""
    return f"{value:.2f}".removesuffix("0") + " %"


def mean(found: Mapping[str, Any] | None, form: str) -> Cell | None:
    """A measured mean with its interval."""
    return Cell(form % found["value"], f"{form % found['low']}–{form % found['high']}") if found else None


def published_mean(value: float | None, form: str) -> Cell | None:
    """A published number of which no interval is known."""
    return None if value is None else Cell(form % value)


def published_only(value: float | None) -> Cell | None:
    """Another author's share in percent, of which no interval is known."""
    return None if value is None else Cell(as_printed(value))


def distance(found: Mapping[str, Any] | None) -> Cell | None:
    """A FID."""
    if not found:
        return None
    return Cell(f"{found['value']:.1f}", note="" if found["reliable"] else f"unreliable, n {found['n']}")


def plain(cell: Cell | None) -> Cell | None:
    """A share without its line and its sign."""
    return cell and Cell(cell.value.removesuffix(" %"), cell.interval)


def percent(value: float, n: int) -> str:
    """A share of n as text: whole percents below a hundred."""
    return f"{100 * value:.{1 if n >= 100 else 0}f} %"


def ends(low: float, high: float) -> str:
    """An interval of a share as text, in whole percents."""
    return f"{100 * low:.0f}–{100 * high:.0f}"


def recogniser_words(about: Mapping[str, Any]) -> str:
    return f"{about['name']}, {about['metric']}"


def len_of(evaluation: Mapping[str, Any], gallery: str) -> int:
    return evaluation["galleries"][gallery]["speakers"]


def reference_name(row: Mapping[str, Any]) -> str:
    return REFERENCES.get(row["name"], row["name"])


def searched(gallery: str, size: int) -> str:
    return f"{spoken(gallery)}, {size} faces"


def spoken(gallery: str) -> str:
    return gallery.replace("-", " ")


def beside(evaluation: Mapping[str, Any], ours: Callable[[str, Mapping[str, Any], str], Sequence[Line]]) -> list[Group]:
    """The rows that no model drew, as a group of their own; none where there are none. ours: (name, row, kind) ->
    the lines of a row."""
    lines = [line for row in evaluation["references"] for line in ours(reference_name(row), row, "reference")]
    return [Group(lines, "For comparison", "drawn by no model")] if lines else []
