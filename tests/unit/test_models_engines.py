"""Building from ONNX files and Python classes, and running what was built."""

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_graphs import (
    FEATURES,
    WEIGHTS,
    model_of,
    sample_rows,
    score_contract,
    score_model,
    write_model,
)

from aios.contracts import (
    Boolean,
    Category,
    Codec,
    Contract,
    Integer,
    Number,
    Tensor,
    Text,
)
from aios.errors import ArtifactRejected, ModelFailed, Unsupported, UsageError
from aios.models import Engine, PythonModel, build, load_engine, synthetic_batch
from aios.models.engine import Outputs
from aios.models.manifest import OutputSource


def engine_of(model: Any, contract: Contract, sample: Any, into: Path, **options: Any) -> Engine:
    built = build(model, contract, sample, into, **options)
    return load_engine(built.folder, built.artifact, contract, ref="loan:7")


def graph(inputs: dict[str, Any], outputs: dict[str, Any], nodes: list[Any]) -> onnx.ModelProto:
    """A graph of named (type, shape) inputs and outputs."""
    infos = [
        [helper.make_tensor_value_info(name, *kind) for name, kind in side.items()]
        for side in (inputs, outputs)
    ]
    return helper.make_model(
        helper.make_graph(nodes, "g", infos[0], infos[1], []),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )


def test_an_onnx_file_answers_as_its_formula(tmp_path: Path) -> None:
    rows = sample_rows()
    engine = engine_of(write_model(tmp_path), score_contract(), rows, tmp_path / "a")
    batch = Codec(score_contract()).validate_records(rows)
    matrix = np.array([[row[name] for name in FEATURES] for row in rows])
    expected = 1 / (1 + np.exp(-(matrix @ WEIGHTS)[:, 0]))
    answer = engine.run(batch)
    assert list(answer) == ["score"]
    assert answer["score"].shape == (20,)
    np.testing.assert_allclose(answer["score"], expected, rtol=1e-6)
    assert 0 < engine.service_time_s < 0.1
    assert engine.device == "cpu"
    engine.warm(rows=64)
    engine.close()


def test_a_matrix_follows_the_contracts_order_not_the_requests(tmp_path: Path) -> None:
    engine = engine_of(write_model(tmp_path), score_contract(), None, tmp_path / "a")
    row = {"age": 1.0, "debt": 2.0, "income": 3.0}
    straight = Codec(score_contract()).validate_records([{n: row[n] for n in FEATURES}])
    shuffled = Codec(score_contract()).validate_records([row])
    assert engine.run(straight)["score"] == engine.run(shuffled)["score"]


def test_columns_of_every_type_reach_the_graph_by_name(tmp_path: Path) -> None:
    kinds = {
        "real": (TensorProto.DOUBLE, ["rows"]),
        "whole": (TensorProto.INT64, ["rows", 1]),
        "flag": (TensorProto.BOOL, ["rows"]),
        "word": (TensorProto.STRING, ["rows", 1]),
        "image": (TensorProto.FLOAT, ["rows", 2, 2]),
    }
    outputs = {f"{name}_out": kind for name, kind in kinds.items()}
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in kinds]
    contract = Contract(
        inputs={
            "image": Tensor((2, 2)),
            "word": Category(["yes", "no"]),
            "flag": Boolean(),
            "whole": Integer(min=0, max=9),
            "real": Number(),
        },
        outputs={
            "real_out": Number(),
            "whole_out": Integer(),
            "flag_out": Boolean(),
            "word_out": Text(),
            "image_out": Tensor((2, 2)),
        },
    )
    path = write_model(tmp_path, graph(kinds, outputs, nodes))
    batch = synthetic_batch(contract, rows=5, seed=4)
    answer = engine_of(path, contract, batch, tmp_path / "a").run(batch)
    for name in kinds:
        assert answer[f"{name}_out"].tolist() == batch.column(name).tolist()


