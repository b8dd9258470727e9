"""`voxportrait evaluate` on a store and on an export, by a recogniser that is small and was never trained."""

import json

import pytest
from typer.testing import CliRunner

from featurestore.artifacts import row_ids_of
from featurestore.conditioning import LAYOUTS
from featurestore.exporting import export
from pipelines import weights
from tests.evaluation.test_evaluate import true_drawings
from tests.evaluation.test_evaluate_portraitist import copied, drawings_of, own
from voxportrait import app


@pytest.fixture(scope="module")
def drawn_truly(store, tmp_path_factory):
    """A folder of portraits that are the true faces, as `read_drawings` finds them."""
    folder = tmp_path_factory.mktemp("true") / "full-input" / "scale-1"
    folder.mkdir(parents=True)
    listed = [
        {"picture": one.picture.name, "coarse": one.coarse.name, "about": {**one.about, "untrained": ["pyannote"]}}
        for one in true_drawings(store, folder)
    ]
    (folder / "index.json").write_text(json.dumps(listed))
    return folder.parents[1]


@pytest.fixture(scope="module")
def run(drawn_truly, tmp_path_factory):
    """run(*arguments): the command on these portraits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VOXPORTRAIT_STORE", raising=False)
        patch.setenv("VOXPORTRAIT_MODELS", str(tmp_path_factory.mktemp("models")))
        weights.write_untrained("deepid")
        fixed = ["evaluate", "--portraits", str(drawn_truly), "--recogniser", "deepid", "--device", "cpu"]
        yield lambda *arguments: CliRunner().invoke(app, [*fixed, *map(str, arguments)])


def test_people_read_a_table_and_machines_one_line(store, run, tmp_path):
    common = ("--store", store.uri)
    shown = run(*common)
    assert shown.exit_code == 0, shown.output
    told = " ".join(shown.stdout.split())
    assert "Found among 5 (same-frame), % and 95 %, by deepid-l2 (UNTRAINED: no meaning)" in told
    assert "(another-video)" in told
    assert "age, gender, ethnicity: not judged" in shown.stderr
    assert "untrained weights made these inputs of the portraits: pyannote" in shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 100
    asked = run(*common, "--metric", "l2", "--metric", "cosine", "--out", tmp_path / "deep" / "result.json", "--json")
    result = json.loads(asked.stdout.splitlines()[-1])
    assert list(result["recognisers"]) == ["deepid-l2", "deepid-cosine"]
    assert all(judge["untrained"] for judge in result["recognisers"].values())
    assert json.loads((tmp_path / "deep" / "result.json").read_text()) == result


def test_an_export_gives_what_its_store_gives(store, run, tmp_path):
    path = tmp_path / "faces.safetensors"
    export(store, path, LAYOUTS["slf"].only("age", "gender"), missing="zero", splits=("train", "test"))
    results = [run("--store", store.uri, "--json"), run("--export", path, "--json")]
    first, second = (json.loads(one.stdout.splitlines()[-1]) for one in results)
    assert first == second
    assert "Whether somebody was forgotten since is known by the store alone" in results[1].stderr
    checked = run("--export", path, "--store", store.uri, "--out", tmp_path / "kept.json", "--json")
    assert json.loads(checked.stdout.splitlines()[-1]) == first
    noted = store.table("artifacts").to_table(columns=["path", "row_ids"]).to_pylist()
    (kept,) = [row for row in noted if row["path"] == str(tmp_path / "kept.json")]
    named = {clip_id for gallery in first["galleries"].values() for clip_id in gallery["clip_ids"]}
    assert sorted(kept["row_ids"]) == sorted(row_ids_of(store, sorted(named)))


def test_portraits_of_several_folders_are_judged_together(store, run, tmp_path):
    """Drawn under two policies: a row each, and what is said of copies."""
    folders = []
    for exclusion, shown in (("identity", own), ("video", copied)):
        folder = tmp_path / exclusion / "fine-portraitist" / "scale-1"
        drawings = drawings_of(store, folder, shown, exclusion=exclusion)
        (folder / "index.json").write_text(
            json.dumps([{"picture": one.picture.name, "about": one.about} for one in drawings])
        )
        folders += ["--portraits", folder.parents[1]]
    shown = run("--store", store.uri, *folders, "--ranks", "1,4")
    assert shown.exit_code == 0, shown.output
    told = " ".join(shown.stdout.split())
    assert "Found among 10 of 5 people (every-image), % and 95 %, by deepid-l2 (UNTRAINED: no meaning)" in told
    assert "fine-portraitist, identity excluded" in told
    assert "Feature distances to the true face by deepid, mean and 95 % (UNTRAINED: no meaning)" in told
    assert "Copies of the retrieved face?" in told
    assert "deepid to compare with: all 12 faces" in shown.stderr
    kept = tmp_path / "kept.json"
    asked = run("--store", store.uri, *folders[:2], "--out", kept, "--json")
    result = json.loads(asked.stdout.splitlines()[-1])
    assert [row["exclusion"] for row in result["systems"] if row["family"] == "fine-portraitist"] == ["identity"]
    (row_ids,) = [
        row["row_ids"]
        for row in store.table("artifacts").to_table(columns=["path", "row_ids"]).to_pylist()
        if row["path"] == str(kept)
    ]
    nearest = result["systems"][-1]["copying"]["deepid-l2"]["nearest"]
    assert set(row_ids_of(store, list(nearest.values()))) <= set(row_ids)
    twice = run("--store", store.uri, *folders[:2], *folders[:2])
    assert "there are two portraits of" in str(twice.exception)
    assert "--ranks takes whole numbers" in str(run("--store", store.uri, "--ranks", "0").exception)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((), "say whose portraits"),
        (("--store", "a", "--split", "tests"), "Did you mean 'test'"),
    ],
)
def test_misuse_is_said(run, wrong, message):
    told = run(*wrong)
    assert told.exit_code == 2 or getattr(told.exception, "exit_code", None) == 2
    assert message in str(told.exception) + told.output
