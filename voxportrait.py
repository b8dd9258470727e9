"""The command line, put together from each room's own commands."""

import sys

import typer

import evaluation.cli
import featurestore.cli
import featurestore.cli.layout
import infra.cli
import pipelines.cli
import pipelines.similar
import training.cli
from featurestore.errors import VoxportraitError

app = typer.Typer(
    help="Talking-head video into a feature store, and the feature store into systems that draw a speaker's portrait "
    "from the voice.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(pipelines.cli.corpus, name="corpus")
app.add_typer(pipelines.cli.models, name="models")
app.add_typer(featurestore.cli.app, name="store")
app.add_typer(featurestore.cli.layout.app, name="layout")
featurestore.cli.app.command()(pipelines.similar.similar)
for room in (pipelines.cli, training.cli, evaluation.cli, infra.cli):
    for command in room.COMMANDS:
        app.command()(command)


@app.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run a command; an error that the user can act on is one line, with its exit code."""
    try:
        app()
    except VoxportraitError as error:
        sys.stderr.write(f"voxportrait: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"voxportrait: {str(error).splitlines()[0]}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("voxportrait: interrupted; run the same command again to go on\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
