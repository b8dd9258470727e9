"""The SLF paper's tables with what was measured here beside them."""

from collections.abc import Callable, Mapping
from typing import Any

from evaluation.report import paper
from evaluation.report.cells import (
    AGAINST,
    ATTRIBUTES,
    Cell,
    Group,
    Line,
    Table,
    beside,
    distance,
    len_of,
    mean,
    plain,
    published_mean,
    published_share,
    searched,
    share,
    spoken,
)
from evaluation.report.comparing import Comparison
from evaluation.sweep import best_rows, recalls
from featurestore.conditioning import SYSTEMS


def retrieval(evaluation: Mapping[str, Any], comparison: Comparison) -> Table | None:
    """Recalls of the paper's systems: the paper's, and ours in each gallery."""
    ranks = [str(k) for k in evaluation["ranks"]]
    ks = list(dict.fromkeys([*paper.RECALLS.values(), *ranks]))
    galleries = list(evaluation["galleries"])

    def ours(name: str, row: Mapping[str, Any], kind: str) -> list[Line]:
        found = {gallery: recalls(row, gallery, comparison.recogniser) for gallery in galleries}
        return [
            Line(kind, name, [share(values.get(k)) for k in ks], searched(gallery, len_of(evaluation, gallery)))
            for gallery, values in found.items()
            if values
        ]

    groups = _by_system(evaluation, lambda row: [published_share(paper.recall(row, k), int(k)) for k in ks], ours)
    return Table(
        "retrieval",
        "Found again",
        [f"R@{k}" for k in ks],
        groups,
        "Tables 2 to 7, recall",
        comparison.of("people", "size", "recogniser", "galleries", "best"),
        "A portrait is a hit at k when its speaker's true face is among the k nearest. The line is the 95 % interval "
        "(Wilson's; the paper gives none, so its are of 118 portraits), the upright mark what guessing finds in that "
        "gallery. A k that reaches a gallery's size says nothing and is left out.",
    )


def attributes(evaluation: Mapping[str, Any], comparison: Comparison) -> Table | None:
    """Gender, ethnicity and age of portraits, of those who were judged; None where nobody was."""
    measures = [*ATTRIBUTES, "age_rmse"]
    if not any(measure in row.get("attributes", {}) for row in evaluation["systems"] for measure in measures):
        return None

    def ours(name: str, row: Mapping[str, Any], kind: str) -> list[Line]:
        judged = row.get("attributes", {})
        return [
            Line(
                kind,
                name,
                [
                    *(share(judged.get(key, {}).get(against)) for key in ATTRIBUTES),
                    mean(judged.get("age_rmse", {}).get(against), "%.1f"),
                ],
                words,
            )
            for against, words in AGAINST.items()
            if any(against in judged.get(measure, {}) for measure in measures)
        ]

    groups = _by_system(
        evaluation,
        lambda row: [*(published_share(row[key]) for key in ATTRIBUTES), published_mean(row["age_rmse"], "%.2f")],
        ours,
    )
    return Table(
        "attributes",
        "Gender, ethnicity and age",
        [*ATTRIBUTES.values(), "age, RMSE in years"],
        groups,
        "Tables 2 to 7, attributes",
        comparison.of("people", "size", "judge", "best"),
        "Shares of portraits whose gender, ethnicity or decade of age is called what the true face's is; below, how "
        "far the years are off. The less, the better, for RMSE only.",
    )


def likeness(evaluation: Mapping[str, Any], comparison: Comparison) -> Table | None:
    """PSNR, SSIM and, where it was had, FID."""
    rows = [*evaluation["systems"], *evaluation["references"]]
    fid = any(row.get("fid") for row in rows)

    def ours(name: str, row: Mapping[str, Any], kind: str) -> list[Line]:
        cells = [mean(row.get("psnr"), "%.2f"), mean(row.get("ssim"), "%.3f")]
        if fid:
            cells.append(distance(row.get("fid")))
        return [Line(kind, name, cells)] if any(cells) else []

    groups = _by_system(
        evaluation,
        lambda row: [
            published_mean(row["psnr"], "%.2f"),
            published_mean(row["ssim"], "%.2f"),
            *([None] if fid else []),
        ],
        ours,
    )
    return Table(
        "likeness",
        "Close to the true picture",
        ["PSNR, dB", "SSIM", *(["FID"] if fid else [])],
        groups,
        "Tables 2 to 7, PSNR and SSIM",
        comparison.of("people", "size", "best"),
        "PSNR is OpenCV's, SSIM scikit-image's, both against the true picture that the portrait is of, with bootstrap "
        "intervals. Blurred pictures do well in both: the enlarged guide shows how well.",
        numeric=True,
    )


