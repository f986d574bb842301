import contextlib
import math
import struct
import sys

import numpy as np
import orjson
import pytest
import tritonclient.http as triton
from contract_strategies import SHAPES, TEXTS, elements_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios.contracts import (
    Boolean,
    Category,
    Codec,
    Contract,
    Integer,
    Number,
    Tensor,
    Text,
    V2Request,
)
from aios.contracts.datatypes import DATATYPES, from_bytes, to_bytes, widens
from aios.contracts.inference_rows import FEW_ROWS
from aios.errors import (
    ContractViolation,
    Malformed,
    PayloadTooLarge,
    Unsupported,
)

LOAN = Contract(
    inputs={
        "appinc": Number(min=0),
        "dep": Integer(min=0, nullable=True),
        "self": Category([0, 1]),
        "sch": Boolean(),
        "town": Text(nullable=True),
    },
    outputs={"approve": Number(min=0, max=1), "label": Integer(), "why": Text(nullable=True)},
    key="application_id",
)
PLAIN = Contract({"a": Number(), "b": Integer()}, {"y": Number()})
codec = Codec(LOAN, max_rows=100)
plain = Codec(PLAIN, max_rows=100)


def tensor(name, datatype, data, shape=None, **more):
    return {
        "name": name,
        "datatype": datatype,
        "shape": [len(data)] if shape is None else shape,
        "data": data,
        **more,
    }


GOOD = {
    "appinc": tensor("appinc", "FP64", [72.5, 3]),
    "dep": tensor("dep", "INT64", [2, None]),
    "self": tensor("self", "INT32", [[1], [0]], [2, 1]),
    "sch": tensor("sch", "BOOL", [True, False]),
    "town": tensor("town", "BYTES", ["Salem", None]),
}


def decode(inputs, **more):
    body = orjson.dumps({"inputs": list(inputs.values()), **more})
    return codec.decode_v2(body, None)


def refuse(error, inputs, match, **more):
    with pytest.raises(error, match=match) as caught:
        decode(inputs, **more)
    return caught.value


def test_json_tensors_become_rows_with_nulls_and_keys():
    batch, request = decode(GOOD | {"key": tensor("application_id", "BYTES", ["a1", "a2"])})
    assert batch.keys == ["a1", "a2"]
    assert batch.records() == [
        {"appinc": 72.5, "dep": 2, "self": 1, "sch": True, "town": "Salem"},
        {"appinc": 3.0, "dep": None, "self": 0, "sch": False, "town": None},
    ]
    assert request == V2Request()


def test_integer_keys_and_left_out_nullable_inputs():
    few = {name: GOOD[name] for name in ("appinc", "self", "sch")}
    batch, _ = decode(few | {"key": tensor("application_id", "INT64", [[7], [8]], [2, 1])})
    assert batch.keys == ["7", "8"]
    assert batch.row(1)["town"] is None
    assert math.isnan(batch.column("dep")[0])


