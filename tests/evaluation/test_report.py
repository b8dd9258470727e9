"""The report: one file that says all it should, asks nothing of the network, and copes with what is not there."""

import json
import re
from html.parser import HTMLParser

import pytest

from evaluation.evaluate import evaluate
from evaluation.portraits import read_drawings
from evaluation.report import build_report
from evaluation.report.curves import loss_curve
from featurestore.conditioning import Block, Layout
from featurestore.errors import UsageError
from featurestore.store import Store
from tests.evaluation.conftest import TEST_SPEAKERS, fill
from tests.evaluation.test_evaluate import BY_COLOUR


class Page(HTMLParser):
    """Chapters, pictures, links and text of a page, and whether its elements are closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.sources += [found[key] for key in ("src", "href", "xlink:href", "data", "action") if key in found]
        if tag not in ("meta", "link", "img", "br", "col"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)
            if self._open[-1] == "h2":
                self.headings.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def html(store, runs, drawn, tmp_path_factory):
    drawings = read_drawings(drawn)
    out = build_report(
        store,
        sorted(runs.iterdir()),
        evaluate(store, drawings, BY_COLOUR),
        drawings,
        {"corpus": {"seconds": 30.0, "count": 25, "unit": "clips"}, "evaluate": {"seconds": 4.0}},
        tmp_path_factory.mktemp("report") / "page" / "index.html",
        {"commands": ["voxportrait demo demo"], "machine": {"cores": 2}, "seeds": {"training": 0}},
    )
    return out.read_text()


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_all_chapters_are_there(page):
    assert page.headings == [
        "The people",
        "What was extracted",
        "How long it took",
        "What a model is told",
        "Training",
        "Portraits of unseen speakers",
        "How good they are",
        "What was not trained",
        "How it was made",
    ]


def test_nothing_is_asked_of_the_network(html, page):
    assert page.sources
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert not re.search(r"https?:|@import|url\((?!#)", html)
    assert "<script" not in html


def test_links_lead_somewhere(page):
    assert {source[1:] for source in page.sources if source.startswith("#")} <= set(page.ids)


def test_every_face_and_portrait_is_shown(page):
    jpegs = [source for source in page.sources if source.startswith("data:image/jpeg")]
    # 12 in the corpus; a test speaker's true face and 3 portraits; the first test speakers in pairs at the top
    assert len(jpegs) == 12 + 4 * TEST_SPEAKERS + 2 * TEST_SPEAKERS


def test_it_says_that_portraits_are_generated_and_nobody_exists(page):
    assert "Every portrait on this page is generated." in page.text
    assert "none of them exists" in page.text


def test_a_corpus_of_real_people_is_not_called_synthetic(tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    fill(store, consent="written, 2024")
    text = Page(build_report(store, [], {}, [], {}, tmp_path / "index.html", {}).read_text()).text
    assert "written, 2024 (25 clips)" in text
    assert "none of them exists" not in text


def test_blocks_of_the_matrix_are_named_and_absent_ones_too(page):
    assert "pyannote 26 × 512 not extracted, zero" in page.text
    assert "age 1 × 768 27 years" in page.text
    assert "gender 1 × 2 man" in page.text


def test_untrained_makers_runs_and_quarantine_are_told(page):
    assert "ecapa was made by maker of ecapa with weights that were never trained (24 clips)" in page.text
    assert "4 U-Nets of preset micro saw 24 pictures each, from 12 clips" in page.text
    assert "no face face 1 made/id00001/video9/00001 : none in 5 <frames>" in page.text
    assert "f00df00df00d" in page.text


def test_times_come_from_the_steps_and_from_the_jobs(page):
    assert "extract 25 clips 4.0 s 6.2 clips/s" in page.text
    assert "corpus 25 clips 30 s 0.8 clips/s" in page.text
    assert "ecapa 5.0 s 208 ms" in page.text


def test_results_stand_beside_guessing_and_the_paper_is_set_apart(page):
    assert "guessing 20 % 60 %" in page.text
    assert (
        "Not comparable with the table above: 118 real speakers of VoxCeleb2 instead of 5 synthetic ones" in page.text
    )
    assert "R@5" not in page.text[: page.text.index("The published system")]


def test_an_empty_store_makes_a_page(tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    page = Page(build_report(store, [], {}, [], {}, tmp_path / "index.html", {}).read_text())
    assert "Training" not in page.headings
    assert "Nothing has been trained from it yet." in page.text


def test_one_point_of_one_run_is_enough(store, runs, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text((runs / "full-input-unet1" / "config.json").read_text())
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    empty = {
        "gallery": {"speakers": 5, "embedding": "dlib", "clip_ids": []},
        "ranks": [1],
        "systems": [],
        "references": [],
    }
    page = Page(build_report(store, [run], empty, [], {}, tmp_path / "index.html", {}).read_text())
    assert "no portraits have been drawn yet" in page.text
    assert "1 of 6" in page.text


def test_the_matrix_is_drawn_in_the_layout_of_the_run_whatever_its_name(store, runs, tmp_path):
    own = Layout("mine", (Block("ecapa", 7, 1, 100, 192), Block("age", 9, 1, 0, 300, "constant")), off=("age",))
    run = tmp_path / "run"
    run.mkdir()
    about = json.loads((runs / "full-input-unet1" / "config.json").read_text()) | {"layout": own.to_json()}
    (run / "config.json").write_text(json.dumps(about))
    page = Page(build_report(store, [run], {}, [], {}, tmp_path / "index.html", {}).read_text())
    assert "Layout mine (" in page.text
    assert "age 1 × 300 27 years" in page.text
    assert "pyannote 26 × 512" not in page.text


def test_a_folder_that_is_no_run_is_refused(store, tmp_path):
    with pytest.raises(UsageError, match="not a run"):
        build_report(store, [tmp_path], {}, [], {}, tmp_path / "index.html", {})


def test_a_curve_takes_the_pages_colours_and_names_its_lines():
    rows = [{"step": s, "loss": 1 / s} for s in range(1, 30)] + [{"step": 29, "validation_loss": 0.1}]
    svg = loss_curve(rows)
    assert svg is not None
    assert svg == loss_curve(rows)
    assert "var(--accent)" in svg
    assert "var(--warm)" in svg
    assert "#0" not in svg
    assert {"training", "validation"} <= set(re.findall(r">\s*(\w+)\s*</text>", svg))
    assert loss_curve(rows[:1]) is None
