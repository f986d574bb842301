"""Bytes that must never reach a runtime, and what is said about them."""

import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import model_of, score_model

from aios.errors import ArtifactRejected
from aios.models.pt2 import check_archive
from aios.models.safety import MAX_TENSOR_BYTES, check_onnx, refuse_pickle


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def rejected(content: bytes) -> str:
    with pytest.raises(ArtifactRejected) as caught:
        check_onnx(content, "m.onnx")
    return caught.value.message


def test_a_plain_graph_passes() -> None:
    assert check_onnx(score_model().SerializeToString(), "m.onnx").graph.name == "score"


def test_external_data_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    model = score_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    assert "keeps the tensor 'w' in another file" in rejected(model.SerializeToString())


def test_external_data_hidden_in_a_subgraph_is_refused() -> None:
    hidden = numpy_helper.from_array(np.zeros(2, np.float32), "hidden")
    hidden.external_data.add(key="location", value="weights.bin")
    value = helper.make_tensor_value_info("score", TensorProto.FLOAT, None)
    branch = helper.make_graph([], "branch", [], [value], [hidden])
    node = helper.make_node("If", ["x"], ["score"], then_branch=branch, else_branch=branch)
    assert "'hidden' in another file" in rejected(model_of([node], []).SerializeToString())


@pytest.mark.parametrize("domain", ["com.evil", "com.microsoft", "ai.onnx.training"])
def test_operators_of_other_domains_are_refused(domain: str) -> None:
    node = helper.make_node("Run", ["x"], ["score"], domain=domain)
    assert domain in rejected(model_of([node], [], domains=("", domain)).SerializeToString())
    # Also where the model does not own up to importing the domain.
    message = rejected(model_of([node], []).SerializeToString())
    assert f"uses the operator 'Run' of the domain {domain!r}" in message


@pytest.mark.parametrize("operator", ["MultiHeadAttention", "Tokenizer"])
def test_of_other_domains_only_what_onnxruntime_brings_is_taken(operator: str) -> None:
    node = helper.make_node(operator, ["x"], ["score"], domain="com.microsoft")
    content = model_of([node], [], domains=("", "com.microsoft")).SerializeToString()
    assert check_onnx(content, "an encoder").graph.node[0].op_type == operator


def test_local_functions_are_refused() -> None:
    model = score_model()
    model.functions.append(
        helper.make_function("", "Mine", ["a"], ["b"], [], [helper.make_opsetid("", 18)])
    )
    assert "local function 'Mine'" in rejected(model.SerializeToString())


def test_a_declared_size_beyond_the_cap_is_refused_without_allocating() -> None:
    huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**20, 2**20])
    node = helper.make_node("MatMul", ["x", "w"], ["score"])
    message = rejected(model_of([node], [huge]).SerializeToString())
    assert f"more than {MAX_TENSOR_BYTES} bytes (at the tensor 'w')" in message


def test_a_constant_that_is_filled_at_load_is_bounded() -> None:
    shape = numpy_helper.from_array(np.array([2**20, 2**20], dtype=np.int64), "shape")
    node = helper.make_node("ConstantOfShape", ["shape"], ["score"])
    assert "fills a constant" in rejected(model_of([node], [shape]).SerializeToString())


def test_a_tensor_with_fewer_bytes_than_declared_is_refused() -> None:
    model = score_model()
    model.graph.initializer[0].raw_data = b"\0" * 8
    assert "declares 12 bytes" in rejected(model.SerializeToString())


def test_truncated_and_foreign_bytes_are_refused() -> None:
    content = score_model().SerializeToString()
    for cut in range(0, len(content) - 1, 3):
        rejected(content[:cut])
    for foreign in (b"", b"{}", b"\x7fELF" + bytes(64), random.Random(1).randbytes(500)):
        rejected(foreign)


def test_an_invalid_graph_is_refused_by_the_checker() -> None:
    node = helper.make_node("NoSuchOperator", ["x"], ["score"])
    assert "does not pass the ONNX checker" in rejected(model_of([node], []).SerializeToString())


def test_pickles_are_refused_by_content_and_never_loaded(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    zipped, array = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Canary(canary)))
    np.save(array, np.array([Canary(canary)], dtype=object), allow_pickle=True)
    samples = [pickle.dumps(Canary(canary), protocol=protocol) for protocol in range(6)]
    for content in (*samples, zipped.getvalue(), array.getvalue()):
        with pytest.raises(ArtifactRejected, match="pickle"):
            refuse_pickle(content, "weights.bin")
        assert rejected(content)
    assert not canary.exists()


