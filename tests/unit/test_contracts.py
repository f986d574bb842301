import enum
import io
import math
import pickle
from typing import Annotated, Literal

import annotated_types
import numpy as np
import onnx
import orjson
import pandas
import pydantic
import pytest
from contract_strategies import PAIRS, contracts, fitting
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from rich.console import Console

from aios.contracts import (
    Boolean,
    Category,
    Codec,
    Contract,
    Integer,
    Number,
    Tensor,
    Text,
    compatibility,
)
from aios.contracts.compatibility import narrower
from aios.errors import ContractViolation, Unsupported, UsageError

OUT = {"approve": Number(min=0, max=1)}


def contract(**inputs):
    return Contract(inputs, OUT)


@pytest.mark.parametrize(
    ("field", "match"),
    [
        (Number(min=5, max=1), "min 5 is above max 1"),
        (Number(min=math.nan), "min must be finite"),
        (Number(max=math.inf), "leave it out"),
        (Number(min="0"), "min must be a number"),
        (Number(min=True), "min must be a number"),
        (Integer(min=3, max=2), "min 3 is above max 2"),
        (Integer(min=0.5), "min must be an integer"),
        (Integer(max=2**63), "must lie within"),
        (Integer(max=2**60, nullable=True), "must lie within"),
        (Text(max_length=0), "at least 1"),
        (Text(max_length=1.5), "must be an integer"),
        (Category([]), "at least one value"),
        (Category([1, "a"]), "all integers, all texts or all booleans"),
        (Category([1, True]), "all integers, all texts or all booleans"),
        (Category([1.5]), "all integers, all texts or all booleans"),
        (Category(["a", "a"]), "twice"),
        (Category(["\ud800"]), "lone surrogate"),
        (Category([2**60]), "beyond 2"),
        (Tensor((0,)), "at least 1"),
        (Tensor((2.0,)), "at least 1"),
        (Tensor((2**40,)), "over 2"),
        (Tensor((2,), "FLOAT"), "no datatype 'FLOAT'"),
        ("number", "expected a field"),
        (Number, "expected a field"),
    ],
)
def test_a_wrong_definition_names_the_field(field, match):
    with pytest.raises(UsageError, match=match) as caught:
        Contract({"good": Number(), "appinc": field}, OUT)
    assert '"appinc"' in str(caught.value)


@pytest.mark.parametrize("name", ["", "records", "input-0", " a", "a\n", "a\0", "x" * 129, 3, None])
def test_reserved_empty_and_unprintable_names_are_refused(name):
    with pytest.raises(UsageError):
        Contract({name: Number()}, OUT)
    with pytest.raises(UsageError):
        Contract({"a": Number()}, {name: Number()})
    if name is not None:
        with pytest.raises(UsageError):
            Contract({"a": Number()}, OUT, key=name)


