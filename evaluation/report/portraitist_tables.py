"""The Fine-portraitist paper's Tables I to IV with what was measured here beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.families import leaning_words
from evaluation.report import paper
from evaluation.report.cells import (
    Cell,
    Group,
    Line,
    Table,
    as_printed,
    beside,
    mean,
    percent,
    recogniser_words,
    reference_name,
    share,
    spoken,
)
from evaluation.report.portraitist_comparing import Comparison
from evaluation.sweep import best_scales, recalls

DISTANCES = {"l1": ("L1", "%.3g"), "l2": ("L2", "%.3g"), "degrees": ("cos", "%.1f°"), "cosine": ("1 − cos", "%.3f")}
SHARES = {"gender": "gender", "age_within_10": "age ± 10"}
COPIES = {
    "nearer_to_prior": "nearer to the retrieved face than to the speaker's",
    "prior_is_nearest": "the retrieved face is the nearest of all that were trained on",
    "prior_person_is_nearest": "a face of the retrieved person is the nearest",
}
METHODS = {
    "one-stage": "one stage",
    "two-stage": "two stage, no retrieval prior",
    "fine-portraitist": "Fine-portraitist",
}
"""Our systems by the names of the paper's Table IV."""


def part_study(study: Mapping[str, Any]) -> Table | None:
    """Table I, of the JSON of `voxportrait part-study`; None without one."""
    studies = study.get("studies", [])
    if not studies:
        return None
    printed = study["published"]
    groups = []
    for part, row in printed["parts"].items():
        lines = [Line("paper", "paper", _tested(row), f"n {printed['n']:,}")]
        for one in studies:
            lines.append(Line("here", f"by {one['measure']}", _tested(one["parts"][part]), f"n {one['n']:,}"))
            for grouping, found in one.get("within", {}).items():
                if either := found.get("either"):
                    words = f"n {either['n']:,}, within one {grouping}"
                    lines.append(Line("here", f"by {one['measure']}", _tested(either["parts"][part]), words))
        groups.append(Group(lines, part))
    return Table(
        "part-study",
        "Which parts of the face speech tells",
        ["t", "p", "p, Bonferroni", "p, Holm", "effect size d"],
        groups,
        "Table I",
        (
            "Other people, another generator and other measures of a part than the paper's. Its t grows with the root "
            "of its pairs: compare the effect, and what is significant, not t.",
        ),
        "Paired t-test, two-sided, of how near a drawn part is to the true one with speech and without it: positive is "
        f"nearer with speech; the paper's critical t is {printed['critical']}. Within one gender the speech is "
        "compared with another's of the same gender.",
        numeric=True,
    )


