"""What acts by itself: flows, and what waits for people's word."""

import json
from typing import Annotated, Any

import typer

from aios.cli.terminal import Address, Home, show
from aios.errors import UsageError
from aios.runtime import lifecycle

commands = typer.Typer()
FlowId = Annotated[str, typer.Argument(help="As `aios flows` lists it.", metavar="ID")]


@commands.command()
def flows(
    name: Annotated[
        str | None, typer.Argument(help="Of this name; default all.", metavar="[NAME]")
    ] = None,
    status: Annotated[str | None, typer.Option(help="queued, running, failed, ...")] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(help="Only with this; may be given often.", metavar="K=V")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=10_000)] = 100,
    home: Home = None,
    address: Address = None,
) -> None:
    """The newest flows."""
    wanted = dict(_pair(one) for one in attribute or [])
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.flows(name, status=status, attributes=wanted, limit=limit))


@commands.command()
def flow(flow_id: FlowId, home: Home = None, address: Address = None) -> None:
    """One flow: how it stands, and what it has done."""
    with lifecycle.connect(address, home=home) as runtime:
        found = runtime.flow(flow_id)
        show(found.status())
        show(found.steps())


@commands.command()
def cancel(flow_id: FlowId, home: Home = None, address: Address = None) -> None:
    """End a flow before its next step; what it did stays done."""
    with lifecycle.connect(address, home=home) as runtime:
        runtime.flow(flow_id).cancel()
    typer.echo(f"{flow_id} is cancelled")


@commands.command()
def inbox(home: Home = None, address: Address = None) -> None:
    """What waits for your word: questions of flows, tool calls of agents."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.inbox())


@commands.command()
def answer(
    waiting: Annotated[str, typer.Argument(help="As `aios inbox` lists it.", metavar="ID")],
    values: Annotated[
        list[str],
        typer.Argument(help="field=value for each field, or one JSON value.", metavar="ANSWER..."),
    ],
    home: Home = None,
    address: Address = None,
) -> None:
    """Answer what waits in the inbox: `aios answer order-42/3 approve=true note="seen it"`."""
    given = _answer(values)
    with lifecycle.connect(address, home=home) as runtime:
        runtime.answer(waiting, given)
    typer.echo(f"{waiting} is answered")


def _answer(values: list[str]) -> Any:
    if len(values) == 1 and "=" not in values[0].partition("{")[0]:
        return _value(values[0])
    given: dict[str, Any] = {}
    for name, value in map(_pair, values):
        if name in given:
            raise UsageError(f"{name!r} is given twice: which of them?")
        given[name] = value
    return given


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{text[:60]!r}: give field=value, such as approve=true")
    return name, _value(value)


def _value(text: str) -> Any:
    """JSON where it is, else the text as it stands."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