def test_a_contract_needs_inputs_outputs_a_free_key_and_a_version():
    for inputs, outputs in (({}, OUT), ({"a": Number()}, {}), ([Number()], OUT)):
        with pytest.raises(UsageError):
            Contract(inputs, outputs)
    with pytest.raises(UsageError, match='key "a" is also an input'):
        Contract({"a": Number()}, OUT, key="a")
    with pytest.raises(UsageError, match='key "approve" is also an output'):
        Contract({"a": Number()}, OUT, key="approve")
    for version in (0, True, "1"):
        with pytest.raises(UsageError, match="version"):
            Contract({"a": Number()}, OUT, version=version)
    with pytest.raises(UsageError, match="list of values"):
        Category("abc")
    with pytest.raises(UsageError, match="shape of one row"):
        Tensor(3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(contracts())
def test_contracts_survive_json_pickle_and_keep_their_digest(made):
    for again in (
        Contract.from_json(made.to_json()),
        Contract.from_json(orjson.dumps(made.to_json())),
        pickle.loads(pickle.dumps(made)),
    ):
        assert again == made
        assert again.digest == made.digest
        assert again.inputs == made.inputs
        assert list(again.inputs) == list(made.inputs)
    assert made.check_compatible(made) == []
    assert Codec(made).example(2).rows == 2


def test_the_digest_sees_order_limits_and_version_and_not_how_a_number_is_written():
    a = Contract({"x": Number(min=0), "y": Number()}, OUT)
    assert a.digest == Contract({"x": Number(min=0.0), "y": Number()}, OUT).digest
    others = [
        Contract({"y": Number(), "x": Number(min=0)}, OUT),
        Contract({"x": Number(min=1), "y": Number()}, OUT),
        Contract({"x": Number(min=0), "y": Number()}, OUT, version=2),
        Contract({"x": Number(min=0), "y": Number()}, OUT, key="k"),
        Contract({"x": Number(min=0), "y": Number(nullable=True)}, OUT),
    ]
    assert len({a.digest, *(other.digest for other in others)}) == 6
    assert a != others[0]


def test_the_digest_is_the_same_in_every_release():
    made = Contract(
        {
            "x": Number(min=0),
            "y": Category(["a", "b"], nullable=True),
            "z": Tensor((2, 3), "FP16"),
        },
        OUT,
        key="id",
    )
    # Registries store digests: another value here breaks every stored contract.
    assert made.digest == "c69f5d5e958006420c881dc16b2b1954eda0dfc3941bcc802b1b8d8663c5c470"


def test_a_contract_does_not_change():
    made = contract(x=Number())
    with pytest.raises(AttributeError, match="immutable"):
        made.version = 2
    with pytest.raises(TypeError, match="do not change"):
        made.inputs["y"] = Number()


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "[]",
        {},
        {"inputs": [], "outputs": []},
        {"inputs": {}, "outputs": {}},
        {"inputs": [{"type": "number"}], "outputs": []},
        {"inputs": [{"name": "a"}], "outputs": []},
        {"inputs": [{"name": "a", "type": "float"}], "outputs": []},
        {"inputs": [{"name": "a", "type": ["x"]}], "outputs": []},
        {"inputs": [{"name": "a", "type": "number", "step": 1}], "outputs": []},
        {"inputs": [{"name": "a", "type": "category"}], "outputs": []},
        {"inputs": [{"name": "a", "type": "number"}] * 2, "outputs": []},
        {"inputs": [{"name": "a", "type": "number"}], "outputs": [3]},
        {**contract(x=Number()).to_json(), "owner": "me"},
        {**contract(x=Number()).to_json(), "key": 5},
        {**contract(x=Number()).to_json(), "version": "2"},
    ],
)
def test_a_wrong_description_is_a_usage_error(document):
    with pytest.raises(UsageError):
        Contract.from_json(document)


