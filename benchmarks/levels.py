"""The levels that `benchmarks.throughput` measures: an engine alone, a replica, and the ingress."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import psutil

from aios.capacity.load import Loop, Outcome, Stream, Target, quantile_s, run_load
from aios.kernel.head import read_head
from aios.models.artifact import read_manifest
from aios.runtime.lifecycle import LocalRuntime
from aios.store.artifacts import ArtifactStore
from benchmarks import models, replicas, wire
from benchmarks.alone import Alone, EngineLoop

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
        cpu_s: of the engine's loop, of the replica, or of replica and HAProxy, in the window; None
            where one of them was replaced meanwhile.
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
    cpu_s: float | None
    rate_per_s: float | None = None
    held_back: str | None = None

    @property
    def name(self) -> str:
        return f"{self.variant}, batch {self.batch}, {self.level}, {self.load}"

    @property
    def cpu_ms(self) -> float | None:
        """CPU milliseconds per record."""
        return None if self.cpu_s is None else 1000 * self.cpu_s / (self.runs * self.batch)

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
        replica = replicas.processes(head, name)["replica"]
        direct = f"http://127.0.0.1:{replicas.own_port(replica, head)}{path}"
        self._places = {
            "endpoint": Place(Target(direct, key), lambda: [replica]),
            "ingress": Place(
                Target(f"{head.address}{path}", key),
                lambda: replicas.processes(head, name).values(),
            ),
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
            {
                level: replace(place, target=wire.with_length(place.target, made[0][1]))
                for level, place in self._places.items()
            },
            self._alone.asked([self._model.batch(batch, start) for start in starts]),
        )


@dataclass(frozen=True)
class Place:
    """Where requests of a level go, and what finds the processes that they keep busy."""

    target: Target
    processes: Callable[[], Iterable[psutil.Process]]


@dataclass(frozen=True)
class Asked:
    """Requests of one size: their bodies, where they go by level, and the engine's loop over the
    same."""

    batch: int
    bodies: list[bytes]
    places: dict[str, Place]
    engine: EngineLoop

    def check(self, tolerance: float) -> None:
        """Ask for every body once: the answer must be the engine's.

        Raises:
            RuntimeError: it is not.
        """
        for body, right in zip(self.bodies, self.engine.answers, strict=True):
            found = wire.ask(self.places["ingress"].target, body, DEADLINE_S)
            for name, expected in right.items():
                if not np.allclose(found[name], expected, rtol=tolerance, atol=tolerance):
                    worst = float(np.abs(found[name] - expected).max())
                    raise RuntimeError(f"the served {name} is off by up to {worst:.3g}")

    def load(self, level: str, load: Loop | Stream) -> tuple[Outcome, float | None]:
        """Put load on a level; what was seen, and the CPU seconds that it took in the window.

        Raises:
            RuntimeError: a request failed.
        """
        place = self.places[level]
        running = list(place.processes())
        before: list[float | None] = []
        outcome = run_load(
            place.target,
            self.bodies,
            load,
            warm_up_s=WARM_UP_S,
            at_start=lambda: before.append(replicas.cpu_s(running)),
        )
        if outcome.failed:
            raise RuntimeError(f"{outcome.failed} requests failed: {outcome.failures}")
        after = replicas.cpu_s(running)
        return outcome, None if after is None or before[0] is None else after - before[0]


def body_of(model: models.Model, columns: models.Columns) -> tuple[bytes, int | None]:
    """A request, and the length of its JSON header if it is binary."""
    if model.records:
        return wire.records_body(model.contract, columns), None
    return wire.tensors_body(model.contract, columns)


def measure(asked: Asked, variant: str, number: int, wanted: argparse.Namespace) -> Iterator[Round]:
    """One round: all levels, in every second round in reverse order."""

    def of(level: str, load: str, how: Loop | Stream, rate: float | None = None) -> Round:
        outcome, cpu_s = asked.load(level, how)
        told = (outcome.took, outcome.good, cpu_s, rate, outcome.held_back)
        per_s = asked.batch * outcome.good_per_s
        return Round(variant, asked.batch, level, load, number, per_s, *told)

    for level in LEVELS if number % 2 == 0 else LEVELS[::-1]:
        if level == "engine":
            found = asked.engine.loop(wanted.seconds)
            per_s = asked.batch * found.runs / found.window_s
            told = (per_s, found.took, found.runs, found.cpu_s)
            yield Round(variant, asked.batch, level, ALONE, number, *told)
            continue
        yield of(level, ALONE, Loop(1, wanted.seconds))
        most = of(level, SATURATED, Loop(wanted.connections, wanted.seconds))
        yield most
        for share in wanted.rates if level == "ingress" else ():
            rate = share * most.records_per_s / asked.batch
            stream = Stream("poisson", rate, wanted.seconds, seed=number, give_up_s=DEADLINE_S)
            yield of(level, f"{share:.0%}", stream, rate)
