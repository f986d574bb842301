"""What a peer does with a record: onnxruntime and nothing else. Does not import aios."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson

OUTPUT = "approve"
"""The one output, by which answers are checked."""


@dataclass(frozen=True)
class Graph:
    """An ONNX file and how to ask it, as small peers need it.

    `features` are the columns of its one input; `column` is the score's place in its output.
    """

    path: str
    input_name: str
    features: tuple[str, ...]
    output_name: str
    column: int

    def to_json(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> "Graph":
        fields = orjson.loads(text)
        return cls(**{**fields, "features": tuple(fields["features"])})


class Scorer:
    """What a peer does with a record: onnxruntime and nothing else.

    The session has the options of aios' own engine, so that only what is around it differs.
    """

    def __init__(self, graph: Graph) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            graph.path, options, providers=["CPUExecutionProvider"]
        )
        self._graph = graph

    def score(self, records: Sequence[Mapping[str, Any]]) -> list[float]:
        """The scores of the records, in order."""
        features = self._graph.features
        return self.score_rows([[record[name] for name in features] for record in records])

    def score_rows(self, rows: Any) -> list[float]:
        """The scores of rows whose features are in the graph's order."""
        graph = self._graph
        feed = {graph.input_name: np.asarray(rows, dtype=np.float32)}
        (values,) = self._session.run([graph.output_name], feed)
        scores: list[float] = values[:, graph.column].tolist()
        return scores

    def answer(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one record, in the shape in which aios answers."""
        return {"outputs": [{OUTPUT: self.score([record])[0]}]}
