"""How much do more replicas bear, and does the planner know it from a measurement of one?

    python -m benchmarks.scaling [--replicas 1 2 3 4] [--seconds 60] [--service-ms 20]
                                 [--variation 0.5] [--step] [--seed 7] [--short]

An endpoint on a private runtime whose model waits (`benchmarks.scaling_model`): lognormal times,
one row after the other in each replica. So this tests how HAProxy hands requests out, how replicas
queue them and the planner's formulas, on a machine with fewer cores than replicas; it says nothing
about models that compute. One replica is measured as `aios plan` does (`rt.measure`). Then each
number of replicas is asked as much as it can answer (closed loop, 32 connections for each), and by
open streams (Poisson, latency from when a request was due) at shares of what the planner says that
they bear. Beside each measured p99, with its 95 % interval by rank, stands what the planner expects
there; goal: off by 25 % at most.

What queues while a replica waits is its next batch, as with any model above 1 ms, and a batch
is answered as a whole: more variable than one line of single requests, which the fitted variability
takes up.

With `--step`, last: the endpoint scales by itself with the settings that the planner gave, and the
load goes from a tenth to 70 % of what all replicas bear at once; told are the seconds until there
were that many and until the p99 of each of the next seconds was in the budget, by the replicas'
own clocks.

Caveats: a p99 of some 1,000 requests is good to 10 to 20 %, and neighbours in a queue are not
independent, so that the interval is too narrow. What the machine's cores do for requests adds to
all times; the generator shares them.
"""

import argparse
import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

import aios
from aios.capacity import machine
from aios.capacity.confidence import FEW
from aios.capacity.fitting import Fitted, expected_p99_s, fitted
from aios.capacity.load import Loop, Stream, Target, run_load
from aios.capacity.measurement import Measurement, Point
from aios.capacity.planning import Demand, Node, plan
from aios.capacity.searching import SATURATING
from aios.errors import UsageError
from benchmarks.commands import begin
from benchmarks.figures import Goal, Spread
from benchmarks.results import RESULTS, ResultFile
from benchmarks.runtimes import runtime
from benchmarks.scaling_model import OUTPUT

NAME = "scaling"
UTILISATIONS = (0.5, 0.7, 0.85)
BODIES = (b'{"records":[{"x":0.5}]}',)
BUDGET_SERVICES = 5.0
"""The planner's budget, in mean service times."""
GOAL = 1.25
CONTRACT = aios.Contract(
    inputs={"x": aios.Number(min=0, max=1)}, outputs={OUTPUT: aios.Number(min=0, max=1)}
)
STEADY_S = 3
"""So many seconds in a row must be in the budget after a step."""


@dataclass(frozen=True)
class Case:
    """So many replicas at one rate: what was seen and what the planner expected."""

    replicas: int
    utilisation: float
    rate_per_s: float
    p99_s: float | None
    p99_between_s: tuple[float, float]
    expected_p99_s: float
    failed: int
    held_back: str | None
    requests: int

    @property
    def off_by(self) -> float | None:
        """How much too high (or, below 0, too low) the planner was; None without a p99."""
        return None if self.p99_s is None else self.expected_p99_s / self.p99_s - 1

    @property
    def factor(self) -> float:
        """By which factor it was off, whichever way."""
        if self.p99_s is None:
            return math.inf
        return max(self.expected_p99_s / self.p99_s, self.p99_s / self.expected_p99_s)


