"""`voxportrait train` and `voxportrait export-speech`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.console import Json, Licences, RequireConsent, bar, print_json, print_table, say

if TYPE_CHECKING:
    from featurestore.conditioning import Layout
    from training.data import Source

Runs = Annotated[Path, typer.Option(help="Where runs live: one folder a system and stage.")]
System = Annotated[
    str, typer.Option(help="full-input, only-audio, fine-portraitist, ...; all: SLF's eight, one after the other.")
]


def run_folder(runs: Path, system: str, stage: str) -> Path:
    """Where a stage of a system is trained."""
    return runs / f"{owner(system, stage)}-{stage}"


def owner(system: str, stage: str) -> str:
    """The system that a stage is trained as: the codec of Fine-portraitist's three is one."""
    return "fine-portraitist" if stage == "codec" else system


@dataclass(frozen=True)
class Training:
    """One stage of a system to be trained. base: the layout that the system takes its inputs from, None for its own;
    choices: settings instead of the preset's."""

    system: str
    stage: str
    run: Path
    base: "Layout | None"
    batch_size: int
    choices: Mapping[str, str]


@dataclass(frozen=True)
class Workers:
    """Where training runs: in this process, or on workers of Ray where there are several or an address is given."""

    number: int
    address: str | None
    device: str | None

    @property
    def need_ray(self) -> bool:
        return self.number > 1 or self.address is not None