def test_contracts_print_in_a_terminal_and_a_notebook():
    made = Contract({"a[b]": Number(min=0), "<b>": Category(["x<y"])}, OUT, key="id")
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(made)
    text = console.export_text()
    assert "a[b]" in text
    assert "a number of at least 0" in text
    assert made.digest[:12] in text
    html = made._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "Number(min=0" in repr(made)
    assert str(Number(min=0, max=100, nullable=True)) == "a number from 0 to 100 or null"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (Number(min=0), Number(), None),
        (Number(min=0), Number(min=-1), None),
        (Number(min=0), Number(min=1), "takes only a number of at least 1"),
        (Number(), Number(max=10), "takes only"),
        (Number(min=-1e300), Number(), "takes only"),
        (Number(nullable=True), Number(), "no longer takes null"),
        (Number(), Number(nullable=True), None),
        (Integer(), Number(), None),
        (Integer(), Integer(nullable=True), None),
        (Number(), Integer(), "takes only an integer"),
        (Integer(0, 1), Category([0, 1, 2]), None),
        (Integer(0, 3), Category([0, 1, 2]), "takes only"),
        (Category([0, 1]), Category([1, 0, 2]), None),
        (Category([0, 1]), Category([1]), "takes only one of 1"),
        (Category([0, 1]), Integer(min=0), None),
        (Category([0, 1]), Number(max=0.5), "takes only"),
        (Category([0, 1]), Category([False, True]), "takes only"),
        (Category(["a"]), Text(), None),
        (Category(["abc"]), Text(max_length=2), "takes only"),
        (Category([True, False]), Boolean(), None),
        (Boolean(), Category([True, False]), None),
        (Boolean(), Category([1, 0]), "takes only"),
        (Boolean(), Integer(), "takes only"),
        (Text(max_length=5), Text(max_length=6), None),
        (Text(max_length=6), Text(max_length=5), "takes only"),
        (Text(), Number(), "takes only"),
        (Tensor((2,), "FP32"), Tensor((2,), "FP64"), None),
        (Tensor((2,), "FP64"), Tensor((2,), "FP32"), "takes only"),
        (Tensor((2,)), Tensor((3,)), "takes only"),
        (Tensor((1,)), Number(), "takes only"),
    ],
)
def test_a_new_version_must_accept_what_the_old_one_accepted(old, new, reason):
    found = compatibility(contract(x=old), contract(x=new))
    if reason is None:
        assert found == []
    else:
        (told,) = found
        assert told.startswith('input "x" ')
        assert reason in told


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PAIRS, st.data())
def test_compatible_inputs_really_take_what_the_old_one_took(pair, data):
    old, new = pair
    if narrower(new, old) is not None:
        return
    value = data.draw(fitting(old))
    if isinstance(value, int) and abs(value) > 2**53:
        return  # the one stated exception: see Contract.check_compatible
    Codec(contract(x=old)).validate_records([{"x": value}])
    Codec(contract(x=new)).validate_records([{"x": value}])


def test_outputs_may_narrow_or_be_added_and_not_widen_vanish_or_change_type():
    def outputs(**fields):
        return Contract({"x": Number()}, fields, key="id")

    old = outputs(approve=Number(min=0, max=1))
    assert compatibility(old, outputs(approve=Number(min=0, max=0.5), why=Text())) == []
    assert "may give" in compatibility(old, outputs(approve=Number()))[0]
    assert "may give" in compatibility(old, outputs(approve=Number(0, 1, nullable=True)))[0]
    assert "was FP64[]" in compatibility(old, outputs(approve=Integer(0, 1)))[0]
    assert "no longer given" in compatibility(old, outputs(why=Text()))[0]


def test_inputs_and_keys_that_vanish_or_appear():
    old = Contract({"x": Number()}, OUT, key="id")
    assert (
        compatibility(old, Contract({"x": Number(), "y": Number(nullable=True)}, OUT, "id")) == []
    )
    assert compatibility(Contract({"x": Number()}, OUT), old) == []
    reasons = compatibility(old, Contract({"y": Number()}, OUT))
    assert len(reasons) == 3
    assert 'key "id" is no longer the key' in reasons[0]
    assert 'input "x" is no longer known' in reasons[1]
    assert 'input "y" is new and required' in reasons[2]


FRAME = pandas.DataFrame(
    {
        "application_id": ["a1", "a2", "a3", "a4"],
        "appinc": [72, 74, 84, 36],
        "unit": [1.0, None, 2.0, 1.0],
        "town": ["Salem", "Lynn", "Salem", "Lynn"],
        "note": ["one", "two", None, "four"],
        "sch": [True, False, True, True],
        "dep": pandas.array([1, None, 2, 3], dtype="Int64"),
        "chist": pandas.array([True, None, False, True], dtype="boolean"),
        "grade": pandas.Categorical(["A", "B", "A", "A"], categories=["A", "B", "C"]),
        "mixed": pandas.Series([1, 2, 1, 2], dtype=object),
        "approve": [1, 0, 1, 1],
    }
)


