"""Peer: MLServer, with a runtime of a few lines, as its ONNX runtime is not on PyPI.

    python -m benchmarks.peer_servers.on_mlserver PORT GRAPH WORKERS FOLDER

It speaks the Open Inference Protocol (v2) alone: the record is translated, before the clock runs,
into one tensor of its features, which is less to read than names and values. One worker is
`parallel_workers` 0: the model runs in the process that has HTTP, which is the faster way by far
for a model of 10 us. More workers are its worker processes behind the one that has HTTP; it has no
other way to use more cores. No batching, no compression, no access log (`debug` off); gRPC listens
and its metrics are on, as by default.
"""

import json
import os
import sys
from pathlib import Path

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.scorer import OUTPUT, Graph, Scorer


class Loan(MLModel):
    """The custom runtime."""

    async def load(self) -> bool:
        self._scorer = Scorer(Graph.from_json(self.settings.parameters.extra["graph"]))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = payload.inputs[0]
        width = tensor.shape[-1]
        data = tensor.data.root
        rows = [data[at : at + width] for at in range(0, len(data), width)]
        scores = self._scorer.score_rows(rows)
        output = ResponseOutput(name=OUTPUT, shape=[len(scores)], datatype="FP32", data=scores)
        return InferenceResponse(model_name=self.name, outputs=[output])


def main(port: int, graph: str, workers: int, folder: Path) -> None:
    """Write both of its settings files, and become the server."""
    server = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        "parallel_workers": 0 if workers == 1 else workers,
        "debug": False,
        "gzip_enabled": False,
    }
    model = {
        "name": "loan",
        "implementation": "benchmarks.peer_servers.on_mlserver.Loan",
        "parameters": {"extra": {"graph": graph}},
    }
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))
    program = str(Path(sys.executable).with_name("mlserver"))
    os.chdir(folder)
    os.execv(program, [program, "start", str(folder)])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
