"""How long do answers take, at which rate, and how much does one replica bear?

    python -m benchmarks.latency [--rounds 3] [--seconds 4] [--steps 5] [--p99-ms 50]

An endpoint with everything on (contract, recorder, metrics, key, HAProxy) on a private runtime,
with the loan model, asked by an open stream: Poisson arrivals, latency from when a request was due,
so that waiting is in the figures. Each round measures the most that is answered, a light load, and
searches the largest rate whose p99 is within the budget (`rt.measure`). Results are JSON lines with
a line for each figure and round, for `aios bench compare`, and each round's measurement, from which
`aios plan` answers.

Caveats: the generator shares the machine with the endpoint, and is told where it could not keep up.
One replica. A busy machine moves all figures; the ratio of two runs on it spreads accordingly.
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from aios.capacity import machine
from aios.capacity.measurement import Measurement
from benchmarks.commands import arguments, begin, count, parser_of, positive
from benchmarks.results import RESULTS, ResultFile
from benchmarks.runtimes import runtime
from benchmarks.workload import prepare

NAME = "latency"
SEED = 7


def figures(measured: Measurement) -> list[dict[str, Any]]:
    """What one round comes to; a figure that there was not is left out."""
    found = [
        ("most requests/s", measured.full_per_s, "higher"),
        ("requests/s within the budget", measured.knee_per_s, "higher"),
        ("p50 at a light load, ms", _ms(measured.light.p50_s), "lower"),
        ("p99 at a light load, ms", _ms(measured.light.p99_s), "lower"),
    ]
    return [
        {"name": name, "value": value, "better": better}
        for name, value, better in found
        if value is not None
    ]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def say(title: str, text: str) -> None:
    """What is done just now: the generator alone takes seconds for each rate."""
    print(f"{title}: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Run the rounds, write them as they come, print them."""
    parser = parser_of(NAME, __doc__)
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--seconds", type=positive, default=4.0, help="for each rate")
    parser.add_argument("--steps", type=count, default=5, help="rates that are tried")
    parser.add_argument("--p99-ms", type=positive, default=50.0, help="the budget")
    asked = arguments(parser, {"rounds": 2, "seconds": 1.0, "steps": 2})
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as folder, runtime() as rt:
        workload = prepare(Path(folder))
        file = ResultFile(RESULTS, NAME)
        file.run(workload=workload.name, seed=SEED, machine=machine.describe(), **vars(asked))
        fields = {"contract": workload.contract, "sample": workload.sample}
        rt.deploy(NAME, rt.models.register(NAME, workload.estimator, **fields))
        for number in range(asked.rounds):
            measured = rt.measure(
                NAME,
                p99_s=asked.p99_ms / 1000,
                records=[orjson.loads(body) for body in workload.bodies],
                requests=workload.name,
                seconds=asked.seconds,
                steps=asked.steps,
                seed=SEED + 100 * number,
                on_progress=partial(say, f"round {number + 1} of {asked.rounds}"),
            )
            print(measured, flush=True)
            for figure in figures(measured):
                file.add("figure", {**figure, "round": number})
            name = f"{file.path.stem}-{number}.json"
            measured.save(file.path.with_name(name))
            file.add("measurement", {"file": name, "round": number})
    print(f"written to {file.path} at {time.strftime('%H:%M:%S')}")


if __name__ == "__main__":
    begin(main)
