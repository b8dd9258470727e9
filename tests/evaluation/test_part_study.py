"""The part study finds what speech tells of a face, and nothing where it tells nothing.

On synthetic people the truth is known: the lower face follows the voice and the upper does not. The voices are real
ECAPA embeddings, a checked-in fixture (tests/pipelines/make_voices_fixture.py makes it).
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from evaluation.part_figure import draw_forest, write_table
from evaluation.part_looks import PartLooks, join
from evaluation.part_portraits import study_portraits
from evaluation.part_study import (
    BOTTOM,
    PARTS,
    UPPER,
    Within,
    compare,
    holm,
    others,
    part_study,
    published,
    says,
)
from evaluation.portraits import Drawing
from evaluation.voice_heads import VoiceHeads, photograph, study_heads
from featurestore.conditioning import attribute_code
from featurestore.errors import UsageError, VoxportraitError
from featurestore.memory_records import MemoryRecords
from pipelines.population.people import Person, draw_person, gender_label
from tests.pipelines.make_voices_fixture import FIXTURE, SEED
from voxportrait import app

FITTED = 100
PAIRS = 40
"""Photographed people whose portraits are looked at."""


@pytest.fixture(scope="module")
def voices() -> np.ndarray:
    with np.load(FIXTURE) as file:
        return file["embeddings"].astype(np.float64)


@pytest.fixture(scope="module")
def people() -> list[Person]:
    return [draw_person(SEED, index) for index in range(200)]


@pytest.fixture(scope="module")
def heads(voices, people) -> dict[str, Any]:
    """The study of 100 unseen people by their known heads."""
    return study_heads(voices, people)["studies"][0]


@pytest.fixture(scope="module")
def looks() -> PartLooks:
    return PartLooks(("landmarks", "lab"))


@pytest.fixture(scope="module")
def photographs(voices, people) -> dict[str, list[np.ndarray]]:
    """Unseen people, and what is drawn of them with their voice and without it."""
    generator, unseen = VoiceHeads.fit(voices[:-PAIRS], people[:-PAIRS]), people[-PAIRS:]
    return {
        "true": [photograph(person) for person in unseen],
        "told": [photograph(generator.draw(*pair)) for pair in zip(voices[-PAIRS:], unseen, strict=True)],
        "untold": [photograph(generator.draw(None, person)) for person in unseen],
    }


def verdicts(found: Mapping[str, Any]) -> dict[str, str]:
    return {part: says(row) for part, row in found["parts"].items()}


def distances(random: np.random.Generator, n: int, **gains: float) -> tuple[dict, dict]:
    """Distances with speech and without it, the second larger by some parts' gains."""
    told = {part: random.normal(10, 2, n) for part in PARTS}
    return told, {part: told[part] + gains.get(part, 0) + random.normal(0, 1, n) for part in PARTS}


# -- the test itself -----------------------------------------------------------------------------------------------


def test_the_test_is_the_paired_one_of_the_definition():
    told, untold = distances(np.random.default_rng(0), 50, jaw=0.5)
    found = compare(told, untold)["parts"]["jaw"]
    difference = untold["jaw"] - told["jaw"]
    error = difference.std(ddof=1) / np.sqrt(50)
    assert found["t"] == pytest.approx(difference.mean() / error)
    assert found["d"] == pytest.approx(difference.mean() / difference.std(ddof=1))
    assert (found["low"], found["high"]) == pytest.approx(
        (difference.mean() - 2.00958 * error, difference.mean() + 2.00958 * error), rel=1e-3
    )
    assert found["d_low"] < found["d"] < found["d_high"]


def test_a_part_that_speech_makes_worse_is_farther():
    told, untold = distances(np.random.default_rng(0), 200, jaw=1, eyes=-1)
    found = compare(told, untold)
    assert verdicts(found) == {"jaw": "nearer", "eyes": "farther"} | dict.fromkeys(
        ("mouth", "nose", "eyebrows"), "no difference"
    )


def test_corrections_are_those_of_bonferroni_and_holm():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    told, untold = distances(np.random.default_rng(1), 30, jaw=1, nose=0.4)
    rows = compare(told, untold)["parts"].values()
    for row in rows:
        assert row["p"] <= row["p_holm"] <= row["p_bonferroni"] == min(1, 5 * row["p"])
        assert row["significant"] == {name: row[name] < 0.05 for name in row["significant"]}


