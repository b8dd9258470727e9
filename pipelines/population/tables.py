"""The corpus's tables of speakers: VoxCeleb2's own, their attributes, and the whole truth."""

from dataclasses import asdict
from pathlib import Path

from pipelines.population.files import whole, write_text
from pipelines.population.look import draw_look
from pipelines.population.people import Person, gender_label, years
from pipelines.population.voices import draw_voice

META, ATTRIBUTES, TRUTH = "vox2_meta.csv", "vox2_attributes.csv", "truth.parquet"
META_HEADER = "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set "
ATTRIBUTES_HEADER = "speaker_id,age,gender,ethnicity,licence,consent"
LICENCE, CONSENT = "CC0-1.0", "synthetic"
COLOURS = ("skin", "lip")


def identity_of(index: int) -> str:
    """A speaker's id: `id00001` is the first."""
    return f"id{index + 1:05d}"


def write_speaker_tables(root: Path, people: list[Person], sets: list[str]) -> None:
    """Write the three tables; sets: `dev` or `test` of each person."""
    write_text(root / META, meta_table(people, sets))
    write_text(root / ATTRIBUTES, attributes_table(people))
    _write_truth(root / TRUTH, people, sets)


def meta_table(people: list[Person], sets: list[str]) -> str:
    """vox2_meta.csv as it is published: a blank before each comma and at the end of each line."""
    rows = (
        f"{identity_of(person.index)} ,n{person.index + 1:06d} ,{'m' if person.is_man else 'f'} ,{chosen} "
        for person, chosen in zip(people, sets, strict=True)
    )
    return "\n".join([META_HEADER, *rows, ""])


def attributes_table(people: list[Person]) -> str:
    """vox2_attributes.csv: age in years, and gender and ethnicity as `featurestore.catalogue.ATTRIBUTES` names them."""
    rows = (
        f"{identity_of(person.index)},{person.years:.1f},{gender_label(person.gender)},{person.ethnicity},"
        f"{LICENCE},{CONSENT}"
        for person in people
    )
    return "\n".join([ATTRIBUTES_HEADER, *rows, ""])


def truth_of(person: Person, dataset: str) -> dict:
    """All that is true of a person, by column: latents, attributes of both draws, voice and look."""
    voice, look = draw_voice(person), asdict(draw_look(person))
    colours = {
        f"{name}_{channel}": value
        for name in COLOURS
        for channel, value in zip(("red", "green", "blue"), map(float, look.pop(name)), strict=True)
    }
    return {
        "speaker_id": identity_of(person.index),
        "set": dataset,
        "seed": person.seed,
        "speaker_index": person.index,
        "age_years": person.years,
        "gender_label": gender_label(person.gender),
        "ethnicity_label": person.ethnicity,
        "upper_age_years": years(person.upper_age),
        "upper_gender_label": gender_label(person.upper_gender),
        **person.latents(),
        "voice_f0": voice.f0,
        "voice_tract": voice.tract,
        "voice_accent": voice.accent,
        **{f"look_{name}": value for name, value in (colours | look).items()},
    }


def _write_truth(path: Path, people: list[Person], sets: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    rows = [truth_of(person, dataset) for person, dataset in zip(people, sets, strict=True)]
    with whole(path) as unfinished:
        parquet.write_table(pa.Table.from_pylist(rows), unfinished)