def test_what_the_request_asks_for_is_carried():
    _, request = decode(
        GOOD,
        id="r7",
        parameters={"binary_data_output": True, "note": 1},
        outputs=[{"name": "label", "parameters": {"binary_data": False}}, {"name": "approve"}],
    )
    assert request.id == "r7"
    assert request.outputs == ("label", "approve")
    assert request.binary == {"label": False}
    assert request.binary_default is True


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"appinc": None}, 'field "appinc": is missing'),
        ({"appinc": tensor("appinc", "BYTES", ["1", "2"])}, "has the datatype BYTES"),
        ({"appinc": tensor("appinc", "BOOL", [True, False])}, "has the datatype BOOL"),
        ({"appinc": tensor("appinc", "FP64", [1, -4])}, "row 1, .*-4.0 is below the minimum 0"),
        ({"appinc": tensor("appinc", "FP64", [1, True])}, "elements that are not FP64"),
        ({"appinc": tensor("appinc", "FP64", [1, None])}, "elements that are not FP64"),
        ({"appinc": tensor("appinc", "FP64", [1, "2"])}, "elements that are not FP64"),
        ({"appinc": tensor("appinc", "FP16", [1, 70000])}, "infinite"),
        ({"appinc": tensor("appinc", "INT64", [1, 2**53 + 1])}, "is not exact"),
        ({"appinc": tensor("appinc", "INT8", [1, 128])}, "outside the range of INT8"),
        ({"appinc": tensor("appinc", "FP64", [1, 2, 3], [2])}, "has 3 elements"),
        ({"appinc": tensor("appinc", "FP64", [1, 2, 3, 4], [2, 2])}, r"has the shape \[2, 2\]"),
        ({"appinc": tensor("appinc", "FP64", [[1, 2], [3, 4]], [2, 1])}, "not nested like"),
        ({"appinc": tensor("appinc", "FP64", [1, 2, 3])}, "differ in rows"),
        ({"dep": tensor("dep", "FP64", [1, 2.5])}, "row 1, .*2.5 is not an integer"),
        ({"dep": tensor("dep", "UINT64", [1, 2**64 - 1])}, "above the maximum"),
        ({"self": tensor("self", "INT64", [1, 2])}, "row 1, .*not one of the allowed"),
        ({"sch": tensor("sch", "INT64", [1, 0])}, "has the datatype INT64"),
        ({"town": tensor("town", "BYTES", ["a", "b\0"])}, "NUL"),
        ({"race": tensor("race", "INT64", [1, 0])}, 'field "race": is not known here'),
        ({"key": tensor("application_id", "FP64", [1, 2])}, "has the datatype FP64"),
        ({"key": tensor("application_id", "BYTES", ["a", ""])}, "row 1, .*cannot be a key"),
        ({"key": tensor("application_id", "BYTES", ["a"] * 4, [2, 2])}, "has the shape"),
        ({n: tensor(n, "INT64", []) for n in ("appinc", "dep", "self", "sch", "town")}, "empty"),
    ],
)
def test_what_does_not_fit_the_contract_is_named(change, match):
    inputs = {name: entry for name, entry in (GOOD | change).items() if entry is not None}
    refuse(ContractViolation, inputs, match)


def test_an_unknown_output_is_named_with_those_there_are():
    error = refuse(ContractViolation, GOOD, '"score": is no output', outputs=[{"name": "score"}])
    assert error.violations[0]["allowed"] == "the outputs approve, label, why"


def test_too_many_rows_are_refused_before_the_data_is_looked_at():
    huge = {"appinc": tensor("appinc", "FP64", [1.0], [10**15])}
    refuse(PayloadTooLarge, huge, "over the limit of 100")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"inputs": {}}',
        b'{"inputs": []}',
        b'{"inputs": [1]}',
        b'{"inputs": [{}]}',
        b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1]}]}',
        b'{"inputs": [{"name": "a", "datatype": "FP8", "shape": [1], "data": [1]}]}',
        b'{"inputs": [{"name": "a", "datatype": ["FP64"], "shape": [1], "data": [1]}]}',
        b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [], "data": [1]}]}',
        b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [-1], "data": [1]}]}',
        b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [true], "data": [1]}]}',
        b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1.0], "data": [1]}]}',
        b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": [1], "x": 1}]}',
        b'{"inputs": [{"name": "a", "name": "a", "datatype": "FP64", "shape": [1], "data": [1]},'
        b'{"name": "b", "datatype": "INT64", "shape": [1], "data": [1]}]}',
        b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": [1]},'
        b'{"name": "a", "datatype": "FP64", "shape": [1], "data": [1]}]}',
        b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": [1],'
        b'"parameters": {"deep": {"er": 1}}}]}',
        b'{"id": 5, "inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": [1]}]}',
        b'{"outputs": 5, "inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": [1]}]}',
        b'{"outputs": [5], "inputs": [{"name": "a", "datatype": "FP64", "shape": [1],'
        b'"data": [1]}]}',
        b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": [NaN]}]}',
        b'{"inputs": ' + b"[" * 3000 + b"]" * 3000 + b"}",
    ],
)
def test_a_request_that_cannot_be_read_is_malformed(body):
    with pytest.raises(Malformed):
        plain.decode_v2(body)


