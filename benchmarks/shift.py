"""How long after a rollback is decided does the last replica still answer with the old version?

Method: one endpoint with two replicas, two versions, open-loop traffic through the ingress
(`Replay`). Each round promotes the second version and takes it back; the audit log tells when
the rollback's transaction was made. It took, at most, from then until the first request was sent
after the last one that the version taken back still answered. Client and server share one clock.
Caveat: at 200 requests per second that is up to 5 ms too long, or 10 ms per replica.

    python -m benchmarks.shift [--rollbacks 10] [--replicas 2]
"""

import time
from dataclasses import dataclass

import numpy as np

import aios
from aios.capacity import machine
from apps.loan_approval import data, training
from apps.loan_approval.replay import Replay
from benchmarks.commands import arguments, begin, count, parser_of
from benchmarks.goals import goal
from benchmarks.results import RESULTS, ResultFile
from benchmarks.runtimes import runtime

NAME = "rollout"
RATE_PER_S = 200.0
SETTLE_S = 1.5
SEED = 7
"""Of which records are sent."""


@dataclass(frozen=True)
class Shifts:
    """Seconds per rollback, and what the traffic saw meanwhile."""

    seconds: tuple[float, ...]
    sent: int
    failed: int

    def __str__(self) -> str:
        median, worst = np.median(self.seconds), max(self.seconds)
        return (
            f"{len(self.seconds)} rollbacks: median {median:.3f} s, worst {worst:.3f} s to the "
            f"last replica; {self.sent} requests, {self.failed} failed (goal: 0.5 s, 0 failed)"
        )


def measure(rollbacks: int, replicas: int) -> Shifts:
    """Promote and roll back under traffic, again and again."""
    frame = data.load()
    train, _ = data.split(frame)
    model = training.logistic(train)
    contract = aios.Contract(**data.contract_fields())
    decided: list[tuple[float, int]] = []
    with runtime() as rt:
        for _ in range(2):
            sample = train[list(data.FEATURES)]
            rt.models.register(NAME, model, contract=contract, sample=sample)
        rt.deploy(NAME, f"{NAME}:1", replicas=replicas)
        with Replay(
            rt.address, str(rt.key), data.records(frame), RATE_PER_S, seed=SEED, endpoint=NAME
        ) as replay:
            for _ in range(rollbacks):
                promote(rt)
                time.sleep(SETTLE_S)
                now_stable = rt.rollback(NAME, "benchmark")
                entry = rt.audit(limit=1, subject=NAME)[0]
                decided.append((entry["at_s"], now_stable))
                time.sleep(SETTLE_S)
        rows, stats = replay.outcomes(), replay.stats()
    sent_s = rows.started_s + rows.sent_s
    seconds = []
    for at_s, now_stable in decided:
        seconds.append(took_s(at_s, sent_s, rows.version != now_stable))
    return Shifts(tuple(seconds), stats.sent, stats.failed)


def took_s(at_s: float, sent_s: "np.ndarray", old: "np.ndarray") -> float:
    """At most so long after `at_s` the last request was sent that got an old answer.

    >>> sent_s = np.array([9.99, 10.01, 10.02, 10.03, 10.04])
    >>> round(took_s(10.0, sent_s, np.array([True, True, False, True, False])), 3)
    0.04
    >>> round(took_s(10.0, sent_s, np.array([True, False, False, False, False])), 3)
    0.01
    """
    during = (sent_s > at_s) & (sent_s < at_s + SETTLE_S)
    last_s = max([at_s, *sent_s[during & old]])
    after = sent_s[during & (sent_s > last_s)]
    return float(after.min() - at_s) if after.size else SETTLE_S


def promote(rt: aios.Runtime) -> None:
    """Make version 2 stable by command."""
    rollout = rt.rollout(NAME, f"{NAME}:2", aios.Canary(bake_s=600))
    while rollout.status().stage == "starting":
        time.sleep(0.2)
    rollout.promote("benchmark")
    rollout.wait(60)


def main() -> None:
    """Measure, write the result, print it."""
    parser = parser_of(NAME, __doc__)
    parser.add_argument("--rollbacks", type=count, default=10)
    parser.add_argument("--replicas", type=count, default=2)
    asked = arguments(parser, {"rollbacks": 2})
    file = ResultFile(RESULTS, NAME)
    file.run(seed=SEED, machine=machine.describe(), **vars(asked))
    found = measure(asked.rollbacks, asked.replicas)
    for number, seconds in enumerate(found.seconds):
        file.figure("rollback to last replica, s", seconds, "lower", number)
    file.goal(goal("traffic shift, decision to last replica, at worst", [max(found.seconds)]))
    file.goal(goal("requests failed in promotions and rollbacks under load", [found.failed]))
    print(found, f"written to {file.path}", sep="\n")


if __name__ == "__main__":
    begin(main)
