"""What does an endpoint cost: contract, split, recorder, metrics and key, behind HAProxy?

    python -m benchmarks.endpoint [--rounds 3] [--seconds 4] [--connections 1 16] [--only NAME ...]

Contestants, all with the same ONNX file and the same requests of one record:
  aios, 10 % canary   everything on, a rollout running with its canary at 10 % of the keys
  aios                everything on, no rollout
  bare raw ASGI       orjson and onnxruntime in a Serve replica beside the two above: same
                      Ray, same HAProxy, same flags, nothing checked
  FastAPI             FastAPI and onnxruntime under uvicorn (uvloop, httptools), one worker
  hand-made canary    router deployment -> two model deployments, Serve's default settings
With --only also: aios, no HAProxy (the same replica asked on its own port). With --short the
hand-made canary, one connection and `wrk` are left out.

Method. Closed loop over keep-alive connections from one other process, at 1
and at 16 connections. Rounds are interleaved: each round asks every contestant once, and
every second round in reverse order. Warm-up first. Every answer's score is compared with
what the ONNX file gives outside of any server. Ratios are taken round by round and their
median is judged. CPU is user and system time of the processes that a contestant's requests
keep busy, including the kernel that takes the replicas' reports and including what the
recorder still does after the window: rows are waited for until they are all in the
prediction log, and what the processes use when idle is taken off that wait.

Caveats. Load generator and servers share the machine: on two cores at 16 connections a
contestant that is spread over several processes (HAProxy, replica, canary) pays for it,
one that is a single process does not. One replica and one worker each. The model takes
10 us, so these are figures about what is around the model. Closed loops hide queueing. The
hand-made canary runs after the others, beside the first contestant only, so that a second
idle Ray does not disturb the close races.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from aios.capacity import machine
from benchmarks import cross_check, peers
from benchmarks.commands import arguments, begin, count, parser_of, positive, say
from benchmarks.figures import Goal, Round, goals_table, ratios, table
from benchmarks.goals import goal
from benchmarks.results import RESULTS, ResultFile
from benchmarks.rounds import closed_loop, idle_cpu, one_round, settle_all
from benchmarks.workload import Workload, prepare

CONNECTIONS = (1, 16)
NAMES = (peers.AIOS_CANARY, peers.AIOS_STEADY, peers.BARE, peers.FASTAPI, peers.HAND_MADE)
OPTIONAL = (peers.AIOS_DIRECT,)
SIDE_BY_SIDE, AGAINST_DEFAULT = "side by side", "against default Serve"


class Benchmark:
    """Runs rounds and keeps what they gave."""

    def __init__(
        self,
        workload: Workload,
        rounds: int,
        seconds: float,
        keep: Callable[[Round], None],
        connections: Sequence[int] = CONNECTIONS,
    ) -> None:
        self._workload = workload
        self._keep = keep
        self._rounds = rounds
        self._seconds = seconds
        self._connections = connections
        self.rounds: list[Round] = []

    def run(self, group: str, contestants: Sequence[peers.Contestant]) -> None:
        """All rounds of contestants that are alive side by side."""
        idle = idle_cpu(contestants)
        for contestant in contestants:  # code paths, connections and caches of all, once
            closed_loop(self._workload, contestant, self._connections[-1], 1.0)
        settle_all(contestants)
        for number in range(self._rounds):
            order = contestants if number % 2 == 0 else contestants[::-1]
            for connections in self._connections:
                for contestant in order:
                    entry, _ = one_round(
                        self._workload,
                        group,
                        contestant,
                        connections,
                        self._seconds,
                        idle[contestant.name],
                    )
                    self.rounds.append(entry)
                    self._keep(entry)
            say(f"{group}: round {number + 1} of {self._rounds}")


def goals(rounds: Sequence[Round]) -> list[Goal]:
    """The ratios of DESIGN section 7 that this run can tell."""
    wanted = [
        ("FastAPI, req/s", peers.FASTAPI, "requests_per_s"),
        ("bare raw ASGI, CPU", peers.BARE, "cpu_s_per_1000"),
        ("hand-made canary, req/s", peers.HAND_MADE, "requests_per_s"),
    ]
    found = []
    for one in (peers.AIOS_CANARY, peers.AIOS_STEADY):
        for text, other, figure in wanted:
            for connections in sorted({entry.connections for entry in rounds}):
                ratio = ratios(rounds, one, other, connections, figure)
                if ratio is not None:
                    found.append(goal(f"{one} vs. {text}", ratio, connections))
    return found


def measure(
    benchmark: Benchmark, workload: Workload, names: Sequence[str], *, wrk: bool
) -> dict[str, Any] | None:
    """Start the contestants, run all rounds, end the contestants.

    Args:
        wrk: whether the generator is checked beside it.

    Returns:
        What `wrk` says about one of the servers, where it is installed.
    """
    checked = None
    with ExitStack() as stack:
        contestants: list[peers.Contestant] = []
        if set(names) - {peers.FASTAPI, peers.HAND_MADE}:
            say("starting aios and the bare replica")
            contestants += stack.enter_context(peers.shared_cluster(workload, names.__contains__))
        if peers.FASTAPI in names:
            contestants.append(stack.enter_context(peers.fastapi(workload)))
        if contestants:
            benchmark.run(SIDE_BY_SIDE, contestants)
            if wrk:
                checked = cross_check.against_wrk(contestants[-1], workload)
        if peers.HAND_MADE in names:
            say("starting Serve with default settings")
            last = stack.enter_context(peers.hand_made(workload))
            ours = [entry for entry in contestants if entry.name in NAMES[:2]][:1]
            benchmark.run(AGAINST_DEFAULT, [*ours, last])
    return checked


def _arguments() -> argparse.Namespace:
    parser = parser_of("endpoint", __doc__)
    parser.add_argument("--rounds", type=count, default=3, help="rounds, all contestants in each")
    parser.add_argument("--seconds", type=positive, default=4.0, help="measured window of a round")
    parser.add_argument("--connections", type=count, nargs="+", default=list(CONNECTIONS))
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=[*NAMES, *OPTIONAL],
        default=list(NAMES),
        help="contestants, by the names above",
    )
    short = {"rounds": 2, "seconds": 1.5, "connections": [16], "only": list(NAMES[:4])}
    return arguments(parser, short)


def add_round(file: ResultFile, entry: Round) -> None:
    """Keep a round, with what follows from it."""
    derived = {"requests_per_s": entry.requests_per_s, "cpu_s_per_1000": entry.cpu_s_per_1000}
    file.add("round", {**asdict(entry), **derived})


def main() -> None:
    """Run it, write the result, print the tables."""
    asked = _arguments()
    host = machine.describe()
    file = ResultFile(RESULTS, "endpoint")
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as folder:
        workload = prepare(Path(folder))
        file.run(workload=workload.name, seed=None, machine=host, **vars(asked))
        keep = partial(add_round, file)
        benchmark = Benchmark(workload, asked.rounds, asked.seconds, keep, asked.connections)
        checked = measure(benchmark, workload, asked.only, wrk=not asked.short)
    found = goals(benchmark.rounds)
    for one in found:
        file.goal(one)
    print(f"\n{host['cpu']}, {host['cores']} cores, commit {host['commit']}, {workload.name}\n")
    print(table(benchmark.rounds), goals_table(found), sep="\n\n")
    if checked:
        file.add("wrk", checked)
        print(f"\n{checked['text']}")
    print(f"\nwritten to {file.path}")


if __name__ == "__main__":
    begin(main)