def test_objects_in_the_data_are_named_as_such_and_far_too_many_inputs_are_refused():
    data = [tensor("a", "FP64", [{"b": 1}]), tensor("b", "INT64", [1])]
    with pytest.raises(ContractViolation, match='"a": holds elements that are not FP64'):
        plain.decode_v2(orjson.dumps({"inputs": data}))
    with pytest.raises(Malformed, match="far more than the contract has"):
        plain.decode_v2(orjson.dumps({"inputs": [tensor("a", "FP64", [1])] * 1000}))


def test_shared_memory_and_classification_are_not_spoken():
    region = {"parameters": {"shared_memory_region": "r"}}
    refuse(Unsupported, GOOD | {"appinc": GOOD["appinc"] | region}, "shared memory")
    wanted = [{"name": "label", "parameters": {"classification": 3}}]
    refuse(Unsupported, GOOD, "classification", outputs=wanted)


def binary_request(parts, **more):
    """parts: (name, datatype, shape, raw bytes)."""
    inputs = [
        {"name": n, "datatype": d, "shape": s, "parameters": {"binary_data_size": len(raw)}}
        for n, d, s, raw in parts
    ]
    header = orjson.dumps({"inputs": inputs, **more})
    return header + b"".join(raw for *_, raw in parts), len(header)


def test_binary_and_json_tensors_may_be_mixed_in_one_request():
    body, length = binary_request([("a", "FP32", [2, 1], np.float32([1.5, 2]).tobytes())])
    document = orjson.loads(body[:length])
    document["inputs"].append(tensor("b", "INT64", [1, 2]))
    header = orjson.dumps(document)
    batch, _ = plain.decode_v2(header + body[length:], len(header))
    assert batch.records() == [{"a": 1.5, "b": 1}, {"a": 2.0, "b": 2}]


A_ONE = struct.pack("<d", 1)


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ([("a", "FP64", [2], A_ONE)], "2 elements of FP64 need 16 bytes, and 8 came"),
        ([("a", "FP64", [1], A_ONE * 2)], "1 elements of FP64 need 8 bytes, and 16 came"),
        ([("a", "FP64", [1], A_ONE), ("b", "INT64", [1], A_ONE[:5])], "5 came"),
    ],
)
def test_a_declared_shape_must_agree_with_the_bytes(parts, match):
    body, length = binary_request(parts)
    with pytest.raises(Malformed, match=match):
        plain.decode_v2(body, length)


def test_cut_off_and_left_over_bytes_are_malformed():
    body, length = binary_request([("a", "FP64", [1], A_ONE), ("b", "INT64", [1], A_ONE)])
    for wrong, header_length in [
        (body[:-1], length),
        (body + b"x", length),
        (body, 0),
        (body, -1),
        (body, len(body) + 1),
        (body, length - 1),
        (body, length + 1),
    ]:
        with pytest.raises(Malformed):
            plain.decode_v2(wrong, header_length)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\1\0\0", b"\2\0\0\0a", b"\1\0\0\0ab", b"\xff\xff\xff\xff", b"\1\0\0\0\xff"],
)
def test_texts_that_are_cut_off_or_not_utf8_are_malformed(raw):
    with pytest.raises(Malformed):
        from_bytes("x", "BYTES", memoryview(raw), 1)
    with pytest.raises(Malformed, match="0 or 1"):
        from_bytes("x", "BOOL", memoryview(b"\2"), 1)


def test_nan_in_a_binary_tensor_is_null_where_null_is_allowed():
    nan = struct.pack("<d", math.nan)
    body, length = binary_request([("a", "FP64", [1], nan), ("b", "INT64", [1], A_ONE)])
    with pytest.raises(ContractViolation, match='field "a": nan is not a finite number'):
        plain.decode_v2(body, length)
    nullable = Codec(Contract({"a": Number(nullable=True)}, {"y": Number()}))
    body, length = binary_request([("a", "FP64", [1], nan)])
    assert nullable.decode_v2(body, length)[0].row(0) == {"a": None}


