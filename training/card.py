"""A model card for a run: <run>/README.md in the form of Hugging Face's, from the run's own facts, and loss.svg.

Written with every checkpoint. `write(run, evaluation)` adds what an evaluation found, people by groups among it.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featurestore.conditioning import Layout, System
from featurestore.conditioning import system as system_named
from training.checkpoint import open_run
from training.files import write_whole
from training.metrics import read_metrics
from training.presets import cascade_of

EVALUATION = "evaluation.json"
"""Where a card keeps what it was told of an evaluation, so that the next checkpoint's card has it too."""

WIDTH, HEIGHT, EDGE = 640, 240, 40
"""Of the figure of losses, in pixels."""

_MISUSE = """The weights hold what faces and voices of people have in common, and pictures drawn with them look like
faces: treat both as biometric. Not for identifying, tracking or judging anybody. A generated picture is a guess drawn
from statistics: it is not evidence of what a speaker looks like, and every picture says in its metadata that it is
generated. Where somebody whose clips were trained on is forgotten, the store names this run, and it is to be trained
again."""


def write(run: str | Path, evaluation: Mapping[str, Any] | None = None) -> Path:
    """Write <run>/README.md and, where losses were reported, <run>/loss.svg.

    evaluation: the object of `voxportrait evaluate --json`, kept in <run>/evaluation.json with the step it is of; the
    rows of this run's system are shown, as results of that step.
    Raises UsageError where the run has no checkpoint.
    """
    run = Path(run)
    about, metrics = open_run(run).about, read_metrics(run)
    kept = run / EVALUATION
    if evaluation is not None:
        rows = [row for row in evaluation.get("systems", []) if row["name"] == about["system"]]
        write_whole(kept, json.dumps({"step": about["step"], "systems": rows}, default=str))
    figure = loss_figure(metrics)
    if figure:
        (run / "loss.svg").write_text(figure)
    results = json.loads(kept.read_text()) if kept.exists() else None
    path = run / "README.md"
    write_whole(path, card(about, metrics, results, bool(figure)))
    return path


def card(
    about: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]] = (),
    results: Mapping[str, Any] | None = None,
    figure: bool = False,
) -> str:
    """The card as Markdown. about: a checkpoint's; metrics: its run's; results: {step, systems}; figure: is there."""
    chosen = system_named(about["system"])
    parts = [
        _front_matter(about),
        f"# {about['system']}, {about['stage']} ({about['preset']})",
        _what(about, chosen),
        "## Data",
        _data(about),
        "## Intended use and misuse",
        "Research on what a voice tells of a face: training, ablation and comparison of conditioned diffusion models, "
        "on people who agreed to it.",
        _MISUSE.replace("\n", " "),
        "## Limits",
        _bullets(_limits(about)),
        "## Training",
        _training(about, metrics),
        *(["![Training and validation loss](loss.svg)"] if figure else []),
        "## Results",
        _results(results, about["step"]),
        "## How to use it",
        _use(about),
    ]
    return "\n\n".join(parts) + "\n"


_LATENT = {
    "codec": "the codec of faces and speech, pre-trained together, that the others work on.",
    "face": "latent diffusion of the face from speech alone.",
    "bottom": "latent diffusion of the bottom face from speech.",
    "upper": "latent diffusion of the whole face from its bottom and speech.",
}


def _kind(about: Mapping[str, Any]) -> str:
    """`super-resolution`, `generation` or `latent-diffusion`."""
    return "latent-diffusion" if about["stage"] in _LATENT else cascade_of(system_named(about["system"])).name


def _front_matter(about: Mapping[str, Any]) -> str:
    tags = [
        "speech-to-face",
        "diffusion",
        "biometric",
        _kind(about),
        *(["untrained-inputs"] * bool(_untrained(about))),
    ]
    return "\n".join(
        [
            "---",
            "library_name: voxportrait",
            "pipeline_tag: image-to-image" if _kind(about) == "super-resolution" else "pipeline_tag: other",
            "license: other",
            "license_name: as-its-training-data",
            "tags:",
            *(f"- {tag}" for tag in tags),
            "---",
        ]
    )


