"""What an artifact's bytes must pass before any runtime is given them.

A runtime's loader is the part of a serving system that an attacker reaches with a file, so
each check here works on bytes in memory and runs no part of the model: nothing is unpickled,
no path inside a file is followed, and no operator is looked up. The files of a PyTorch
archive have their own checks in `aios.models.pt2`.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aios.errors import ArtifactRejected

if TYPE_CHECKING:
    import onnx

MAX_FILE_BYTES = 2**30
"""Protobuf cannot hold more than 2 GiB; half of that leaves room for parsing it."""
MAX_TENSOR_BYTES = 2**30
"""What all constants of a graph may declare together, whatever the file really holds."""
ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""Operators of the ONNX standard. Others are native code that some library would bring."""
ALLOWED_OPERATORS = frozenset(
    {("com.microsoft", "Tokenizer"), ("com.microsoft", "MultiHeadAttention")}
)
"""Of other domains only these, which onnxruntime itself brings: words of a text, without which no
scikit-learn model of texts can be said in ONNX, and what encoders are published with."""

_ELEMENT_BITS = {
    "FLOAT": 32, "UINT8": 8, "INT8": 8, "UINT16": 16, "INT16": 16, "INT32": 32, "INT64": 64,
    "BOOL": 8, "FLOAT16": 16, "DOUBLE": 64, "UINT32": 32, "UINT64": 64, "COMPLEX64": 64,
    "COMPLEX128": 128, "BFLOAT16": 16, "UINT4": 4, "INT4": 4,
}  # fmt: skip
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".skops", ".dill")


def refuse_pickle(content: bytes, what: str) -> None:
    """Refuse what a pickle loader would take: a pickle, or a zip or numpy file that holds one.

    Raises:
        ArtifactRejected: naming `what` and the kind of pickle that was recognised.
    """
    kind = None
    if what.lower().endswith(_PICKLE_SUFFIXES):
        kind = "has the name of a pickle"
    elif len(content) > 1 and content[0] == 0x80 and 2 <= content[1] <= 5:
        kind = "is a pickle"
    elif content[:1] in (b"(", b"c", b"]", b"}") and content.rstrip()[-1:] == b".":
        kind = "looks like a text pickle"
    elif content[:4] == b"PK\x03\x04" and _holds_pickle(content):
        kind = "is a zip archive that holds a pickle"
    elif content[:6] == b"\x93NUMPY" and b"'|O'" in content[:256]:
        kind = "is a numpy file of pickled objects"
    if kind:
        raise ArtifactRejected(
            f"{what} {kind}, and unpickling runs code: register the estimator or module itself, "
            "an ONNX file, or a Python class by import path",
            file=what,
        )


def check_onnx(content: bytes, what: str) -> "onnx.ModelProto":
    """The parsed graph of a single ONNX file that is safe to hand to a runtime.

    Refused are: more than `MAX_FILE_BYTES`, pickles, truncated or foreign bytes, tensors kept
    outside the file, operators outside `ALLOWED_DOMAINS`, local functions, constants that
    declare more than `MAX_TENSOR_BYTES` or other than what the file holds, and whatever
    `onnx.checker` refuses.

    Raises:
        ArtifactRejected: says which of these, and where in the graph.
    """
    import onnx

    if len(content) > MAX_FILE_BYTES:
        raise _rejected(what, f"has {len(content)} bytes; at most {MAX_FILE_BYTES} are taken")
    refuse_pickle(content, what)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:
        raise _rejected(what, "is not an ONNX file, or is cut short") from error
    if not model.HasField("graph") or not model.graph.output:
        raise _rejected(what, "holds no graph with outputs: not an ONNX model, or cut short")
    _check_operators(model, what)
    _check_tensors(model, what)
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise _rejected(what, f"does not pass the ONNX checker: {reason}") from error
    return model


def _rejected(what: str, reason: str) -> ArtifactRejected:
    return ArtifactRejected(f"{what} {reason}", file=what)


