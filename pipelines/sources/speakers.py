"""What VoxCeleb2's csv files say of its speakers."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from featurestore.catalogue import ATTRIBUTES
from featurestore.errors import UsageError

Columns = tuple[str, ...]

META, ATTRIBUTE_FILE = "vox2_meta.csv", "vox2_attributes.csv"
META_COLUMNS = ("VoxCeleb2 ID", "Gender", "Set")
ATTRIBUTE_COLUMNS = ("age", "gender", "ethnicity", "licence", "consent")

_NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]*)?")
_GENDERS = {"m": "man", "f": "woman", "man": "man", "woman": "woman"}


@dataclass(frozen=True)
class Speaker:
    """One speaker. set: `dev` or `test` as vox2_meta.csv has it, "" if it does not name the speaker."""

    set: str = ""
    age: float | None = None
    gender: str | None = None
    ethnicity: str | None = None
    licence: str = ""
    consent: str = ""


def read_speakers(root: Path) -> dict[str, Speaker]:
    """Speakers by id from `vox2_meta.csv` and `vox2_attributes.csv`, where there are such files.

    A gender in the second file wins; an empty value says nothing. Raises UsageError, with file and line, for a missing
    column and an unknown value.
    """
    speakers: dict[str, Speaker] = {}
    for place, row in _rows(root / META, META_COLUMNS):
        if row["Set"] not in ("dev", "test"):
            raise UsageError(f"{place}: set {row['Set']!r} is neither dev nor test.")
        speakers[row["VoxCeleb2 ID"]] = Speaker(row["Set"], gender=_gender(place, row["Gender"]))
    for place, row in _rows(root / ATTRIBUTE_FILE, ("speaker_id",), ATTRIBUTE_COLUMNS):
        known = speakers.get(row["speaker_id"], Speaker())
        speakers[row["speaker_id"]] = Speaker(
            set=known.set,
            age=_age(place, row.get("age", "")),
            gender=_gender(place, row.get("gender", "")) or known.gender,
            ethnicity=_ethnicity(place, row.get("ethnicity", "")),
            licence=row.get("licence", ""),
            consent=row.get("consent", ""),
        )
    return speakers


def _rows(path: Path, required: Columns, optional: Columns = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """(file:line, values by column) of a table with commas or tabs and blanks around its values; none if no file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline()
        file.seek(0)
        rows = csv.reader(file, delimiter="\t" if "\t" in first and "," not in first else ",", skipinitialspace=True)
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


def _check_header(path: Path, header: list[str], required: Columns, optional: Columns) -> None:
    for name in required:
        if name not in header:
            found = ", ".join(header) or "nothing"
            raise UsageError(f"{path}:1: column {name!r} is missing; found {found}. Needed: {', '.join(required)}.")
    for name in header:
        if optional and name not in (*required, *optional):
            raise UsageError(f"{path}:1: unknown column {name!r}. Known: {', '.join((*required, *optional))}.")


def _gender(place: str, text: str) -> str | None:
    if not text:
        return None
    if text not in _GENDERS:
        raise UsageError(f"{place}: gender {text!r} is not one of {', '.join(_GENDERS)}.")
    return _GENDERS[text]


def _ethnicity(place: str, text: str) -> str | None:
    if text and text not in ATTRIBUTES["ethnicity"]:
        raise UsageError(f"{place}: ethnicity {text!r} is not one of {', '.join(ATTRIBUTES['ethnicity'])}.")
    return text or None


def _age(place: str, text: str) -> float | None:
    if not text:
        return None
    if not _NUMBER.fullmatch(text) or not 0 < float(text) <= 120:
        raise UsageError(f"{place}: age {text!r} is not a number of years between 0 and 120.")
    return float(text)
