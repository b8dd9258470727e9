"""Every stage by its name: how it is trained by preset, and how it is built."""

from collections.abc import Mapping
from typing import Any

import torch

from featurestore.conditioning import Layout, System
from featurestore.conditioning import system as system_named
from featurestore.errors import choose
from featurestore.records import Records
from training.latent.presets import PRESETS as LATENT
from training.presets import cascade_of, stage_preset
from training.settings import Settings
from training.stage import Stage

UNETS = {"unet1": 1, "unet2": 2}
"""SLF's two, by the number of the U-Net in its cascade."""

STAGES = (*UNETS, *LATENT)


def settings_of(stage: str, preset: str, choices: Mapping[str, Any] | None = None) -> Settings:
    """How a stage is trained. choices: settings instead of the preset's. Raises UsageError for a name that is none."""
    if choose("stage", stage, STAGES) in UNETS:
        settings: Settings = stage_preset(preset, UNETS[stage])
    else:
        settings = LATENT[stage][choose("preset", preset, LATENT[stage])]
    return settings.changed(choices or {})


def settings_in(about: Mapping[str, Any]) -> Settings:
    """The settings that a run or a checkpoint keeps."""
    return type(settings_of(about["stage"], "micro")).from_json(about["settings"])


def build(
    system: System | str,
    stage: str,
    settings: Any,
    layout: Layout,
    device: torch.device,
    records: Records | None = None,
) -> Stage:
    """The stage with fresh weights, drawn from torch's global random state.

    records: what it learns from; those of a latent stage know the codec (`training.latent.encoded`).
    """
    system = system_named(system) if isinstance(system, str) else system
    if stage in UNETS:
        from training.cascade import CascadeStage

        return CascadeStage(UNETS[stage], cascade_of(system), settings, layout, device)
    if stage == "codec":
        from training.latent.pretraining import CodecStage

        return CodecStage(settings, layout, device)
    from training.latent.denoising import LatentStage

    return LatentStage(stage, system, settings, layout, device, records.codec)  # type: ignore[union-attr]
