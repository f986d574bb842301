"""Peer: NVIDIA's Triton Inference Server by way of PyTriton: Triton's HTTP, Python for the model.

    python -m benchmarks.peer_servers.on_triton PORT GRAPH WORKERS FOLDER

The package brings Triton without its ONNX back end, so each request passes from Triton's process
(C++) to one of `workers` Python processes of its model and back; with that back end Triton would be
faster than it is here. The body is that of the Open Inference Protocol (v2): the record is
translated, before the clock runs, into one tensor of its features. No batching. gRPC and metrics
listen, as by default. It runs only under the system's own Python, which its wheel was made for.
"""

import sys
from typing import Any

import numpy as np
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.scorer import OUTPUT, Graph, Scorer


def scoring(graph: Graph) -> Any:
    """What one of its workers calls."""
    scorer = Scorer(graph)

    def infer(requests: Any) -> Any:
        return [
            {OUTPUT: np.array(scorer.score_rows(request["record"]), dtype=np.float32)}
            for request in requests
        ]

    return infer


if __name__ == "__main__":
    port, graph, workers = int(sys.argv[1]), Graph.from_json(sys.argv[2]), int(sys.argv[3])
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=port,
        grpc_address="127.0.0.1",
        grpc_port=port + 1,
        metrics_address="127.0.0.1",
        metrics_port=port + 2,
        log_verbose=0,
    )
    with Triton(config=config, workspace=f"{sys.argv[4]}/triton") as triton:
        triton.bind(
            model_name="loan",
            infer_func=[scoring(graph) for _ in range(workers)],
            inputs=[Tensor(name="record", dtype=np.float32, shape=(-1, len(graph.features)))],
            outputs=[Tensor(name=OUTPUT, dtype=np.float32, shape=(-1,))],
            config=ModelConfig(batching=False),
        )
        triton.serve()
