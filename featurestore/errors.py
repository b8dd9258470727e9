"""Errors that a person reads: one line, and what to do about it."""


class VoxportraitError(Exception):
    """Something failed that the user can act on. The command line prints it as one line and exits with 1."""

    exit_code = 1


class UsageError(VoxportraitError):
    """The command was wrong: a path that is not there, a name that is not known. Exit code 2."""

    exit_code = 2


def choose(what: str, name: str, known) -> str:
    """Return `name` if it is among `known`; else raise a UsageError that lists them, the nearest first."""
    import difflib

    names = list(known)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"unknown {what} {name!r}.{hint} Known: {', '.join(names)}.")
