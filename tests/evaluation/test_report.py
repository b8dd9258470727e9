"""The report: one file that says all it should, asks nothing of the network, and copes with what is not there."""

import json
import re
from html.parser import HTMLParser

import pytest

from evaluation.evaluate import evaluate
from evaluation.metrics import wilson_interval
from evaluation.portraits import read_drawings
from evaluation.report import build_report
from evaluation.report.curves import loss_curve
from evaluation.sweep import Source
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
        self.tables: dict[str, list[list[str]]] = {}
        self.nameless: list[str] = []
        self._sheet = ""
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.sources += [found[key] for key in ("src", "href", "xlink:href", "data", "action") if key in found]
        if tag == "div" and found.get("class") == "sheet":
            self._sheet = found.get("id", "")
            self.tables[self._sheet] = []
        if tag == "tr" and self._sheet:
            self.tables[self._sheet].append([])
        if tag in ("th", "td") and self._sheet and self.tables[self._sheet]:
            self.tables[self._sheet][-1].append("")
        if tag == "section":
            self._sheet = ""
        if tag == "img" and not found.get("alt"):
            self.nameless.append(tag)
        if tag == "svg" and not (found.get("aria-label") or found.get("aria-hidden")):
            self.nameless.append(tag)
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
            if self._sheet and {"th", "td"} & set(self._open):
                self.tables[self._sheet][-1][-1] = " ".join(f"{self.tables[self._sheet][-1][-1]} {data}".split())
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
        "How good they are, beside the paper",
        "What the conditional scale does",
        "For whom it works",
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
    # 12 in the corpus; a test speaker's true face and a portrait of both systems; the pairs at the top; and of the
    # system that was drawn at two scales the true faces and both scales
    assert len(jpegs) == 12 + 3 * TEST_SPEAKERS + 2 * TEST_SPEAKERS + 3 * TEST_SPEAKERS


def test_every_picture_is_told_to_those_who_do_not_see_it(page):
    assert page.nameless == []


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


@pytest.fixture(scope="module")
def judged(store, runs, drawn, tmp_path_factory):
    """A page of numbers that are known: what `told` says."""
    folder = tmp_path_factory.mktemp("judged")
    drawings = read_drawings(drawn)
    return Page(
        build_report(store, sorted(runs.iterdir()), told(), drawings, {}, folder / "index.html", {}).read_text()
    )


def share(hits, n, random=None):
    low, high = wilson_interval(hits, n)
    found = {"hits": hits, "n": n, "value": hits / n, "low": low, "high": high}
    return found if random is None else {**found, "random": random}


def told():
    """An evaluation of 200 speakers: the full system at two scales, another one at the second."""

    def row(name, scale, hits, **more):
        recall = {
            gallery: {"dlib-l2": {str(k): share(hits * k - less, 200, k / 200) for k in (1, 3, 5, 10)}}
            for gallery, less in (("same-frame", 0), ("another-video", 1))
        }
        likeness = {"psnr": {"n": 200, "value": 12.5, "low": 12.0, "high": 13.0}, "ssim": None, "fid": None}
        return {
            "name": name,
            "about": "",
            "n": 200,
            "untrained": [],
            "recall": recall,
            "attributes": {
                "gender": {"judged": share(120, 200), "truth": share(90, 200)},
                "age_rmse": {"judged": {"n": 200, "value": 7.5, "low": 7.0, "high": 8.0}},
            },
            **likeness,
            "groups": {"gender": {"man": {"n": 80, "recall": {"same-frame": {"dlib-l2": {"1": share(8, 80, 0.005)}}}}}},
            "cond_scale": scale,
            "image_guide": True,
            "checkpoints": [],
            **more,
        }

    worth = {"value": 64.0, "low": -3.0, "high": 180.0, "band": "significant"}
    undefined = {"scale": 3.0, "value": None, "low": None, "high": None, "band": None}
    return {
        "galleries": {name: {"speakers": 200, "clip_ids": [], "about": ""} for name in ("same-frame", "another-video")},
        "recognisers": {"dlib-l2": {"name": "dlib", "metric": "l2", "untrained": False}},
        "attributes": {"judge": "DeepFace", "untrained": ["gender"], "absent": {"ethnicity": "no weights"}},
        "ranks": [1, 3, 5, 10],
        "systems": [row("full-input", 1.0, 4), row("full-input", 3.0, 10), row("no-image-guide", 3.0, 2)],
        "references": [row("average face", 0.0, 1, attributes={})],
        "significance": [
            {
                "about": "image guide",
                "all": "full-input",
                "without": "no-image-guide",
                "gallery": "same-frame",
                "recogniser": "dlib-l2",
                "at_equal_scales": [undefined],
                "at_best": {"scale_all": 3.0, "scale_without": 3.0, **worth},
            }
        ],
    }


def test_the_papers_recalls_and_ours_stand_below_each_other_at_the_best_scale(judged):
    rows = judged.tables["retrieval"]
    at = rows.index(["full-input “super-resolution SLF” in the paper"])
    assert rows[0] == ["", "R@1", "R@3", "R@5", "R@10"]
    assert rows[at + 1][:2] == ["paper scale 8", "16.9 % 11–25"]
    assert rows[at + 2] == [
        "here, scale 3 same frame, 200 faces",
        "5.0 % 3–9",
        "15.0 % 11–21",
        "25.0 % 20–31",
        "50.0 % 43–57",
    ]
    assert rows[at + 3][:2] == ["here, scale 3 another video, 200 faces", "4.5 % 2–8"]
    assert rows[-2][:2] == ["average face same frame, 200 faces", "0.5 % 0–3"]


