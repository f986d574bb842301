"""Load from a process of its own, and what it saw.

    outcome = run_load(target, requests, stream=Stream("poisson", 500.0, seconds=10, seed=1))

`python -m aios.capacity.load` is that process: a job as JSON comes in, what was seen goes out.
"""

import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any
from urllib.parse import urlsplit

import orjson
from hdrh.histogram import HdrHistogram

from aios.capacity.answers import Judge, Place, answers_well, scores_as
from aios.capacity.arrivals import Arrivals, schedule
from aios.capacity.generator import SILENCE_S, Generator
from aios.errors import ClusterUnavailable, UsageError

STARTED = b"started\n"
START_S = 60.0
"""For imports on a busy machine."""
MOST_CONNECTIONS = 900
"""`select` takes 1,024 files."""
BUSY_FRACTION = 0.9
"""Of one core: with more than that the generator is the slowest part."""
LATE_FRACTION = 0.25
"""A generator that is late by more than this share of the latencies that it reports measures
itself."""
LATE_S = 0.0005
"""Lateness below this is a timer's, and tells nothing."""


@dataclass(frozen=True)
class Target:
    """Where requests go, and which headers they need."""

    url: str
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Stream:
    """An open stream: requests are sent when they are due. `give_up_s` after the last one was
    due, what is not answered has failed."""

    arrivals: Arrivals
    rate_per_s: float
    seconds: float
    seed: int = 0
    give_up_s: float = 10.0
    connections: int = 64