def _what(about: Mapping[str, Any], chosen: System) -> str:
    inputs = ", ".join(Layout.from_json(about["layout"]).constituents) or "nothing"
    if about["stage"] in _LATENT:
        return (
            f"A stage of Fine-portraitist: {_LATENT[about['stage']]} It takes {inputs}, and true faces to learn from."
        )
    side = {"unet1": 32, "unet2": 128}[about["stage"]]
    given = "an 8 px picture and " if chosen.image_guide and about["stage"] == "unet1" else ""
    given = "a 32 px picture and " if about["stage"] == "unet2" else given
    return (
        f"One of the two U-Nets of a {_kind(about)} cascade: it draws {side} px portraits from "
        f"{given}a 256 x 768 matrix of stored constituents of a clip ({inputs}). Layout "
        f"`{about['layout']['name']}`, fingerprint `{about['layout_fingerprint']}`; a program with another is refused."
    )


def _data(about: Mapping[str, Any]) -> str:
    data, people = about["data"], about.get("speakers") or {}
    policy = data.get("policy") or {}
    snapshot = f"`{data['snapshot']}`, digest `{data['digest']}`" if "snapshot" in data else "none was taken"
    rows = [
        ("clips trained on", _count(data.get("clips"))),
        ("speakers trained on", _count(people.get("trained"))),
        ("clips held out for validation", _count(data.get("held_out"))),
        ("speakers held out", _count(people.get("held_out"))),
        ("snapshot", snapshot),
        ("consent asked for", "only clips whose consent held" if policy.get("require_consent") else "no"),
        ("licences asked for", ", ".join(policy.get("licences") or []) or "any"),
        ("consent as recorded", _rights(about, "consent")),
        ("licence as recorded", _rights(about, "licence")),
        ("erasure epoch", data.get("erasure_epoch", "not known")),
        ("clips that lack an input", _named(data.get("lacking") or {}) or "none"),
    ]
    return _table(("", ""), rows)


def _limits(about: Mapping[str, Any]) -> Iterable[str]:
    data, people = about["data"], about.get("speakers") or {}
    if untrained := _untrained(about):
        yield f"**Untrained inputs**: {', '.join(untrained)}, made by weights never trained: they tell nothing."
    if absent := data.get("absent"):
        yield f"Inputs that no clip had: {', '.join(absent)}."
    if set(about.get("rights", {}).get("consent", ())) == {"synthetic"}:
        yield "The people are synthetic: drawn, not filmed. What was learned says nothing of real people."
    if people.get("trained"):
        yield f"Trained on {people['trained']:,} speakers; who is unlike them is drawn badly."
    if about["step"] < about["steps"]:
        yield f"Not finished: {about['step']:,} of {about['steps']:,} steps."
    yield "Age, gender and ethnicity are what a classifier said of a picture, not what people say of themselves."