def by_scale(evaluation: Mapping[str, Any], comparison: Comparison) -> Table | None:
    """Table 8: every measure at every scale, ours of every system."""
    printed = paper.scales()
    others = [gallery for gallery in evaluation["galleries"] if gallery != comparison.gallery]
    columns = [f"R@{k}" for k in paper.RECALLS.values()] + [f"R@1, {spoken(gallery)}" for gallery in others]
    columns += ["gender", "ethnicity", "age group", "age RMSE", "PSNR", "SSIM"]

    def here(row: Mapping[str, Any]) -> list[Cell | None]:
        found = recalls(row, comparison.gallery, comparison.recogniser)
        said = row.get("attributes", {})
        return [
            *(plain(share(found.get(k))) for k in paper.RECALLS.values()),
            *(plain(share(recalls(row, gallery, comparison.recogniser).get("1"))) for gallery in others),
            *(plain(share(said.get(key, {}).get("judged"))) for key in ATTRIBUTES),
            mean(said.get("age_rmse", {}).get("judged"), "%.1f"),
            mean(row.get("psnr"), "%.1f"),
            mean(row.get("ssim"), "%.2f"),
        ]

    def there(row: Mapping[str, Any]) -> list[Cell | None]:
        return [
            *(plain(published_share(row[key])) for key in paper.RECALLS),
            *(None for _ in others),
            *(plain(published_share(row[key])) for key in ATTRIBUTES),
            published_mean(row["age_rmse"], "%.2f"),
            published_mean(row["psnr"], "%.2f"),
            published_mean(row["ssim"], "%.2f"),
        ]

    made: dict[str, dict[float, Mapping[str, Any]]] = {}
    for row in evaluation["systems"]:
        made.setdefault(row["name"], {})[float(row["cond_scale"])] = row
    groups = []
    for name in (name for name in SYSTEMS if name in made or name in printed):
        lines = []
        for scale in sorted({*made.get(name, ()), *printed.get(name, ())}):
            if scale in printed.get(name, ()):
                lines.append(Line("paper", f"{scale:g}", there(printed[name][scale]), "paper"))
            if scale in made.get(name, ()):
                lines.append(Line("here", f"{scale:g}", here(made[name][scale]), "here"))
        groups.append(Group(lines, name))
    return Table(
        "by-scale",
        "Every scale",
        columns,
        groups,
        "Table 8",
        comparison.of("people", "size", "recogniser", "judge"),
        f"R@k in the gallery of the {spoken(comparison.gallery)} unless another is named; shares in percent, with 95 % "
        "intervals. Scale 0 does not look at what the model is told.",
        corner="scale",
        numeric=True,
    )


def _by_system(
    evaluation: Mapping[str, Any],
    printed: Callable[[Mapping[str, Any]], list[Cell | None]],
    ours: Callable[[str, Mapping[str, Any], str], list[Line]],
) -> list[Group]:
    """A group a system, in the paper's order: the paper's line, then ours at its best scale; what no model drew."""
    best, published, groups = best_rows(evaluation), paper.systems(), []
    for name in SYSTEMS:
        lines = []
        if name in published:
            scale = published[name]["cond_scale"]
            lines.append(Line("paper", "paper", printed(published[name]), "" if scale is None else f"scale {scale:g}"))
        if name in best:
            label = f"here, scale {best[name]['cond_scale']:g}"
            lines += ours(label, best[name], "here")
        if lines:
            words = paper.SELECTED.get(name, "")
            groups.append(Group(lines, name, f"“{words}” in the paper" if words else ""))
    return [*groups, *beside(evaluation, ours)]
