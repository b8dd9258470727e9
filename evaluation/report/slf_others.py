"""The SLF paper's Tables 9 and 10: other authors' systems, with what was measured here beside them."""

from collections.abc import Mapping
from typing import Any

from evaluation.report import paper
from evaluation.report.cells import (
    Cell,
    Group,
    Line,
    Table,
    len_of,
    mean,
    percent,
    published_mean,
    published_only,
    published_share,
    share,
    spoken,
)
from evaluation.report.comparing import Comparison
from evaluation.sweep import best_rows, recalls


def super_resolution(evaluation: Mapping[str, Any], comparison: Comparison) -> Table:
    """Table 9: super-resolution beside other authors'."""
    lines = []
    for row in paper.published()["table_9_super_resolution"]:
        slf = row["model"] == "SLF"
        cells = [
            published_share(row["r1"], 1) if slf else published_only(row["r1"]),
            published_share(row["gender"]) if slf else published_only(row["gender"]),
            published_mean(row["age_rmse"], "%.2f"),
            published_mean(row["psnr"], "%.2f"),
        ]
        lines.append(Line("paper" if slf else "other", row["model"], cells, f"{row['inputs']}; published"))
    best = best_rows(evaluation)
    for name in ("full-input", "no-additional-attributes"):
        if name in best:
            lines += [
                Line(
                    "here",
                    name,
                    [
                        share(found.get("1")),
                        share(best[name].get("attributes", {}).get("gender", {}).get("judged")),
                        mean(best[name].get("attributes", {}).get("age_rmse", {}).get("judged"), "%.1f"),
                        mean(best[name].get("psnr"), "%.2f"),
                    ],
                    f"here, scale {best[name]['cond_scale']:g}, {spoken(gallery)}",
                )
                for gallery in evaluation["galleries"]
                if (found := recalls(best[name], gallery, comparison.recogniser))
            ]
    return Table(
        "super-resolution",
        "Super-resolution beside another system",
        ["R@1", "gender", "age, RMSE in years", "PSNR, dB"],
        [Group(lines)],
        "Table 9",
        (
            "The other authors' system is published only: its pictures were never judged here, and its own people, "
            "galleries and judges are not the SLF paper's either.",
            *comparison.of("people", "recogniser"),
        ),
    )


def generation(evaluation: Mapping[str, Any], comparison: Comparison) -> Table:
    """Table 10: generation beside other authors', each with its gallery."""
    ks = list(paper.RECALLS.values())
    lines = []
    for row in paper.published()["table_10_generation"]:
        kind = {"SLF": "paper", "random": "reference"}.get(row["model"], "other")
        cells = [
            published_share(row.get(key), int(k)) if kind == "paper" else published_only(row.get(key))
            for key, k in paper.RECALLS.items()
        ]
        name = "guessing, as printed" if row["model"] == "random" else row["model"]
        about = [row.get("inputs"), row.get("output") and f"{row['output'].replace('x', ' × ')} px", "published"]
        lines.append(
            Line(
                kind, name, [Cell(f"{row['gallery']:,}".replace(",", "\u202f")), *cells], "; ".join(filter(None, about))
            )
        )
    best = best_rows(evaluation)
    for gallery in evaluation["galleries"]:
        size = len_of(evaluation, gallery)
        drawn = [
            (name, best[name]) for name in ("no-image-guide", "only-audio", "speaker-embedding-only") if name in best
        ]
        drawn = [(name, row) for name, row in drawn if recalls(row, gallery, comparison.recogniser)]
        if drawn and size:
            guess = [Cell(percent(int(k) / size, size)) if int(k) < size else None for k in ks]
            lines.append(Line("reference", "guessing", [Cell(str(size)), *guess], f"here, {spoken(gallery)}"))
        for name, row in drawn:
            found = recalls(row, gallery, comparison.recogniser)
            cells = [share(found.get(k)) for k in ks]
            lines.append(
                Line("here", name, [Cell(str(size)), *cells], f"here, scale {row['cond_scale']:g}, {spoken(gallery)}")
            )
    return Table(
        "generation",
        "Generation beside other systems",
        ["gallery", *(f"R@{k}" for k in ks)],
        [Group(lines)],
        "Table 10",
        (
            "Other authors' systems are published only. Galleries are of very different sizes, and a share among 5,000 "
            "faces is worth far more than the same among a hundred: compare each with guessing in its own gallery.",
            *comparison.of("people", "recogniser"),
        ),
        "In the paper's first row the columns are shifted: 1, 5 and 10 % are R@1, R@5 and R@10 of guessing among 100 "
        "faces, not among 5,000.",
    )