def test_a_frame_gives_types_and_nulls_and_no_ranges_unless_asked():
    made = Contract.infer(FRAME, outputs=["approve"], key="application_id")
    assert dict(made.inputs) == {
        "appinc": Integer(),
        "unit": Number(nullable=True),
        "town": Category(["Lynn", "Salem"]),
        "note": Text(nullable=True),
        "sch": Boolean(),
        "dep": Integer(nullable=True),
        "chist": Boolean(nullable=True),
        "grade": Category(["A", "B", "C"]),
        "mixed": Category([1, 2]),
    }
    assert dict(made.outputs) == {"approve": Integer()}
    assert made.key == "application_id"
    ranged = Contract.infer(FRAME, outputs=OUT, key="application_id", ranges=True)
    assert ranged.inputs["appinc"] == Integer(36, 84)
    assert ranged.inputs["unit"] == Number(1, 2, nullable=True)
    assert dict(ranged.outputs) == OUT
    assert "approve" not in ranged.inputs


def test_an_inferred_contract_takes_the_frame_it_came_from():
    made = Contract.infer(FRAME, outputs=["approve"], key="application_id", ranges=True)
    records = FRAME.drop(columns=["approve"]).replace({np.nan: None}).to_dict("records")
    clean = [{k: None if v is pandas.NA else v for k, v in row.items()} for row in records]
    batch = Codec(made).validate_records(clean)
    assert batch.keys == ["a1", "a2", "a3", "a4"]
    assert batch.column("appinc").tolist() == [72, 74, 84, 36]


@pytest.mark.parametrize(
    ("column", "error", "match"),
    [
        ([None, None], Unsupported, "only nulls"),
        ([1.0, math.inf], Unsupported, "infinite"),
        ([1, "a"], Unsupported, "one type"),
        ([[1], [2]], Unsupported, "one type"),
        (pandas.to_datetime(["2020-01-01", "2020-01-02"]), Unsupported, "datetime"),
        ([1 + 2j, 2j], Unsupported, "complex"),
    ],
)
def test_a_column_without_a_field_is_named(column, error, match):
    with pytest.raises(error, match=match) as caught:
        Contract.infer(pandas.DataFrame({"bad": column}), outputs=OUT)
    assert '"bad"' in str(caught.value)


def test_wrong_names_and_empty_frames_are_usage_errors():
    with pytest.raises(UsageError, match="no column 'score'"):
        Contract.infer(FRAME, outputs=["score"])
    with pytest.raises(UsageError, match="no column 'id'"):
        Contract.infer(FRAME, outputs=["approve"], key="id")
    with pytest.raises(UsageError, match="empty"):
        Contract.infer(FRAME.head(0), outputs=["approve"])
    with pytest.raises(UsageError, match="list of names"):
        Contract.infer(FRAME, outputs="approve")
    with pytest.raises(UsageError, match="one name"):
        Contract.infer(pandas.DataFrame([[1, 2]], columns=["a", "a"]), outputs=OUT)


class Town(enum.Enum):
    SALEM = "Salem"
    LYNN = "Lynn"


class Application(pydantic.BaseModel):
    application_id: str
    appinc: float = pydantic.Field(ge=0)
    rate: Annotated[float, annotated_types.Interval(gt=0, lt=1)]
    dep: int | None = pydantic.Field(default=None, gt=-1, le=9)
    sch: bool
    note: str = pydantic.Field(max_length=5)
    kind: Literal["a", "b"]
    town: Town | None
    vector: list[float] = pydantic.Field(min_length=3, max_length=3)


class Decision(pydantic.BaseModel):
    approve: float = pydantic.Field(default=0.5, ge=0, le=1)


