"""Peer: KServe's model server, alone: no Kubernetes, no Knative and no sidecar around it.

    python -m benchmarks.peer_servers.on_kserve PORT GRAPH WORKERS FOLDER

It is asked in the Open Inference Protocol (v2): the record is translated, before the clock runs,
into one tensor of its features. `workers` uvicorn processes; no gRPC, latency log and access log;
uvloop; its metrics are on, as by default.
"""

import sys
from functools import cached_property
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from benchmarks.scorer import OUTPUT, Graph, Scorer


class Loan(Model):
    """The model as KServe wants it."""

    def __init__(self, graph: str) -> None:
        super().__init__("loan")
        self._graph = graph
        self.ready = True

    @cached_property
    def _scorer(self) -> Scorer:
        """Made in each worker, at its first request: a session cannot be sent to them."""
        return Scorer(Graph.from_json(self._graph))

    async def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        scores = self._scorer.score_rows(payload.inputs[0].as_numpy())
        output = InferOutput(name=OUTPUT, shape=[len(scores)], datatype="FP32", data=scores)
        # Without an id its check of the answer fails.
        return InferResponse(
            response_id=payload.id or "1", model_name="loan", infer_outputs=[output]
        )


if __name__ == "__main__":
    ModelServer(
        http_port=int(sys.argv[1]),
        workers=int(sys.argv[3]),
        enable_grpc=False,
        enable_latency_logging=False,
        event_loop="uvloop",
    ).start([Loan(sys.argv[2])])