@dataclass(frozen=True)
class Loop:
    """A closed loop: each connection sends when its last request is answered."""

    connections: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What one run of the generator saw in its measured window.

    `took` and `late` are `HdrHistogram`s of microseconds, encoded: latencies of good answers, and
    by how much the generator itself sent later than was due. `answered_in_all` counts the
    warm-up too; `canary` the answers that say they came from the canary arm.
    """

    took: str
    late: str
    good: int
    failed: int
    failures: list[str]
    canary: int
    window_s: float
    client_cpu_s: float
    answered_in_all: int

    @property
    def good_per_s(self) -> float:
        return self.good / self.window_s

    @property
    def cpu_fraction(self) -> float:
        """Of one core, used by the generator."""
        return self.client_cpu_s / self.window_s

    @property
    def mean_s(self) -> float:
        """Of the good answers."""
        return float(HdrHistogram.decode(self.took).get_mean_value()) / 1e6

    def quantile_s(self, fraction: float) -> float:
        """The latency that `fraction` of all requests did not exceed; infinite if too many
        failed: an answer that never came is not a quick one."""
        return quantile_s(self.took, self.good, self.failed, fraction)

    def late_s(self, fraction: float) -> float:
        """By how much the generator was late, for its own reasons."""
        return float(HdrHistogram.decode(self.late).get_value_at_percentile(100 * fraction)) / 1e6

    @property
    def held_back(self) -> str | None:
        """Why these figures are the generator's and not the server's; None if they are not."""
        if self.cpu_fraction > BUSY_FRACTION:
            return f"it used {self.cpu_fraction:.0%} of a core"
        late_s, took_s = self.late_s(0.99), self.quantile_s(0.99)
        if late_s > LATE_S and late_s > LATE_FRACTION * took_s:
            return f"it sent 1 of 100 requests {1000 * late_s:.1f} ms late or later"
        return None


def quantile_s(took: str, good: int, failed: int, fraction: float) -> float:
    """A quantile of good answers and failures together; failures are infinitely late."""
    rank = fraction * (good + failed)
    if not good or rank > good:
        return math.inf
    return float(HdrHistogram.decode(took).get_value_at_percentile(100 * rank / good)) / 1e6


def post(target: Target, body: bytes) -> bytes:
    """A whole request, as it goes out."""
    parts = urlsplit(target.url)
    lines = [
        f"POST {parts.path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in target.headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def run_load(
    target: Target,
    bodies: Sequence[bytes],
    load: Stream | Loop,
    *,
    warm_up_s: float = 0.5,
    expected: Sequence[float] | None = None,
    output: Place | None = None,
    at_start: Callable[[], None] = lambda: None,
) -> Outcome:
    """Put load on `target` from another process.

    Args:
        bodies: JSON, one per request, sent in turn.
        expected, output: the right score of each body, and where it is in the answer; None: an
            answer is good if it is 200 and from a version.
        at_start: called when the warm-up is over and the measured window begins.

    Raises:
        UsageError: no such load can be made.
        ClusterUnavailable: the generator broke off, as when nobody answers; ends with its words.
    """
    _check(target, load)
    process = subprocess.Popen(
        [sys.executable, "-m", "aios.capacity.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(orjson.dumps(_job(target, bodies, load, warm_up_s, expected, output)))
        process.stdin.close()
        process.stdin = None
        if process.stdout.readline() == STARTED:
            at_start()
        patience_s = START_S + load.seconds + SILENCE_S
        written, errors = process.communicate(timeout=patience_s)
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        said = errors.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        raise ClusterUnavailable(f"the load generator broke off: {said[-1][:300]}")
    return Outcome(**json.loads(written))


def _check(target: Target, load: Stream | Loop) -> None:
    parts = urlsplit(target.url)
    if parts.scheme != "http" or not parts.hostname:
        raise UsageError(f"the load generator speaks plain http, not {target.url!r:.80}")
    if not 1 <= load.connections <= MOST_CONNECTIONS:
        raise UsageError(f"it takes 1 to {MOST_CONNECTIONS} connections, not {load.connections}")
    if isinstance(load, Stream):
        schedule(load.arrivals, load.rate_per_s, load.seconds, load.seed)


def _job(
    target: Target,
    bodies: Sequence[bytes],
    load: Stream | Loop,
    warm_up_s: float,
    expected: Sequence[float] | None,
    output: Place | None,
) -> dict[str, Any]:
    parts = urlsplit(target.url)
    return {
        "host": parts.hostname,
        "port": parts.port or 80,
        "requests": [post(target, body).decode("latin-1") for body in bodies],
        "expected": expected,
        "output": output,
        "kind": type(load).__name__,
        "load": asdict(load),
        "warm_up_s": warm_up_s,
    }


def _do(job: dict[str, Any], started: Callable[[], None]) -> Outcome:
    judge: Judge = answers_well
    if job["expected"] is not None:
        judge = scores_as(job["expected"], job["output"])
    load = Loop(**job["load"]) if job["kind"] == "Loop" else Stream(**job["load"])
    requests = [request.encode("latin-1") for request in job["requests"]]
    generator = Generator((job["host"], job["port"]), requests, judge, load.connections)
    begun: list[tuple[float, float]] = []

    def at_start() -> None:
        started()
        begun.append((time.perf_counter(), time.process_time()))

    if isinstance(load, Loop):
        window_s = generator.closed(job["warm_up_s"], load.seconds, at_start)
        cpu_s = time.process_time() - begun[0][1]
    else:
        warm = schedule(load.arrivals, load.rate_per_s, job["warm_up_s"] + load.seconds, load.seed)
        generator.open(warm.tolist(), job["warm_up_s"], load.give_up_s, at_start)
        # Until the last answer: an overloaded server's rate is what it answered, in that time.
        cpu_s = time.process_time() - begun[0][1]
        window_s = max(load.seconds, time.perf_counter() - begun[0][0])
    generator.close()
    seen = generator.seen
    return Outcome(
        took=seen.took.encode().decode(),
        late=seen.late.encode().decode(),
        good=seen.good,
        failed=seen.failed,
        failures=seen.failures,
        canary=seen.canary,
        window_s=window_s,
        client_cpu_s=cpu_s,
        answered_in_all=generator.answered_in_all,
    )


def main(source: IO[bytes], sink: IO[bytes]) -> None:
    """Read a job, do it, tell when the window starts, and write what was seen."""
    job: dict[str, Any] = orjson.loads(source.read())
    gc.disable()  # a pause of its own would be told as the server's

    def started() -> None:
        sink.write(STARTED)
        sink.flush()

    outcome = _do(job, started)
    sink.write(orjson.dumps(asdict(outcome)))
    sink.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
