"""How does an endpoint compare with the same model behind other servers?

    python -m benchmarks.servers [--only NAME ...] [--workers 1 2] [--rounds 3] [--seconds 4]
    python -m benchmarks.servers --install      only make the environments of the peers
    python -m benchmarks.servers --short        what can be asked at once

aios with a 10 % canary and everything on (contract, split, recorder, metrics, key, HAProxy) beside
FastAPI, MLServer, KServe, LitServe, BentoML, `mlflow models serve`, Triton and a canary made by
hand on Ray Serve's default settings. Goals are DESIGN section 7's. How each is set up, and why, is
in its file: `peers_fastapi.py`, `peers_on_ray.py` and `peer_servers/on_*.py`. Each has an
environment of its own with pinned versions, made at its first run in the cache folder (FastAPI and
Ray Serve: the project's own); that takes minutes and 3 GB.

The same for all: the ONNX file and onnxruntime's settings (one thread), the records (those of the
loan data without a gap), the load. A peer whose protocol asks for another body (the Open Inference
Protocol's tensors, MLflow's `inputs`) gets the record translated before the clock runs. Those
bodies have no names and are shorter, to the peers' favour. Every answer's score is compared with
what the ONNX file gives outside of any server.

Workers: `--workers 1 2` asks with one worker each and then with two; the default is one, and as
many as there are cores. A worker of aios is a replica (and one of its canary), of the
hand-made canary a replica of its router and of both versions.

Method: all contestants run side by side and are asked in turn; every second round in reverse. In a
round each gets a closed loop of 16 connections, which tells requests per second and CPU, then an
open stream of Poisson arrivals, `--rate` a second for all, which tells latencies from when a
request was due. Ratios are of neighbours in a round; their median is judged. CPU is of all
processes of a peer (of aios: replicas, canary, HAProxy, kernel, and what the recorder does
afterwards; of the hand-made canary: proxy and replicas). Memory is of all processes that must run
(of these two: all of Ray), twice: resident (RSS: what processes share counts in each) and with what
they share counted once (PSS). The hand-made canary runs last, beside aios alone, as a second Ray
would disturb the others.

Caveats: the load generator shares the machine; where it held others back is told. A peer of several
processes pays on few cores for what it gains on many. The model takes 10 us: these are figures
about what is around a model. At the default rate and time a round's p99 is that of 200 requests.
A peer that cannot be installed, does not start or answers wrongly is told in the table and stops
nobody else.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

import psutil

from aios.capacity import machine
from aios.capacity.load import Outcome, Stream, run_load
from aios.errors import AiosError
from benchmarks import peers, standings
from benchmarks.commands import begin, say
from benchmarks.endpoint import add_round
from benchmarks.peer_servers.catalogue import HAND_MADE_AT_LEAST, PEERS, Peer
from benchmarks.peer_servers.launch import DoesNotServe, interpreter, is_installed, serving
from benchmarks.peers import AIOS_CANARY, HAND_MADE, Contestant
from benchmarks.results import RESULTS, ResultFile
from benchmarks.rounds import closed_loop, idle_cpu, one_round, rows, settle
from benchmarks.standings import LeftOut, Light, Visit
from benchmarks.workload import Workload, prepare

CONNECTIONS = 16
SEED = 7
MOST_SHORT = 2
"""Peers of the short version, which is one of fifteen in ten minutes."""
NAMES = (*(peer.name for peer in PEERS), HAND_MADE)
AT_LEAST = {peer.name: peer.at_least for peer in PEERS if peer.at_least is not None} | {
    HAND_MADE: HAND_MADE_AT_LEAST
}
FAILURES = (AiosError, DoesNotServe, OSError, RuntimeError, SubprocessError, psutil.Error)
"""What a peer may do wrong."""


@dataclass
class Contest:
    """Asks contestants that run side by side, and keeps what they gave."""

    workload: Workload
    file: ResultFile
    rounds: int
    seconds: float
    rate_per_s: float
    visits: list[Visit] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def run(self, group: str, workers: int, contestants: Sequence[Contestant]) -> None:
        """All rounds. A peer that fails is left out from then on; aios that fails ends it all."""
        running = list(contestants)
        idle = idle_cpu(running)
        for contestant in contestants:  # code paths, connections and caches of all, once
            with self._failing(workers, contestant.name, running):
                before = rows(contestant)
                outcome = closed_loop(self.workload, contestant, CONNECTIONS, 1.0)
                settle(contestant, before + outcome.answered_in_all)
        for number in range(self.rounds):
            for contestant in list(running if number % 2 == 0 else running[::-1]):
                with self._failing(workers, contestant.name, running):
                    self._visit(group, workers, number, contestant, idle[contestant.name])
            say(f"{group}: round {number + 1} of {self.rounds}")

    def leave_out(self, workers: int, name: str, why: str) -> None:
        """Say and keep why a peer has no figures."""
        entry = LeftOut(workers, name, " ".join(why.replace("|", "/").split())[:400])
        say(f"{name} is left out: {entry.why}")
        self.left_out.append(entry)
        told = standings.told_workers(workers)
        self.file.add("note", {"text": f"{name}, {told}: left out: {entry.why}"})

    @contextmanager
    def _failing(self, workers: int, name: str, running: list[Contestant]) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            if name == AIOS_CANARY:
                raise
            running[:] = [contestant for contestant in running if contestant.name != name]
            self.leave_out(workers, name, str(error))

    def _visit(
        self,
        group: str,
        workers: int,
        number: int,
        contestant: Contestant,
        idle: dict[str, float],
    ) -> None:
        full, loop = one_round(self.workload, group, contestant, CONNECTIONS, self.seconds, idle)
        before = rows(contestant)
        stream = self._stream(contestant, number)
        settle(contestant, None if stream.failed else before + stream.answered_in_all)
        p50_ms, p95_ms, p99_ms = (1000 * stream.quantile_s(q) for q in (0.5, 0.95, 0.99))
        light = Light(p50_ms, p95_ms, p99_ms, stream.failed)
        held_back = loop.held_back or stream.held_back
        visit = Visit(workers, number, full, light, *contestant.memory_mib(), held_back)
        self.visits.append(visit)
        self._keep(visit, loop, stream)

    def _stream(self, contestant: Contestant, number: int) -> Outcome:
        return run_load(
            contestant.target,
            contestant.bodies or self.workload.bodies,
            Stream("poisson", self.rate_per_s, self.seconds, SEED + number),
            expected=self.workload.expected,
            output=contestant.score_at,
        )

    def _keep(self, visit: Visit, loop: Outcome, stream: Outcome) -> None:
        add_round(self.file, visit.full)
        told = {"workers": visit.workers, "round": visit.number}
        memory = {"memory_mib": visit.memory_mib, "shared_once_mib": visit.shared_once_mib}
        more = {**told, **asdict(visit.light), **memory, "held_back": visit.held_back}
        self.file.add("light", {"contestant": visit.full.contestant, **more})
        for figure in standings.figures(visit):
            self.file.add("figure", figure)
        label = f"{visit.full.contestant}, {visit.full.group}"
        for rate_per_s, outcome in ((None, loop), (self.rate_per_s, stream)):
            line = {"name": label, "rate_per_s": rate_per_s, "hdr": outcome.took}
            self.file.add("histogram", line)


def wanted_peers(only: Sequence[str], *, short: bool) -> tuple[list[Peer], dict[str, str]]:
    """The peers to start, and why others are not.

    Args:
        short: only those that need no installing and no Ray of their own, the first few.
    """
    chosen = [peer for peer in PEERS if peer.name in only]
    if not short:
        return chosen, {}
    missing = "its environment is not installed: run this with --install first"
    why = {peer.name: missing for peer in chosen if not is_installed(peer)}
    there = [peer.name for peer in chosen if peer.name not in why]
    full = f"the short version has time for {MOST_SHORT}: name it with --only"
    why |= dict.fromkeys(there[MOST_SHORT:], full)
    if HAND_MADE in only:
        why[HAND_MADE] = "it needs a second Ray, which the short version has no time for"
    return [peer for peer in chosen if peer.name not in why], why


def measure(contest: Contest, workers: int, chosen: Sequence[Peer], *, hand_made: bool) -> None:
    """Start everybody with so many workers, run all rounds, end everybody."""
    label = standings.told_workers(workers)
    say(f"{label}: starting aios")
    with peers.shared_cluster(contest.workload, {AIOS_CANARY}.__contains__, workers) as ours:
        with ExitStack() as stack:
            others = []
            for peer in chosen:
                say(f"{label}: starting {peer.name}")
                starting = serving(peer, contest.workload, workers)
                others += _started(stack, starting, contest, workers, peer.name)
            contest.run(label, workers, [*ours, *others])
        if hand_made:
            with ExitStack() as stack:
                say(f"{label}: starting Serve with its default settings")
                starting = peers.hand_made(contest.workload, workers)
                last = _started(stack, starting, contest, workers, HAND_MADE)
                if last:
                    contest.run(f"{label}, beside default Serve", workers, [*ours, *last])


def attempt(contest: Contest, workers: int, chosen: Sequence[Peer], *, hand_made: bool) -> int:
    """Measure with so many workers; returns the exit code. What is only half there is dropped: the
    file has it."""
    before = len(contest.visits)
    try:
        measure(contest, workers, chosen, hand_made=hand_made)
    except FAILURES as error:
        say(f"aios failed, and with it the benchmark: {error}")
        code = 1
    except KeyboardInterrupt:
        say("broken off")
        code = 130
    else:
        return 0
    del contest.visits[before:]
    return code


def _started(
    stack: ExitStack,
    starting: AbstractContextManager[Contestant],
    contest: Contest,
    workers: int,
    name: str,
) -> list[Contestant]:
    try:
        return [stack.enter_context(starting)]
    except FAILURES as error:
        contest.leave_out(workers, name, str(error))
        return []


def complete(workload: Workload) -> Workload:
    """Without the records that have gaps, which a tensor cannot tell."""
    kept = [number for number, body in enumerate(workload.bodies) if b"null" not in body]
    return replace(
        workload,
        bodies=tuple(workload.bodies[number] for number in kept),
        expected=tuple(workload.expected[number] for number in kept),
    )


def install(chosen: Sequence[Peer]) -> None:
    """Make the environments, and say of each where it is or why it is not."""
    for peer in chosen:
        try:
            print(f"{peer.name}: {interpreter(peer)}")
        except DoesNotServe as error:
            print(f"{peer.name}: cannot be had: {error}")


def show(contest: Contest, host: dict[str, Any]) -> None:
    """Goals into the file, the table and what must be said of it to standard output."""
    visits = standings.counted(contest.visits, contest.left_out)
    for goal in standings.goals(visits, AIOS_CANARY, AT_LEAST):
        contest.file.add("goal", {**asdict(goal), "met": goal.met})
    print(
        f"\n{host['cpu']}, {host['cores']} cores, commit {host['commit']}, {contest.workload.name}"
    )
    print(f"req/s and CPU at {CONNECTIONS} connections, latencies at {contest.rate_per_s:g}/s\n")
    print(standings.table(visits, contest.left_out, AIOS_CANARY, AT_LEAST))
    for visit in visits:
        if visit.held_back:
            print(f"{visit.full.contestant}: the load generator held it back: {visit.held_back}")
        if visit.light.failed:
            failed = f"{visit.light.failed} requests of the light load failed"
            print(f"{visit.full.contestant}: {failed}; they count as infinitely late")
    print(f"\nwritten to {contest.file.path}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.servers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cores = os.cpu_count() or 1
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=NAMES, default=list(NAMES))
    parser.add_argument("--rounds", type=int, help="default: 3")
    parser.add_argument("--seconds", type=float, help="of each load in a round; default: 4")
    parser.add_argument("--rate", type=float, default=50.0, help="requests/s of the light load")
    parser.add_argument(
        "--workers", type=int, nargs="+", help=f"default: {' '.join(map(str, all_workers(cores)))}"
    )
    parser.add_argument("--install", action="store_true", help="make the environments, and end")
    parser.add_argument(
        "--short", action="store_true", help="one round of 1 s with one worker; installs nothing"
    )
    given = parser.parse_args()
    rounds, seconds, workers = (1, 1.0, [1]) if given.short else (3, 4.0, all_workers(cores))
    given.rounds = rounds if given.rounds is None else given.rounds
    given.seconds = seconds if given.seconds is None else given.seconds
    given.workers = workers if given.workers is None else list(dict.fromkeys(given.workers))
    if min(given.rounds, *given.workers) < 1:
        parser.error("--rounds and --workers are at least 1")
    if min(given.seconds, given.rate) <= 0:
        parser.error("--seconds and --rate are above 0")
    if given.seconds * given.rate < 1:
        parser.error("--rate x --seconds is less than one request")
    return given


def all_workers(cores: int) -> list[int]:
    """
    >>> all_workers(1), all_workers(8)
    ([1], [1, 8])
    """
    return sorted({1, cores})


def main() -> int:
    """Run it, write the result, print the table."""
    given = _arguments()
    chosen, why_not = wanted_peers(given.only, short=given.short)
    if given.install:
        install(chosen)
        return 0
    if not given.short:
        for peer in chosen:  # before anybody is started: it is heavy, and its failures told then
            with suppress(DoesNotServe):
                interpreter(peer)
    host = machine.describe()
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as folder:
        workload = complete(prepare(Path(folder)))
        file = ResultFile(RESULTS, "peers")
        versions = {peer.name: peer.packages for peer in chosen}
        file.run(**vars(given), seed=SEED, workload=workload.name, peers=versions, machine=host)
        contest = Contest(workload, file, given.rounds, given.seconds, given.rate)
        hand_made = HAND_MADE in given.only and HAND_MADE not in why_not
        failed = 0
        for workers in given.workers:
            for name, why in why_not.items():
                contest.leave_out(workers, name, why)
            if failed := attempt(contest, workers, chosen, hand_made=hand_made):
                break
    if contest.visits:
        show(contest, host)
    if failed:
        file.give_up()
    return failed


if __name__ == "__main__":
    begin(main)
