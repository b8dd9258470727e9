"""`voxportrait store quarantine`."""

from featurestore.console import Json, Store, print_json, print_table, say


def quarantine(store: Store, as_json: Json = False) -> None:
    """The clips that could not give something, and why."""
    import featurestore

    rows = featurestore.open(store).table("quarantine").to_table().sort_by("clip_id").to_pylist()
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("nothing is in quarantine")
        return
    columns = ("clip_id", "constituent", "reason", "message", "attempts")
    print_table(columns, ([row[c] for c in columns] for row in rows))


COMMANDS = (quarantine,)