def test_damaged_graphs_pass_or_are_refused_and_nothing_else() -> None:
    content, chance = score_model().SerializeToString(), random.Random(3)
    refused = 0
    for _ in range(300):
        mutant = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            mutant[chance.randrange(len(mutant))] = chance.randrange(256)
        try:
            assert isinstance(check_onnx(bytes(mutant), "m.onnx"), onnx.ModelProto)
        except ArtifactRejected:
            refused += 1
    assert refused > 100


def archive_of(changes: dict[str, bytes | None] | None = None, **zip_options: int) -> bytes:
    graph = {
        "graph_module": {
            "graph": {
                "nodes": [{"target": "torch.ops.aten.relu.default", "name": "relu", "inputs": []}],
                "sym_int_values": {
                    "s": {"as_expr": {"expr_str": "Mul(Integer(2), Symbol('s77', integer=True))"}}
                },
            }
        },
        "guards_code": [],
    }
    weights = {
        "config": {
            "w": {
                "path_name": "weight_0",
                "use_pickle": False,
                "tensor_meta": {"sizes": [{"as_int": 2}]},
            }
        }
    }
    entries: dict[str, bytes | None] = {
        "archive/models/model.json": json.dumps(graph).encode(),
        "archive/data/weights/weight_0": bytes(8),
        "archive/data/weights/model_weights_config.json": json.dumps(weights).encode(),
        "archive/data/constants/model_constants_config.json": b'{"config": {}}',
        "archive/data/sample_inputs/model.pt": b"",
        "archive/archive_format": b"pt2",
        **(changes or {}),
    }
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", **zip_options) as archive:  # type: ignore[call-overload]
        for name, content in entries.items():
            if content is not None:
                archive.writestr(name, content)
    return target.getvalue()


def test_a_plain_torch_archive_passes() -> None:
    check_archive(archive_of(), "m.pt2")


def replaced(old: str, new: str) -> bytes:
    name = "archive/models/model.json"
    with zipfile.ZipFile(io.BytesIO(archive_of())) as archive:
        graph = archive.read(name).decode()
    assert old in graph
    return archive_of({name: graph.replace(old, new).encode()})


EVIL_ARCHIVES = {
    "a pickled sample": archive_of({"archive/data/sample_inputs/model.pt": b"\x80\x04."}),
    "a pickled weight": archive_of(
        {
            "archive/data/weights/model_weights_config.json": json.dumps(
                {"config": {"w": {"path_name": "weight_0", "use_pickle": True}}}
            ).encode()
        }
    ),
    "an opaque constant": archive_of({"archive/data/constants/opaque_obj_0": b"\x80\x04."}),
    "legacy weights": archive_of({"archive/data/weights/model.pt": b"PK"}),
    "native code": archive_of({"archive/data/aotinductor/model/x.so": b"\x7fELF"}),
    "a path upwards": archive_of({"archive/../../../tmp/x": b"1"}),
    "an absolute path": archive_of({"/etc/cron.d/x": b"1"}),
    "a missing weight": archive_of({"archive/data/weights/weight_0": None}),
    "no graph": archive_of({"archive/models/model.json": None}),
    "a graph that is no object": archive_of({"archive/models/model.json": b"[]"}),
    "a second root": archive_of({"other/models/model.json": b"{}"}),
    "compression": archive_of(compression=zipfile.ZIP_DEFLATED),
    "a call of torch.load": replaced("torch.ops.aten.relu.default", "torch.load"),
    "a call of os.system": replaced("torch.ops.aten.relu.default", "_operator.os.system"),
    "a name that is code": replaced('"name": "relu"', '"name": "x = __import__(1)"'),
    "a dunder name": replaced('"name": "relu"', '"name": "a.__class__"'),
    "an expression that is code": replaced("Integer(2)", "eval(Integer(2))"),
    "an expression with a string": replaced("'s77'", "'__import__'"),
    "a power without end": replaced("Mul(", "Pow("),
    "an attribute in an expression": replaced("Integer(2)", "Integer.mro(2)"),
    "guards as code": replaced('"guards_code": []', '"guards_code": ["import os"]'),
    "an operator argument": replaced('"inputs": []', '"inputs": [{"as_operator": "torch.load"}]'),
    "a prefix": b"#!/bin/sh\n" + archive_of(),
    "half a file": archive_of()[:-200],
    "no archive": b"",
}


@pytest.mark.parametrize("name", EVIL_ARCHIVES)
def test_torch_archives_that_could_run_code_are_refused(name: str) -> None:
    with pytest.raises(ArtifactRejected, match=r"m\.pt2"):
        check_archive(EVIL_ARCHIVES[name], "m.pt2")


def test_an_entry_that_is_there_twice_is_refused() -> None:
    target = io.BytesIO(archive_of())
    with zipfile.ZipFile(target, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/archive_format", b"pt2")
    with pytest.raises(ArtifactRejected, match="twice"):
        check_archive(target.getvalue(), "m.pt2")
