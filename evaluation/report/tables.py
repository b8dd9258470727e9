"""The SLF paper's tables with what was measured here beside them, as data that one macro of the template draws."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.metrics import wilson_interval
from evaluation.report import paper
from evaluation.report.comparing import Comparison
from evaluation.significance import band
from evaluation.sweep import best_rows, recalls
from featurestore.conditioning import SYSTEMS

ATTRIBUTES = {"gender": "gender", "ethnicity": "ethnicity", "age_group": "age group"}
REFERENCES = {"another video": "true face, other video", "enlarged guide": "guide, enlarged"}
AGAINST = {"judged": "against the judge's word on the true face", "truth": "against the truth"}


@dataclass(frozen=True)
class Cell:
    """A number with its 95 % interval, as text. line: where the interval, the number and guessing lie between 0 and 1,
    for shares: {"low", "high", "value", "random"}, random None where it is not known. note: a word below it."""

    value: str
    interval: str = ""
    line: Mapping[str, float | None] | None = None
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A row. kind: `paper`, `here`, `other` (another author's) or `reference` (drawn by no model)."""

    kind: str
    name: str
    cells: Sequence[Cell | None]
    about: str = ""


@dataclass(frozen=True)
class Group:
    """Rows below a heading of their own, or without one."""

    lines: Sequence[Line]
    head: str = ""
    about: str = ""


@dataclass(frozen=True)
class Table:
    """A table. source: which of the paper's it stands beside, "" for none; compare: how far the two can be compared;
    corner: what the rows' names are; numeric: its cells are numbers flush right, not shares with their lines."""

    key: str
    title: str
    columns: Sequence[str]
    groups: Sequence[Group]
    source: str = ""
    compare: Sequence[str] = ()
    caption: str = ""
    corner: str = ""
    numeric: bool = False


