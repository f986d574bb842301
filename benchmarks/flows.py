"""What do users' flows cost beside bare DBOS, and beside Prefect?

    python -m benchmarks.flows [--postgres URL] [--prefect] [--rounds 3] [--flows 200] [--steps 300]

Question: flows begun and finished per second, and the time of one step, as a ratio to bare DBOS
doing the same on the same database in the same run (goal: at least 0.9 of its rate).

Method: each side is a process of its own with a fresh database (SQLite in WAL mode, a file on this
machine's disk; or a database made for it in PostgreSQL), and they take turns, A B A B. `begun`: N
flows of one step are enqueued by a client before there is a worker; with one in the same process,
how long that takes depends on when it looks. Then the worker begins and runs these, which warms it.
`flows`: N more are enqueued and waited for, until the last has ended. `steps`: one flow of N steps,
one after the other; each step returns a small dictionary. Both are async and look at their queue as
often as aios does. `cpu_ms` is what a flow of one step took of the process's CPU, begun, run and
waited for: it is less at the mercy of whatever else the machine does. What is found of each round
goes to standard error.

`--prefect` puts Prefect beside them, on SQLite only, in an environment of its own that the first
run makes with pip; its settings are in `peers_prefect.py`. It runs fewer flows and steps, for it is
much slower, and beginning alone has no rate there.

Caveats: no Ray, no HTTP and no audit entry are in it (`rt.start` has all of these: see the README
for its rate); ours stores JSON and bare DBOS its default, a pickle. Both fsync each commit.
"""

import argparse
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aios.capacity import machine
from aios.flows.place import POLL_S
from benchmarks.commands import CACHE, arguments, begin, count, environment, parser_of, run
from benchmarks.goals import goal
from benchmarks.results import RESULTS, ResultFile


@dataclass(frozen=True)
class Size:
    """How many flows of one step, and steps of one flow."""

    flows: int
    steps: int


PREFECT = ("prefect==3.9.1",)
LESS = Size(50, 100)


def bare(url: str, folder: Path, size: "Size") -> dict[str, float]:
    """The same with DBOS alone."""
    import sqlite3

    from dbos import DBOS, DBOSClient, run_dbos_database_migrations

    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    DBOS(config={"name": "bare", "system_database_url": url, "log_level": "ERROR"})

    @DBOS.step()
    async def step(number: int) -> dict[str, Any]:
        return {"number": number}

    @DBOS.workflow(name="chain")
    async def chain(steps: int) -> int:
        for number in range(steps):
            await step(number)
        return steps

    run_dbos_database_migrations(url)
    client = DBOSClient(system_database_url=url)
    client.register_queue("q", polling_interval_sec=POLL_S)  # as aios looks

    def begin(steps: int) -> Any:
        return client.enqueue({"workflow_name": "chain", "queue_name": "q"}, steps)

    def wait(handles: list[Any]) -> None:
        for handle in handles:
            handle.get_result(polling_interval_sec=0.02)

    return measured(begin, wait, DBOS.launch, size)


def ours(url: str, folder: Path, size: "Size") -> dict[str, float]:
    """The same with a worker of users' flows."""
    from uuid import uuid4

    from aios.flows.client import FlowClient
    from aios.flows.place import Place
    from aios.flows.worker import FlowWorker
    from aios.packaging import code_of
    from aios.records.acting import Definition
    from benchmarks import flow_under_test

    source = code_of(flow_under_test.chain, "flow")
    definition = Definition(
        kind="flow", name="chain", version=1, source=source, created_s=0.0, created_by="bench"
    )

    class Host:
        def definition(self, ref: str) -> Definition:
            return definition

    place = Place(url, str(folder / "values"))
    client = FlowClient(place)
    client.open()

    def lost() -> None:
        print("it lost its lease: this machine is too busy to measure flows", file=sys.stderr)
        os._exit(1)  # its flows would never end

    worker = FlowWorker(place, f"bench-{uuid4().hex}", Host(), lost=lost)  # type: ignore[arg-type]

    def begin(steps: int) -> str:
        return client.begin(definition, [steps], {}, uuid4().hex, "bench")

    def wait(ids: list[str]) -> None:
        for flow_id in ids:
            while client.outcome(flow_id)["status"] != "finished":
                time.sleep(0.02)

    return measured(begin, wait, worker.launch, size)


def measured(begin: Any, wait: Any, launch: Any, size: "Size") -> dict[str, float]:
    """`flows_per_s`, `begun_per_s`, `cpu_ms` and `step_ms`."""
    handles = [begin(1)]
    started_s = time.perf_counter()
    handles += [begin(1) for _ in range(size.flows)]
    begun_s = time.perf_counter() - started_s
    launch()
    wait(handles)
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    wait([begin(1) for _ in range(size.flows)])
    ended_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    started_s = time.perf_counter()
    wait([begin(size.steps)])
    steps_s = time.perf_counter() - started_s
    return {
        "begun_per_s": size.flows / begun_s,
        "flows_per_s": size.flows / ended_s,
        "cpu_ms": 1000 * cpu_s / size.flows,
        "step_ms": 1000 * steps_s / size.steps,
    }


