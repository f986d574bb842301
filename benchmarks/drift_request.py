"""What do recording and sketching cost a request?

One endpoint with 30 features (25 numbers, 5 categories) and one record per request, over
`EndpointApp` under uvloop, with a model that costs nothing, which makes the shares larger.

On Serve: two replicas of one private runtime behind its HAProxy, one that records every request and
sketches it, folding each second and flushing every 5 as every replica does, and one that does
neither. 16 connections, each replica in turn. Its process's CPU time, from the first request until
everything is folded and flushed, over all requests that it answered.

Bare uvicorn: the same under uvicorn alone, as Serve starts it. Serve's own work per request is
missing, which makes the share larger.

In process: the parts alone, in CPU time of the process, of `BUSY` requests a second and of `QUIET`
ones: a fold or a flush costs the same beginning for few requests as for many.

Bodies differ, with values of a normal distribution; each score that comes back is checked.
"""

import asyncio
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil

from aios.capacity.load import Loop, Target, run_load
from aios.clock import SystemClock
from aios.contracts import Batch, Category, Codec, Contract, Number
from aios.records import Artifact, EndpointSpec, ServedVersion, TrafficPlan
from aios.security.keyring import load_keyring
from aios.security.keys import digest, new_key
from aios.serving.endpoint import Answer, Endpoint
from aios.serving.features import FeatureWindows
from aios.serving.heap import settle_heap
from aios.serving.http import EndpointApp
from aios.serving.outliers import Outliers
from aios.serving.privacy import Privacy
from aios.serving.recorder import FLUSH_S, Recorder
from aios.serving.runner import Runner
from aios.telemetry.traces import Tracer
from benchmarks.figures import Spread
from benchmarks.scorer import OUTPUT

USUAL = ("sketch add", "sketch fold", "record add", "record flush")
BUSY, QUIET = 1000, 20
"""Requests a second: with `BUSY` a flush writes 5,000 rows, with `QUIET` 100."""
ROUNDS = 6
CONNECTIONS = 16
WARM_UP_S, MEASURE_S = 0.5, 4.0
STARTUP_S = 60.0
GOAL_PERCENT = 10.0
SCORE = 0.5
PATH = "/v2/models/toy/predict"
COLOURS = ["red", "green", "blue"]
CONTRACT = Contract(
    inputs={
        **{f"x{place:02d}": Number(min=-100, max=100) for place in range(25)},
        **{f"c{place}": Category(COLOURS) for place in range(5)},
    },
    outputs={OUTPUT: Number(min=0, max=1)},
    key="id",
)


def measured(cache: Path, rows: int) -> tuple[dict[str, Any], str]:
    """Microseconds of CPU per request, whole and in parts, and the share that is added."""
    del cache, rows
    over_http, on_serve = http_rounds(), serve_rounds()
    parts = {**in_process(BUSY), "request": whole_in_process()}
    quiet = in_process(QUIET)
    both = sum(parts[name] for name in USUAL)
    told = (
        f"a replica on Serve: {_told(on_serve)}\nbare uvicorn: {_told(over_http)}\n"
        f"in process a request takes {parts['request']:.0f} us; both add {both:.0f} us, "
        f"at {BUSY:,} a second: {_parts(parts)}\nat {QUIET} a second: {_parts(quiet)}"
    )
    found = {"serve_us": on_serve, "http_us": over_http, f"at {BUSY}": parts, f"at {QUIET}": quiet}
    return found, told


def _told(rounds: dict[str, list[float]]) -> str:
    from benchmarks.drift import goal

    bare, watched = (Spread.of(rounds[name]) for name in ("off", "on"))
    added = Spread.of(
        100 * (on / off - 1) for on, off in zip(rounds["on"], rounds["off"], strict=True)
    )
    return (
        f"{bare} us without, {watched} us with both: {added} % more, "
        f"{goal(added.middle, GOAL_PERCENT, ' %')}"
    )


def _parts(costs: dict[str, float]) -> str:
    return ", ".join(f"{name} {cost:.1f}" for name, cost in costs.items() if name != "request")


# -- the endpoint ---------------------------------------------------------------------