def train(
    store: Annotated[
        str | None,
        typer.Option(
            envvar="VOXPORTRAIT_STORE", help="The store: a folder or an object-store URI.", show_default=False
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Train from this file of `store export`; --store beside it says whether it still holds.",
            show_default=False,
        ),
    ] = None,
    system: System = "full-input",
    preset: Annotated[str, typer.Option(help="How large: micro, tiny, small, paper; paper-f4.")] = "tiny",
    stage: Annotated[
        str, typer.Option(help="One of the system's stages: unet1, codec, ...; all: one after the other.")
    ] = "all",
    runs: Runs = Path("runs"),
    layout: Annotated[
        str | None,
        typer.Option(help="What stands where in the matrix, instead of the system's: slf, slf-released, a JSON file."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            help="Of the system's inputs only these, with commas between: ecapa,attributes. Give --runs of its own."
        ),
    ] = None,
    without: Annotated[
        str | None,
        typer.Option(help="Leave these out too: constituents or groups, with commas between. Give --runs of its own."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's; of all workers.")] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Clips that go through the network at once; halved where memory ends."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another value than the preset's: learning_rate=2e-4; may be said again."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Share each batch between so many, by Ray Train.")] = 1,
    ray_address: Annotated[
        str | None, typer.Option(help="A Ray cluster; this machine alone by default.", show_default=False)
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps; the most that a kill costs.")] = 1000,
    sample_every: Annotated[
        int, typer.Option(min=0, help="Steps between grids of held-out clips in RUN/samples; 0: none.")
    ] = 1000,
    missing: Annotated[
        str,
        typer.Option(help="Clips that lack an input: refuse (an error), zero (zeros there), or skip them."),
    ] = "refuse",
    snapshot: Annotated[str | None, typer.Option(help="Train on this snapshot of the store.")] = None,
    cache: Annotated[
        str | None, typer.Option(help="Keep what is read in a file of this folder, on a fast disk.", show_default=False)
    ] = None,
    require_consent: RequireConsent = False,
    licences: Licences = None,
    as_json: Json = False,
) -> None:
    """Train a system, or all, from a store or from an export of it.

    A run that was stopped goes on when the same command is run again.
    """
    from featurestore.policy import policy_of
    from training.data import Source

    source = Source(store, export, snapshot, cache, missing, policy_of(require_consent, licences))
    trainings = plan(system, stage, preset, runs, layout, only, without, batch_size, settings or ())
    options = {
        "preset": preset,
        "seed": seed,
        "steps": steps,
        "micro_batch": micro_batch,
        "checkpoint_every": checkpoint_every,
        "sample_every": sample_every,
    }
    outcomes = carry_out(trainings, source, Workers(workers, ray_address, device), options, system != "all")
    if len(outcomes) > 1:
        print_summary(outcomes)
    if as_json:
        print_json(outcomes)
    raise_unless_finished(outcomes)


def plan(
    system: str,
    stage: str,
    preset: str,
    runs: Path,
    layout: str | None = None,
    only: str | None = None,
    without: str | None = None,
    batch_size: int | None = None,
    settings: Sequence[str] = (),
) -> list[Training]:
    """What a command trains, in order. settings: `name=value`, each of one stage at least.

    Raises UsageError for an unknown name or a system that has no input left.
    """
    from dataclasses import fields

    from featurestore.conditioning import SYSTEMS, layout_named
    from featurestore.conditioning import system as system_named
    from featurestore.errors import UsageError, choose
    from training.stages import settings_of

    choices = dict(_choice(one) for one in settings)
    named = None if layout is None else layout_named(layout)
    trainings: list[Training] = []
    unused = set(choices)
    for name in tuple(SYSTEMS) if system == "all" else (system,):
        chosen = system_named(name)
        base = named if only is None and without is None else (named or chosen.base).chosen(only, without)
        inputs = chosen.layout(base)
        if not (inputs.constituents or chosen.image_guide):
            raise UsageError(f"the system {name} has no input left: {inputs.label}")
        for one in chosen.stages if stage == "all" else (choose(f"stage of {name}", stage, chosen.stages),):
            usual = settings_of(one, preset)
            own = {key: value for key, value in choices.items() if key in {field.name for field in fields(usual)}}
            unused -= own.keys()
            size = batch_size or usual.changed(own).batch_size
            trainings.append(Training(owner(name, one), one, run_folder(runs, name, one), base, size, own))
    for key in unused:
        choose("setting of these stages", key, {field.name for field in fields(usual)})
    return trainings


def _choice(text: str) -> tuple[str, str]:
    from featurestore.errors import UsageError

    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UsageError(f"--set takes name=value, not {text!r}")
    return name, value


def carry_out(
    trainings: list[Training], source: "Source", workers: Workers, options: dict[str, Any], fail_at_once: bool
) -> list[dict[str, Any]]:
    """Train one after the other until all are done or a signal asks to stop; returns the outcomes.

    fail_at_once: raise what goes wrong; else the outcome of that run is {run, finished, error}, and the next follows.
    """
    from featurestore.errors import VoxportraitError
    from featurestore.interrupt import stop_on_signal
    from featurestore.ray_cluster import stop_ray

    outcomes: list[dict[str, Any]] = []
    with stop_on_signal() as should_stop:
        try:
            for training in trainings:
                try:
                    outcome = train_one(training, source, workers, options, should_stop)
                except VoxportraitError as error:
                    if fail_at_once:
                        raise
                    outcome = {"run": str(training.run), "finished": False, "error": str(error)}
                outcomes.append(outcome)
                say(describe(outcome))
                if not outcome["finished"] and should_stop():
                    break
        finally:
            if workers.need_ray:
                stop_ray()
    return outcomes


def train_one(
    training: Training, source: "Source", workers: Workers, options: dict[str, Any], should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Train one stage, in this process or on workers; returns its outcome as `training.loop.train` does."""
    from featurestore.conditioning import system as system_named
    from training import cluster, loop
    from training.data import Opening
    from training.stages import settings_of

    layout, seed = system_named(training.system).layout(training.base), options["seed"]
    stage = {"system": training.system, "stage": training.stage, "layout": training.base, "choices": training.choices}
    common = {**stage, **options}
    run = training.run.absolute() if workers.need_ray else training.run
    given = source.absolute() if workers.need_ray else source
    settings = settings_of(training.stage, options["preset"], training.choices)
    opening = Opening(
        given, training.system, training.stage, layout, training.batch_size, seed, run, workers.device, settings
    )
    with bar(training.run.name, "steps") as progress:
        told: dict[str, Any] = {"device": workers.device, "progress": progress, "should_stop": should_stop}
        if not workers.need_ray:
            return loop.train(training.run, opening(told=say), **common, **told)
        return cluster.train(training.run, opening, workers.number, address=workers.address, told=say, **common, **told)


def describe(outcome: dict[str, Any]) -> str:
    """A line for a person."""
    if "error" in outcome:
        return f"{outcome['run']}: {outcome['error']}"
    if outcome["already_finished"]:
        return f"{outcome['run']}: was trained already ({outcome['step']} steps)"
    if not outcome["finished"]:
        return f"{outcome['run']}: stopped at step {outcome['step']} of {outcome['steps']}"
    return (
        f"{outcome['run']}: {outcome['step']} steps in {outcome['seconds']:.0f} s, loss {outcome['loss']:.4f}, "
        f"waited for data {100 * outcome['waited']:.0f} %"
    )


def print_summary(outcomes: list[dict[str, Any]]) -> None:
    """All runs in a table."""

    def row(one: dict[str, Any]) -> list[Any]:
        losses = (None if one.get(key) is None else f"{one[key]:.4f}" for key in ("loss", "validation_loss"))
        state = one.get("error") or ("finished" if one["finished"] else "stopped")
        return [one["run"], one.get("step"), one.get("steps"), *losses, state]

    print_table(["run", "step", "of", "loss", "validation loss", ""], map(row, outcomes))


def raise_unless_finished(outcomes: list[dict[str, Any]]) -> None:
    """Raises VoxportraitError where a run failed, or was stopped and is to go on."""
    from featurestore.errors import VoxportraitError

    failed = [one["run"] for one in outcomes if "error" in one]
    if failed:
        raise VoxportraitError(f"{len(failed)} of {len(outcomes)} runs failed: {', '.join(failed)}")
    if not outcomes[-1]["finished"]:
        last = outcomes[-1]
        raise VoxportraitError(
            f"stopped as asked at step {last['step']} of {last['steps']}; run the same command again to go on"
        )


def export_speech(runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """Export the trained codec's speech encoder, so that `fill --constituents speech_query` makes its queries.

    The file lies with the other models' weights, in place of one that was there.
    """
    from training.latent.export import export_speech as export

    path = export(run_folder(runs, "fine-portraitist", "codec"))
    say(f"{path}: fill a store with it by: voxportrait fill --constituents speech_query")
    if as_json:
        print_json({"file": str(path)})


COMMANDS = (train, export_speech)
