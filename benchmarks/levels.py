"""The levels that `benchmarks.throughput` measures: an engine alone, a replica, and the ingress."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aios.capacity.load import Loop, Outcome, Stream, Target, quantile_s, run_load
from aios.kernel.head import read_head
from aios.models.artifact import read_manifest
from aios.runtime.lifecycle import LocalRuntime
from aios.store.artifacts import ArtifactStore
from benchmarks import models, wire
from benchmarks.alone import Alone, EngineLoop
from benchmarks.replicas import replica_port

LEVELS = ("engine", "endpoint", "ingress")
ALONE, SATURATED = "one at a time", "saturated"
BODIES = 8
MOST_BODY_BYTES = 64 * 2**20
"""Of all bodies together: those of images are large."""
DEADLINE_S = 60.0
WARM_UP_S = 0.5


@dataclass(frozen=True)
class Round:
    """One level under one load for one window.

    Attributes:
        load: `ALONE`, `SATURATED`, or the share of what is borne at most.
        took: latencies in microseconds, an encoded HdrHistogram.
        rate_per_s: requests that were due per second; None in a loop.
        held_back: why the figures are the load generator's; None if they are not.
    """

    variant: str
    batch: int
    level: str
    load: str
    number: int
    records_per_s: float
    took: str
    runs: int
    rate_per_s: float | None = None
    held_back: str | None = None

    @property
    def name(self) -> str:
        return f"{self.variant}, batch {self.batch}, {self.level}, {self.load}"

    def ms(self, fraction: float) -> float:
        """A quantile of the latencies."""
        return 1000 * quantile_s(self.took, self.runs, 0, fraction)


class Served:
    """A model that is deployed, and its engine beside it."""

    def __init__(
        self, runtime: LocalRuntime, model: models.Model, name: str, device: str, threads: int
    ) -> None:
        self._model = model
        digest = runtime.models.get(f"{name}:1").artifact.digest
        folder = ArtifactStore(str(runtime.home / "artifacts"), runtime.home).fetch(digest)
        manifest = read_manifest(folder, digest)
        self._alone = Alone(folder, manifest, model.source, device=device, threads=threads)
        head = read_head(runtime.home)
        assert head is not None
        path = f"/v2/models/{name}/{'predict' if model.records else 'infer'}"
        key = {"Authorization": f"Bearer {runtime.key}"}
        direct = f"http://127.0.0.1:{replica_port(head, name)}{path}"
        self._targets = {
            "endpoint": Target(direct, key),
            "ingress": Target(f"{head.address}{path}", key),
        }

    def asked(self, batch: int) -> "Asked":
        """Requests of so many records each, for all levels."""
        size = sum(column.nbytes for column in self._model.columns(batch, 0).values())
        starts = range(0, batch * max(1, min(BODIES, MOST_BODY_BYTES // size)), batch)
        columns = [self._model.columns(batch, start) for start in starts]
        made = [body_of(self._model, one) for one in columns]
        return Asked(
            batch,
            [body for body, _ in made],
            {name: wire.with_length(to, made[0][1]) for name, to in self._targets.items()},
            self._alone.asked([self._model.batch(batch, start) for start in starts]),
        )


@dataclass(frozen=True)
class Asked:
    """Requests of one size: their bodies, where they go, and the engine's loop over the same."""

    batch: int
    bodies: list[bytes]
    targets: dict[str, Target]
    engine: EngineLoop

    def check(self, tolerance: float) -> None:
        """Ask for every body once: the answer must be the engine's.

        Raises:
            RuntimeError: it is not.
        """
        for body, right in zip(self.bodies, self.engine.answers, strict=True):
            found = wire.ask(self.targets["ingress"], body, DEADLINE_S)
            for name, expected in right.items():
                if not np.allclose(found[name], expected, rtol=tolerance, atol=tolerance):
                    worst = float(np.abs(found[name] - expected).max())
                    raise RuntimeError(f"the served {name} is off by up to {worst:.3g}")

    def load(self, level: str, load: Loop | Stream) -> Outcome:
        """Put load on a level.

        Raises:
            RuntimeError: a request failed.
        """
        outcome = run_load(self.targets[level], self.bodies, load, warm_up_s=WARM_UP_S)
        if outcome.failed:
            raise RuntimeError(f"{outcome.failed} requests failed: {outcome.failures}")
        return outcome


def body_of(model: models.Model, columns: models.Columns) -> tuple[bytes, int | None]:
    """A request, and the length of its JSON header if it is binary."""
    if model.records:
        return wire.records_body(model.contract, columns), None
    return wire.tensors_body(model.contract, columns)


def measure(asked: Asked, variant: str, number: int, wanted: argparse.Namespace) -> Iterator[Round]:
    """One round: all levels, in every second round in reverse order."""

    def of(level: str, load: str, outcome: Outcome, rate: float | None = None) -> Round:
        told = (outcome.took, outcome.good, rate, outcome.held_back)
        per_s = asked.batch * outcome.good_per_s
        return Round(variant, asked.batch, level, load, number, per_s, *told)

    for level in LEVELS if number % 2 == 0 else LEVELS[::-1]:
        if level == "engine":
            took, runs, window_s = asked.engine.loop(wanted.seconds)
            per_s = asked.batch * runs / window_s
            yield Round(variant, asked.batch, level, ALONE, number, per_s, took, runs)
            continue
        yield of(level, ALONE, asked.load(level, Loop(1, wanted.seconds)))
        most = asked.load(level, Loop(wanted.connections, wanted.seconds))
        yield of(level, SATURATED, most)
        for share in wanted.rates if level == "ingress" else ():
            rate = share * most.good_per_s
            stream = Stream("poisson", rate, wanted.seconds, seed=number, give_up_s=DEADLINE_S)
            yield of(level, f"{share:.0%}", asked.load(level, stream), rate)