def side(name: str, server: str | None, size: Size) -> dict[str, float]:
    """One round of one side, in a process of its own with a fresh database."""
    with tempfile.TemporaryDirectory() as folder:
        if name == "prefect":
            python = environment(CACHE / "prefect", "Prefect", PREFECT)
            script = str(Path(__file__).with_name("peers_prefect.py"))
            command = [python, script, folder, str(LESS.flows), str(LESS.steps)]
        else:
            url = f"sqlite:///{folder}/flows.db" if server is None else new_database(server)
            command = [sys.executable, "-m", "benchmarks.flows", "--side", name, "--url", url]
            command += ["--folder", folder]
            command += ["--flows", str(size.flows), "--steps", str(size.steps)]
        found: dict[str, float] = json.loads(run(command, f"{name} failed").splitlines()[-1])
        return found


def new_database(server: str) -> str:
    """The URL of a database of its own on the server of a URL. It stays there."""
    import psycopg

    base = server.rpartition("/")[0]
    name = f"bench_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{base}/{name}"


def compare(asked: argparse.Namespace, names: list[str], file: ResultFile) -> dict[str, Any]:
    """Medians of all sides over the rounds, and our share of the others' rates."""
    told: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    size = Size(asked.flows, asked.steps)
    for number in range(asked.rounds):
        for name, found in told.items():
            found.append(side(name, asked.postgres, size))
            shown = ", ".join(f"{key} {value:.1f}" for key, value in found[-1].items())
            print(
                f"round {number + 1} of {asked.rounds}, {name}: {shown}",
                file=sys.stderr,
                flush=True,
            )
            for key, value in found[-1].items():
                better = "higher" if key.endswith("_per_s") else "lower"
                file.figure(f"{name}: {key}", value, better, number)
    medians = {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]}
        for name, found in told.items()
    }
    others = {name: ratios(medians["ours"], medians[name]) for name in names if name != "ours"}
    database = "SQLite" if asked.postgres is None else "PostgreSQL"
    by_round = [ratios(*both) for both in zip(told["ours"], told["bare"], strict=True)]
    for key, text in AIMED:
        file.goal(goal(f"{text} vs. bare DBOS, {database}", [one[key] for one in by_round]))
    return {"database": database, **medians, "ours to": others}


AIMED = (
    ("begun_per_s", "flows begun/s"),
    ("flows_per_s", "flows finished/s"),
    ("step_ms", "rate of steps"),
)


def ratios(ours: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Our rates by the other's; where less is better, the other's by ours. 1 is as good."""
    return {
        key: ours[key] / value if key.endswith("_per_s") else value / ours[key]
        for key, value in other.items()
    }


def main() -> None:
    """Run the rounds, write them as they come, print what they come to."""
    parser = parser_of("flows", __doc__)
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--flows", type=count, default=200, help="of one step")
    parser.add_argument("--steps", type=count, default=300, help="of one flow")
    parser.add_argument("--postgres", metavar="URL", help="a database where others can be made")
    parser.add_argument("--prefect", action="store_true", help="beside Prefect too, on SQLite")
    parser.add_argument("--side", choices=("bare", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = arguments(parser, {"rounds": 2, "flows": 200, "steps": 100})
    if asked.side is not None:
        act = bare if asked.side == "bare" else ours
        print(json.dumps(act(asked.url, asked.folder, Size(asked.flows, asked.steps))), flush=True)
        os._exit(0)  # neither side's threads are waited for
    if asked.prefect and asked.postgres:
        parser.error("--prefect is compared on SQLite; leave --postgres out")
    names = ["bare", "ours", *(["prefect"] if asked.prefect else [])]
    if asked.prefect:
        print("making the environment of Prefect, if there is none ...", file=sys.stderr)
        environment(CACHE / "prefect", "Prefect", PREFECT)
    file = ResultFile(RESULTS, "flows")
    told = {name: value for name, value in vars(asked).items() if name in TOLD}
    file.run(
        seed=None,
        machine=machine.describe(),
        database="SQLite" if asked.postgres is None else "PostgreSQL",
        **told,
    )
    print(json.dumps(compare(asked, names, file), indent=2))
    print(f"written to {file.path}", file=sys.stderr)


TOLD = ("rounds", "flows", "steps", "prefect", "short")
"""Of the arguments; the URL of a database may hold a password."""


if __name__ == "__main__":
    begin(main)