class Constant:
    """An engine that costs nothing."""

    device = "cpu"
    service_time_s = 0.0

    def run(self, batch: Batch) -> dict[str, Any]:
        return {OUTPUT: np.full(batch.rows, SCORE)}

    def warm(self, rows: int = 1) -> None:
        pass

    def close(self) -> None:
        pass


class Unwatched(FeatureWindows):
    """Takes nothing."""

    def add(self, *entry: Any) -> None:
        pass


def endpoint(recorder: Recorder, features: FeatureWindows) -> Endpoint:
    """An endpoint like a replica's, less Serve."""

    def load(served: ServedVersion, max_rows: int) -> tuple[Runner, Codec]:
        codec = Codec(Contract.from_json(served.contract), max_rows)
        return Runner(Constant(), codec), codec

    def connect(challenger: Any, replicas: Any) -> Any:
        raise NotImplementedError("the benchmark has no challenger")

    return Endpoint(
        load=load,
        connect=connect,
        recorder=recorder,
        features=features,
        outliers=Outliers(lambda served: None),
        tracer=Tracer(None, "benchmark"),
        clock=SystemClock(),
        replica="r1",
    )


def plan(key: str, name: str = "toy") -> TrafficPlan:
    """One version, which that key may ask."""
    artifact = Artifact(digest="1" * 64, engine="onnx", size_bytes=1)
    return TrafficPlan(
        revision=1,
        spec=EndpointSpec(name=name, model="toy", deadline_s=5.0),
        stable=ServedVersion(version=1, artifact=artifact, contract=CONTRACT.to_json()),
        era="e1",
        salt="s",
        keys=(digest(key),),
    )


def records(count: int) -> list[dict[str, Any]]:
    """Different records."""
    random = np.random.default_rng(7)
    numbers = random.normal(size=(count, 25)).round(4)
    words = np.array(COLOURS)[random.integers(0, 3, (count, 5))]
    return [
        {
            "id": f"row-{row}",
            **{f"x{place:02d}": float(value) for place, value in enumerate(numbers[row])},
            **{f"c{place}": str(word) for place, word in enumerate(words[row])},
        }
        for row in range(count)
    ]


# -- over HTTP ------------------------------------------------------------------------


def http_rounds() -> dict[str, list[float]]:
    """Microseconds of the server's CPU per request, by round, with (`on`) and without both."""
    with serving(watched=False) as off, serving(watched=True) as on:
        return rounds_of({"off": off, "on": on})


def serve_rounds() -> dict[str, list[float]]:
    """The same of two replicas on Ray Serve."""
    from benchmarks.drift_on_ray import on_serve

    with on_serve(new_key("benchmark")[0]) as both:
        return rounds_of(both)


def rounds_of(servers: "dict[str, tuple[Target, psutil.Process]]") -> dict[str, list[float]]:
    """Each server in turn, every second round in reverse order."""
    bodies = [orjson.dumps(record) for record in records(1000)]
    found: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(ROUNDS + 1):
        for name in list(servers)[:: 1 if number % 2 else -1]:
            target, process = servers[name]
            before_s = cpu_s(process)
            outcome = run_load(
                target,
                bodies,
                Loop(CONNECTIONS, MEASURE_S),
                warm_up_s=WARM_UP_S,
                expected=[SCORE] * len(bodies),
                output=OUTPUT,
            )
            if outcome.failed:
                raise RuntimeError(f"requests failed: {outcome.failures}")
            time.sleep(FLUSH_S + 0.5)  # both: an idle replica has timers too
            spent_s = cpu_s(process) - before_s
            if number > 0:  # the first loads what writes the table
                found[name].append(1e6 * spent_s / outcome.answered_in_all)
    return found


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def serving(*, watched: bool) -> "Iterator[tuple[Target, psutil.Process]]":
    """A server in a process of its own, until the block ends."""
    key = new_key("benchmark")[0]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = get_context("spawn").Process(target=serve, args=(port, key, watched), daemon=True)
    server.start()
    try:
        give_up_s = time.monotonic() + STARTUP_S
        while not _listens(port):
            if time.monotonic() > give_up_s or not server.is_alive():
                raise RuntimeError("the endpoint's server did not start")
            time.sleep(0.1)
        target = Target(f"http://127.0.0.1:{port}{PATH}", {"Authorization": f"Bearer {key}"})
        yield target, psutil.Process(server.pid)
    finally:
        server.kill()
        server.join()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def serve(port: int, key: str, watched: bool) -> None:
    """Answer until killed."""
    import uvicorn
    import uvloop

    async def main(folder: str) -> None:
        recorder = Recorder(f"{folder}/log", 1.0 if watched else 0.0)
        kind = FeatureWindows if watched else Unwatched
        features = kind("toy", "r1", 60.0)
        used = endpoint(recorder, features)
        await used.reconfigure(plan(key))
        settle_heap()  # as a replica does
        timers = [
            asyncio.create_task(again(1.0, lambda: fold(features))),
            asyncio.create_task(again(FLUSH_S, recorder.flush)),
        ]
        config = uvicorn.Config(
            EndpointApp(used, "toy"),
            port=port,
            log_level="warning",
            access_log=False,
            lifespan="off",
        )
        await uvicorn.Server(config).serve()
        del timers

    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(main(folder))


