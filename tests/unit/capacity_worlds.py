"""An endpoint that is a simulated queue: what is known about it is known exactly."""

import numpy as np

from aios.capacity.generator import new_histogram
from aios.capacity.load import Loop, Outcome, Stream
from aios.capacity.measurement import Measurement
from aios.capacity.searching import search
from benchmarks.simulation import simulate

MACHINE = {"cpu": "of the tests", "cores": 4, "memory_gib": 8.0, "load_average_1min": 0.1}
BASE_S = 0.002
"""Of every answer, spent elsewhere than in the replica's line."""


def outcome_of(took_s: "np.ndarray", window_s: float, failed: int = 0) -> Outcome:
    took, late = new_histogram(), new_histogram()
    for value in took_s:
        took.record_value(int(1e6 * value))
    late.record_value(1)
    texts = [one.encode().decode() for one in (took, late)]
    count = len(took_s)
    return Outcome(*texts, count, failed, ["no"] * bool(failed), 0, window_s, 0.1, count)


class SimulatedEndpoint:
    """Replicas that each work on one request at a time, for exponential times."""

    def __init__(self, service_s: float = 0.004, replicas: int = 1, most: int = 6_000) -> None:
        self.service_s, self.replicas, self.most = service_s, replicas, most
        self.asked: list[Stream | Loop] = []

    def __call__(self, load: Stream | Loop) -> Outcome:
        self.asked.append(load)
        if isinstance(load, Loop):
            count = int(self.replicas / self.service_s)
            return outcome_of(np.full(count, 32 * self.service_s), 1.0)
        count = min(int(load.rate_per_s * load.seconds), self.most)
        return outcome_of(self.took_s(load.rate_per_s, count, load.seed), count / load.rate_per_s)

    def took_s(self, rate_per_s: float, count: int, seed: int) -> "np.ndarray":
        drawn_s = np.random.default_rng(seed).exponential(self.service_s, count)
        took_s = simulate(
            rate_per_s, drawn_s, servers=self.replicas, dispatch="least busy", seed=seed + 100
        )
        return BASE_S + took_s


def measured(endpoint: SimulatedEndpoint, p99_s: float, **changes: object) -> Measurement:
    found = search(endpoint, p99_s=p99_s, seconds=20, steps=4, seed=3, connections=64)
    fields = {
        "endpoint": "loan",
        "version": "loan:1",
        "replicas": endpoint.replicas,
        "p99_s": p99_s,
        "at_s": 1.0,
        "seconds": 20.0,
        "seed": 3,
        "connections": 64,
        "requests": "simulated",
        "machine": MACHINE,
        "same_machine": False,
        "full_per_s": found.full_per_s,
        "light": found.light,
        "points": found.points,
    }
    return Measurement(**{**fields, **changes})
