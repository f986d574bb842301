"""What commands share: their usual options, and how something is shown or written."""

from pathlib import Path
from typing import Annotated, Any

import typer

from aios.errors import UsageError

WIDE_COLUMNS = 120
"""A narrower terminal, or a pipe, gets lines instead of a table whose cells are cut off."""

Home = Annotated[
    Path | None, typer.Option(help="Folder of the runtime; default ~/.aios.", metavar="FOLDER")
]
Address = Annotated[
    str | None,
    typer.Option(help="URL of a runtime elsewhere; its key is in AIOS_KEY.", metavar="URL"),
]
Ref = Annotated[
    str,
    typer.Argument(help="A version: loan:7, loan@stable, or loan for its newest.", metavar="REF"),
]


def show(shown: Any, *, narrow: bool = False) -> None:
    """In a terminal as wide as the table needs, as a table; `narrow` things break their lines."""
    from rich.console import Console

    console = Console()
    if console.is_terminal and (narrow or console.width >= WIDE_COLUMNS):
        console.print(shown)
    else:
        typer.echo(repr(shown))


def write(file: Path, text: str) -> None:
    """Write a file whole.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        file.write_text(f"{text}\n", "utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error}") from None