def test_a_pydantic_model_gives_limits_nulls_and_categories():
    made = Contract.from_pydantic(Application, Decision, key="application_id")
    assert dict(made.inputs) == {
        "appinc": Number(min=0),
        "rate": Number(min=math.nextafter(0, 1), max=math.nextafter(1, 0)),
        "dep": Integer(min=0, max=9, nullable=True),
        "sch": Boolean(),
        "note": Text(max_length=5),
        "kind": Category(["a", "b"]),
        "town": Category(["Salem", "Lynn"], nullable=True),
        "vector": Tensor((3,), "FP64"),
    }
    assert dict(made.outputs) == OUT
    assert made.key == "application_id"


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "appinc": st.floats(-1, 1) | st.just(-0.0),
            "rate": st.sampled_from([0.0, 5e-324, 0.5, 1.0, 0.9999999999999999]),
            "dep": st.none() | st.integers(-2, 11),
            "sch": st.booleans(),
            "note": st.text("ab", max_size=7),
            "kind": st.sampled_from("abc"),
            "town": st.sampled_from(["Salem", "Lynn", "Boston", None]),
            "vector": st.lists(st.floats(-1, 1), min_size=2, max_size=4),
        }
    )
)
def test_a_contract_from_pydantic_agrees_with_pydantic(record):
    checker = Codec(Contract.from_pydantic(Application, Decision, key="application_id"))
    try:
        Application.model_validate({"application_id": "a", **record})
    except pydantic.ValidationError:
        with pytest.raises(ContractViolation):
            checker.validate_records([record])
    else:
        assert checker.validate_records([record]).row(0) == record


def model(annotation, default=...):
    return pydantic.create_model("Made", bad=(annotation, default))


def checked(value):
    return value


@pytest.mark.parametrize(
    "made",
    [
        model(dict),
        model(int | str),
        model(list[float]),
        model(float, 1.5),
        model(Annotated[str, pydantic.Field(pattern="a+")]),
        model(Annotated[str, pydantic.Field(min_length=2)]),
        model(Annotated[int, pydantic.Field(multiple_of=2)]),
        model(Annotated[float, pydantic.AfterValidator(checked)]),
        model(bytes),
    ],
)
def test_what_a_contract_cannot_check_as_well_as_pydantic_is_refused(made):
    with pytest.raises(Unsupported) as caught:
        Contract.from_pydantic(made, Decision)
    assert '"bad"' in str(caught.value)


def test_validator_functions_and_things_that_are_no_model_are_refused():
    class Checked(pydantic.BaseModel):
        a: float

        @pydantic.field_validator("a")
        @classmethod
        def even(cls, value):
            return value

    with pytest.raises(Unsupported, match="validator functions"):
        Contract.from_pydantic(Checked, Decision)
    with pytest.raises(UsageError, match="pydantic model"):
        Contract.from_pydantic(dict, Decision)


def onnx_file(tmp_path, inputs, outputs):
    pairs = zip(inputs, outputs, strict=True)
    nodes = [helper.make_node("Identity", [i.name], [o.name]) for i, o in pairs]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), str(path))
    return path


def value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def test_an_onnx_graph_gives_tensors_per_row(tmp_path):
    path = onnx_file(
        tmp_path,
        [value("x", TensorProto.FLOAT, ["n", 3, 2]), value("s", TensorProto.STRING, [None, 1])],
        [value("y", TensorProto.FLOAT, ["n", 3, 2]), value("t", TensorProto.STRING, [None])],
    )
    made = Contract.from_onnx(path, key="id")
    assert dict(made.inputs) == {"x": Tensor((3, 2), "FP32"), "s": Tensor((1,), "BYTES")}
    assert dict(made.outputs) == {"y": Tensor((3, 2), "FP32"), "t": Tensor((), "BYTES")}


@pytest.mark.parametrize(
    ("shape", "kind", "match"),
    [
        ([1, 3], TensorProto.FLOAT, "dynamic first dimension"),
        (["n", "m"], TensorProto.FLOAT, "besides the batch"),
        ([], TensorProto.FLOAT, "no batch dimension"),
        (["n"], TensorProto.COMPLEX64, "no wire format"),
    ],
)
def test_graphs_without_a_dynamic_batch_are_refused(tmp_path, shape, kind, match):
    path = onnx_file(tmp_path, [value("x", kind, shape)], [value("y", kind, shape)])
    with pytest.raises(Unsupported, match=match):
        Contract.from_onnx(path)


def test_what_is_no_onnx_file_is_a_usage_error(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(UsageError, match="not an ONNX file"):
        Contract.from_onnx(path)
    with pytest.raises(UsageError, match="cannot read"):
        Contract.from_onnx(tmp_path / "missing.onnx")
    path.write_bytes(b"")
    with pytest.raises(UsageError):
        Contract.from_onnx(path)
