"""`voxportrait demo` and `bench`."""

COMMANDS = ()
