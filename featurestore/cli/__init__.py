"""`voxportrait store ...`: each file of this folder has the commands of one kind."""

import typer

from featurestore.cli import asking, exporting, forgetting, keeping, quarantine

app = typer.Typer(no_args_is_help=True, help="Ask a store, keep it well, and forget people.")
for kind in (asking, keeping, exporting, forgetting):
    for command in kind.COMMANDS:
        app.command()(command)
app.add_typer(quarantine.app, name="quarantine")