def test_with_the_papers_differences_the_study_says_what_the_paper_says():
    """N = 5,000 differences with the paper's t: jaw, mouth and nose are significant, the nose not after Bonferroni."""
    random, paper = np.random.default_rng(0), published()
    untold, told = {}, {}
    for part, row in paper["parts"].items():
        noise = random.normal(0, 1, paper["n"])
        untold[part] = (noise - noise.mean()) / noise.std(ddof=1) + row["d"]
        told[part] = np.zeros(paper["n"])
    found = compare(told, untold)["parts"]
    assert {part: round(row["t"], 2) for part, row in found.items()} == {
        "jaw": 2.85, "mouth": 4.94, "nose": 2.26, "eyes": 0.47, "eyebrows": 0.32
    }  # fmt: skip
    assert [part for part in PARTS if found[part]["significant"]["p"]] == ["jaw", "mouth", "nose"]
    assert [part for part in PARTS if found[part]["significant"]["p_bonferroni"]] == ["jaw", "mouth"]


def test_pairs_without_a_face_are_left_out_and_counted():
    told, untold = distances(np.random.default_rng(0), 20, jaw=1)
    told = {part: np.append(values, np.nan) for part, values in told.items()}
    untold = {part: np.append(values, 5.0) for part, values in untold.items()}
    found = compare(told, untold)
    assert (found["n"], found["left_out"]) == (20, 1)
    assert np.isfinite([row["t"] for row in found["parts"].values()]).all()


def test_without_faces_there_is_no_study():
    nothing = {part: np.array([1.0, 2.0, np.nan, np.nan]) for part in PARTS}
    with pytest.raises(VoxportraitError, match="2 of 4 pairs"):
        compare(nothing, nothing)


def test_parts_that_never_differ_do_not_differ():
    same = {part: np.arange(9.0) for part in PARTS}
    assert set(verdicts(compare(same, same)).values()) == {"no difference"}


def test_everybody_is_as_often_another_as_he_has_others():
    groups = ["man", "woman", "man", "woman", "man", "", "other"]
    found = others(groups, seed=3, count=2)
    assert found[:, 5:].tolist() == [[-1, -1], [-1, -1]]
    for row in found:
        for one, other in enumerate(row):
            assert other == -1 or (groups[one] == groups[other] and one != other)
    assert sorted(found[:, [0, 2, 4]].flat) == [0, 0, 2, 2, 4, 4]
    assert sorted(found[0, [1, 3]]) == [1, 3]
    assert found[1, [1, 3]].tolist() == [-1, -1]


def test_what_gender_alone_tells_is_no_difference_within_gender():
    """Speech that tells man from woman, and nothing more: the jaw is nearer, and no longer so within a gender."""
    random, n = np.random.default_rng(0), 400
    man = np.arange(n) % 2
    true, drawn = man + random.normal(0, 0.3, n), man + random.normal(0, 0.05, n)
    names = ["man" if one else "woman" for one in man]
    told, untold, anothers, fellows = (
        {part: abs(true - guess) if part == "jaw" else random.normal(1, 1, n) for part in PARTS}
        for guess in (drawn, np.full(n, 0.5), drawn[others(["anybody"] * n)[0]], drawn[others(names)[0]])
    )
    study = part_study(told, untold, anothers, "made", {"gender": Within(names, fellows)})
    assert says(study["parts"]["jaw"]) == says(study["another"]["parts"]["jaw"]) == "nearer"
    assert {says(found["parts"]["jaw"]) for found in study["within"]["gender"].values()} == {"no difference"}


# -- where the truth is known --------------------------------------------------------------------------------------


def test_the_study_finds_that_the_lower_face_follows_the_voice_and_the_upper_does_not(heads):
    for found in (heads, heads["another"]):
        assert verdicts(found) == dict.fromkeys(BOTTOM, "nearer") | dict.fromkeys(UPPER, "no difference")


def test_it_finds_the_same_within_gender(heads):
    found = heads["within"]["gender"]["either"]
    assert found["n"] == 100
    assert verdicts(found) == dict.fromkeys(BOTTOM, "nearer") | dict.fromkeys(UPPER, "no difference")


