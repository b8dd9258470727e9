"""`voxportrait sample`, `evaluate` and `report`."""

COMMANDS = ()
