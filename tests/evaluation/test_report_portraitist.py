"""The report's chapters of Fine-portraitist: shown where it was drawn, beside the paper's tables, copies told."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from evaluation.evaluate import evaluate
from evaluation.part_study import PARTS, published
from evaluation.portraits import Drawing
from evaluation.report import build_report
from evaluation.report.runs import read_runs, sizes
from tests.evaluation.test_evaluate import BY_COLOUR, true_drawings
from tests.evaluation.test_evaluate_portraitist import copied, drawings_of, own
from tests.evaluation.test_report import Page
from voxportrait import app


def with_files(drawings, *parts):
    """The same with pictures beside them."""
    for one in drawings:
        for part in parts:
            Image.new("RGB", (64, 64), "red").save(one.picture.with_name(f"{one.picture.stem}-{part}.png"))
    return [
        Drawing(
            one.picture,
            {part: one.picture.with_name(f"{one.picture.stem}-{part}.png") for part in parts},
            {**one.about, "untrained": [], "code": "0"},
        )
        for one in drawings
    ]


def studied():
    row = {"t": -4.2, "p": 0.0001, "p_bonferroni": 0.1, "p_holm": 0.06, "d": 0.21, "d_low": 0.11, "d_high": 0.31}
    parts = dict.fromkeys(PARTS, row)
    within = {"gender": {"either": {"n": 90, "parts": parts}}}
    return {"published": published(), "studies": [{"measure": "lab", "n": 100, "parts": parts, "within": within}]}


@pytest.fixture(scope="module")
def drawings(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("portraitists")
    return [
        *with_files(drawings_of(store, folder / "one", own, "one-stage", None)),
        *with_files(drawings_of(store, folder / "two", own, "two-stage", None), "bottom"),
        *with_files(drawings_of(store, folder / "identity", own), "bottom", "prior"),
        *with_files(drawings_of(store, folder / "video", copied, exclusion="video"), "bottom"),
    ]


@pytest.fixture(scope="module")
def page(store, drawings, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "index.html"
    result = evaluate(store, drawings, BY_COLOUR)
    return Page(build_report(store, [], result, drawings, {}, out, {}, studied()).read_text())


def test_only_chapters_of_what_was_drawn_are_there(page):
    assert page.headings[4:] == [
        "Fine-portraitist, from speech alone",
        "Fine-portraitist's tables, and what was measured here",
        "For whom it works",
        "What was not trained",
        "How it was made",
    ]
    assert "Portraits of 5 speakers" in page.text
    assert "drawn by fine-portraitist from speech, scale 1, identity excluded" in page.text
    assert page.nameless == []
    assert {source[1:] for source in page.sources if source.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_sheets_show_truth_prior_bottom_and_portrait(page):
    jpegs = [source for source in page.sources if source.startswith("data:image/jpeg")]
    # 12 in the corpus and the five pairs at the top; then of five speakers the true face, one portrait, a bottom and a
    # portrait, a prior, a bottom and a portrait; and again the true face beside both exclusions' three
    assert len(jpegs) == 12 + 2 * 5 + 5 * (1 + 1 + 2 + 3) + 5 * (1 + 3 + 3)
    assert "id00001 · 0.50" in page.text


def test_ours_stand_below_the_papers_ablation(page):
    rows = page.tables["ablation"]
    assert rows[0] == ["", "L1", "L2", "cos", "1 − cos", "gender", "age ± 10", "R@1", "R@2", "R@5"]
    assert rows[1] == ["one-stage “one stage” in the paper"]
    assert rows[2] == ["paper AVSpeech", "44.27", "2.38", "20.41", "–", "96.4", "80.3", "18.97", "29.32", "49.96"]
    assert (rows[3][0], rows[3][7:]) == ("here", ["100 57–100"] * 3)
    at = rows.index(["fine-portraitist “Fine-portraitist” in the paper"])
    assert [row[0] for row in rows[at + 1 : at + 4]] == [
        "paper AVSpeech",
        "here video excluded",
        "here identity excluded",
    ]
    assert ["retrieved face identity excluded"] in [row[:1] for row in rows]
    assert ["Wen et al. 2019; published", "59.82"] in [row[:2] for row in page.tables["methods-voxceleb"]]
    assert "Features are colours's here, VGG-Face's in the paper" in page.text


def test_every_gallery_says_its_size(page):
    heads = [row[0] for row in page.tables["portraitist-retrieval"] if len(row) == 1]
    assert heads == [
        "same frame 5 people",
        "another video 5 people",
        "every image 10 images of 5 people",
        "other images 10 images of 5 people",
        "identity mean 5 people",
    ]
    assert ["fine-portraitist, identity excluded", "100 % 57–100"] in [
        row[:2] for row in page.tables["portraitist-retrieval"]
    ]


def test_copies_are_told_by_exclusion(page):
    rows = page.tables["copies"]
    assert rows[1:] == [
        ["fine-portraitist video excluded; 5 portraits leaned on 5 faces; mean similarity of speech 0.50"],
        ["colours, l2", "100 % 57–100", "100 % 57–100", "100 % 57–100"],
        ["fine-portraitist identity excluded; 5 portraits leaned on 5 faces; mean similarity of speech 0.50"],
        ["colours, l2", "0 % 0–43", "20 % 4–62", "20 % 4–62"],
    ]
    assert "By colours the training faces are all 12 faces." in page.text


def test_the_part_study_stands_beside_table_one(page):
    rows = page.tables["part-study"]
    assert rows[1:5] == [
        ["jaw"],
        ["paper n 5,000", "2.85", "–", "–", "–", "0.04 0.01 to 0.07"],
        ["by lab n 100", "−4.20", "< 0.001", "0.100", "0.060", "0.21 0.11 to 0.31"],
        ["by lab n 90, within one gender", "−4.20", "< 0.001", "0.100", "0.060", "0.21 0.11 to 0.31"],
    ]


def test_both_families_have_their_own_chapters(store, drawings, tmp_path):
    (tmp_path / "slf").mkdir()
    slf = [
        Drawing(one.picture, one.beside, {**one.about, "untrained": [], "code": "0"})
        for one in true_drawings(store, tmp_path / "slf")
    ]
    both = [*slf, *drawings[:5]]
    page = Page(
        build_report(store, [], evaluate(store, both, BY_COLOUR), both, {}, tmp_path / "i.html", {}).read_text()
    )
    assert {"Portraits of unseen speakers", "Fine-portraitist, from speech alone"} <= set(page.headings)
    assert {"retrieval", "ablation", "groups", "portraitist-groups"} <= set(page.tables)
    assert "R@2" not in page.tables["retrieval"][0]
    assert "every image" not in " ".join(row[0] for row in page.tables["retrieval"])
    assert "copies" not in page.tables


def test_a_run_of_a_latent_stage_is_told(runs, tmp_path):
    about = json.loads((runs / "full-input-unet1" / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**about, "system": "fine-portraitist", "stage": "codec", "settings": {"batch_size": 4}})
    )
    first, last = read_runs([tmp_path, runs / "full-input-unet1"])
    assert (first["stage"], first["task"]) == ("U-Net 1", "8 to 32 px")
    assert (last["stage"], last["task"]) == ("codec", "faces to latents and back, beside speech")
    assert [size["stages"] for size in sizes([first, last])] == [1]


def test_what_is_no_part_study_is_refused(store, tmp_path):
    path = tmp_path / "part_study.json"
    asked = ["report", "--store", store.uri, "--runs", str(tmp_path), "--portraits", str(tmp_path), "--part-study"]
    missing = CliRunner().invoke(app, [*asked, str(path)])
    assert "make it with voxportrait part-study" in str(missing.exception)
    path.write_text('{"systems": []}')
    assert "is not the JSON of voxportrait part-study" in str(CliRunner().invoke(app, [*asked, str(path)]).exception)
    path.write_text(json.dumps(studied()))
    out = tmp_path / "page"
    done = CliRunner().invoke(app, [*asked, str(path), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "part-study" in Page((out / "index.html").read_text()).tables
