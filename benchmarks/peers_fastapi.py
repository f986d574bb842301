"""Peer: FastAPI and onnxruntime under uvicorn, one worker, as a quick service is written.

    python -m benchmarks.peers_fastapi PORT GRAPH

It has no contract, split, recorder, metrics or key. It ends when its standard input does,
so it cannot outlive the benchmark.
"""

import os
import sys
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI

from benchmarks.scorer import Graph, Scorer


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


def main(port: int, graph: Graph) -> None:
    """Serve on loopback, with uvloop and httptools, as uvicorn[standard] does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    uvicorn.run(build(graph), host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), Graph.from_json(sys.argv[2]))
