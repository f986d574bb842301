"""What happened, and why: runs, history, lineage, explanations, the audit log."""

import json
from pathlib import Path
from typing import Annotated

import typer

from aios.cli.terminal import Address, Home, Ref, show, write
from aios.config import Settings
from aios.kernel import sealing
from aios.runtime import lifecycle
from aios.store import audit, verification
from aios.store.database import Database

commands = typer.Typer()
audit_app = typer.Typer(help="Everything that was changed, and its proof.", no_args_is_help=True)
commands.add_typer(audit_app, name="audit")


@commands.command()
def runs(
    model: Annotated[
        str | None, typer.Argument(help="Of this model; default all.", metavar="[MODEL]")
    ] = None,
    home: Home = None,
    address: Address = None,
) -> None:
    """Training runs, oldest first."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.runs(model))


@commands.command()
def history(
    endpoint: Annotated[str, typer.Argument(help="Its name.", metavar="ENDPOINT")],
    home: Home = None,
    address: Address = None,
) -> None:
    """What an endpoint served, and what let it."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.history(endpoint))


@commands.command()
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
        write(openlineage, json.dumps(found.openlineage(), indent=2))
    if html is None and openlineage is None:
        show(found, narrow=True)


@commands.command()
def explain(
    request_id: Annotated[str, typer.Argument(help="Of the answer.", metavar="REQUEST_ID")],
    row: Annotated[int, typer.Option(help="Which record of it, from 0.", min=0)] = 0,
    home: Home = None,
    address: Address = None,
) -> None:
    """Why an answer was given: version, data, gates, approvals, contributions."""
    with lifecycle.connect(address, home=home) as runtime:
        show(runtime.explain(request_id, row))


@commands.command()
def reproduce(
    ref: Ref,
    wait_s: Annotated[float, typer.Option(help="Seconds to wait for it.", min=0)] = 3600.0,
    home: Home = None,
    address: Address = None,
) -> None:
    """Make a version again and compare; ends with 1 if it comes out different."""
    with lifecycle.connect(address, home=home) as runtime:
        found = runtime.reproduce(ref, wait_s=wait_s)
    show(found)
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
        show(runtime.audit(limit, subject))


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
    show(verdict)
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
    show(f"{role} may do all that aios does, but not change or remove audit entries")