class Served:
    """The endpoint under test."""

    def __init__(self, rt: aios.Runtime, arguments: argparse.Namespace) -> None:
        self.rt, self.seconds, self.seed = rt, arguments.seconds, arguments.seed
        config = {
            "mean_s": arguments.service_ms / 1000,
            "variation": arguments.variation,
            "seed": arguments.seed,
        }
        model = aios.PythonModel("benchmarks.scaling_model:Waits", config)
        rt.models.register("waits", model, contract=CONTRACT, sample=[{"x": 0.5}])
        headers = {"Authorization": f"Bearer {rt.key}"}
        self.target = Target(f"{rt.address}/v2/models/waits/predict", headers)

    def scale(self, replicas: "int | aios.Autoscale") -> aios.Endpoint:
        """Deploy so many, with a queue that refuses nobody, and wait until they all answer."""
        endpoint = self.rt.deploy(
            "waits", "waits:1", replicas=replicas, max_queued=10_000, deadline_s=60
        )
        wanted = replicas if isinstance(replicas, int) else replicas.min_replicas
        for _ in range(600):
            if endpoint.status()["replicas"] == wanted:
                time.sleep(1.0)  # HAProxy learns of the last one
                return endpoint
            time.sleep(0.1)
        raise aios.DeadlineExceeded(f"there are not {wanted} replicas after a minute")

    def most_per_s(self, replicas: int) -> float:
        loop = Loop(SATURATING * replicas, max(2.0, self.seconds / 4))
        return run_load(self.target, BODIES, loop, warm_up_s=1.0).good_per_s

    def point(self, rate_per_s: float, number: int) -> Point:
        stream = Stream("poisson", rate_per_s, self.seconds, self.seed + number, connections=512)
        outcome = run_load(self.target, BODIES, stream, warm_up_s=2.0)
        return Point.of(outcome, "poisson", rate_per_s)


def cases(
    served: Served, measured: Measurement, fit: Fitted, replicas: int, shares: Sequence[float]
) -> Iterator[Case]:
    """So many replicas at each share of what they bear."""
    for number, share in enumerate(shares):
        rate_per_s = share * replicas / fit.service_s
        point = served.point(rate_per_s, 100 * replicas + number)
        yield Case(
            replicas=replicas,
            utilisation=share,
            rate_per_s=rate_per_s,
            p99_s=point.p99_s,
            p99_between_s=point.p99_between(),
            expected_p99_s=expected_p99_s(measured, fit, rate_per_s, replicas),
            failed=point.failed,
            held_back=point.held_back,
            requests=point.good + point.failed,
        )


def goal(found: Sequence[Case]) -> Goal:
    """By which factor the planner's p99s are off, whichever way."""
    most = max(case.replicas for case in found)
    return Goal(
        text=f"p99 that the planner expects beside the measured one, 1 to {most} replicas",
        connections=None,
        ratio=Spread.of(case.factor for case in found),
        at_most=GOAL,
    )


def judge(found: Sequence[Case], file: ResultFile) -> None:
    """Write and print whether the goal is met, where the p99s can tell."""
    few = sum(case.requests < FEW for case in found)
    if few:
        text = f"{few} of {len(found)} p99s rest on fewer than {FEW:,} requests: no goal is judged"
        file.note(text)
        print(text)
        return
    one = goal(found)
    file.goal(one)
    print(f"goal: {one.text}: {one.ratio}x, wanted <= {GOAL}x: {'met' if one.met else 'MISSED'}")


def back_in_budget(
    p99s: "Sequence[tuple[float, float | None]]", step_s: float, budget_s: float
) -> float | None:
    """Seconds from a step of the load until the p99s of some seconds in a row are in the budget.

    Args:
        p99s: second and its p99, ascending; None for a second without an answer.

    Returns:
        None where they never are.
    """
    kept = 0
    for at_s, p99_s in p99s:
        if at_s < step_s:
            continue
        kept = kept + 1 if p99_s is not None and p99_s <= budget_s else 0
        if kept == STEADY_S:
            return at_s - STEADY_S + 1 - step_s
    return None


def after_a_step(
    served: Served, measured: Measurement, most: int, seconds: float
) -> dict[str, Any]:
    """Let it scale by itself, and ask for seven tenths of what `most` replicas bear."""
    budget_s = measured.p99_s
    rate_per_s = 0.7 * most * measured.full_per_s
    settings = plan(measured, Demand(rate_per_s, budget_s, 0), Node(replicas=most)).autoscale
    scale = aios.Autoscale(1, most, ongoing_requests=settings.ongoing_requests)
    endpoint = served.scale(scale)
    counts: list[tuple[float, int]] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            counts.append((time.time(), endpoint.status()["replicas"]))

    watching = threading.Thread(target=look)
    watching.start()
    try:
        calm = Stream("poisson", 0.1 * most * measured.full_per_s, 5.0, served.seed)
        run_load(served.target, BODIES, calm)
        step_s = time.time()
        step = Stream("poisson", rate_per_s, seconds, served.seed + 1, connections=512)
        outcome = run_load(served.target, BODIES, step, warm_up_s=0.0)
    finally:
        over.set()
        watching.join()
    all_there = next((at_s - step_s for at_s, count in counts if count == most), None)
    p99s = [(float(one["at_s"]), one["p99_s"]) for one in endpoint.series()]
    return {
        "settings": scale.model_dump(),
        "rate_per_s": rate_per_s,
        "budget_s": budget_s,
        "good": outcome.good,
        "failed": outcome.failed,
        "most_replicas": max(count for _, count in counts),
        "all_replicas_after_s": all_there,
        "p99_in_budget_after_s": back_in_budget(p99s, step_s, budget_s),
    }


