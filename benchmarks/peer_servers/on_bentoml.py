"""Peer: BentoML.

    python -m benchmarks.peer_servers.on_bentoml PORT GRAPH WORKERS FOLDER

Same body and answer as aios: the record is the service's only positional parameter, so that it is
the body itself. Production mode, `workers` of the service, no batching. The method is a coroutine,
so that no thread is asked for 10 us of work. Its metrics are on, as by default; its access log,
tracing and telemetry to its makers are off.
"""

import os
import sys
from typing import Any

import bentoml

from benchmarks.scorer import Graph, Scorer

GRAPH, WORKERS = "BENCHMARK_GRAPH", "BENCHMARK_WORKERS"


@bentoml.service(
    workers=int(os.environ.get(WORKERS, "1")),
    logging={"access": {"enabled": False}},
)
class Loan:
    """One worker's share of the service."""

    def __init__(self) -> None:
        self._scorer = Scorer(Graph.from_json(os.environ[GRAPH]))

    @bentoml.api(route="/predict")
    async def predict(self, record: dict[str, Any], /) -> dict[str, Any]:
        return self._scorer.answer(record)


if __name__ == "__main__":
    port, graph, workers, folder = sys.argv[1:]
    os.environ |= {
        GRAPH: graph,
        WORKERS: workers,
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": folder,
    }
    command = [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", port]
    os.execv(sys.executable, [*command, "benchmarks.peer_servers.on_bentoml:Loan"])
