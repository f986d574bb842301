"""Events: what is acted on, what was set aside."""

from typing import Annotated

import typer

from aios.cli.terminal import Address, Home, show
from aios.errors import UsageError
from aios.records.events import DeadLetter
from aios.runtime import lifecycle
from aios.runtime.runtime import Runtime

commands = typer.Typer()
_Subscription = Annotated[
    str | None, typer.Argument(help="Of this one; default all.", metavar="[SUBSCRIPTION]")
]


@commands.command()
def events(subscription: _Subscription = None, home: Home = None, address: Address = None) -> None:
    """What is acted on, and how each subscription stands."""
    with lifecycle.connect(address, home=home) as runtime:
        found = runtime.subscriptions()
        show(found if subscription is None else found[subscription])


@commands.command()
def outbox(home: Home = None, address: Address = None) -> None:
    """Sinks to which events are still to be sent, and what went wrong last."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.outbox())


@commands.command(name="dead-letters")
def dead_letters(
    subscription: _Subscription = None,
    trace: Annotated[int | None, typer.Option(help="Show all of this one.", metavar="ID")] = None,
    home: Home = None,
    address: Address = None,
) -> None:
    """Events that were set aside, and why."""
    with lifecycle.connect(address, home=home) as runtime:
        found = runtime.dead_letters(subscription)
    if trace is None:
        show(found)
        return
    one = next((letter for letter in found if letter.id == trace), None)
    if one is None:
        raise UsageError(f"no dead letter {trace} is among the newest {len(found)}")
    typer.echo(one.model_dump_json(indent=1, exclude={"trace"}))
    typer.echo(one.trace)


_Letters = Annotated[
    list[int] | None, typer.Argument(help="Ids of `aios dead-letters`.", metavar="ID...")
]
_All = Annotated[str | None, typer.Option(help="All of this one.", metavar="SUBSCRIPTION")]


@commands.command()
def replay(
    letters: _Letters = None,
    subscription: _All = None,
    home: Home = None,
    address: Address = None,
) -> None:
    """Act again on events that were set aside; what could not be read is left out."""
    with lifecycle.connect(address, home=home) as runtime:
        count = runtime.replay(_chosen(runtime, letters, subscription))
    typer.echo(f"{count} acted on again")


@commands.command()
def discard(
    letters: _Letters = None,
    subscription: _All = None,
    home: Home = None,
    address: Address = None,
) -> None:
    """Forget events that were set aside, for good."""
    with lifecycle.connect(address, home=home) as runtime:
        count = runtime.discard(_chosen(runtime, letters, subscription))
    typer.echo(f"{count} discarded")


def _chosen(
    runtime: Runtime, letters: list[int] | None, subscription: str | None
) -> list[int | DeadLetter]:
    if not letters and subscription is None:
        raise UsageError("name dead letters by their ids, or all of one with --subscription")
    chosen: list[int | DeadLetter] = list(letters or ())
    if subscription is not None:
        found = runtime.dead_letters(subscription, limit=10_000)
        chosen += [one for one in found if one.id not in chosen]
    return chosen
