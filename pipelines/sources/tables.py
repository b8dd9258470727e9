"""Tables beside a corpus: csv files with a header, and what their columns say of a person."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from featurestore.catalogue import ATTRIBUTES
from featurestore.errors import UsageError

Columns = tuple[str, ...]
Row = dict[str, str]

FACTS = ("age", "gender", "ethnicity", "licence", "consent", "consent_until")

_NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]*)?")
_GENDERS = {"m": "man", "f": "woman", "man": "man", "woman": "woman"}


@dataclass(frozen=True)
class Facts:
    """What a corpus says of a person. age in years; gender and ethnicity as in `Clip`; None and "" for nothing.

    consent_until: the last day on which the consent holds.
    """

    age: float | None = None
    gender: str | None = None
    ethnicity: str | None = None
    licence: str = ""
    consent: str = ""
    consent_until: date | None = None

    def for_clip(self) -> dict[str, Any]:
        """The arguments of `Clip` that these are."""
        return {
            "licence": self.licence,
            "consent": self.consent,
            "consent_until": self.consent_until,
            "corpus_age": self.age,
            "corpus_gender": self.gender,
            "corpus_ethnicity": self.ethnicity,
        }


NOTHING = Facts()
"""Of a person whom the corpus says nothing of."""


def read_rows(path: Path, required: Columns, optional: Columns = ()) -> Iterator[tuple[str, Row]]:
    """(file:line, values by column) of a table with commas or tabs and blanks around its values; none if no file.

    Raises UsageError for a missing column, an unknown one (where `optional` names those that may be there), a row of
    another length, and an empty value in the first column that is required.
    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline()
        file.seek(0)
        rows = csv.reader(file, delimiter="\t" if "\t" in first and "," not in first else ",", skipinitialspace=True)
        try:
            header = [name.strip() for name in next(rows, [])]
            _check_header(path, header, required, optional)
            for values in rows:
                place = f"{path}:{rows.line_num}"
                row = dict(zip(header, map(str.strip, values), strict=False))
                if not any(row.values()):
                    continue
                if len(values) != len(header):
                    raise UsageError(f"{place}: {len(values)} values for {len(header)} columns.")
                if not row[required[0]]:
                    raise UsageError(f"{place}: {required[0]!r} is empty.")
                yield place, row
        except csv.Error as error:
            raise UsageError(f"{path}:{rows.line_num}: {error}.") from error


def facts_of(place: str, row: Row) -> Facts:
    """What the columns of `FACTS` say; each may be missing or empty. Raises UsageError for an unknown value."""
    return Facts(
        age=_age(place, row.get("age", "")),
        gender=gender_of(place, row.get("gender", "")),
        ethnicity=_ethnicity(place, row.get("ethnicity", "")),
        licence=row.get("licence", ""),
        consent=row.get("consent", ""),
        consent_until=_day(place, row.get("consent_until", "")),
    )


def gender_of(place: str, text: str) -> str | None:
    """`man` or `woman` from m, f, man or woman; None from "". Raises UsageError for anything else."""
    if not text:
        return None
    if text not in _GENDERS:
        raise UsageError(f"{place}: gender {text!r} is not one of {', '.join(_GENDERS)}.")
    return _GENDERS[text]


def _check_header(path: Path, header: list[str], required: Columns, optional: Columns) -> None:
    for name in required:
        if name not in header:
            found = ", ".join(header) or "nothing"
            raise UsageError(f"{path}:1: column {name!r} is missing; found {found}. Needed: {', '.join(required)}.")
    for name in header:
        if optional and name not in (*required, *optional):
            raise UsageError(f"{path}:1: unknown column {name!r}. Known: {', '.join((*required, *optional))}.")


def _ethnicity(place: str, text: str) -> str | None:
    if text and text not in ATTRIBUTES["ethnicity"]:
        raise UsageError(f"{place}: ethnicity {text!r} is not one of {', '.join(ATTRIBUTES['ethnicity'])}.")
    return text or None


def _day(place: str, text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{place}: consent_until {text!r} is not a day, such as 2030-12-31.") from None


def _age(place: str, text: str) -> float | None:
    if not text:
        return None
    if not _NUMBER.fullmatch(text) or not 0 < float(text) <= 120:
        raise UsageError(f"{place}: age {text!r} is not a number of years between 0 and 120.")
    return float(text)