def test_systems_that_were_not_made_here_have_the_papers_line_alone(judged):
    rows = judged.tables["retrieval"]
    at = rows.index(["no-audio"])
    assert rows[at + 1] == ["paper scale 4", "9.3 % 5–16", "15.25 % 10–23", "25.4 % 18–34", "31.4 % 24–40"]
    assert len(rows[at + 2]) == 1


def test_attributes_are_told_against_the_judge_and_against_the_truth(judged):
    rows = judged.tables["attributes"]
    assert ["here, scale 3 against the judge's word on the true face", "60.0 % 53–67", "–", "–", "7.5 7.0–8.0"] in rows
    assert ["here, scale 3 against the truth", "45.0 % 38–52", "–", "–", "–"] in rows
    assert "Judged by DeepFace, untrained in gender: there the numbers have no meaning." in judged.text
    assert "Not judged, as the weights of its judge were not there: ethnicity." in judged.text
    assert "voxportrait models fetch ethnicity brings them" in judged.text


def test_other_authors_are_published_only_and_galleries_stand_beside_their_shares(judged):
    rows = judged.tables["generation"]
    assert ["Speech2Face audio 3 s; published", "5 000", "8.54 %", "–", "24.8 %", "38.54 %"] in rows
    assert ["guessing here, same frame", "200", "0.5 %", "1.5 %", "2.5 %", "5.0 %"] in rows
    assert next(row for row in rows if row[0].startswith("no-image-guide"))[:3] == [
        "no-image-guide here, scale 3, same frame",
        "200",
        "1.0 % 0–4",
    ]
    assert judged.tables["super-resolution"][1][:2] == [
        "Learning to have an ear for face super-resolution audio and 8x8 image; published",
        "15.67 %",
    ]


def test_every_scale_stands_beside_the_papers(judged):
    rows = judged.tables["by-scale"]
    assert ["full-input"] in rows
    assert [row[:2] for row in rows if row[0].endswith("paper")][:2] == [
        ["0 paper", "5.1 2–11"],
        ["2 paper", "9.3 5–16"],
    ]
    assert ["1 here", "2.0 1–5"] in [row[:2] for row in rows]
    assert {"R@1, same frame %", "PSNR dB"} <= set(re.findall(r"R@1, same frame %|PSNR dB", judged.text))


def test_the_worth_of_an_input_has_its_interval_and_band_beside_the_papers(judged):
    rows = judged.tables["significance"]
    assert rows[1:] == [
        ["image guide full-input against no-image-guide"],
        ["paper", "75 significant", "–"],
        ["here, same frame best scales 3 and 3", "64 −3 to 180 significant", "– not defined"],
    ]


def test_groups_have_their_own_recalls(judged):
    assert ["man same frame, n 80", "10 % 5–19", "10 % 5–19"] in judged.tables["groups"]


def test_how_far_numbers_can_be_compared_is_said_beside_them(judged):
    assert (
        "Synthetic people here, real speakers of VoxCeleb2 in the paper; 200 faces to choose from instead of 118"
        in (judged.text)
    )
    assert "Faces are compared by dlib (L2) here, by VGG-Face (L2) in the paper." in judged.text


def test_guessing_stands_beside_a_real_evaluation(page):
    assert "5 faces to choose from instead of 118: guessing finds 20.0 % at R@1" in page.text
    assert "R@10" not in page.tables["groups"][0]


def test_untrained_inputs_and_recognisers_are_said_beside_what_they_made(store, drawn, tmp_path):
    """And people who were trained on are not called unseen."""
    found = told()
    found["recognisers"]["dlib-l2"]["untrained"] = True
    about = {"seen": True}
    written = build_report(store, [], found, read_drawings(drawn), {}, tmp_path / "index.html", about).read_text()
    page = Page(written)
    assert page.text.count("ecapa: of untrained weights, without meaning.") == 1
    assert "Inputs of untrained weights, without meaning: ecapa." in page.text
    assert page.text.count("untrained recogniser: no meaning") == len(found["galleries"])
    said = "Faces are compared by dlib with untrained weights: these recalls have no meaning."
    assert page.text.count(said) == 6  # retrieval, Tables 8, 9 and 10, significance, groups
    assert "never saw" not in page.text
    assert "Portraits of speakers that were trained on" in page.headings
    assert any(line[0].endswith("same frame, n 80") for line in page.tables["groups"])


def test_without_a_store_the_page_has_what_the_records_and_runs_tell(store, runs, drawn, tmp_path):
    records = Source(store).records(None)
    page = Page(
        build_report(
            records, sorted(runs.iterdir()), told(), read_drawings(drawn), {}, tmp_path / "i.html", {}
        ).read_text()
    )
    assert "The people" not in page.headings
    assert "Training" in page.headings
    assert "id00007 man, 27" in page.text
    assert "retrieval" in page.tables


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
    page = Page(build_report(store, [run], {}, [], {}, tmp_path / "index.html", {}).read_text())
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
