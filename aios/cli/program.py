"""The console script: every command, put together, and how each of them ends."""

import os
import signal
import sys

import typer

from aios.cli import (
    acting,
    benching,
    delegating,
    events,
    governing,
    past,
    planning,
    recording,
    running,
    spending,
    watching,
)
from aios.errors import AiosError
from aios.presentation import harmless

app = typer.Typer(
    help="One runtime on Ray for the whole life of an AI feature in production.",
    epilog="Every setting is also a variable (AIOS_HOME, AIOS_KEY, ...) and a line of aios.toml.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ROOMS = (
    *(running, watching, acting, delegating, events, governing, past, spending, recording),
    *(planning, benching),
)
for subject in ROOMS:
    app.add_typer(subject.commands)


def main() -> None:
    """The console script."""
    # What a supervisor or `timeout` sends ends a start as tidily as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except AiosError as error:
        typer.echo(harmless(f"aios: {error}"), err=True)
        sys.exit(1)
    except BrokenPipeError:
        # Who read our output has enough. Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        typer.echo("aios: interrupted", err=True)
        sys.exit(130)
