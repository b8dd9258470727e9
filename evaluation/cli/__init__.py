"""This room's commands: `voxportrait sample`, `evaluate` and `report`."""

from evaluation.cli import judging, reporting, sampling

COMMANDS = (*sampling.COMMANDS, *judging.COMMANDS, *reporting.COMMANDS)