def _holds_pickle(content: bytes) -> bool:
    import io
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False
    return any(name.lower().endswith((".pkl", ".pickle", ".npy")) for name in names)


def _graphs(model: "onnx.ModelProto") -> Iterator["onnx.GraphProto"]:
    """The main graph, the training graphs, and every graph inside an attribute of a node."""
    waiting = [model.graph]
    for training in model.training_info:
        waiting += [training.initialization, training.algorithm]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g)
                waiting.extend(attribute.graphs)


def _check_operators(model: "onnx.ModelProto", what: str) -> None:
    if model.functions:
        raise _rejected(
            what,
            f"defines the local function {model.functions[0].name[:80]!r}: inline functions "
            "first (onnx.inliner.inline_local_functions)",
        )
    allowed = ", ".join(repr(domain) for domain in sorted(ALLOWED_DOMAINS))
    domains = ALLOWED_DOMAINS | {domain for domain, _ in ALLOWED_OPERATORS}
    for opset in model.opset_import:
        if opset.domain not in domains:
            raise _rejected(what, f"imports operators of {opset.domain[:80]!r}; allowed: {allowed}")
    for graph in _graphs(model):
        for node in graph.node:
            known = (node.domain, node.op_type) in ALLOWED_OPERATORS
            if node.domain not in ALLOWED_DOMAINS and not known:
                raise _rejected(
                    what,
                    f"uses the operator {node.op_type[:80]!r} of the domain {node.domain[:80]!r}; "
                    f"allowed: {allowed}",
                )


def _tensors(model: "onnx.ModelProto") -> Iterator["onnx.TensorProto"]:
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                sparse_values = list(attribute.sparse_tensors)
                if attribute.HasField("sparse_tensor"):
                    sparse_values.append(attribute.sparse_tensor)
                for sparse in sparse_values:
                    yield from (sparse.values, sparse.indices)


def _check_tensors(model: "onnx.ModelProto", what: str) -> None:
    import onnx

    total_bytes = 0
    for tensor in _tensors(model):
        name = repr(tensor.name[:80])
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise _rejected(
                what,
                f"keeps the tensor {name} in another file: save the model as a single file "
                "(onnx.save_model(..., save_as_external_data=False))",
            )
        if any(size < 0 for size in tensor.dims):
            raise _rejected(what, f"declares the tensor {name} with a negative size")
        declared_bytes = _declared_bytes(tensor)
        total_bytes += declared_bytes
        if total_bytes > MAX_TENSOR_BYTES:
            raise _rejected(
                what,
                f"declares constants of more than {MAX_TENSOR_BYTES} bytes (at the tensor {name})",
            )
        if tensor.HasField("raw_data") and len(tensor.raw_data) != declared_bytes:
            raise _rejected(
                what,
                f"declares {declared_bytes} bytes for the tensor {name} and holds "
                f"{len(tensor.raw_data)}: the file is damaged",
            )
    _check_filled_shapes(model, what)


def _declared_bytes(tensor: "onnx.TensorProto") -> int:
    import onnx

    names: Any = onnx.TensorProto.DataType
    kind = names.Name(tensor.data_type) if tensor.data_type in names.values() else "STRING"
    elements: int = math.prod(tensor.dims)
    return -(-elements * _ELEMENT_BITS.get(kind, 8) // 8)


def _check_filled_shapes(model: "onnx.ModelProto", what: str) -> None:
    """Refuse a ConstantOfShape whose constant shape asks for more than the cap: a file of a
    few bytes could else take all memory at load, where runtimes fold constants."""
    from onnx import numpy_helper

    for graph in _graphs(model):
        shapes = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.output:
                shapes[node.output[0]] = node.attribute[0].t
        for node in graph.node:
            shape = shapes.get(node.input[0]) if node.input else None
            if node.op_type != "ConstantOfShape" or shape is None:
                continue
            elements = math.prod(int(size) for size in numpy_helper.to_array(shape).ravel())
            if elements * 8 > MAX_TENSOR_BYTES:
                raise _rejected(what, f"fills a constant of {elements} elements; too large")
