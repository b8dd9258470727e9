"""This room's commands: `voxportrait sample`, `evaluate`, `part-study`, `report` and `study`."""

from evaluation.cli import judging, part_study, reporting, sampling, study

COMMANDS = (*sampling.COMMANDS, *judging.COMMANDS, *part_study.COMMANDS, *reporting.COMMANDS, *study.COMMANDS)
