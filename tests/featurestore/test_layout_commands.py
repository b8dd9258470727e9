"""`voxportrait layout`: the map, one clip's matrix in words and as a picture, and which clips have what it takes."""

import csv
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from featurestore import artifacts, inprocess, snapshots
from featurestore.conditioning import LAYOUTS, SYSTEMS, Layout
from featurestore.errors import UsageError, VoxportraitError
from featurestore.layout_picture import colours, described, spread
from featurestore.slips import SLIPS, slips_of
from featurestore.store import Store
from tests.featurestore.conftest import clip, value, want
from voxportrait import app

CLIPS = 12
WITHOUT_EAR, WITHOUT_FACE, WITHOUT_GENDER = 3, 5, 7

PAGE = (Path(__file__).parents[2] / "docs" / "layouts.md").read_text()
COMMANDS = re.findall(r"^    voxportrait layout (.+)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Twelve clips with ecapa, age, gender and a face; one lacks ecapa, one its face, one knows no gender."""
    made = Store.open_or_create(str(tmp_path_factory.mktemp("layouts") / "store"))
    made.register(replace(clip(n), consent="yes" if n < 6 else "no") for n in range(CLIPS))
    lacks = {clip(WITHOUT_EAR).clip_id: "ecapa", clip(WITHOUT_FACE).clip_id: "face_128"}

    def make(one, wanted):
        columns: dict[str, Any] = {"age": 30.0, "age_probability": 1.0}
        for key in sorted(wanted - {"age"}):
            if lacks.get(one.clip_id) != key:
                columns |= value(key, one.clip_id)
        if one.clip_id == clip(WITHOUT_GENDER).clip_id:
            columns["gender"] = None
        return columns

    inprocess.fill(made, [want(key) for key in ("ecapa", "age", "gender", "face_128")], make)
    return made


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> str:
    """A file with the blocks that the store can fill."""
    path = tmp_path_factory.mktemp("layout") / "mine.json"
    blocks = [b for b in LAYOUTS["slf-released"].to_json()["blocks"] if b["constituent"] in ("ecapa", "age", "gender")]
    path.write_text(json.dumps({"blocks": blocks}))
    return str(path)


def run(*words):
    done = CliRunner().invoke(app, ["layout", *map(str, words)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def answer(*words):
    return json.loads(run(*words, "--json").splitlines()[-1])


def test_the_list_names_layouts_systems_groups_and_slips():
    told = answer("list")
    assert set(told["layouts"]) == {"slf", "slf-released"}
    assert list(told["systems"]) == list(SYSTEMS)
    assert told["groups"]["librosa"] == ["mel"]
    assert "asian-at-16" in told["slips"]
    words = run("list")
    assert all(name in words for kind in ("layouts", "systems", "groups", "slips") for name in told[kind])


def test_the_map_needs_no_store():
    told = answer("show", "slf")
    assert Layout.from_json(told["layout"]) == LAYOUTS["slf"]
    (mel,) = (block for block in told["blocks"] if block["constituent"] == "mel")
    assert (mel["rows"], mel["columns"], mel["scale"]) == ([108, 218], [0, 127], 0.01)
    words = run("show", "slf").splitlines()
    assert any(line.split()[:4] == ["108..218", "0..127", "mel", "111"] and "/100" in line for line in words)


def test_what_is_shown_is_chosen_by_slips_then_system_then_names(tmp_path):
    path = tmp_path / "folder" / "saved.json"
    told = answer("show", "slf-released", "--slips", "all", "--system", "no-audio", "--without", "age", "--save", path)
    on = [block["constituent"] for block in told["blocks"] if block["state"] != "off"]
    assert on == ["ethnicity", "gender", "language"]
    assert len(told["slips"]) == 7
    assert answer("show", path)["fingerprint"] == told["fingerprint"]
    assert answer("show", "slf-released", "--slips", "none")["slips"] == []
    assert answer("show", "slf-released", "--slips", "cut-at-80")["slips"] == ["cut-at-80"]
    on = [b["constituent"] for b in answer("show", "--only", "librosa,age")["blocks"] if b["state"] != "off"]
    assert on == ["mel", "age"]


def test_a_clip_fills_blocks_or_leaves_them_unknown_missing_or_off(store, layout):
    def states(number, *more):
        told = answer("show", layout, "--store", store.uri, "--clip", clip(number).clip_id, *more)
        return {block["constituent"]: block for block in told["blocks"]}

    whole = states(1)
    assert {key: one["state"] for key, one in whole.items()} == dict.fromkeys(("age", "gender", "ecapa"), "filled")
    assert (whole["age"]["value"], whole["age"]["mean"], whole["gender"]["value"]) == ("30 years", 0.3, "woman")
    stored = value("ecapa", clip(1).clip_id)["ecapa"].astype(np.float16).astype(np.float32) / 200
    assert whole["ecapa"]["minimum"] == pytest.approx(stored.min(), rel=1e-5)
    assert whole["ecapa"]["mean"] == pytest.approx(stored.mean(), abs=1e-6)
    assert whole["ecapa"]["maximum"] == pytest.approx(stored.max(), rel=1e-5)
    assert states(WITHOUT_GENDER)["gender"]["state"] == "unknown"
    assert states(WITHOUT_EAR)["ecapa"]["state"] == "missing"
    assert states(1, "--without", "ecapa")["ecapa"]["state"] == "off"
    assert "woman" in run("show", layout, "--store", store.uri, "--clip", clip(1).clip_id)


def test_values_beyond_the_clamp_and_no_numbers_are_counted():
    vector = np.zeros((1, 192), np.float16)
    vector[0, :3] = 2.0, -3.0, np.nan
    (entry,) = (one for one in described(LAYOUTS["slf"], {"titanet": vector}) if one.block.constituent == "titanet")
    assert (entry.minimum, entry.maximum) == (-10, 10)
    assert entry.clamped == pytest.approx(3 / 192)


def test_the_picture_shows_values_by_sign_and_is_known_to_be_of_the_clip(store, layout, tmp_path):
    drawn = tmp_path / "new" / "one.png"
    run("show", layout, "--store", store.uri, "--clip", clip(1).clip_id, "--out", drawn)
    with Image.open(drawn) as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture).std() > 0
    (row_id,) = artifacts.row_ids_of(store, [clip(1).clip_id])
    assert artifacts.made_of(store, "picture", np.array([row_id])) == [str(drawn)]


def test_colours_tell_signs_and_what_is_empty():
    matrix = np.zeros((256, 768), np.float32)
    matrix[0, :3] = 0.5, -0.5, 0.1
    red, green, _, strength = np.moveaxis(colours(matrix, LAYOUTS["slf"]), -1, 0)
    assert green[0, 0] > red[0, 0]
    assert red[0, 1] > green[0, 1]
    assert strength[0, 0] > strength[0, 2] > strength[0, 3] == 0


def test_names_are_moved_apart_as_little_as_may_be():
    assert spread([10, 50, 90], 20, 0, 100) == [10, 50, 90]
    assert spread([50, 51, 52], 20, 0, 100) == [50, 70, 90]
    assert spread([98, 99, 100], 20, 0, 100) == [60, 80, 100]


def test_a_check_counts_the_clips_of_each_split(store, layout):
    told = answer("check", "--store", store.uri, "--layout", layout)
    assert told["clips"] == {"train": 9, "val": 0, "test": 3}
    assert told["ready"]["train"] == {"assembled": 8, "with_face_128": 8}
    assert told["ready"]["test"] == {"assembled": 3, "with_face_128": 2}
    assert told["systems"]["no-audio"]["train"]["assembled"] == 9
    assert told["systems"]["only-image-guide"]["test"] == {"assembled": 3, "with_face_128": 2}
    assert told["lacking"]["ecapa"] == {"train": 1, "val": 0, "test": 0}
    assert told["lacking"]["face_128"] == {"train": 0, "val": 0, "test": 1}
    counts = store.batches(LAYOUTS["slf"].only("ecapa", "age", "gender"), 4, missing="skip").describe()
    assert told["ready"]["train"]["with_face_128"] == counts["clips"]


def test_a_check_lists_who_lacks_what(store, layout, tmp_path):
    lacking = {clip(WITHOUT_EAR).clip_id: ("train", "ecapa"), clip(WITHOUT_FACE).clip_id: ("test", "face_128")}
    path = tmp_path / "new" / "lacking.csv"
    told = answer("check", "--store", store.uri, "--layout", layout, "--list", "--csv", path)
    assert {one["clip_id"]: (one["split"], *one["lacks"]) for one in told["incomplete"]} == lacking
    rows = list(csv.DictReader(path.open()))
    assert {row["clip_id"]: (row["split"], row["lacks"]) for row in rows} == lacking
    words = run("check", "--store", store.uri, "--layout", layout, "--list", "--split", "test")
    assert clip(WITHOUT_FACE).clip_id in words
    assert clip(WITHOUT_EAR).clip_id not in words


def test_a_check_follows_the_policy_and_the_snapshot(store, layout):
    consenting = answer("check", "--store", store.uri, "--layout", layout, "--require-consent")
    assert consenting["clips"] == {"train": 4, "val": 0, "test": 2}
    snapshots.take(store, "few", where=f"clip_id < '{clip(6).clip_id}'")
    few = ("check", "--store", store.uri, "--layout", layout, "--snapshot", "few")
    assert sum(answer(*few)["clips"].values()) < CLIPS
    assert answer(*few)["snapshot"] == "few"
    assert answer(*few, "--require-consent")["clips"] == consenting["clips"]


def test_a_store_with_nothing_filled_lacks_everything(tmp_path):
    empty = Store.open_or_create(str(tmp_path / "store"))
    with pytest.raises(UsageError, match="no clip"):
        run("check", "--store", empty.uri)
    empty.register(clip(n) for n in range(3))
    told = answer("check", "--store", empty.uri)
    assert told["ready"]["train"]["assembled"] == 0
    assert told["lacking"]["mel"]["train"] == 2
    shown = answer("show", "--store", empty.uri, "--clip", clip(1).clip_id, "--out", tmp_path / "empty.png")
    assert {block["state"] for block in shown["blocks"]} == {"missing"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "--clip", "x"), "Add --store"),
        (("show", "--out", "matrix.gif"), "--out takes a .png"),
        (("show", "sfl"), "unknown layout 'sfl'"),
        (("show", "--system", "full"), "unknown system 'full'"),
        (("show", "--without", "agee"), "unknown constituent or group 'agee'. Did you mean 'age'"),
        (("show", "--slips", "asian"), "unknown slip 'asian'. Did you mean 'asian-at-16'"),
        (("check", "--split", "dev", "--store", "STORE"), "unknown split 'dev'"),
        (("check", "--snapshot", "july", "--store", "STORE"), "unknown snapshot 'july'"),
        (
            ("show", "--clip", "nobody", "--store", "STORE"),
            "there is no clip 'nobody' in .*: clips are called as 'made/",
        ),
    ],
)
def test_misuse_is_one_line(store, words, message, monkeypatch):
    monkeypatch.delenv("VOXPORTRAIT_STORE", raising=False)
    with pytest.raises(VoxportraitError, match=message) as error:
        run(*(store.uri if word == "STORE" else word for word in words))
    assert "\n" not in str(error.value)


def test_every_example_of_the_page_runs(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("show", "--only", "ecapa", "--save", "mine.json")
    snapshots.take(store, "october")
    assert len(COMMANDS) > 8
    for command in COMMANDS:
        run(*shlex.split(command.replace("/data/features", store.uri).replace("$CLIP", clip(1).clip_id)))
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, {})
    assert {path.name for path in tmp_path.iterdir()} == {
        "mine.json", "map.png", "matrix.png", "lacking.csv", "as-run.json", "mended.json"
    }  # fmt: skip


def test_the_page_tells_each_slip_and_where_it_is():
    told = {
        line.split("`")[1]: line.endswith("| yes |") for line in PAGE.splitlines() if line.endswith(("yes |", "no |"))
    }
    assert told == {name: name in slips_of(LAYOUTS["slf-released"]) for name in SLIPS}
