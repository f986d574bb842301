"""How many machines a rate takes."""

import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from aios.capacity import machine
from aios.capacity.measurement import Measurement, same_machine
from aios.capacity.planning import Demand, Node
from aios.capacity.planning import plan as sized
from aios.cli.terminal import Address, Home, show
from aios.config import Settings
from aios.errors import UsageError
from aios.records.cost import Prices
from aios.runtime import lifecycle

MOST_RECORDS = 10_000
commands = typer.Typer()


@commands.command()
def plan(
    rate: Annotated[float, typer.Option(help="Requests per second at the busiest time.")],
    p99_ms: Annotated[
        float | None,
        typer.Option(help="What 99 of 100 answers may take; else what the measurement was for."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Measure this one; takes about a minute.", metavar="NAME")
    ] = None,
    measurement: Annotated[
        Path | None, typer.Option(help="Answer from a saved one instead.", metavar="FILE")
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Of a node by the hour; else what aios.toml says.", min=0)
    ] = None,
    currency: Annotated[
        str | None, typer.Option(help="Of the price; else what aios.toml says.", metavar="TEXT")
    ] = None,
    node_type: Annotated[
        str | None, typer.Option(help="Whose price in aios.toml is meant.", metavar="TYPE")
    ] = None,
    replicas_per_node: Annotated[
        int | None, typer.Option(help="Default: its cores but one.", min=1)
    ] = None,
    gpus_per_node: Annotated[
        int, typer.Option(help="GPUs of a node, on which the replicas run.", min=0)
    ] = 0,
    replicas_per_gpu: Annotated[
        int | None, typer.Option(help="Default: one, which has the GPU for itself.", min=1)
    ] = None,
    cores: Annotated[
        int | None, typer.Option(help="Of a node; default as measured.", min=1)
    ] = None,
    spare_nodes: Annotated[
        int, typer.Option(help="So many may be lost at the busiest time.", min=0, max=100)
    ] = 1,
    ingresses: Annotated[
        int, typer.Option(help="HAProxies that the traffic comes in at.", min=1)
    ] = 1,
    records: Annotated[
        Path | None,
        typer.Option(help="Ask with these: JSON lines, a record each.", metavar="FILE"),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Where; default capacity-NAME.json.", metavar="FILE")
    ] = None,
    seconds: Annotated[float, typer.Option(help="For each rate that is tried.")] = 5.0,
    steps: Annotated[int, typer.Option(help="Rates that are tried.")] = 5,
    seed: Annotated[int, typer.Option(help="Of random arrivals and made-up records.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Also an endpoint that is in use.")
    ] = False,
    home: Home = None,
    address: Address = None,
) -> None:
    """How many replicas and nodes a rate takes, and what they cost.

    Puts load on the endpoint until it bears no more, or answers from what was measured before.
    """
    if endpoint is None and measurement is None:
        raise UsageError("name what to measure with --endpoint, or a file with --measurement")
    saved = None if measurement is None else _saved(measurement, endpoint)
    if p99_ms is None and saved is None:
        raise UsageError("say what 99 of 100 answers may take: --p99-ms 20")
    p99_s = saved.p99_s if p99_ms is None and saved is not None else (p99_ms or 0.0) / 1000
    demand = Demand(rate, p99_s, spare_nodes, ingresses)
    hour_price, known = _price(Settings.load(home=home).prices, price, node_type)
    node = Node(
        replicas=replicas_per_node,
        cores=cores,
        gpus=gpus_per_node,
        replicas_per_gpu=replicas_per_gpu,
        hour_price=hour_price,
        currency=known if currency is None else currency,
    )
    if saved is not None:
        found = saved
    else:
        assert endpoint is not None
        found = _measured(
            endpoint,
            home,
            address,
            p99_s=demand.p99_s,
            records=None if records is None else read_records(records),
            requests=None if records is None else records.name,
            seconds=seconds,
            steps=steps,
            seed=seed,
            force=force,
        )
        path = save or Path(f"capacity-{endpoint}.json")
        found.save(path)
        typer.echo(f"saved as {path}; ask it again with --measurement {path}", err=True)
    show(found.judged_by(demand.p99_s), narrow=True)
    show(sized(found, demand, node), narrow=True)


def _price(prices: Prices, said: float | None, node_type: str | None) -> tuple[float | None, str]:
    """What a node costs by the hour, and in which currency.

    Raises:
        UsageError: the settings know no such type of node.
    """
    if said is not None:
        return said, ""
    if node_type is not None and node_type not in prices.node_hours:
        known = ", ".join(sorted(prices.node_hours)) or "none"
        raise UsageError(
            f"no price of a node {node_type!r:.60}; in aios.toml, [prices] node_hours: {known}"
        )
    return prices.hour(node_type or ""), prices.currency or ""


def _saved(path: Path, endpoint: str | None) -> Measurement:
    found = Measurement.read(path)
    if endpoint is not None and endpoint != found.endpoint:
        raise UsageError(f"{path} is a measurement of {found.endpoint!r}, not of {endpoint!r}")
    if not same_machine(found.machine, machine.describe()):
        typer.echo(
            f"aios: measured on another machine ({found.machine.get('cpu')}, "
            f"{found.machine.get('cores')} cores): the answer holds for nodes like that one",
            err=True,
        )
    return found


def _measured(
    endpoint: str, home: Path | None, address: str | None, **settings: Any
) -> Measurement:
    def told(text: str) -> None:
        if sys.stderr.isatty():
            typer.echo(f"  {text}", err=True)

    with lifecycle.connect(address, home=home) as runtime:
        return runtime.measure(endpoint, on_progress=told, **settings)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a file, one JSON object a line.

    Raises:
        UsageError: it cannot be read, or a line is something else; names the line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:MOST_RECORDS], 1):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise UsageError(f"{path}, line {number}: {error}") from None
        if not isinstance(record, dict):
            raise UsageError(f"{path}, line {number}: a record is an object, not {record!r:.40}")
        found.append(record)
    if not found:
        raise UsageError(f"{path} holds no record")
    return found
