"""Small ONNX graphs for tests, made by hand so that no framework is needed."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aios.contracts import Contract, Number

FEATURES = ("income", "debt", "age")
WEIGHTS = np.array([[0.5], [-0.25], [0.125]], dtype=np.float32)


def score_contract() -> Contract:
    return Contract(
        inputs={name: Number(min=-10, max=10) for name in FEATURES},
        outputs={"score": Number(min=0, max=1)},
    )


def sample_rows(rows: int = 20) -> list[dict[str, float]]:
    values = np.random.default_rng(7).uniform(-2, 2, size=(rows, len(FEATURES)))
    return [dict(zip(FEATURES, map(float, row), strict=True)) for row in values]


def model_of(
    nodes: list[Any], initializers: list[Any], *, domains: tuple[str, ...] = ("",)
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "score",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", len(FEATURES)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows", 1])],
        initializers,
    )
    opsets = [helper.make_opsetid(domain, 18 if domain == "" else 1) for domain in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def score_model() -> onnx.ModelProto:
    """sigmoid(x @ WEIGHTS)."""
    return model_of(
        [
            helper.make_node("MatMul", ["x", "w"], ["z"]),
            helper.make_node("Sigmoid", ["z"], ["score"]),
        ],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )


def write_model(folder: Path, model: onnx.ModelProto | None = None) -> Path:
    path = folder / "score.onnx"
    path.write_bytes((model or score_model()).SerializeToString())
    return path
