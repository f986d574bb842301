"""The `aios` command: up, down, status, ps, demo. Errors are one line, never a traceback."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from aios.config import Settings
from aios.errors import AiosError

app = typer.Typer(
    help="One runtime on Ray for the whole life of an AI feature in production.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Home = Annotated[Path | None, typer.Option(help="Folder of the runtime; default ~/.aios.")]


@app.command()
def up(
    home: Home = None,
    port: Annotated[int | None, typer.Option(help="Port of the ingress; default 8000.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Use this Ray (`auto` on a cluster's head).")
    ] = None,
    store_url: Annotated[str | None, typer.Option(help="SQLAlchemy URL of the store.")] = None,
    artifacts_url: Annotated[str | None, typer.Option(help="fsspec URL of artifacts.")] = None,
    log_url: Annotated[str | None, typer.Option(help="URL of the prediction log.")] = None,
    otlp_endpoint: Annotated[str | None, typer.Option(help="OTLP/HTTP address for spans.")] = None,
) -> None:
    """Start a runtime on this machine and print how to reach it."""
    from aios.runtime.lifecycle import up as start

    settings = Settings.load(
        home=home,
        http_port=port,
        ray_address=ray_address,
        store_url=store_url,
        artifacts_url=artifacts_url,
        log_url=log_url,
        otlp_endpoint=otlp_endpoint,
    )
    connection = start(settings)
    typer.echo(f"aios is up at {connection.address}\nAPI key: {connection.key}")
    typer.echo("In Python: rt = aios.connect()    Stop it with: aios down")


@app.command()
def down(home: Home = None) -> None:
    """End the runtime; models, endpoints and history stay for the next `aios up`."""
    from aios.runtime.lifecycle import down as stop

    settings = Settings.load(home=home)
    typer.echo("aios is down" if stop(settings) else f"no runtime was up at {settings.home}")


@app.command()
def status(home: Home = None) -> None:
    """What is deployed, and which rollouts run."""
    _show(home, "status")


@app.command()
def ps(home: Home = None) -> None:
    """The runtime's processes."""
    _show(home, "ps")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("out"),
    rate: Annotated[float, typer.Option(help="Requests per second to replay.")] = 150.0,
) -> None:
    """Tell the loan story on a private runtime and write a report."""
    try:
        from apps.loan_approval.story import main as tell  # type: ignore[import-not-found]
    except ImportError as error:
        raise SystemExit(f"aios: the demo needs a checkout of the project: {error}") from None
    raise SystemExit(tell(out, rate))


def _show(home: Path | None, what: str) -> None:
    from rich.console import Console

    from aios.runtime.lifecycle import connect

    with connect(home=home) as runtime:
        Console().print(getattr(runtime, what)())


def main() -> None:
    """The console script."""
    try:
        app()
    except AiosError as error:
        typer.echo(f"aios: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("aios: interrupted", err=True)
        sys.exit(130)
