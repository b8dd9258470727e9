"""`voxportrait train`."""

from pathlib import Path
from typing import Annotated

import typer

from featurestore.console import Json, Licences, RequireConsent, bar, print_json, say

Runs = Annotated[Path, typer.Option(help="Where runs live: one folder a system and U-Net.")]
System = Annotated[str, typer.Option(help="Which inputs: full-input, no-image-guide, only-audio, ...")]


def run_folder(runs: Path, system: str, unet: int) -> Path:
    """Where a U-Net of a system is trained."""
    return runs / f"{system}-unet{unet}"


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
    preset: Annotated[str, typer.Option(help="How large: micro, tiny, small, paper.")] = "tiny",
    stage: Annotated[str, typer.Option(help="unet1, unet2, or both, one after the other.")] = "both",
    runs: Runs = Path("runs"),
    layout: Annotated[str, typer.Option(help="What stands where: slf, slf-released, or a JSON file of yours.")] = "slf",
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
    batch_size: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu.")] = None,
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
    """Train a system from a store, or from an export of it.

    A run that was stopped goes on when the same command is run again.
    """
    from featurestore.conditioning import layout_named
    from featurestore.conditioning import system as system_named
    from featurestore.errors import UsageError, VoxportraitError, choose
    from featurestore.interrupt import stop_on_signal
    from featurestore.policy import policy_of
    from training.data import loader_for, loader_from_export
    from training.loop import train as run_training
    from training.presets import stage_preset

    base = layout_named(layout).chosen(only, without)
    chosen = system_named(system).layout(base)
    if not (chosen.constituents or system_named(system).image_guide):
        raise UsageError(f"the system {system} has no input left: {chosen.label}")
    if store is None and export is None:
        raise UsageError("say what to train on: --store, or --export for a file of voxportrait store export")
    if export is not None and (snapshot or cache):
        raise UsageError("an export has its clips: --snapshot and --cache are for a store")
    numbers = {"unet1": (1,), "unet2": (2,), "both": (1, 2)}
    policy, outcomes = policy_of(require_consent, licences), []
    for unet in numbers[choose("stage", stage, numbers)]:
        size = batch_size or stage_preset(preset, unet).batch_size
        if export is not None:
            loader = loader_from_export(export, chosen, size, seed, store, say, missing=missing, policy=policy)
        else:
            options = {"missing": missing, "snapshot": snapshot, "policy": policy, "cache": cache}
            loader = loader_for(store or "", chosen, size, seed, **options)
        folder = run_folder(runs, system, unet)
        with bar(folder.name, "steps") as progress, stop_on_signal() as should_stop:
            outcome = run_training(
                folder,
                loader,
                system,
                unet,
                preset,
                layout=base,
                seed=seed,
                steps=steps,
                device=device,
                progress=progress,
                should_stop=should_stop,
            )
        outcomes.append(outcome)
        if outcome["already_finished"]:
            say(f"{folder}: was trained already ({outcome['step']} steps)")
        elif outcome["finished"]:
            say(
                f"{folder}: {outcome['step']} steps in {outcome['seconds']:.0f} s, loss {outcome['loss']:.4f}, "
                f"waited for data {100 * outcome['waited']:.0f} %"
            )
        else:
            if as_json:
                print_json(outcomes)
            raise VoxportraitError(
                f"stopped as asked at step {outcome['step']} of {outcome['steps']}; run the same command again to go on"
            )
    if as_json:
        print_json(outcomes)


COMMANDS = (train,)
