"""What does metering cost: a process that is metered, a request, and the kernel by the minute?

One cluster of `--nodes` nodes and `--processes` processes, which tell every 5 s, is metered for
`--minutes` minutes as fast as it goes; the times are CPU times, the store is a SQLite file on this
disk. A request itself pays nothing: its replica's calls are taken from the report that it makes
every second anyway.

    python -m benchmarks.metering [--nodes 4] [--processes 50] [--minutes 60] [--rounds 3]
"""

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from aios.capacity.machine import describe
from aios.clock import ManualClock
from aios.kernel.metering import LOOK_S, Metering
from aios.records import ArmReport, WindowReport
from aios.records.cost import NodeSeen, Owner, Prices, ProcessUsage
from aios.registry import UsageStore
from aios.serving.calls import Calls
from aios.store.database import Database
from aios.telemetry.on_ray import TELL_S
from aios.telemetry.processes import ProcessMeter
from benchmarks.commands import arguments, begin, count, parser_of
from benchmarks.results import RESULTS, ResultFile

SEED = 0
PRICES = Prices(currency="EUR", default_node_hour=0.4)


def main() -> None:
    """Measure, write the result, and print the last round as a JSON line."""
    parser = parser_of("metering", __doc__)
    parser.add_argument("--nodes", type=count, default=4)
    parser.add_argument("--processes", type=count, default=50)
    parser.add_argument("--minutes", type=count, default=60)
    parser.add_argument("--rounds", type=count, default=3)
    given = arguments(parser, {"minutes": 10, "processes": 20})
    file = ResultFile(RESULTS, "metering")
    file.run(seed=SEED, machine=describe(), **vars(given))
    for number in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            found = kernel(Path(folder), given.nodes, given.processes, given.minutes)
        found |= {"process_us": process_us(), "report_us": report_us()}
        found["process_of_a_core"] = found["process_us"] / 1e6 / TELL_S
        for name in ("kernel_ms_a_minute", "process_us", "report_us"):
            file.figure(name, found[name], "lower", number)
        file.add("bill", {"round": number, **found})
    print(json.dumps({"machine": describe(), **vars(given), **found}))
    print(f"written to {file.path}")


def kernel(folder: Path, nodes: int, processes: int, minutes: int) -> dict[str, Any]:
    """What a minute of metering costs the kernel, in CPU seconds, and how the bill came out."""
    clock, random_ = ManualClock(1e9), random.Random(SEED)
    database = Database(f"sqlite:///{folder}/aios.db")
    database.upgrade()
    store = UsageStore(database, clock)
    metering = Metering(store, PRICES, clock, lambda app: None)
    seen = [NodeSeen(id=f"n{number}", cores=8) for number in range(nodes)]
    used = [0.0] * processes
    tells = 0
    metering.look(seen)
    begun_s = time.process_time()
    for _ in range(int(minutes * 60 / LOOK_S)):
        for _ in range(int(LOOK_S / TELL_S)):
            for number in range(processes):
                used[number] += random_.random() * TELL_S
                metering.used(told(number, used[number], nodes, tells))
            tells += 1
        clock.advance(LOOK_S)
        metering.look(seen)
    spent_s = time.process_time() - begun_s
    metering.save()
    bill = sum(one.cost for _, one in store.billed(0, 1e12))
    parts = store.used(0, 1e12)
    database.close()
    return {
        "kernel_ms_a_minute": 1000 * spent_s / minutes,
        "kernel_of_a_core": spent_s / minutes / 60,
        "bill": bill,
        "difference": sum(one.cost for _, _, one in parts) - bill,
        "rows_an_hour": len(parts) / (minutes / 60),
    }


def told(number: int, cpu_s: float, nodes: int, tells: int) -> ProcessUsage:
    """What one process tells: that of a replica, one in ten a training run's."""
    common: dict[str, Any] = {"id": f"p{number}", "node": f"n{number % nodes}", "cpu_s": cpu_s}
    common |= {"node_cores": 8.0, "node_busy_s": 8.0 * tells}
    if number % 10 == 0:
        return ProcessUsage(kind="training", run=f"r{number}", **common)
    calls = {"stable:1": tells * 900, "canary:2": tells * 100}
    named = {"endpoint": f"e{number % 7}", "model": f"e{number % 7}", "version": 1, "arm": "stable"}
    return ProcessUsage(kind="endpoint", calls=calls, **named, **common)


def process_us(count: int = 500) -> float:
    """What telling costs the process that tells, without Ray's call: once in 5 s."""
    meter = ProcessMeter(Owner("endpoint", "loan", "loan", 1, "stable"), "n0")
    return _each_us(lambda: meter.usage({}).model_dump(), count)


def report_us(count: int = 5000) -> float:
    """What taking the calls from a report costs a replica: once in a second."""
    calls = Calls()
    arms = {"stable": ArmReport(version=1, attempts=9), "canary": ArmReport(version=2, attempts=1)}
    fields = {"endpoint": "loan", "replica": "r", "era": "a", "revision": 1, "sequence": 1}
    report = WindowReport(**fields, at_s=0.0, pid=1, node="n", arms=arms)
    return _each_us(lambda: calls.add(report), count)


def _each_us(act: Any, count: int) -> float:
    begun_s = time.process_time()
    for _ in range(count):
        act()
    return 1e6 * (time.process_time() - begun_s) / count


if __name__ == "__main__":
    begin(main)
