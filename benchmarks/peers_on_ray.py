"""Peers on Ray Serve: a bare raw-ASGI replica, and the usual hand-made canary.

    python -m benchmarks.peers_on_ray bare GRAPH              beside aios' own, and returns
    python -m benchmarks.peers_on_ray hand-made GRAPH PORT FOLDER REPLICAS   until its input ends

The bare replica joins the cluster of aios through `serve.run`, which leaves declarative
applications alone and is left alone by them: so it has the same HAProxy, flags and neighbours.
"""

import random
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

import orjson
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request

from benchmarks.scorer import Graph, Scorer

BARE_APP = "bare"
BARE_ROUTE = "/bare"
CANARY_WEIGHT_FRACTION = 0.1
Message = MutableMapping[str, Any]


class BareApp:
    """Raw ASGI: read the body, run the model, answer. No check of anything."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        answer = orjson.dumps(self._scorer.answer(orjson.loads(body)))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(answer)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@serve.deployment(
    name="replica",
    max_ongoing_requests=576,
    ray_actor_options={"num_cpus": 0.1},
    logging_config={"log_level": "WARNING", "enable_access_log": False},  # as aios has it
)
@serve.ingress()
class BareReplica:
    """The cheapest thing that Serve can put behind HAProxy."""

    def __init__(self, graph: str) -> None:
        self._scorer = Scorer(Graph.from_json(graph))

    def __serve_build_asgi_app__(self) -> BareApp:
        return BareApp(self._scorer)


@serve.deployment(max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.1})
class Version:
    """One version of the hand-made canary."""

    def __init__(self, graph: str) -> None:
        self._scorer = Scorer(Graph.from_json(graph))

    async def predict(self, record: dict[str, Any]) -> dict[str, Any]:
        return self._scorer.answer(record)


@serve.deployment(name="router", max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.1})
class Router:
    """Takes requests and passes one in ten to the canary."""

    def __init__(self, stable: DeploymentHandle, canary: DeploymentHandle) -> None:
        self._stable = stable
        self._canary = canary

    async def __call__(self, request: Request) -> dict[str, Any]:
        record = await request.json()
        chosen = self._canary if random.random() < CANARY_WEIGHT_FRACTION else self._stable
        answer: dict[str, Any] = await chosen.predict.remote(record)
        return answer


def run_bare(graph: str) -> None:
    """Deploy the bare replica into the cluster that the environment names."""
    ray.init(address="auto", log_to_driver=False, namespace="benchmarks")
    app = BareReplica.bind(graph)  # type: ignore[attr-defined]
    serve.run(app, name=BARE_APP, route_prefix=BARE_ROUTE)


def run_hand_made(graph: str, port: int, folder: str, replicas: int) -> None:
    """Serve the hand-made canary on a Ray of its own until standard input ends."""
    ray.init(address="local", include_dashboard=False, _temp_dir=folder)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    version = partial(Version.options, num_replicas=replicas)  # type: ignore[attr-defined]
    stable = version(name="stable").bind(graph)
    canary = version(name="canary").bind(graph)
    router = Router.options(num_replicas=replicas)  # type: ignore[attr-defined]
    serve.run(router.bind(stable, canary), route_prefix="/predict")
    sys.stdin.buffer.read()
    ray.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        run_bare(sys.argv[2])
    else:
        run_hand_made(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
