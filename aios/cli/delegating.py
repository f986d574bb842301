"""Agents in a terminal: which there are, what they did, and how to end one."""

from typing import Annotated

import typer

from aios.cli.terminal import Address, Home, show
from aios.errors import UsageError
from aios.runtime import lifecycle
from aios.runtime.agents import Agent
from aios.runtime.mcp_server import serve_stdio
from aios.runtime.runtime import Runtime

commands = typer.Typer()

Ref = Annotated[str, typer.Argument(help="An agent: name/id.", metavar="AGENT")]


@commands.command()
def agents(
    name: Annotated[
        str | None, typer.Argument(help="Of this name; default all.", metavar="[NAME]")
    ] = None,
    home: Home = None,
    address: Address = None,
) -> None:
    """Agents, the last touched first."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.agents(name))


@commands.command()
def logs(
    ref: Ref,
    limit: Annotated[int, typer.Option(help="How many entries.", min=1, max=10_000)] = 100,
    home: Home = None,
    address: Address = None,
) -> None:
    """What an agent decided and called, newest first."""
    with lifecycle.connect(address, home=home) as runtime:
        show(_agent(runtime, ref).log(limit))


@commands.command()
def kill(
    ref: Ref,
    reason: Annotated[str, typer.Option(help="Why; it is kept.", metavar="TEXT")] = "",
    home: Home = None,
    address: Address = None,
) -> None:
    """End an agent for good, and all agents below it."""
    with lifecycle.connect(address, home=home) as runtime:
        _agent(runtime, ref).kill(reason)
    typer.echo(f"{ref} is killed")


@commands.command()
def mcp(home: Home = None, address: Address = None) -> None:
    """Offer endpoints, agents and flows to an MCP client, over standard input and output."""
    with lifecycle.connect(address, home=home) as runtime:
        serve_stdio(runtime)


def _agent(runtime: Runtime, ref: str) -> Agent:
    name, _, agent_id = ref.partition("/")
    if not agent_id:
        raise UsageError(f"{ref!r:.80} is no agent; one looks like triage/t-42")
    return runtime.agent(name, agent_id)