def retrieval(evaluation: Mapping[str, Any], comparison: Comparison) -> Table | None:
    """Recalls of the paper's systems: the paper's, and ours in each gallery."""
    ranks = [str(k) for k in evaluation["ranks"]]
    ks = list(dict.fromkeys([*paper.RECALLS.values(), *ranks]))
    galleries = list(evaluation["galleries"])

    def ours(name: str, row: Mapping[str, Any], kind: str) -> list[Line]:
        found = {gallery: recalls(row, gallery, comparison.recogniser) for gallery in galleries}
        return [
            Line(kind, name, [share(values.get(k)) for k in ks], _gallery(gallery, len_of(evaluation, gallery)))
            for gallery, values in found.items()
            if values
        ]

    groups = _by_system(evaluation, lambda row: [published_share(paper.recall(row, k), int(k)) for k in ks], ours)
    references = [line for row in evaluation["references"] for line in ours(_reference(row), row, "reference")]
    if references:
        groups.append(Group(references, "For comparison", "drawn by no model"))
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
    references = [line for row in evaluation["references"] for line in ours(_reference(row), row, "reference")]
    if references:
        groups.append(Group(references, "For comparison", "drawn by no model"))
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
    references = [line for row in evaluation["references"] for line in ours(_reference(row), row, "reference")]
    if references:
        groups.append(Group(references, "For comparison", "drawn by no model"))
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
    columns = [f"R@{k}" for k in paper.RECALLS.values()] + [f"R@1, {_words(gallery)}" for gallery in others]
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
        f"R@k in the gallery of the {_words(comparison.gallery)} unless another is named; shares in percent, with 95 % "
        "intervals. Scale 0 does not look at what the model is told.",
        corner="scale",
        numeric=True,
    )


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
                    f"here, scale {best[name]['cond_scale']:g}, {_words(gallery)}",
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
            lines.append(Line("reference", "guessing", [Cell(str(size)), *guess], f"here, {_words(gallery)}"))
        for name, row in drawn:
            found = recalls(row, gallery, comparison.recogniser)
            cells = [share(found.get(k)) for k in ks]
            lines.append(
                Line("here", name, [Cell(str(size)), *cells], f"here, scale {row['cond_scale']:g}, {_words(gallery)}")
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


def by_recogniser(evaluation: Mapping[str, Any]) -> Table | None:
    """R@1 of each system at its best scale, by each recogniser and gallery; None where there is only one recogniser."""
    recognisers = evaluation["recognisers"]
    if len(recognisers) < 2:
        return None
    columns = [(gallery, key) for key in recognisers for gallery in evaluation["galleries"]]
    rows = [(name, f"scale {row['cond_scale']:g}", row, "here") for name, row in best_rows(evaluation).items()]
    rows += [(_reference(row), "", row, "reference") for row in evaluation["references"]]
    first = str(evaluation["ranks"][0]) if evaluation["ranks"] else "1"
    lines = [
        Line(kind, name, [share(recalls(row, gallery, key).get(first)) for gallery, key in columns], about)
        for name, about, row, kind in rows
    ]
    heads = [
        f"{recogniser_words(recognisers[key])}, {_words(gallery)}"
        + (" (untrained)" if recognisers[key]["untrained"] else "")
        for gallery, key in columns
    ]
    caption = "R@1 of the same pictures by every recogniser that was asked, at the scale chosen by the first one."
    return Table("recognisers", "By other recognisers", heads, [Group(lines)], caption=caption)


def significance(evaluation: Mapping[str, Any], comparison: Comparison) -> Table | None:
    """What each input is worth by the paper's Equations 3 and 4; None where no pair of systems was judged."""
    entries = [one for one in evaluation.get("significance", ()) if one["recogniser"] == comparison.recogniser]
    if not entries:
        return None
    scales = sorted({float(equal["scale"]) for one in entries for equal in one.get("at_equal_scales", ())})
    groups = []
    for about in dict.fromkeys(one["about"] for one in entries):
        chosen = [one for one in entries if one["about"] == about]
        lines = []
        if (value := paper.significance(chosen[0]["without"])) is not None:
            lines.append(Line("paper", "paper", [Cell(f"{value:.0f}", note=band(value)), *(None for _ in scales)]))
        for one in chosen:
            best = one.get("at_best") or {}
            equal = {float(found["scale"]): found for found in one.get("at_equal_scales", ())}
            words = f"here, {_words(one['gallery'])}"
            about_best = f"best scales {best['scale_all']:g} and {best['scale_without']:g}" if best else ""
            cells = [_worth(best), *(_worth(equal.get(scale)) for scale in scales)]
            lines.append(Line("here", words, cells, about_best))
        groups.append(Group(lines, about, f"{chosen[0]['all']} against {chosen[0]['without']}"))
    return Table(
        "significance",
        "S, in percent",
        ["best scales", *(f"both at {scale:g}" for scale in scales)],
        groups,
        "the paper's",
        comparison.of("people", "recogniser", "galleries", "few"),
        "S weighs by how much recall grows when an input is given: R@1 ten times, R@3 five, R@5 three, R@10 once "
        "(Equations 3 and 4). Bands: to 20 minor, 40 moderate, 60 considerable, 80 significant, above that profound. "
        "Not defined where the system without the input finds nobody. Intervals are bootstrapped over speakers, and "
        "missing where too few resamples are defined; where one reaches below 0, the input may be worth nothing.",
        numeric=True,
    )


def _worth(found: Mapping[str, Any] | None) -> Cell | None:
    """A significance with its interval and its band; None where it was not had."""
    if not found:
        return None
    if found.get("value") is None:
        return Cell("–", note="not defined")
    ends = found.get("low"), found.get("high")
    interval = "" if None in ends else " to ".join(f"{end:.0f}".replace("-", "−") for end in ends)
    value = f"{found['value']:.0f}".replace("-", "−")
    return Cell(value, interval, note=found.get("band") or band(found["value"]))


def by_group(evaluation: Mapping[str, Any], comparison: Comparison) -> Table | None:
    """R@1 by groups of people, a column a system at its best scale; None where nobody is known to be of a group."""
    best = {name: row for name, row in best_rows(evaluation).items() if row.get("groups")}
    if not best:
        return None
    kinds = list(dict.fromkeys(kind for row in best.values() for kind in row["groups"]))
    galleries = list(evaluation["galleries"])
    groups = []
    for kind in kinds:
        values = sorted({value for row in best.values() for value in row["groups"].get(kind, ())}, key=_natural)
        lines = []
        for value in values:
            members = {name: row["groups"].get(kind, {}).get(value) for name, row in best.items()}
            for gallery in galleries:
                found = {
                    name: recalls(one, gallery, comparison.recogniser) if one else {} for name, one in members.items()
                }
                if any(found.values()):
                    n = max(one["1"]["n"] for one in found.values() if "1" in one)
                    shares = [share(one.get("1")) for one in found.values()]
                    lines.append(Line("here", value, shares, f"{_words(gallery)}, n {n}"))
        groups.append(Group(lines, kind.replace("_", " ")))
    return Table(
        "groups",
        "R@1 by group",
        [f"{name}, scale {row['cond_scale']:g}" for name, row in best.items()],
        groups,
        compare=comparison.of("recogniser", "few"),
        caption="The same hits as above, apart by what is known of the speakers. Guessing is among the whole gallery.",
    )


def _by_system(
    evaluation: Mapping[str, Any],
    printed: Callable[[Mapping[str, Any]], list[Cell | None]],
    ours: Callable[[str, Mapping[str, Any], str], list[Line]],
) -> list[Group]:
    """A group a system, in the paper's order: the paper's line, then ours at its best scale."""
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
    return groups


def share(found: Mapping[str, Any] | None) -> Cell | None:
    """A measured share with its interval; None where it was not had."""
    if not found:
        return None
    n = found["n"]
    line = {"low": found["low"], "high": found["high"], "value": found["value"], "random": found.get("random")}
    return Cell(percent(found["value"], n), ends(found["low"], found["high"]), line)


def published_share(value: float | None, k: int | None = None) -> Cell | None:
    """A share of the paper's 118 portraits in percent, with Wilson's interval; k: what guessing is to find it at."""
    if value is None:
        return None
    low, high = wilson_interval(round(value / 100 * paper.SPEAKERS), paper.SPEAKERS)
    line = {"low": low, "high": high, "value": value / 100, "random": None if k is None else k / paper.SPEAKERS}
    return Cell(as_printed(value), ends(low, high), line)


def as_printed(value: float) -> str:
    """A published percentage with the digits that it was printed with, at least one after the point."""
    return f"{value:.2f}".removesuffix("0") + " %"


def mean(found: Mapping[str, Any] | None, form: str) -> Cell | None:
    """A measured mean with its interval."""
    return Cell(form % found["value"], f"{form % found['low']}–{form % found['high']}") if found else None


def published_mean(value: float | None, form: str) -> Cell | None:
    """A published number of which no interval is known."""
    return None if value is None else Cell(form % value)


def published_only(value: float | None) -> Cell | None:
    """Another author's share in percent, of which no interval is known."""
    return None if value is None else Cell(as_printed(value))


def distance(found: Mapping[str, Any] | None) -> Cell | None:
    """A FID."""
    if not found:
        return None
    return Cell(f"{found['value']:.1f}", note="" if found["reliable"] else f"unreliable, n {found['n']}")


def plain(cell: Cell | None) -> Cell | None:
    """A share without its line and its sign."""
    return cell and Cell(cell.value.removesuffix(" %"), cell.interval)


def percent(value: float, n: int) -> str:
    """A share of n as text: whole percents below a hundred."""
    return f"{100 * value:.{1 if n >= 100 else 0}f} %"


def ends(low: float, high: float) -> str:
    """An interval of a share as text, in whole percents."""
    return f"{100 * low:.0f}–{100 * high:.0f}"


def recogniser_words(about: Mapping[str, Any]) -> str:
    return f"{about['name']}, {about['metric']}"


def len_of(evaluation: Mapping[str, Any], gallery: str) -> int:
    return evaluation["galleries"][gallery]["speakers"]


def _reference(row: Mapping[str, Any]) -> str:
    return REFERENCES.get(row["name"], row["name"])


def _gallery(gallery: str, size: int) -> str:
    return f"{_words(gallery)}, {size} faces"


def _words(gallery: str) -> str:
    return gallery.replace("-", " ")


def _natural(value: str) -> tuple[int, str]:
    digits = "".join(letter for letter in value.split("-")[0] if letter.isdigit())
    return (int(digits) if digits else -1, value)