def test_outputs_are_chosen_by_name_and_column(tmp_path: Path) -> None:
    kinds = {"x": (TensorProto.FLOAT, ["rows", 3])}
    node = helper.make_node("Softmax", ["x"], ["probabilities"])
    model = graph(kinds, {"probabilities": (TensorProto.FLOAT, ["rows", 3])}, [node])
    path = write_model(tmp_path, model)
    with pytest.raises(UsageError, match="3 columns; say which with outputs="):
        build(path, score_contract(), None, tmp_path)
    with pytest.raises(UsageError, match="no output 'probs'; there are probabilities"):
        build(path, score_contract(), None, tmp_path, outputs={"score": ("probs", 1)})
    with pytest.raises(UsageError, match="3 columns, no 3"):
        build(path, score_contract(), None, tmp_path, outputs={"score": ("probabilities", 3)})
    with pytest.raises(UsageError, match=r"missing \['score'\], unknown \['risk'\]"):
        build(path, score_contract(), None, tmp_path, outputs={"risk": "probabilities"})
    chosen = {"score": ("probabilities", 2)}
    engine = engine_of(path, score_contract(), sample_rows(), tmp_path, outputs=chosen)
    batch = Codec(score_contract()).validate_records([{"income": 0, "debt": 0, "age": 5}])
    assert engine.run(batch)["score"][0] == pytest.approx(np.exp(5) / (np.exp(5) + 2), rel=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": (TensorProto.FLOAT, [1, 3])}, "fixed to 1 rows"),
        ({"x": (TensorProto.FLOAT, ["rows", 4])}, "takes x, and the contract gives"),
        ({"income": (TensorProto.FLOAT, ["rows"])}, "name them alike"),
        ({"x": (TensorProto.FLOAT16, ["rows", 3])}, "name them alike"),
        ({name: (TensorProto.FLOAT16, ["rows"]) for name in FEATURES}, "is of FLOAT16"),
        ({name: (TensorProto.STRING, ["rows"]) for name in FEATURES}, "is of STRING"),
        ({name: (TensorProto.INT64, ["rows"]) for name in FEATURES}, "cannot hold a number"),
        ({name: (TensorProto.FLOAT, ["rows", 2]) for name in FEATURES}, "has the shape"),
    ],
)
def test_graphs_whose_inputs_do_not_fit_say_how(
    inputs: dict[str, Any], message: str, tmp_path: Path
) -> None:
    first, (kind, shape) = next(iter(inputs.items()))
    node = helper.make_node("Identity", [first], ["score"])
    path = write_model(tmp_path, graph(inputs, {"score": (kind, shape)}, [node]))
    with pytest.raises((UsageError, Unsupported), match=message):
        build(path, score_contract(), None, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_answers_outside_the_contract_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    doubled = model_of([helper.make_node("ReduceSum", ["x", "axis"], ["score"], keepdims=1)], [])
    doubled.graph.initializer.append(helper.make_tensor("axis", TensorProto.INT64, [1], [1]))
    with pytest.raises(ArtifactRejected, match=r"answers that its contract forbids.*score"):
        build(write_model(tmp_path, doubled), score_contract(), sample_rows(), tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []


def test_a_row_must_be_answered_alike_alone_and_in_company(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("ReduceMean", ["z"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["z", "mean"], ["centred"]),
        helper.make_node("Sigmoid", ["centred"], ["score"]),
    ]
    model = model_of(nodes, list(score_model().graph.initializer))
    with pytest.raises(ArtifactRejected, match="alone and among 20 rows"):
        build(write_model(tmp_path, model), score_contract(), sample_rows(), tmp_path / "a")


def test_cuda_is_refused_where_there_is_none(tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA")
    built = build(write_model(tmp_path), score_contract(), None, tmp_path / "a")
    with pytest.raises(UsageError, match="no CUDA provider"):
        load_engine(built.folder, built.artifact, score_contract(), device="cuda")


def test_a_python_class_gets_its_config_and_files(tmp_path: Path) -> None:
    import python_models

    (tmp_path / "offset.txt").write_text("0.25")
    model = PythonModel(
        "python_models:Configured", config={"factor": 0.1}, files=(tmp_path / "offset.txt",)
    )
    built = build(model, score_contract(), sample_rows(), tmp_path / "a")
    assert built.artifact.engine == "python"
    assert built.conversion["trusted_code"] is True
    assert built.conversion["largest_difference"] is None
    engine = load_engine(built.folder, built.artifact, score_contract())
    batch = Codec(score_contract()).validate_records([{"income": 2, "debt": 0, "age": 0}])
    assert engine.run(batch)["score"].tolist() == [pytest.approx(0.45)]
    python_models.CLOSED.clear()
    engine.close()
    assert python_models.CLOSED == ["configured"]


def test_other_configs_and_files_make_other_artifacts(tmp_path: Path) -> None:
    (tmp_path / "offset.txt").write_text("0")
    path, files = "python_models:Configured", (tmp_path / "offset.txt",)
    digests = set()
    for factor in (0.1, 0.2):
        model = PythonModel(path, config={"factor": factor}, files=files)
        digests.add(build(model, score_contract(), None, tmp_path / "a").artifact.digest)
    (tmp_path / "offset.txt").write_text("0.5")
    model = PythonModel(path, config={"factor": 0.1}, files=files)
    digests.add(build(model, score_contract(), None, tmp_path / "a").artifact.digest)
    assert len(digests) == 3


def test_a_changed_source_is_told_at_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "moving_model.py"
    text = Path(__file__).with_name("python_models.py").read_text()
    source.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    built = build("moving_model:Halves", score_contract(), None, tmp_path / "a")
    with caplog.at_level(logging.WARNING, logger="aios.models"):
        load_engine(built.folder, built.artifact, score_contract(), ref="loan:7")
        assert caplog.messages == []
        source.write_text(text + "\n# another line\n")
        load_engine(built.folder, built.artifact, score_contract(), ref="loan:7")
    assert len(caplog.messages) == 1
    assert "loan:7: the source of moving_model" in caplog.text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("AlwaysRaises", "raised RuntimeError on a batch"),
        ("CannotLoad", "raised OSError while loading"),
        ("WrongName", "did not return the output 'score'"),
        ("WrongShape", "returned 'score' of shape"),
        ("NotADict", "returned ndarray from predict"),
        ("RefusesDebt", "raised ValueError on a batch of 20 rows"),
    ],
)
def test_python_models_that_fail_are_refused_without_their_secrets(
    name: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFailed, match=message) as caught:
        build(f"python_models:{name}", score_contract(), sample_rows(), tmp_path)
    assert "secret" not in str(caught.value.to_problem())
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_refuses_some_records_loads_and_fails_only_on_them(tmp_path: Path) -> None:
    engine = engine_of("python_models:RefusesDebt", score_contract(), None, tmp_path)
    good = {"income": 0, "debt": 0, "age": 0}
    codec = Codec(score_contract())
    assert engine.run(codec.validate_records([good]))["score"].tolist() == [0.0]
    with pytest.raises(
        ModelFailed, match="loan:7 raised ValueError on a batch of 1 rows"
    ) as raised:
        engine.run(codec.validate_records([{**good, "debt": 2}]))
    assert "secret" not in str(pickle.loads(pickle.dumps(raised.value)).to_problem())


def test_a_python_answer_outside_the_contract_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactRejected, match="above the maximum 1"):
        build("python_models:OutOfRange", score_contract(), sample_rows(), tmp_path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no_such_module:Model", "cannot import 'no_such_module'"),
        ("python_models:Missing", "no class 'Missing'"),
        ("python_models:NotAModel", "no method predict"),
        ("__main__:Model", "move it to a module"),
        (PythonModel("nonsense"), "not an import path"),
        (PythonModel("python_models:Halves", config={"a": 1}), "takes no `config`"),
        (PythonModel("python_models:Configured", config={"a": float("nan")}), "changes when"),
        (PythonModel("python_models:Configured", config={"a": object()}), "must be JSON"),
        (PythonModel("python_models:Halves", files=("absent.txt",)), "cannot read 'absent.txt'"),
        (PythonModel("python_models:Halves", files=("manifest.json",)), "cannot be called"),
        ("absent.onnx", "cannot read 'absent.onnx'"),
    ],
)
def test_models_that_cannot_be_found_say_why(model: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        build(model, score_contract(), None, tmp_path)


def test_a_python_model_cannot_carry_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(pickle.dumps([1, 2, 3]))
    model = PythonModel("python_models:Halves", files=(tmp_path / "weights.bin",))
    with pytest.raises(ArtifactRejected, match=r"weights\.bin is a pickle"):
        build(model, score_contract(), None, tmp_path / "a")


@pytest.mark.parametrize("model", [object(), 3, None, {"a": 1}, "model.bin", Engine])
def test_anything_else_is_told_what_can_be_taken(model: Any, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"scikit-learn estimator|import path"):
        build(model, score_contract(), None, tmp_path)


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.pt"])
def test_files_of_pickles_are_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactRejected, match="unpickling runs code"):
        build(name, score_contract(), None, tmp_path)


