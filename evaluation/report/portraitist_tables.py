"""The Fine-portraitist paper's Tables I to IV with what was measured here beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

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
    studies = study.get("studies") or ([study] if "parts" in study else [])
    if not studies:
        return None
    printed = paper.portraitist()["table_1_paired_t"]
    parts = list(studies[0]["parts"])
    lines = [Line("paper", part, [Cell(f"{printed[part]:.2f}"), None, None, None, None]) for part in parts]
    groups = [Group(lines, "published", f"n {printed['n']:,}, critical t {printed['critical']}")]
    for one in studies:
        groups.append(Group(_parts(one), f"here, by {one.get('measure', 'feature distance')}", f"n {one['n']:,}"))
        for grouping, found in one.get("within", {}).items():
            if "either" in found:
                either = found["either"]
                words = f"here, by {one['measure']}, within one {grouping}"
                groups.append(Group(_parts(either), words, f"n {either['n']:,}"))
    return Table(
        "part-study",
        "Which parts of the face speech tells",
        ["t", "p", "p, Bonferroni", "p, Holm", "effect size d"],
        groups,
        "Table I",
        (
            "Other people, another generator and other measures of a part than the paper's; its t grows with the root "
            "of its 5,000 pairs: compare what is significant, and d, not t.",
        ),
        "Paired t-test, two-sided, of how near a drawn part is to the true one with speech and without it: positive is "
        "nearer with speech. Within one gender the speech is compared with another's of the same gender.",
        corner="part",
        numeric=True,
    )


def _parts(found: Mapping[str, Any]) -> list[Line]:
    return [
        Line(
            "here",
            part,
            [
                Cell(f"{row['t']:.2f}".replace("-", "−")),
                *(Cell(_small(row[p])) for p in ("p", "p_bonferroni", "p_holm")),
                _effect(row),
            ],
        )
        for part, row in found["parts"].items()
    ]


def _effect(row: Mapping[str, Any]) -> Cell:
    interval = f"{row['d_low']:.2f} to {row['d_high']:.2f}" if "d_low" in row else ""
    return Cell(f"{row['d']:.2f}".replace("-", "−"), interval.replace("-", "−"))


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
    groups = [Group([*lines, *ours]), *_references(evaluation, comparison)]
    return _table(f"methods-{corpus.lower()}", f"Beside other methods, {corpus}", groups, number, comparison)


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
    return _table("ablation", "What the stages and the prior bring", groups, "Table IV", comparison)


def _table(key: str, title: str, groups: Sequence[Group], number: str, comparison: Comparison) -> Table:
    return Table(
        key,
        title,
        [*(head for head, _ in DISTANCES.values()), *SHARES.values(), *(f"R@{k}" for k in paper.PORTRAITIST_RECALLS)],
        groups,
        number,
        comparison.of("people", "features", "cosine", "judge", "gallery"),
        "Distances of a recogniser's features to the true face: the less, the better. Shares in percent. Intervals are "
        f"95 %. R@k among {spoken(comparison.gallery)}; the other galleries are below."
        if comparison.gallery
        else "",
        numeric=True,
    )


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
    about = ", ".join(
        filter(
            None,
            [
                f"scale {row['cond_scale']:g}" if "cond_scale" in row else "",
                f"{row['exclusion']} excluded" if row.get("exclusion") else "",
            ],
        )
    )
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
    """Recall of every row in every gallery."""
    ks = [str(k) for k in evaluation["ranks"]]

    def lines(row: Mapping[str, Any], name: str, kind: str) -> list[Line]:
        return [
            Line(kind, name, [share(found.get(k)) for k in ks], _searched(evaluation, gallery))
            for gallery in evaluation["galleries"]
            if (found := recalls(row, gallery, comparison.recogniser))
        ]

    groups = []
    for (name, exclusion), row in best_scales(evaluation).items():
        about = f"{exclusion} excluded" if exclusion else ""
        groups.append(Group(lines(row, f"scale {row['cond_scale']:g}", "here"), name, about))
    rows = evaluation["references"]
    found = [
        line
        for row in rows
        for line in lines(row, reference_name(row) + (f", {row['exclusion']} excluded" if row.get("exclusion") else ""),
                          "reference")
    ]  # fmt: skip
    if found:
        groups.append(Group(found, "For comparison", "drawn by no model"))
    return Table(
        "portraitist-retrieval",
        "Found again, in every gallery",
        [f"R@{k}" for k in ks],
        groups,
        "",
        comparison.of("galleries", "few"),
        "The upright mark is what guessing finds: the probability that k images drawn at random hold one of the "
        "speaker's. A k that finds somebody for certain is left out.",
    )


def _searched(evaluation: Mapping[str, Any], gallery: str) -> str:
    about = evaluation["galleries"][gallery]
    images, speakers = about.get("images", about["speakers"]), about["speakers"]
    return f"{spoken(gallery)}, {images:,} " + (f"images of {speakers:,}" if images != speakers else "entries")


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
