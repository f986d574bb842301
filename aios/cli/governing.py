"""Who may serve, and who may call: approvals, the policy, model cards, keys."""

import sys
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from aios.cli.terminal import Address, Home, Ref, show
from aios.runtime import lifecycle
from aios.security import Role

Subject = Annotated[
    str,
    typer.Argument(help="A version (loan:2) or a rollout's id.", metavar="SUBJECT"),
]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the audit log.", metavar="TEXT")]

commands = typer.Typer()
policy_app = typer.Typer(help="Which gates and approvals a risk tier needs.", no_args_is_help=True)
keys_app = typer.Typer(help="Who may call this runtime, and what.", no_args_is_help=True)
commands.add_typer(keys_app, name="keys")
commands.add_typer(policy_app, name="policy")


@commands.command()
def approvals(home: Home = None, address: Address = None) -> None:
    """What waits for somebody's approval."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.approvals())


@commands.command()
def approve(subject: Subject, reason: Reason, home: Home = None, address: Address = None) -> None:
    """Say yes, with your name, to what waits for approval."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.approve(subject, reason=reason))


@commands.command()
def reject(subject: Subject, reason: Reason, home: Home = None, address: Address = None) -> None:
    """Say no, with your name; one no is enough."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.reject(subject, reason=reason))


@commands.command()
def card(ref: Ref, home: Home = None, address: Address = None) -> None:
    """A version's model card; in a pipe as Markdown."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.card(ref), narrow=True)


@policy_app.command("show")
def policy_show(home: Home = None, address: Address = None) -> None:
    """The policy in force; in a pipe as YAML, which `aios policy set` takes."""
    with lifecycle.connect(address, home=home) as runtime:
        policy = runtime.policy()
        if sys.stdout.isatty():
            show(policy)
        else:
            typer.echo(policy.text)


@policy_app.command("set")
def policy_set(
    file: Annotated[Path, typer.Argument(help="A policy as YAML.", metavar="FILE")],
    home: Home = None,
    address: Address = None,
) -> None:
    """Put a policy in force; assessments made under another one count no more."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.set_policy(file))


@keys_app.command("add")
def keys_add(
    identity: Annotated[str, typer.Argument(help="Whom it is for.", metavar="IDENTITY")],
    role: Annotated[
        str,
        typer.Option(help=f"One of {', '.join(get_args(Role))}.", metavar="ROLE"),
    ],
    home: Home = None,
    address: Address = None,
) -> None:
    """Make a key and print it: it is shown nowhere again."""
    with lifecycle.connect(address, home=home) as runtime:
        made = runtime.keys.add(identity, role=cast("Role", role))
        typer.echo(f"{made.id}: {made.identity} is {made.role}", err=True)
        typer.echo(made.key)


@keys_app.command("list")
def keys_list(home: Home = None, address: Address = None) -> None:
    """The keys that work now, without the keys themselves."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.keys.list())


@keys_app.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="As `aios keys list` shows it.", metavar="ID")],
    home: Home = None,
    address: Address = None,
) -> None:
    """Let a key never call again."""
    with lifecycle.connect(address, home=home) as runtime:
        runtime.keys.revoke(key_id)
    typer.echo(f"{key_id} is revoked")