def measure_one(served: Served, budget_s: float, steps: int) -> Measurement:
    """One replica, as `aios plan` measures it."""
    served.scale(1)
    return served.rt.measure(
        "waits",
        p99_s=budget_s,
        records=[orjson.loads(BODIES[0])["records"][0]],
        requests="one record",
        seconds=max(2.0, served.seconds / 3),
        steps=steps,
        seed=served.seed,
        force=True,
    )


def run(arguments: argparse.Namespace, file: ResultFile) -> None:
    """Measure one, predict all, measure all; write and print as it goes."""
    found: list[Case] = []
    with runtime() as rt:
        served = Served(rt, arguments)
        budget_s = BUDGET_SERVICES * arguments.service_ms / 1000
        measured = measure_one(served, budget_s, arguments.steps)
        fit = fitted(measured)
        print(measured, flush=True)
        file.add("fit", {"service_s": fit.service_s, "variability": fit.variability})
        for replicas in arguments.replicas:
            served.scale(replicas)
            most = served.most_per_s(replicas)
            share = most * fit.service_s / replicas
            print(
                f"{replicas} replicas: at most {most:,.0f}/s, {share:.2f} of what their service "
                "time allows"
            )
            figure = {"name": f"most requests/s, {replicas} replicas", "value": most}
            file.add("figure", {**figure, "better": "higher", "round": 0})
            for case in cases(served, measured, fit, replicas, arguments.utilisations):
                found.append(case)
                file.add("case", {**asdict(case), "off_by": case.off_by})
                print(told(case), flush=True)
        judge(found, file)
        if arguments.step:
            step = after_a_step(served, measured, max(arguments.replicas), arguments.step_seconds)
            file.add("step", step)
            print(f"step: {step}")


def told(case: Case) -> str:
    """A case in one line."""
    low_s, high_s = case.p99_between_s
    seen = "too many failed" if case.p99_s is None else f"p99 {1000 * case.p99_s:.0f} ms"
    off = "" if case.off_by is None else f", off by {case.off_by:+.0%}"
    held = "" if case.held_back is None else f"; the generator: {case.held_back}"
    return (
        f"  {case.utilisation:.0%} busy, {case.rate_per_s:,.0f}/s: {seen} "
        f"({1000 * low_s:.0f} to {1000 * high_s:.0f}), expected "
        f"{1000 * case.expected_p99_s:.0f}{off}{held}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each rate")
    parser.add_argument("--service-ms", type=float, default=20.0, help="mean of an answer")
    parser.add_argument("--variation", type=float, default=0.5, help="deviation over mean")
    parser.add_argument("--step", action="store_true", help="also a step that it scales after")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--short", action="store_true", help="1 and 2 replicas at one rate each")
    arguments = parser.parse_args()
    good = 1 <= arguments.service_ms <= 1000 and 0.05 <= arguments.variation <= 5
    if not good or not 1 <= arguments.seconds <= 3600:
        raise UsageError(
            "an answer takes 1 to 1,000 ms, varies by 0.05 to 5 times that, and each rate is "
            "asked for 1 to 3,600 s"
        )
    if not all(1 <= count <= 8 for count in arguments.replicas):
        raise UsageError(f"1 to 8 replicas are tried, not {arguments.replicas}")
    arguments.utilisations, arguments.steps, arguments.step_seconds = UTILISATIONS, 5, 90.0
    if arguments.short:
        arguments.replicas, arguments.utilisations = [1, 2], (0.7,)
        arguments.seconds, arguments.steps, arguments.step = 4.0, 2, False
    return arguments


def main() -> None:
    """Read the arguments, write the result."""
    arguments = _arguments()
    file = ResultFile(RESULTS, NAME)
    file.run(machine=machine.describe(), **vars(arguments))
    run(arguments, file)
    print(f"written to {file.path}")


if __name__ == "__main__":
    begin(main)