def _tested(row: Mapping[str, Any]) -> list[Cell | None]:
    interval = f"{row['d_low']:.2f} to {row['d_high']:.2f}".replace("-", "−")
    probabilities = [Cell(_small(row[p])) if p in row else None for p in ("p", "p_bonferroni", "p_holm")]
    return [Cell(_signed(row["t"])), *probabilities, Cell(_signed(row["d"]), interval)]


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _small(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def beside_others(evaluation: Mapping[str, Any], comparison: Comparison, table: str, number: str, corpus: str) -> Table:
    """Table II or III: other authors' methods and the paper's, as published, and ours."""
    lines = [
        Line(
            "paper" if row["method"] == "Fine-portraitist" else "other",
            row["method"],
            _published(row),
            f"{row['year']}; published" if row["year"] else "published",
        )
        for row in paper.portraitist_rows(table)
    ]
    ours = [one for (name, _), row in best_scales(evaluation).items() if name == "fine-portraitist"
            for one in _here(row, comparison)]  # fmt: skip
    words = (
        "Other authors' methods are as the paper prints them, judged by it on its own people; ours are the same as in "
        "the table before, of none of these.",
    )
    return _table(
        f"methods-{corpus.lower()}", f"Beside other methods, {corpus}", [Group([*lines, *ours])], number, words
    )


def ablation(evaluation: Mapping[str, Any], comparison: Comparison) -> Table:
    """Table IV: one stage, two stages, and those with the retrieved prior."""
    printed = {row["method"]: row for row in paper.portraitist_rows("table_4_ablation_avspeech")}
    best = best_scales(evaluation)
    groups = []
    for name, method in METHODS.items():
        lines = [Line("paper", "paper", _published(printed[method]), "AVSpeech")]
        lines += [line for (system, _), row in best.items() if system == name for line in _here(row, comparison)]
        groups.append(Group(lines, name, f"“{method}” in the paper"))
    groups += _references(evaluation, comparison)
    words = comparison.of("people", "features", "cosine", "judge", "gallery")
    caption = (
        "Distances of a recogniser's features to the true face: the less, the better. Shares in percent. Intervals are "
        f"95 %. R@k is of the gallery “{spoken(comparison.gallery)}”; the others are below."
    )
    return _table("ablation", "What the stages and the prior bring", groups, "Table IV", words, caption)


def _table(
    key: str, title: str, groups: Sequence[Group], number: str, compare: Sequence[str], caption: str = ""
) -> Table:
    heads = [
        *(head for head, _ in DISTANCES.values()),
        *SHARES.values(),
        *(f"R@{k}" for k in paper.PORTRAITIST_RECALLS),
    ]
    return Table(key, title, heads, groups, number, compare, caption, numeric=True)


def _published(row: Mapping[str, Any]) -> list[Cell | None]:
    shares = [row["gender"], row["age"], *(row[name] for name in paper.PORTRAITIST_RECALLS.values())]
    return [
        Cell(f"{row['l1']:.2f}"),
        Cell(f"{row['l2']:.2f}"),
        Cell(f"{row['cos']:.2f}"),
        None,
        *(Cell(as_printed(value).removesuffix(" %")) for value in shares),
    ]


def _here(row: Mapping[str, Any], comparison: Comparison, name: str = "here", kind: str = "here") -> list[Line]:
    """A row of ours, by the leading recogniser in the leading gallery; against the corpus's truth in a second line."""
    features = row.get("features", {}).get(comparison.features, {})
    found = recalls(row, comparison.gallery, comparison.recogniser)
    said = row.get("attributes", {})
    distances = [mean(features.get(key), form) for key, (_, form) in DISTANCES.items()]
    shares = [_plain(share(found.get(k))) for k in paper.PORTRAITIST_RECALLS]
    scale = f"scale {row['cond_scale']:g}" if row.get("cond_scale", 1) != 1 else ""
    about = ", ".join(filter(None, (scale, leaning_words(row["name"], row.get("exclusion")))))
    lines = [
        Line(
            kind,
            name,
            [*distances, *(_plain(share(said.get(key, {}).get("judged"))) for key in SHARES), *shares],
            about,
        )
    ]
    if any("truth" in said.get(key, {}) for key in SHARES):
        cells = [_plain(share(said.get(key, {}).get("truth"))) for key in SHARES]
        blank: list[Cell | None] = [None] * len(DISTANCES)
        lines.append(Line(kind, name, [*blank, *cells, *([None] * len(shares))], "against the corpus's truth"))
    return lines


def _plain(cell: Cell | None) -> Cell | None:
    """A share in a table of numbers: without its sign and its line."""
    return cell and Cell(cell.value.removesuffix(" %"), cell.interval)


def _references(evaluation: Mapping[str, Any], comparison: Comparison) -> list[Group]:
    return beside(
        {"references": [row for row in evaluation["references"] if row.get("features")]},
        lambda name, row, kind: _here(row, comparison, name, kind),
    )


def retrieval(evaluation: Mapping[str, Any], comparison: Comparison) -> Table:
    """Recall in every gallery, of every row."""
    ks = [str(k) for k in evaluation["ranks"]]
    rows = [(_called(row), "here", row) for row in best_scales(evaluation).values()]
    rows += [(_called({**row, "name": reference_name(row)}), "reference", row) for row in evaluation["references"]]
    groups = []
    for gallery in evaluation["galleries"]:
        lines = [
            Line(kind, name, [share(found.get(k)) for k in ks])
            for name, kind, row in rows
            if (found := recalls(row, gallery, comparison.recogniser))
        ]
        groups.append(Group(lines, spoken(gallery), _searched(evaluation["galleries"][gallery])))
    return Table(
        "portraitist-retrieval",
        "Found again, in every gallery",
        [f"R@{k}" for k in ks],
        groups,
        "",
        comparison.of("galleries", "few"),
        "The upright mark is what guessing finds: the probability that k images drawn at random hold one of the "
        "speaker's. A k that finds somebody for certain is left out. Grey: drawn by no model.",
    )


def _called(row: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, (row["name"], leaning_words(row["name"], row.get("exclusion")))))


def _searched(about: Mapping[str, Any]) -> str:
    images, speakers = about["images"], about["speakers"]
    return f"{images:,} images of {speakers:,} people" if images != speakers else f"{speakers:,} people"


def copies(evaluation: Mapping[str, Any], comparison: Comparison) -> Table | None:
    """How often portraits are copies of what they leaned on; None where none leaned on anything that is here."""
    groups = []
    for (name, exclusion), row in best_scales(evaluation).items():
        prior = row.get("prior") or {}
        if prior.get("n", 0) - prior.get("gone", 0) <= 0:
            continue
        lines = [
            Line("here", recogniser_words(about), [share(told[one]) for one in COPIES])
            for key, about in evaluation["recognisers"].items()
            if (told := row["copying"].get(key))
        ]
        similar = prior["similarity"]
        words = [f"{exclusion} excluded", f"{prior['n']} portraits leaned on {prior['faces']} faces"]
        words += [f"mean similarity of speech {similar['value']:.2f}"] if similar else []
        words += [f"{percent(prior['own'] / prior['n'], prior['n'])} the speaker's own"] if prior["own"] else []
        groups.append(Group(lines, name, "; ".join(words)))
    if not groups:
        return None
    faces = comparison.training_faces
    return Table(
        "copies",
        "Portraits or copies?",
        list(COPIES.values()),
        groups,
        caption="A system that copies stands at 100 % in the first column and, unless it blurs, in the second. "
        + " ".join(f"By {name} the training faces are {about}." for name, about in faces.items()),
        corner="compared by",
    )