@pytest.mark.parametrize("rows", [1, FEW_ROWS + 1])
def test_an_integer_that_a_float_cannot_hold_is_no_number(rows):
    def body(number):
        inputs = [tensor("a", "INT64", [number] * rows), tensor("b", "INT64", [1] * rows)]
        return orjson.dumps({"inputs": inputs})

    assert plain.decode_v2(body(2**53))[0].row(0)["a"] == 2.0**53
    with pytest.raises(ContractViolation, match="is not exact"):
        plain.decode_v2(body(2**53 + 1))


def test_one_matrix_named_input_0_holds_all_inputs_side_by_side():
    body = orjson.dumps({"inputs": [tensor("input-0", "FP32", [[1.5, 2], [3, 4]], [2, 2])]})
    assert plain.decode_v2(body)[0].records() == [{"a": 1.5, "b": 2}, {"a": 3.0, "b": 4}]
    for bad in (
        tensor("input-0", "FP32", [1, 2, 3], [1, 3]),
        tensor("input-0", "FP32", [1, 2.5], [1, 2]),
        tensor("input-0", "FP32", [1, "x"], [1, 2]),
        tensor("input-0", "BYTES", ["1", "2"], [1, 2]),
        tensor("input-0", "BOOL", [True, True], [1, 2]),
    ):
        with pytest.raises(ContractViolation):
            plain.decode_v2(orjson.dumps({"inputs": [bad]}))
    with pytest.raises(ContractViolation, match="cannot hold texts"):
        codec.decode_v2(orjson.dumps({"inputs": [tensor("input-0", "FP32", [1], [1, 1])]}))


def test_a_matrix_beside_inputs_of_their_own_is_refused():
    inputs = [
        tensor("input-0", "FP32", [[1, 2]], [1, 2]),
        tensor("a", "FP64", [9]),
    ]
    with pytest.raises(ContractViolation, match='"a"'):
        plain.decode_v2(orjson.dumps({"inputs": inputs}))


def array_of(data, datatype, count):
    values = data.draw(st.lists(elements_of(datatype), min_size=count, max_size=count))
    array = np.empty(count, dtype=DATATYPES[datatype])
    array[:] = values
    return array


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(list(DATATYPES)), SHAPES, st.integers(1, 3), st.booleans())
def test_tensors_of_every_datatype_make_the_round_trip_in_json_and_binary(
    data, datatype, shape, rows, as_binary
):
    echo = Codec(Contract({"x": Tensor(shape, datatype)}, {"x": Tensor(shape, datatype)}))
    array = array_of(data, datatype, rows * math.prod(shape)).reshape(rows, *shape)
    if as_binary:
        body, length = binary_request([("x", datatype, [rows, *shape], to_bytes(datatype, array))])
    else:
        flat = data.draw(st.booleans())
        sent = array.reshape(-1).tolist() if flat else array.tolist()
        body = orjson.dumps({"inputs": [tensor("x", datatype, sent, [rows, *shape])]})
        length = None
    batch, request = echo.decode_v2(body, length)
    np.testing.assert_array_equal(batch.column("x"), array)
    assert batch.column("x").dtype == array.dtype
    wish = V2Request(binary_default=as_binary)
    outputs = {"x": batch.column("x")}
    echo.check_outputs(outputs, rows)
    answer, header_length = echo.encode_v2(outputs, wish, "echo", "1", "r1")
    assert (header_length is not None) is as_binary
    if datatype == "BF16" and as_binary:
        document = orjson.loads(answer[:header_length])
        raw = memoryview(answer)[header_length:]
        back = from_bytes("x", "BF16", raw, array.size).reshape(array.shape)
    else:
        document, back = parsed(answer, header_length, "x")
    np.testing.assert_array_equal(back.reshape(array.shape), array)
    assert document["outputs"][0]["shape"] == [rows, *shape]
    assert document["id"] == "r1"
    assert request.id is None


