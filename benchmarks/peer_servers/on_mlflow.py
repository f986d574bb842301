"""Peer: `mlflow models serve`, with a model of the flavour `python_function`.

    python -m benchmarks.peer_servers.on_mlflow PORT GRAPH WORKERS FOLDER

Body: `{"inputs": [[features]]}`, which reaches the model as an array; its form with names
(`dataframe_records`) makes a pandas table of each request and costs more. The model has no
signature, so that nothing is checked. `workers` uvicorn processes, `--env-manager local`, telemetry
to its makers off. Saving the model is done before the server starts.
"""

import os
import sys
from pathlib import Path
from typing import Any

import mlflow

from benchmarks.scorer import Graph, Scorer


class Loan(mlflow.pyfunc.PythonModel):
    """The model as MLflow wants it."""

    def __init__(self, graph: str) -> None:
        self._graph = graph

    def load_context(self, context: Any) -> None:
        self._scorer = Scorer(Graph.from_json(self._graph))

    def predict(self, context: Any, model_input: Any, params: Any = None) -> list[float]:
        return self._scorer.score_rows(model_input)


def main(port: str, graph: str, workers: str, folder: Path) -> None:
    """Save the model, and become the server."""
    os.environ |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_TRACKING_URI": f"file://{folder}/runs",
    }
    mlflow.pyfunc.save_model(str(folder / "model"), python_model=Loan(graph), pip_requirements=[])
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri"]
    options = [
        "--env-manager",
        "local",
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--workers",
        workers,
    ]
    os.execv(sys.executable, [*command, str(folder / "model"), *options])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
