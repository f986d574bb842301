"""Peer: FastAPI and onnxruntime under uvicorn, as a quick service is written.

    python -m benchmarks.peers_fastapi PORT GRAPH [WORKERS]

One worker, or several processes under uvicorn that share the port. It has no contract, split,
recorder, metrics or key. It ends when its standard input does, so it cannot outlive the benchmark.
"""

import os
import sys
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI

from benchmarks.scorer import Graph, Scorer

GRAPH = "BENCHMARK_GRAPH"


def build(graph: Graph) -> FastAPI:
    """The application."""
    app = FastAPI()
    scorer = Scorer(graph)

    @app.post("/predict")
    async def predict(record: dict[str, Any]) -> dict[str, Any]:
        return scorer.answer(record)

    return app


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def of_environment() -> FastAPI:
    """The application of one of several workers."""
    return build(Graph.from_json(os.environ[GRAPH]))


def main(port: int, graph: str, workers: int = 1) -> None:
    """Serve on loopback, with uvloop and httptools, as uvicorn[standard] does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ[GRAPH] = graph
    uvicorn.run(
        "benchmarks.peers_fastapi:of_environment",
        factory=True,
        workers=workers,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *(int(number) for number in sys.argv[3:4]))