def parsed(answer, header_length, name):
    result = triton.InferenceServerClient.parse_response_body(answer, header_length=header_length)
    array = result.as_numpy(name)
    if array.dtype == object:
        array = np.array(
            [v.decode() if isinstance(v, bytes) else v for v in array.ravel()], dtype=object
        )
    return result.get_response(), array


LARGEST = sys.float_info.max
ANY_NUMBER = Number(min=-LARGEST, max=LARGEST)
SCALARS = {
    "number": (
        ANY_NUMBER,
        ["FP16", "BF16", "FP32", "FP64", "INT8", "UINT16", "INT32"],
    ),
    "integer": (Integer(), ["INT8", "UINT8", "INT16", "UINT32", "INT64"]),
    "boolean": (Boolean(), ["BOOL"]),
    "text": (Text(max_length=99), ["BYTES"]),
}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(list(SCALARS)), st.integers(2, 4), st.booleans())
def test_json_and_binary_of_any_lossless_datatype_say_the_same_scalars(data, kind, rows, column):
    field, datatypes = SCALARS[kind]
    datatype = data.draw(st.sampled_from(datatypes))
    checker = Codec(Contract({"x": field}, {"y": Number()}))
    array = array_of(data, datatype, rows)
    shape = [rows, 1] if column else [rows]
    body, length = binary_request([("x", datatype, shape, to_bytes(datatype, array))])
    json_body = orjson.dumps({"inputs": [tensor("x", datatype, array.tolist(), shape)]})
    from_binary = checker.decode_v2(body, length)[0]
    assert from_binary.records() == checker.decode_v2(json_body)[0].records()
    assert from_binary.column("x").tolist() == array.tolist()
    many = np.tile(array, FEW_ROWS)
    shape[0] = len(many)
    body, length = binary_request([("x", datatype, shape, to_bytes(datatype, many))])
    assert checker.decode_v2(body, length)[0].records() == from_binary.records() * FEW_ROWS
    assert from_binary.column("x").dtype == field.column_dtype


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(-2, 200), st.data())
def test_damaged_requests_give_a_batch_or_a_clean_refusal(noise, length, data):
    body, right = binary_request(
        [("a", "FP64", [1], A_ONE), ("b", "BYTES", [1], b"\1\0\0\0a")], id="x"
    )
    cut = data.draw(st.integers(0, len(body)))
    damaged = body[:cut] + noise + body[cut + len(noise) :]
    for header_length in (right, length, None):
        with contextlib.suppress(Malformed, ContractViolation, Unsupported, PayloadTooLarge):
            assert plain.decode_v2(damaged, header_length)[0].rows == 1


@pytest.mark.parametrize("as_binary", [True, False])
def test_the_official_client_is_understood_and_understands_the_answer(as_binary):
    arrays = {
        "appinc": ("FP32", np.float32([72.5, 3])),
        "dep": ("INT64", np.int64([1, 2])),
        "self": ("INT64", np.int64([[1], [0]])),
        "sch": ("BOOL", np.array([True, False])),
        "town": ("BYTES", np.array(["Salem", "Łódź"], dtype=object)),
        "application_id": ("BYTES", np.array([b"a1", b"a2"], dtype=object)),
    }
    inputs = []
    for name, (datatype, array) in arrays.items():
        entry = triton.InferInput(name, list(array.shape), datatype)
        entry.set_data_from_numpy(array, binary_data=as_binary)
        inputs.append(entry)
    wanted = [triton.InferRequestedOutput(n, binary_data=as_binary) for n in ("why", "approve")]
    body, length = triton.InferenceServerClient.generate_request_body(
        inputs, outputs=wanted, request_id="r9"
    )
    batch, request = codec.decode_v2(body, length)
    assert batch.keys == ["a1", "a2"]
    assert batch.row(1)["town"] == "Łódź"
    outputs = {
        "approve": np.array([[0.25], [0.5]], dtype=np.float32),
        "label": np.int64([1, 0]),
        "why": np.array(["rich", "Łódź"], dtype=object),
    }
    answer, header_length = codec.encode_v2(
        outputs, request, "loan", "3", "ignored", {"arm": "stable"}
    )
    document, why = parsed(answer, header_length, "why")
    assert why.tolist() == ["rich", "Łódź"]
    assert parsed(answer, header_length, "approve")[1].tolist() == [0.25, 0.5]
    assert [output["name"] for output in document["outputs"]] == ["why", "approve"]
    assert (document["id"], document["model_version"]) == ("r9", "3")
    assert document["parameters"] == {"arm": "stable"}


