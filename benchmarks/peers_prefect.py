"""Peer: the flow of `benchmarks.flows` under Prefect, timed by itself.

    python peers_prefect.py FOLDER FLOWS STEPS

Runs in an environment of its own, by path: it imports neither aios nor other benchmarks. FOLDER is
fresh and gets Prefect's home with its SQLite database. Prints one JSON object.

What is as favourable to Prefect as it can be for the same promise: its server is the one that a
script gets by itself (a process beside this one, on loopback), started before the clock runs; no
logs are sent to it, nothing is told to its makers; flows run in this process, `AT_ONCE` at a time.
What it must do for the promise: results are kept (`persist_result`, as JSON), since the other
sides have them on disk too. A flow is begun by calling it, so that beginning alone has no rate.
Prefect writes task runs to its database from a queue, some time after the task has ended: a step
is not on disk there when the next begins, as it is with the other two.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

AT_ONCE = 8
"""Flows at a time: enough for two cores, and its SQLite database has one writer."""


def settings(folder: Path) -> dict[str, str]:
    """Of the environment, before Prefect is imported."""
    return {
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(folder),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder}/prefect.db",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_CLI_PROMPT": "false",
    }


async def measured(flows: int, steps: int) -> dict[str, float]:
    """`flows_per_s` and `step_ms`, as `benchmarks.flows` has them."""
    from prefect import flow, task

    @task
    async def step(number: int) -> dict[str, Any]:
        return {"number": number}

    @flow
    async def chain(steps: int) -> int:
        for number in range(steps):
            await step(number)
        return steps

    room = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with room:
            await chain(1)

    await chain(1)
    started_s = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(flows)))
    flows_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    await chain(steps)
    steps_s = time.perf_counter() - started_s
    return {"flows_per_s": flows / flows_s, "step_ms": 1000 * steps_s / steps}


def main(folder: Path, flows: int, steps: int) -> None:
    os.environ.update(settings(folder))
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    server.start()
    os.environ["PREFECT_API_URL"] = server.api_url
    try:
        found = asyncio.run(measured(flows, steps))
    finally:
        server.stop()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