@pytest.mark.parametrize("group", ["man", "woman"])
def test_the_voice_of_one_gender_tells_the_lower_face(heads, group):
    rows = heads["within"]["gender"][group]["parts"]
    assert all(rows[part]["t"] > 0 and rows[part]["significant"]["p"] for part in BOTTOM)
    assert not any(rows[part]["significant"]["p_holm"] for part in UPPER)


def test_voices_of_others_tell_nothing_but_by_chance(voices, people):
    """Faces drawn from somebody else's voice, eight times: no part is nearer than without a voice, nor than from
    another's: of 80 tests four are expected below 5 %."""
    against_another = []
    for seed in range(8):
        shuffled = np.random.default_rng(seed).permutation(voices[FITTED:])
        study = study_heads(np.concatenate([voices[:FITTED], shuffled]), people)["studies"][0]
        assert "nearer" not in verdicts(study).values()
        found = (study["another"], study["within"]["gender"]["either"])
        against_another += [row["p"] for one in found for row in one["parts"].values()]
    assert np.mean(np.array(against_another) < 0.05) <= 0.1


def test_eyes_that_follow_the_voice_are_found(voices, people):
    """A population of another make: eyes and eyebrows that the voice tells as it tells mouth, nose and jaw."""
    told = [
        replace(one, eye_spacing=one.mouth, eye_size=one.nose, eye_tilt=one.mouth, brow_height=one.nose)
        for one in people
    ]
    study = study_heads(voices, told)["studies"][0]
    for found in (study, study["another"], study["within"]["gender"]["either"]):
        assert verdicts(found) == dict.fromkeys(PARTS, "nearer")


# -- by pictures -----------------------------------------------------------------------------------------------------


def test_pictures_tell_it_too(looks, photographs):
    told, untold = (
        looks.distances(zip(photographs["true"], photographs[name], strict=True)) for name in ("told", "untold")
    )
    for measure in looks.measures:
        found = compare(told[measure], untold[measure])
        assert found["left_out"] == 0
        assert [verdicts(found)[part] for part in ("mouth", "nose")] == ["nearer", "nearer"], measure
        assert [verdicts(found)[part] for part in UPPER] == ["no difference", "no difference"], measure


def test_a_true_face_is_no_way_off(looks, photographs):
    for found in looks.distances((one, one) for one in photographs["true"][:2]).values():
        for part in PARTS:
            assert found[part] == pytest.approx([0, 0], abs=0.8)


def test_lpips_tells_a_true_part_from_a_drawn_one(photographs):
    true, told = photographs["true"][0], photographs["told"][0]
    found = PartLooks(["lpips"], device="cpu").distances([(true, true), (true, told)])["lpips"]
    for part in PARTS:
        assert found[part][0] < 0.3 * found[part][1]


def test_a_part_is_not_judged_by_its_neighbours(looks, photographs):
    """True eyes above somebody else's lower face: the upper face is much nearer than somebody else's, also where the
    landmarks of the whole face say that it moved."""
    true = photographs["true"][:16]
    half = np.zeros((256, 256), bool)
    half[156:] = True
    mixed = [join(other, one, half) for one, other in pairwise(true)]
    off, strangers = (looks.distances(zip(true, some, strict=False)) for some in (mixed, true[1:]))
    for measure in looks.measures:
        share = {part: off[measure][part].mean() / strangers[measure][part].mean() for part in PARTS}
        assert max(share[part] for part in UPPER) < 0.6, (measure, share)
        assert min(share[part] for part in BOTTOM) > 0.7, (measure, share)


def test_a_picture_without_a_face_counts_for_no_part(looks, photographs):
    grey = np.full((64, 64, 3), 128, np.uint8)
    found = looks.distances([(photographs["true"][0], grey), (photographs["true"][0], photographs["told"][0])])
    for of_measure in found.values():
        assert np.isnan([of_measure[part][0] for part in PARTS]).all()
        assert np.isfinite([of_measure[part][1] for part in PARTS]).all()


# -- portraits on disk -----------------------------------------------------------------------------------------------


