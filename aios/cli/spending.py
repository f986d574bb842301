"""What things cost, and what they bring."""

import time
from typing import Annotated

import typer

from aios.cli.terminal import Address, Home, show
from aios.runtime import lifecycle

DAY_S = 86_400.0
commands = typer.Typer()


@commands.command()
def cost(
    days: Annotated[float, typer.Option(help="How far back.", min=0.001, max=400)] = 7.0,
    by: Annotated[str, typer.Option(help="endpoint, version, arm, run or kind.")] = "endpoint",
    home: Home = None,
    address: Address = None,
) -> None:
    """What the cluster cost, and what for."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.cost(time.time() - DAY_S * days, by=by))


@commands.command()
def roi(
    endpoint: Annotated[str, typer.Argument(help="Its name.", metavar="ENDPOINT")],
    days: Annotated[float, typer.Option(help="How far back.", min=0.001, max=400)] = 30.0,
    value_per_kpi: Annotated[float, typer.Option(help="Money for one unit of kpi.")] = 1.0,
    maintenance: Annotated[float, typer.Option(help="Of people, by the month.", min=0)] = 0.0,
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", help="Take answers without a kpi to be worth as much.")
    ] = False,
    home: Home = None,
    address: Address = None,
) -> None:
    """What an endpoint's answers were worth, beside what they cost."""
    with lifecycle.connect(address, home=home) as runtime:
        found = runtime.roi(
            endpoint,
            since=time.time() - DAY_S * days,
            value_per_kpi=value_per_kpi,
            maintenance_per_month=maintenance,
            extrapolate=extrapolate,
        )
    show(found)
