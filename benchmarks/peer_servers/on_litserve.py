"""Peer: LitServe.

    python -m benchmarks.peer_servers.on_litserve PORT GRAPH WORKERS FOLDER

Same body and answer as aios. LitServe always has a process for HTTP and one or more for the model,
with a queue between: `workers` of each. No batching (`max_batch_size` 1, its default): batches
would have to wait. `fast_queue` (over ZeroMQ) is its own advice for many small requests. No access
log.
"""

import sys
from typing import Any

import litserve

from benchmarks.scorer import Graph, Scorer


class Loan(litserve.LitAPI):
    """Reads, scores and answers."""

    def __init__(self, graph: str) -> None:
        super().__init__()
        self._graph = graph

    def setup(self, device: str) -> None:
        self._scorer = Scorer(Graph.from_json(self._graph))

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """The parameter must have this name and no type, or it is looked for in the URL."""
        return request

    def predict(self, record: Any) -> Any:
        return self._scorer.answer(record)

    def encode_response(self, output: Any) -> Any:
        return output


if __name__ == "__main__":
    workers = int(sys.argv[3])
    server = litserve.LitServer(
        Loan(sys.argv[2]),
        accelerator="cpu",
        workers_per_device=workers,
        fast_queue=True,
        timeout=False,
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=workers,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
