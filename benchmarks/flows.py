"""What do users' flows cost beside bare DBOS?

    python -m benchmarks.flows [--postgres URL] [--rounds 3]

Question: flows begun and finished per second, and the time of one step, as a ratio to bare DBOS
doing the same on the same database in the same run (goal: at least 0.9 of its rate).

Method: each side is a process of its own with a fresh database (SQLite in WAL mode, a file on this
machine's disk; or a fresh schema in PostgreSQL), the two take turns, A B A B. `flows`: N flows of
one step are enqueued by a client in the same process and waited for, until the last has ended.
`steps`: one flow of N steps, one after the other; each step returns a small dictionary. Both sides
are async, poll their queue every 0.1 s, and are warm (one flow ran before).

Caveats: no Ray, no HTTP and no audit entry are in it (`rt.start` has all of these: see the README
for its rate); ours stores JSON and bare DBOS its default, a pickle. Both fsync each commit.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FLOWS = 200
STEPS = 300


def bare(url: str, folder: Path) -> dict[str, float]:
    """The same with DBOS alone."""
    import sqlite3

    from dbos import DBOS, DBOSClient

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

    DBOS.launch()
    client = DBOSClient(system_database_url=url)
    client.register_queue("q", polling_interval_sec=0.1)
    time.sleep(2.0)  # its worker finds the queue

    def begin(steps: int) -> Any:
        return client.enqueue({"workflow_name": "chain", "queue_name": "q"}, steps)

    def wait(handles: list[Any]) -> None:
        for handle in handles:
            handle.get_result(polling_interval_sec=0.02)

    return measured(begin, wait)


def ours(url: str, folder: Path) -> dict[str, float]:
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
    FlowWorker(place, f"bench-{uuid4().hex}", Host()).launch()  # type: ignore[arg-type]
    time.sleep(2.0)

    def begin(steps: int) -> str:
        return client.begin(definition, [steps], {}, uuid4().hex, "bench")

    def wait(ids: list[str]) -> None:
        for flow_id in ids:
            while client.outcome(flow_id)["status"] != "finished":
                time.sleep(0.02)

    return measured(begin, wait)


def measured(begin: Any, wait: Any) -> dict[str, float]:
    """`flows_per_s`, `begun_per_s` and `step_ms`."""
    wait([begin(1)])
    started_s = time.perf_counter()
    handles = [begin(1) for _ in range(FLOWS)]
    begun_s = time.perf_counter() - started_s
    wait(handles)
    ended_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    wait([begin(STEPS)])
    steps_s = time.perf_counter() - started_s
    return {
        "begun_per_s": FLOWS / begun_s,
        "flows_per_s": FLOWS / ended_s,
        "step_ms": 1000 * steps_s / STEPS,
    }


def side(name: str, url: str | None) -> dict[str, float]:
    """One round of one side, in a process of its own with a fresh database."""
    with tempfile.TemporaryDirectory() as folder:
        where = url or f"sqlite:///{folder}/flows.db"
        command = [sys.executable, "-m", "benchmarks.flows", "--side", name, "--url", where]
        done = subprocess.run(
            [*command, "--folder", folder], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def compare(rounds: int, url: str | None) -> dict[str, Any]:
    """Medians of both sides over the rounds, and our share of bare DBOS's rate."""
    told: dict[str, list[dict[str, float]]] = {"bare": [], "ours": []}
    for _ in range(rounds):
        for name, found in told.items():
            found.append(side(name, url))
    medians = {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]}
        for name, found in told.items()
    }
    bare_side, our_side = medians["bare"], medians["ours"]
    return {
        "database": "SQLite" if url is None else "PostgreSQL",
        **medians,
        "begun_ratio": our_side["begun_per_s"] / bare_side["begun_per_s"],
        "flows_ratio": our_side["flows_per_s"] / bare_side["flows_per_s"],
        "step_ratio": bare_side["step_ms"] / our_side["step_ms"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres", metavar="URL", help="an empty database of its own")
    parser.add_argument("--side", choices=("bare", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side is not None:
        found = (bare if asked.side == "bare" else ours)(asked.url, asked.folder)
        print(json.dumps(found), flush=True)
        os._exit(0)  # neither side's threads are waited for
    print(json.dumps(compare(asked.rounds, asked.postgres), indent=2))


if __name__ == "__main__":
    main()
