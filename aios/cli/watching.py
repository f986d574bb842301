"""What endpoints see, and what is made of it: metrics, watches, monitors, feedback."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from aios.cli.terminal import Address, Home, show
from aios.runtime import lifecycle

MOST_LINES = 20
"""Refused rows that are told one by one; the count tells the rest."""

commands = typer.Typer()


@commands.command()
def metrics(home: Home = None, address: Address = None) -> None:
    """Everything that is counted, in Prometheus's text format, as GET /metrics gives it."""
    with lifecycle.connect(address, home=home) as runtime:
        typer.echo(runtime.metrics(), nl=False)


@commands.command()
def watches(
    endpoint: Annotated[
        str | None, typer.Argument(help="Of this one; default all.", metavar="[ENDPOINT]")
    ] = None,
    home: Home = None,
    address: Address = None,
) -> None:
    """What is watched, and how each watch stands."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.watches(endpoint))


@commands.command()
def unwatch(
    watch: Annotated[str, typer.Argument(help="As `aios watches` shows it.", metavar="WATCH")],
    home: Home = None,
    address: Address = None,
) -> None:
    """Take a watch off; what it found and started stays."""
    with lifecycle.connect(address, home=home) as runtime:
        runtime.get_watch(watch).end()
    typer.echo(f"{watch} is taken off")


@commands.command()
def monitor(
    endpoint: Annotated[str, typer.Argument(help="Its name.", metavar="ENDPOINT")],
    html: Annotated[Path | None, typer.Option(help="Write a page instead.", metavar="FILE")] = None,
    home: Home = None,
    address: Address = None,
) -> None:
    """What an endpoint saw lately, beside what is normal for it."""
    with lifecycle.connect(address, home=home) as runtime:
        found = runtime.monitor(endpoint)
        if html is None:
            show(found.status())
        else:
            found.report().save(html)


@commands.command()
def feedback(
    file: Annotated[
        Path,
        typer.Argument(help="CSV, .jsonl or Parquet with a column request_id.", metavar="FILE"),
    ],
    endpoint: Annotated[str, typer.Option(help="Which one answered.", metavar="ENDPOINT")],
    home: Home = None,
    address: Address = None,
) -> None:
    """Tell what turned out about many answers; ends with 1 if a row was refused."""
    from rich.console import Console
    from rich.progress import Progress

    with (
        lifecycle.connect(address, home=home) as runtime,
        Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar,
    ):
        task = bar.add_task("feedback", total=1.0)

        def told(done: float, rows: int, refused: int) -> None:
            bar.update(task, completed=done, description=f"{rows:,} rows, {refused:,} refused")

        report = runtime.feedback_file(file, endpoint=endpoint, on_progress=told)
    for line, reason in report.problems[:MOST_LINES]:
        typer.echo(f"line {line}: {reason}", err=True)
    if report.refused > MOST_LINES:
        typer.echo(f"and {report.refused - MOST_LINES:,} more", err=True)
    typer.echo(
        f"{report.rows:,} rows: {report.taken:,} taken, {report.unchanged:,} known already, "
        f"{report.refused:,} refused"
    )
    if report.refused:
        raise typer.Exit(1)