@pytest.fixture
def eight(photographs, people, tmp_path) -> tuple[MemoryRecords, list[Drawing]]:
    """Eight people, and portraits of 64 px of them by `full-input` at scales 3 and 0."""
    count = 8
    names = [f"made/id{index:05d}/video/00001" for index in range(count)]
    small = {
        name: [np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BOX)) for one in some[:count]]
        for (name, some), size in zip(photographs.items(), (128, 64, 64), strict=True)
    }
    gender = np.array([attribute_code("gender", gender_label(one.gender)) for one in people[-PAIRS:][:count]])
    records = MemoryRecords(names, {"gender": gender}, np.stack(small["true"]))
    drawings = []
    for scale, kind in ((3.0, "told"), (0.0, "untold")):
        for name, picture in zip(names, small[kind], strict=True):
            path = tmp_path / f"{scale:g}-{name.split('/')[1]}.png"
            Image.fromarray(picture).save(path)
            about = {"clip_id": name, "system": "full-input", "cond_scale": scale, "untrained": ["ecapa"]}
            drawings.append(Drawing(path, {}, about))
    return records, drawings


def test_portraits_on_disk_are_studied_in_everybody_and_within_gender(eight, looks, tmp_path):
    records, drawings = eight
    seen: list[tuple[int, int]] = []
    result = study_portraits(
        records, drawings, "full-input", 3.0, looks, progress=lambda *counted: seen.append(counted)
    )
    assert [study["measure"] for study in result["studies"]] == ["landmarks", "lab"]
    assert result["studies"][0]["n"] == 8
    assert {"man", "woman", "either"} >= set(result["studies"][0]["within"]["gender"]) > {"either"}
    assert result["untrained"] == ["ecapa"]
    assert seen[-1] == (48, 48)
    assert json.loads(json.dumps(result)) == result

    rows = list(csv.DictReader(write_table(result, tmp_path / "study.csv").open()))
    jaw = next(row for row in rows if row["part"] == "jaw")
    assert float(jaw["t"]) == result["studies"][0]["parts"]["jaw"]["t"]
    assert [row["part"] for row in rows if row["measure"] == "published"] == list(PARTS)
    assert Image.open(draw_forest(result, tmp_path / "study.png")).width > 500


def test_shuffled_speech_needs_no_portraits_without_speech(eight):
    records, drawings = eight
    result = study_portraits(records, drawings[:8], None, None, PartLooks(["lab"]), against="shuffled")
    assert result["without"] == "the speech of somebody else"
    study = result["studies"][0]
    assert study["parts"] == study["another"]["parts"]


def test_what_is_missing_is_said(eight, looks):
    records, drawings = eight
    with pytest.raises(UsageError, match=r"drawn at 3 and not at 0.*--scales 0,3"):
        study_portraits(records, drawings[:8], "full-input", 3.0, looks)
    with pytest.raises(UsageError, match=r"There are: full-input at 0, full-input at 3"):
        study_portraits(records, drawings, "only-audio", 3.0, looks)
    with pytest.raises(UsageError, match="2 clips"):
        study_portraits(records, [*drawings[:2], *drawings[8:]], None, None, looks)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--measure", "landmark"], "Did you mean 'landmarks'"),
        (["--portraits", "nowhere", "--store", "x"], "nowhere holds no portraits"),
    ],
)
def test_the_command_says_what_is_wrong(options, said, tmp_path):
    done = CliRunner().invoke(app, ["part-study", *options, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, UsageError)
    assert said in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_the_command_reads_a_store_and_says_that_stripes_are_no_faces(store, drawn, tmp_path):
    options = ["--store", store.place.shown, "--portraits", str(drawn), "--out", str(tmp_path / "out")]
    asked = [*options, "--system", "full-input", "--scale", "3"]
    done = CliRunner().invoke(app, ["part-study", *asked])
    assert "drawn at 3 and not at 0" in str(done.exception)
    done = CliRunner().invoke(app, ["part-study", *asked, "--against", "shuffled"])
    assert isinstance(done.exception, VoxportraitError)
    assert "0 of 5 pairs of portraits show faces" in str(done.exception)


@pytest.mark.slow
def test_the_command_hears_synthetic_people(tmp_path):
    options = ["part-study", "--synthetic", "24", "--seed", "1", "--out", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, options, catch_exceptions=False)
    result = json.loads(done.stdout.splitlines()[-1])
    assert [study["measure"] for study in result["studies"]] == ["heads", "landmarks", "lab"]
    assert result["studies"][0]["n"] == 12
    assert json.loads((tmp_path / "part_study.json").read_text()) == result
    assert (tmp_path / "part_study.csv").exists()
    assert (tmp_path / "part_study.png").exists()