async def again(pause_s: float, act: Callable[[], Any]) -> None:
    """Act off the event loop, as the replica's timers do."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(pause_s)
        await loop.run_in_executor(None, act)


def fold(features: FeatureWindows) -> None:
    """What a replica does every second; the windows that are ready count as sent."""
    features.sent(features.fold(features.take(), time.time()))


# -- in process -----------------------------------------------------------------------


def whole_in_process() -> float:
    """Microseconds of CPU of one call of the application that neither records nor sketches."""
    import uvloop

    key = new_key("benchmark")[0]
    head = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": PATH, "headers": head}
    bodies = [orjson.dumps(record) for record in records(1000)]
    statuses: set[int] = set()

    async def send(message: dict[str, Any]) -> None:
        statuses.add(message.get("status", 200))

    async def ask(app: EndpointApp, body: bytes) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        await app(scope, receive, send)

    async def main() -> float:
        used = endpoint(Recorder("nowhere", 0.0), Unwatched("toy", "r1", 60.0))
        await used.reconfigure(plan(key))
        app = EndpointApp(used, "toy")
        spent_s = []
        for _ in range(5):
            begun_s = time.process_time()
            for body in bodies:
                await ask(app, body)
            spent_s.append(time.process_time() - begun_s)
            used.report()
        return 1e6 * min(spent_s) / len(bodies)

    cost: float = uvloop.run(main())
    if statuses != {200}:
        raise RuntimeError(f"the endpoint answered {statuses}")
    return cost


def in_process(per_s: int) -> dict[str, float]:
    """Microseconds of CPU per request of each part, at so many requests a second."""
    codec = Codec(CONTRACT)
    given = records(min(per_s * 5, 5000))
    batches = [codec.validate_records([record]) for record in given]
    answer = Answer(outputs={OUTPUT: np.array([SCORE])}, version=1, arm="stable", degraded=None)
    costs: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(f"{folder}/log", 1.0)
        keyring = load_keyring(Path(folder) / "keys" / "log.json", encrypts=True)
        sealing = Recorder(f"{folder}/sealed", 1.0, Privacy(keyring))
        features = FeatureWindows("toy", "r1", 60.0)

        def put_down(into: Recorder) -> None:
            for number, batch in enumerate(batches):
                into.add(batch, answer, key="k", request_id=f"request-{number}", latency_s=0.001)

        def sketch(start: int) -> None:
            for batch in batches[start : start + per_s]:
                features.add("stable", 1, batch, answer.outputs)

        for _ in range(6):
            folds = [0.0, 0.0]
            for start in range(0, len(batches), per_s):
                folds[0] += timed(lambda start=start: sketch(start))  # type: ignore[misc]
                folds[1] += timed(lambda: fold(features))
            spent = {
                "sketch add": folds[0],
                "sketch fold": folds[1],
                "record add": timed(lambda: put_down(recorder)),
                "record flush": timed(recorder.flush),
            }
            put_down(sealing)
            spent["record flush, encrypted"] = timed(sealing.flush)
            for name, spent_s in spent.items():
                costs.setdefault(name, []).append(1e6 * spent_s / len(batches))
    return {name: float(np.median(each[1:])) for name, each in costs.items()}


def timed(act: Callable[[], Any]) -> float:
    """CPU seconds of this process that a call takes, all threads."""
    begun_s = time.process_time()
    act()
    return time.process_time() - begun_s
