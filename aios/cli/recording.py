"""The prediction log: its keys, its age, its files."""

from typing import Annotated

import typer

from aios.cli.terminal import Address, Home, show
from aios.errors import StoreUnavailable
from aios.runtime import lifecycle

commands = typer.Typer()
log_app = typer.Typer(
    help="The prediction log: its keys, its age, its files.", no_args_is_help=True
)
commands.add_typer(log_app, name="log")


@log_app.command("show")
def log_show(home: Home = None, address: Address = None) -> None:
    """Whether it is encrypted, how long rows are kept, what housekeeping did last."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.log())


@log_app.command("compact")
def log_compact(
    endpoint: Annotated[str, typer.Argument(help="Its name.", metavar="ENDPOINT")],
    home: Home = None,
    address: Address = None,
) -> None:
    """Tidy its log now: old rows leave, small files become large ones."""
    with lifecycle.connect(address, home=home) as runtime:
        done = runtime.compact_log(endpoint)
    typer.echo(
        f"{endpoint}: {done['rows_removed']} rows removed, {done['rows_resealed']} under a new "
        f"key, {done['files_before']} files are {done['files_after']}"
    )
    if done["problem"] is not None:
        raise StoreUnavailable(str(done["problem"]))


@log_app.command("rotate")
def log_rotate(home: Home = None, address: Address = None) -> None:
    """Encrypt new rows with a new key, and print its id."""
    with lifecycle.connect(address, home=home) as runtime:
        typer.echo(runtime.rotate_log_key())


@log_app.command("retire")
def log_retire(
    key_id: Annotated[str, typer.Argument(help="As `aios log show` lists it.", metavar="ID")],
    home: Home = None,
    address: Address = None,
) -> None:
    """Forget a key that no row is under any more."""
    with lifecycle.connect(address, home=home) as runtime:
        runtime.retire_log_key(key_id)
    typer.echo(f"{key_id} is retired")