def test_null_in_an_answer_is_json_null_or_binary_nan_or_refused():
    outputs = {
        "approve": np.array([0.5]),
        "label": np.int64([1]),
        "why": np.array([None], dtype=object),
    }
    body, _ = codec.encode_v2(outputs, V2Request(), "loan", "1", "r")
    assert orjson.loads(body)["outputs"][2]["data"] == [None]
    with pytest.raises(Unsupported, match="as JSON"):
        codec.encode_v2(outputs, V2Request(binary_default=True), "loan", "1", "r")
    score = Codec(Contract({"x": Number()}, {"y": Number(nullable=True)}))
    given = {"y": np.array([np.nan])}
    assert orjson.loads(score.encode_v2(given, V2Request(), "m", "1", "r")[0])["outputs"][0][
        "data"
    ] == [None]
    raw, length = score.encode_v2(given, V2Request(binary_default=True), "m", "1", "r")
    assert math.isnan(struct.unpack("<d", raw[length:])[0])


def test_metadata_lists_inputs_the_key_and_outputs():
    document = codec.metadata("loan", ["1", "2"])
    assert document["name"] == "loan"
    assert document["versions"] == ["1", "2"]
    shapes = {entry["name"]: (entry["datatype"], entry["shape"]) for entry in document["inputs"]}
    assert shapes["appinc"] == ("FP64", [-1])
    assert shapes["application_id"] == ("BYTES", [-1])
    assert [entry["name"] for entry in document["outputs"]] == ["approve", "label", "why"]
    orjson.dumps(document)


def test_widening_is_exact():
    assert widens("FP32", "FP64")
    assert widens("UINT32", "INT64")
    assert not widens("INT64", "FP64")
    assert not widens("FP64", "FP32")
    assert not widens("BOOL", "INT8")
    assert not widens("FP16", "BF16")
    assert not widens("BYTES", "FP32")


@given(st.lists(TEXTS, max_size=5))
def test_texts_make_the_round_trip_through_bytes(texts):
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    raw = to_bytes("BYTES", array)
    assert from_bytes("x", "BYTES", memoryview(raw), len(texts)).tolist() == texts


def test_bfloat16_rounds_to_nearest_even():
    # 1 + 2^-8 lies half way between two neighbours; the even one is 1.
    array = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-12], dtype=np.float32)
    back = from_bytes("x", "BF16", memoryview(to_bytes("BF16", array)), 3)
    assert back.tolist() == [1.0, 1 + 2 * 2**-7, 1 + 2**-7]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(list(DATATYPES)),
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**64), 2**64), st.floats(width=32), TEXTS
    ).filter(lambda element: element == element and abs_is_finite(element)),
    st.sampled_from([0, 1, 2, 3]),
)
def test_few_and_many_rows_are_accepted_alike(datatype, element, form):
    field = [Number(nullable=True), Integer(), Text(nullable=True), Category([0, 1])][form]
    checker = Codec(Contract({"x": field}, {"y": Number()}))

    def read(rows):
        body = orjson.dumps({"inputs": [tensor("x", datatype, [element] * rows)]})
        try:
            return checker.decode_v2(body)[0].row(0)
        except (ContractViolation, Malformed) as refused:
            return type(refused)

    assert read(1) == read(FEW_ROWS + 1)


def abs_is_finite(element):
    too_large = isinstance(element, int) and not -(2**63) <= element < 2**64
    return not too_large and not (isinstance(element, float) and math.isinf(element))
