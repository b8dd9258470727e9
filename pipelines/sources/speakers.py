"""What VoxCeleb's csv files say of its speakers."""

from dataclasses import dataclass, replace
from pathlib import Path

from featurestore.errors import UsageError
from pipelines.sources.tables import FACTS, NOTHING, Facts, facts_of, gender_of, read_rows


@dataclass(frozen=True)
class Speaker:
    """One speaker. set: `dev` or `test`, name: the person's in VGGFace, each "" if the meta file does not say it."""

    set: str = ""
    name: str = ""
    facts: Facts = NOTHING


def read_speakers(meta: Path, attributes: Path, corpus: str) -> dict[str, Speaker]:
    """Speakers by id from the release's meta file and from a file of attributes, where there are such files.

    corpus: `VoxCeleb1` or `VoxCeleb2`, as its header has it. A gender in the second file wins; an empty value says
    nothing. Raises UsageError, with file and line, for a missing column and an unknown value.
    """
    speakers: dict[str, Speaker] = {}
    for place, row in read_rows(meta, (f"{corpus} ID", "Gender", "Set")):
        if row["Set"] not in ("dev", "test"):
            raise UsageError(f"{place}: set {row['Set']!r} is neither dev nor test.")
        facts = Facts(gender=gender_of(place, row["Gender"]))
        speakers[row[f"{corpus} ID"]] = Speaker(row["Set"], row.get("VGGFace1 ID", ""), facts)
    for place, row in read_rows(attributes, ("speaker_id",), FACTS):
        known = speakers.get(row["speaker_id"], Speaker())
        facts = facts_of(place, row)
        facts = replace(facts, gender=facts.gender or known.facts.gender)
        speakers[row["speaker_id"]] = replace(known, facts=facts)
    return speakers
