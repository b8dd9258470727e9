"""This room's commands: `voxportrait sample`, `evaluate`, `report` and `study`."""

from evaluation.cli import judging, reporting, sampling, study

COMMANDS = (*sampling.COMMANDS, *judging.COMMANDS, *reporting.COMMANDS, *study.COMMANDS)