def _training(about: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    settings = about["settings"]
    losses = [row for row in metrics if "loss" in row]
    held_out = [row for row in metrics if "validation_loss" in row]
    rows = [
        ("steps", f"{about['step']:,} of {about['steps']:,}"),
        ("batch", f"{about['batch_size']} clips over {about.get('workers', 1)} worker(s)"),
        ("learning rate", f"{settings['learning_rate']:g}, Adam"),
        *((name, f"{settings[name]}") for name in ("objective", "prediction", "gamma") if name in settings),
        ("bfloat16", "where the device has it" if settings["bfloat16"] else "no"),
        ("seed", about["seed"]),
        ("last loss", _loss(losses, "loss")),
        ("last validation loss", _loss(held_out, "validation_loss")),
        ("code", f"`{about['code']}`"),
        ("torch", f"`{about['torch']}`"),
    ]
    return _table(("", ""), rows)


def _results(results: Mapping[str, Any] | None, step: int) -> str:
    if not results or not results["systems"]:
        return "Not evaluated yet: see `voxportrait evaluate`."
    parts = []
    if results["step"] != step:
        parts.append(f"Of the checkpoint at step {results['step']:,}, not of this one.")
    for row in results["systems"]:
        scale = f" at scale {row['cond_scale']:g}" if "cond_scale" in row else ""
        parts.append(f"Recall{scale}, {row['n']} portraits, with 95 % intervals:")
        everybody = [("everybody", row["n"], row.get("recall", {}))]
        groups = [
            (f"{kind}: {name}", group["n"], group.get("recall", {}))
            for kind, members in row.get("groups", {}).items()
            for name, group in members.items()
        ]
        lines = [
            (who, n, gallery, recogniser, f"R@{k}", _interval(value))
            for who, n, recall in everybody + groups
            for gallery, recognisers in recall.items()
            for recogniser, ranks in recognisers.items()
            for k, value in ranks.items()
            if isinstance(value, dict) and "value" in value
        ]
        parts.append(_table(("who", "n", "gallery", "recogniser", "", "recall (chance)"), lines))
    return "\n\n".join(parts)


def _interval(recall: Mapping[str, Any]) -> str:
    chance = f" ({100 * recall['random']:.1f} %)" if recall.get("random") is not None else ""
    return f"{100 * recall['value']:.1f} % [{100 * recall['low']:.1f}, {100 * recall['high']:.1f}]{chance}"


def _use(about: Mapping[str, Any]) -> str:
    return (
        "Both U-Nets of the system draw together:\n\n"
        "```sh\n"
        f"voxportrait sample --store STORE --runs RUNS --system {about['system']}\n"
        "```\n\n"
        "Weights: `checkpoints/*/average.safetensors` (the moving average, drawn with) and `model.safetensors`; "
        "`checkpoint.json` beside them says what they are. Nothing is pickled."
    )


def loss_figure(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Training and validation loss over steps as an SVG picture; None where fewer than two were reported."""
    lines = {
        key: [(row["step"], row[key]) for row in metrics if row.get(key, 0) > 0] for key in ("loss", "validation_loss")
    }
    points = [point for line in lines.values() for point in line]
    if len(lines["loss"]) < 2:
        return None
    last = max(step for step, _ in points)
    low, high = (math.log(edge(loss for _, loss in points)) for edge in (min, max))

    def place(step: int, loss: float) -> str:
        x = EDGE + (WIDTH - 2 * EDGE) * step / last
        y = EDGE + (HEIGHT - 2 * EDGE) * (high - math.log(loss)) / max(high - low, 1e-9)
        return f"{x:.1f},{y:.1f}"

    drawn = [
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{" ".join(place(*one) for one in line)}"/>'
        for line, colour in zip(lines.values(), ("#4269d0", "#ff725c"), strict=True)
        if line
    ]
    words = [
        (EDGE, EDGE - 24, "start", "#4269d0", "training loss"),
        (EDGE + 110, EDGE - 24, "start", "#ff725c", "validation loss"),
        (EDGE - 4, EDGE + 4, "end", "#555", f"{math.exp(high):.3g}"),
        (EDGE - 4, HEIGHT - EDGE + 4, "end", "#555", f"{math.exp(low):.3g}"),
        (WIDTH - EDGE, HEIGHT - EDGE + 18, "end", "#555", f"step {last:,}"),
    ]
    said = [
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{text}</text>'
        for x, y, anchor, colour, text in words
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    )
    return "\n".join([head, *drawn, *said, "</svg>"]) + "\n"


def _untrained(about: Mapping[str, Any]) -> list[str]:
    return list(about["data"].get("untrained") or [])


def _named(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())


def _rights(about: Mapping[str, Any], which: str) -> str:
    counts = about.get("rights", {}).get(which)
    return _named({name or "none": number for name, number in counts.items()}) if counts else "not known"


def _count(number: Any) -> str:
    return "not known" if number is None else f"{number:,}"


def _loss(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    return f"{rows[-1][key]:.4g} at step {rows[-1]['step']:,}" if rows else "none"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
