"""Kills and freezes workers of users' flows at random instants and checks what must hold.

    python -m tests.chaos.flow_kills --kills 500

A real runtime with its own workers runs flows of several steps all the time. Each step appends its
operation id to a ledger before it is done and gives a number that it made up; each flow returns
the numbers that its steps gave. Judged at the end, from the ledger and the database:

* every flow reached its end;
* no completed step ran again: of each operation the last line in the ledger is the one whose
  number is stored, and nothing was appended after that was written down;
* every effect happened once per operation id: the keyed effects file, which takes an operation
  once, as a payment service with idempotency keys does, has exactly the operations of all flows.

A kill counts only if the process is seen gone. Prints one line of JSON; the exit code is 1 if
something does not hold.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

import aios
from aios.errors import AiosError

STEPS = 6
GOING_ON = 8
"""Flows that run at once."""
FREEZES = 0.1
"""Share of the kills that begin with a freeze."""


@aios.step
def act(folder: str, number: int) -> dict[str, Any]:
    """An effect under its operation id: the ledger has each try, the effects each operation."""
    operation = aios.operation_id()
    token = os.urandom(8).hex()
    line = json.dumps([operation, token, time.time()])
    with open(f"{folder}/ledger", "a") as file:
        file.write(line + "\n")
        file.flush()
    try:
        effect = os.open(f"{folder}/effects/{operation.replace('/', '_')}", os.O_CREAT | os.O_EXCL)
        os.close(effect)
    except FileExistsError:
        pass  # it was done, and its process died before it could be written down
    time.sleep(random.uniform(0.0, 0.2))
    return {"operation": operation, "token": token}


@aios.flow
async def chain(folder: str, steps: int) -> list[dict[str, Any]]:
    found = [await act(folder, number) for number in range(steps - 2)]
    await aios.sleep(0.1)
    return [*found, *await asyncio.gather(act(folder, -1), act(folder, -2))]


def workers(rt: aios.Runtime) -> list[int]:
    """The pids of the workers that run."""
    rows = [row for row in rt.ps() if row["role"] == "flow worker"]
    return [row["pid"] for row in rows if row["state"] == "RUNNING"]


def kill_one(rt: aios.Runtime, chance: random.Random) -> str | None:
    """Kill a worker, or freeze it first; what was done, None if none could be seen gone."""
    pids = workers(rt)
    if not pids:
        return None
    pid = chance.choice(pids)
    try:
        process = psutil.Process(pid)
        if chance.random() < FREEZES:
            # The kernel has to find out by itself, and end it.
            os.kill(pid, signal.SIGSTOP)
            process.wait(timeout=60)
            return "frozen"
        os.kill(pid, signal.SIGKILL)
        process.wait(timeout=30)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return None
    except psutil.TimeoutExpired:
        os.kill(pid, signal.SIGCONT)
        raise
    return "killed"


def judge(folder: Path, results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What does not hold, by kind."""
    tries: dict[str, list[str]] = {}
    for line in (folder / "ledger").read_text().splitlines():
        operation, token, _ = json.loads(line)
        tries.setdefault(operation, []).append(token)
    stored = {one["operation"]: one["token"] for found in results.values() for one in found}
    effects = {path.name.replace("_", "/") for path in (folder / "effects").iterdir()}
    return {
        "steps": len(stored),
        "tries": sum(map(len, tries.values())),
        "ran_after_done": sorted(one for one, token in stored.items() if tries[one][-1] != token),
        "without_effect": sorted(set(stored) - effects),
        "effects_of_nothing": sorted(effects - set(stored)),
        "wrong_length": sorted(id for id, found in results.items() if len(found) != STEPS),
    }


def run(rt: aios.Runtime, folder: Path, kills: int, seed: int, pause_s: float) -> dict[str, Any]:
    """One run on a runtime; see the module.

    Args:
        folder: empty; gets the ledger and the effects.
        pause_s: between two kills, at most.
    """
    chance = random.Random(seed)
    (folder / "effects").mkdir()
    done = {"killed": 0, "frozen": 0}
    begun: list[aios.FlowHandle] = []
    failed: list[str] = []
    results: dict[str, list[dict[str, Any]]] = {}
    started_s = time.monotonic()
    while sum(done.values()) < kills:
        for handle in begun:
            collect(handle, results, failed)
        going_on = len(begun) - len(results) - len(failed)
        for _ in range(GOING_ON - going_on):
            begun.append(rt.start(chain, str(folder), STEPS, id=f"chaos-{seed}-{len(begun)}"))
        time.sleep(chance.uniform(0.0, pause_s))
        what = kill_one(rt, chance)
        if what is not None:
            done[what] += 1
            print(f"{sum(done.values())} of {kills}: {what}", file=sys.stderr, flush=True)
    last_s = time.monotonic()
    for handle in begun:
        collect(handle, results, failed, wait_s=120)
    return {
        **done,
        "flows": len(begun),
        "failed": failed,
        "lives": max(one.status().lives for one in begun),
        "last_flow_after_s": round(time.monotonic() - last_s, 1),
        "took_s": round(time.monotonic() - started_s, 1),
        **judge(folder, results),
    }


def collect(
    handle: aios.FlowHandle,
    results: dict[str, list[dict[str, Any]]],
    failed: list[str],
    wait_s: float = 0.0,
) -> None:
    """Take a flow's result if there is one."""
    if handle.id in results or any(one.startswith(f"{handle.id}: ") for one in failed):
        return
    try:
        results[handle.id] = handle.result(timeout_s=wait_s)
    except aios.DeadlineExceeded as error:
        if wait_s:
            failed.append(f"{handle.id}: {error}")
    except AiosError as error:
        failed.append(f"{handle.id}: {error}")


def holds(found: dict[str, Any]) -> bool:
    """Whether everything that must hold does."""
    wrong = ("failed", "ran_after_done", "without_effect", "effects_of_nothing", "wrong_length")
    return not any(found[name] for name in wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--pause", type=float, default=3.0, help="seconds between kills, at most")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="aios-chaos-"))
    with aios.local() as rt:
        found = {"seed": asked.seed, **run(rt, folder, asked.kills, asked.seed, asked.pause)}
    print(json.dumps(found))
    if not holds(found):
        print(f"the ledger and the effects are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