@pytest.mark.parametrize(
    ("sample", "error", "message"),
    [
        ([], UsageError, "no rows"),
        ([{"income": 1.0}], UsageError, "lacks the inputs age, debt"),
        ([1, 2], UsageError, "must be a DataFrame"),
        ("income", UsageError, "a sample of str"),
        (np.zeros((2, 4)), UsageError, "array of shape .2, 4."),
        ({"income": [1], "debt": [1, 2], "age": [1]}, UsageError, "differ in length"),
        ([{"income": 99, "debt": 0, "age": 0}], ArtifactRejected, 'field "income": 99'),
        ([{"income": None, "debt": 0, "age": 0}], ArtifactRejected, 'field "income"'),
        ([{"income": "a", "debt": 0, "age": 0}], ArtifactRejected, "not a number"),
    ],
)
def test_samples_that_do_not_fit_say_where(
    sample: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        build("python_models:Halves", score_contract(), sample, tmp_path)


def test_samples_may_come_in_every_usual_form(tmp_path: Path) -> None:
    import pandas

    rows = sample_rows(4)
    frame = pandas.DataFrame(rows).assign(label=[0, 1, 0, 1])
    batch = Codec(score_contract()).validate_records(rows)
    forms = [frame, rows, frame.to_dict("list"), batch.matrix(dtype=np.float64), batch]
    for form in forms:
        built = build("python_models:Halves", score_contract(), form, tmp_path)
        assert built.conversion["rows"] == 4


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf"), "small"])
def test_a_tolerance_is_a_number_of_zero_or_more(tolerance: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tolerance"):
        build("python_models:Halves", score_contract(), None, tmp_path, tolerance=tolerance)


fields = st.one_of(
    st.builds(
        lambda a, b, nullable: Number(min=min(a, b), max=max(a, b), nullable=nullable),
        st.floats(-1e6, 1e6),
        st.floats(-1e6, 1e6),
        st.booleans(),
    ),
    st.builds(Number, min=st.none() | st.floats(-1e30, 1e30)),
    st.builds(Number, max=st.none() | st.floats(-1e30, 1e30)),
    st.builds(lambda a, b: Integer(min=a, max=a + b), st.integers(-99, 99), st.integers(0, 9)),
    st.builds(Boolean, nullable=st.booleans()),
    st.builds(Text, max_length=st.integers(1, 5)),
    st.builds(Category, st.sampled_from([[1, 2], ["a", "b"], [True, False]])),
    st.builds(Tensor, st.tuples(st.integers(1, 3)), st.sampled_from(["FP32", "INT64", "BOOL"])),
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), fields, min_size=1), st.integers(1, 40))
def test_a_made_up_batch_fits_any_contract(inputs: dict[str, Any], rows: int) -> None:
    contract = Contract(inputs=inputs, outputs={"y": Number()}, key="id")
    batch = synthetic_batch(contract, rows, seed=rows)
    assert batch.rows == rows
    again = Codec(contract).validate_records(batch.records())
    assert (
        again.records() == batch.records() == synthetic_batch(contract, rows, seed=rows).records()
    )


def test_float32_rounding_does_not_lift_a_probability_over_one() -> None:
    sources = {"score": OutputSource(name="p", column=1, at_most=1.0)}
    found = Outputs(sources).pick([np.array([[0, 1.0000002], [0.25, 0.75]], np.float32)], rows=2)
    assert found["score"].tolist() == [1.0, 0.75]


def test_an_output_without_one_value_per_row_is_an_error() -> None:
    outputs = Outputs({"score": OutputSource(name="p")})
    assert outputs.pick([np.zeros((3, 1))], rows=3)["score"].shape == (3,)
    with pytest.raises(ValueError, match="'score' has shape"):
        outputs.pick([np.zeros(2)], rows=3)
