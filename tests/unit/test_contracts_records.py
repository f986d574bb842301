import contextlib
import json
import math
import pickle

import numpy as np
import orjson
import pytest
from contract_strategies import contracts, maybe_records
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios.contracts import (
    Batch,
    Boolean,
    Category,
    Codec,
    Contract,
    Integer,
    Number,
    Tensor,
    Text,
)
from aios.contracts.codec import ROW_PATH_MAX
from aios.contracts.fields import MISSING, RefusedValue
from aios.errors import (
    AiosError,
    ContractViolation,
    Malformed,
    PayloadTooLarge,
    Unsupported,
    UsageError,
)

LOAN = Contract(
    inputs={
        "appinc": Number(min=0),
        "dep": Integer(min=0, nullable=True),
        "self": Category([0, 1]),
        "sch": Boolean(),
        "town": Category(["Boston", "Salem"], nullable=True),
        "note": Text(max_length=5, nullable=True),
    },
    outputs={"approve": Number(min=0, max=1)},
    key="application_id",
)
GOOD = {
    "application_id": "a1",
    "appinc": 72,
    "dep": 2,
    "self": 1,
    "sch": True,
    "town": "Salem",
    "note": "ok",
}
codec = Codec(LOAN, max_rows=500)
MANY = ROW_PATH_MAX + 1


def decode(document) -> Batch:
    return codec.decode_records(orjson.dumps(document))


def refusal(document) -> ContractViolation:
    with pytest.raises(ContractViolation) as caught:
        decode(document)
    return caught.value


@pytest.mark.parametrize("body", [GOOD, [GOOD], {"records": [GOOD]}])
def test_the_three_forms_of_a_body_mean_the_same(body):
    batch = decode(body)
    assert batch.rows == 1
    assert batch.keys == ["a1"]
    assert batch.records() == [{k: v for k, v in GOOD.items() if k != "application_id"}]


@pytest.mark.parametrize("rows", [1, MANY])
def test_columns_have_the_promised_dtypes_on_both_paths(rows):
    batch = decode([GOOD | {"dep": None, "town": None}] * rows)
    assert batch.column("appinc").dtype == np.float64
    assert batch.column("self").dtype == np.int64
    assert batch.column("sch").dtype == np.bool_
    assert batch.column("dep").dtype == np.float64
    assert np.isnan(batch.column("dep")).all()
    assert batch.column("town").tolist() == [None] * rows
    assert batch.column("note").tolist() == ["ok"] * rows
    assert batch.row(0)["dep"] is None


@pytest.mark.parametrize("rows", [1, 3, MANY])
def test_several_columns_are_the_columns_one_by_one(rows):
    batch = decode([GOOD, *[GOOD | {"dep": None, "town": None}] * (rows - 1)])
    asked = [name for name in reversed(batch.names) if name != "note"]
    found = batch.columns(asked)
    assert list(found) == asked
    for name, column in found.items():
        assert column.dtype == batch.column(name).dtype
        np.testing.assert_array_equal(column, batch.column(name))
    assert batch.slice(0, 0).columns(["dep"])["dep"].shape == (0,)
    with pytest.raises(UsageError, match='no input "income"'):
        batch.columns(["income"])


@pytest.mark.parametrize("rows", [1, MANY])
def test_matrix_keeps_the_asked_order_and_says_null_as_nan(rows):
    batch = decode([GOOD, *[GOOD | {"dep": None}] * (rows - 1)])
    matrix = batch.matrix(["dep", "appinc", "sch"])
    assert matrix.dtype == np.float32
    assert matrix.shape == (rows, 3)
    assert matrix[0].tolist() == [2, 72, 1]
    assert np.isnan(matrix[1:, 0]).all()
    assert batch.matrix(["appinc"], dtype=np.float64).shape == (rows, 1)
    with pytest.raises(UsageError, match="town"):
        batch.matrix()
    with pytest.raises(UsageError, match='no input "income"'):
        batch.column("income")


@pytest.mark.parametrize("rows", [1, MANY])
@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"appinc": -4}, "appinc", "-4 is below the minimum 0"),
        ({"appinc": True}, "appinc", "true is not a number"),
        ({"appinc": "72"}, "appinc", '"72" is not a number'),
        ({"appinc": None}, "appinc", "null is not allowed"),
        ({"appinc": 1e39}, "appinc", "is above the maximum"),
        ({"dep": 1.5}, "dep", "1.5 is not an integer"),
        ({"dep": False}, "dep", "false is not an integer"),
        ({"dep": 2**60}, "dep", "is above the maximum 9.00719925474099e+15"),
        ({"self": 2}, "self", "2 is not one of the allowed values"),
        ({"self": True}, "self", "true is not an integer"),
        ({"sch": 1}, "sch", "1 is not a boolean"),
        ({"town": "Lynn"}, "town", '"Lynn" is not one of the allowed values'),
        ({"town": ["Salem"]}, "town", "a list of 1 is not one of"),
        ({"note": "x" * 200}, "note", "has 200 characters, more than the 5 allowed"),
        ({"note": "a\0b"}, "note", "holds a NUL"),
        ({"race": 1}, "race", "no such field is known"),
        ({"application_id": ""}, "application_id", "cannot be a key"),
        ({"application_id": 1.5}, "application_id", "cannot be a key"),
        ({"application_id": True}, "application_id", "true cannot be a key"),
        ({"application_id": "k" * 257}, "application_id", "cannot be a key"),
    ],
)
def test_what_does_not_fit_is_named_with_row_field_value_and_allowed(rows, change, field, reason):
    error = refusal([GOOD] * (rows - 1) + [GOOD | change])
    assert f'row {rows - 1}, field "{field}": ' in str(error)
    assert reason in str(error)
    (violation,) = error.violations
    assert violation["row"] == rows - 1
    assert violation["field"] == field
    assert len(violation["value"]) <= 60
    assert violation["allowed"]


def test_a_missing_field_is_named_and_a_nullable_one_may_be_missing():
    error = refusal({"application_id": "a"})
    assert [v["field"] for v in error.violations] == ["appinc", "self", "sch"]
    assert 'row 0, field "appinc": is missing' in str(error)
    batch = decode({"appinc": 1, "self": 0, "sch": False})
    assert batch.row(0)["dep"] is None
    assert batch.keys is None


def test_the_first_rows_are_told_first_and_the_rest_is_counted():
    error = refusal([GOOD, GOOD | {"appinc": -4, "self": 9}, GOOD | {"dep": -1, "note": 5}])
    assert 'row 1, field "appinc": -4 is below the minimum 0; row 1, field "self"' in str(error)
    assert "(and 1 more)" in str(error)


def test_at_most_ten_violations_are_listed_and_the_message_says_that_there_are_more():
    error = refusal([GOOD | {"appinc": -1}] * 400)
    assert len(error.violations) == 10
    assert "at least 7 more" in str(error)
    assert [v["row"] for v in error.violations] == list(range(10))


def test_floats_that_are_whole_are_integers_and_integers_are_numbers():
    for rows in (1, MANY):
        batch = decode([GOOD | {"dep": 3.0, "self": 1.0, "appinc": 5}] * rows)
        row = batch.row(rows - 1)
        assert [type(row[name]) for name in ("dep", "self", "appinc")] == [int, int, float]


def test_an_integer_key_becomes_its_digits_and_keys_may_be_partly_missing():
    for rows in (1, MANY):
        batch = decode([GOOD | {"application_id": 17}] * rows + [GOOD | {"application_id": None}])
        assert batch.keys == ["17"] * rows + [None]


def test_row_limit_and_empty_batch():
    with pytest.raises(PayloadTooLarge, match="501 rows are over the limit of 500"):
        decode([GOOD] * 501)
    assert "empty" in str(refusal([]))
    assert "empty" in str(refusal({"records": []}))


HOSTILE = [
    b"",
    b"{",
    b"null",
    b"7",
    b'"records"',
    b"\xef\xbb\xbf[]",
    b"[NaN]",
    b'{"appinc": Infinity}',
    b'{"appinc": 1e400}',
    b'{"appinc": ' + b"9" * 10_000 + b"}",
    b'{"note": "\xff"}',
    b'{"note": "\\ud800"}',
    b"[" * 10_000 + b"]" * 10_000,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b'{"appinc": 1, "appinc": 2, "self": 1, "sch": true}',
    b'{"appinc" : 1, "self": 1, "sch": true, "note": "a:b", "self" : 1}',
    b'{"records": [{"appinc": 1, "self": 1, "sch": true}], "records": []}',
    b'{"records": {}}',
    b'{"records": [], "more": 1}',
    b'{"appinc": 1, "self": 1, "sch": true} x',
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_a_body_that_cannot_be_read_is_refused_cleanly(body):
    with pytest.raises((Malformed, ContractViolation)):
        codec.decode_records(body)


@pytest.mark.parametrize("records", [[1], [[]], [None], [GOOD, "x"], ["x"] * MANY])
def test_rows_that_are_no_objects_are_named(records):
    assert "is not an object" in str(refusal(records))


def test_of_very_many_unknown_names_only_the_first_are_looked_at():
    error = refusal(GOOD | {f"k{i}": 1 for i in range(50_000)})
    assert [v["field"] for v in error.violations] == [f"k{i}" for i in range(10)]
    assert "at least 8 more" in str(error)


def test_a_renamed_field_is_told_under_both_names():
    error = refusal({name.upper(): value for name, value in GOOD.items()})
    told = [(v["field"], v["kind"]) for v in error.violations]
    assert ("appinc", "missing") in told
    assert ("APPINC", "unknown") in told


def test_a_huge_integer_is_shown_short_and_a_text_with_colons_is_no_repeated_name():
    body = json.dumps(GOOD | {"appinc": 10**400}).encode()
    with pytest.raises(Malformed, match="infinity"):
        codec.decode_records(body)
    with pytest.raises(ContractViolation, match="an integer of 1329 bits is too large"):
        codec.validate_records([GOOD | {"appinc": 10**400}])
    assert decode(GOOD | {"note": 'a":"', "application_id": "x:y"}).row(0)["note"] == 'a":"'


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "ignore")))
def test_any_bytes_give_a_batch_or_a_clean_refusal(body):
    with contextlib.suppress(Malformed, ContractViolation, Unsupported, PayloadTooLarge):
        assert codec.decode_records(body).rows >= 1


def test_python_records_may_hold_numpy_scalars_nan_for_null_and_no_lone_surrogate():
    record = GOOD | {"appinc": np.float32(1.5), "dep": math.nan, "self": np.int8(1)}
    for rows in (1, MANY):
        row = codec.validate_records([record] * rows).row(0)
        assert (row["appinc"], row["dep"], row["self"]) == (1.5, None, 1)
        with pytest.raises(ContractViolation, match="lone surrogate"):
            codec.validate_records([GOOD | {"note": "\ud800"}] * rows)
        with pytest.raises(ContractViolation, match="not a finite number"):
            codec.validate_records([GOOD | {"appinc": math.nan}] * rows)
        with pytest.raises(ContractViolation, match="not a finite number"):
            codec.validate_records([GOOD | {"appinc": math.inf}] * rows)


def reference(contract: Contract, record: dict):
    """What `Field.check` alone says of a record: values, or None where it refuses."""
    if not record.keys() <= contract.inputs.keys() | {contract.key}:
        return None
    try:
        return [f.check(record.get(name, MISSING)) for name, f in contract.inputs.items()]
    except RefusedValue:
        return None


def key_fits(record: dict, contract: Contract) -> bool:
    key = record.get(contract.key)
    if isinstance(key, str):
        return 0 < len(key) <= 256 and "\0" not in key
    whole = isinstance(key, int) and not isinstance(key, bool) and key.bit_length() <= 64
    return key is None or whole


def plain(value):
    return value.tolist() if isinstance(value, np.ndarray) else value


def read(codec: Codec, records: list):
    try:
        return [dict(row) for row in codec.validate_records(records).records()], None
    except ContractViolation as violation:
        return None, str(violation).replace(f"row {len(records) - 1},", "row 0,")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_compiled_rows_vectorised_columns_and_the_reference_agree(data):
    contract = data.draw(contracts())
    record = data.draw(maybe_records(contract))
    checker = Codec(contract)
    single, told = read(checker, [record])
    many, _ = read(checker, [record] * MANY)
    expected = reference(contract, record)
    if expected is None or not key_fits(record, contract):
        assert single is None
        assert many is None
        assert told
    else:
        wanted = dict(zip(contract.inputs, map(plain, expected), strict=True))
        assert single == [wanted]
        assert many == [wanted] * MANY
        assert [list(map(type, row.values())) for row in (single[0], many[0])] == [
            list(map(type, wanted.values()))
        ] * 2


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_batches_survive_pickle_slicing_and_joining(data):
    contract = data.draw(contracts())
    checker = Codec(contract)
    few = checker.example(3)
    many = checker.example(MANY)
    for batch in (few, many, Batch.concat([few, many]), Batch.concat([few, few])):
        again = pickle.loads(pickle.dumps(batch))
        assert again.records() == batch.records() == [few.row(0)] * batch.rows
        parts = Batch.concat([again.slice(0, 1), again.slice(1, batch.rows)])
        assert parts.records() == batch.records()
        for name in contract.inputs:
            np.testing.assert_array_equal(again.column(name), batch.column(name))
            assert again.column(name).shape == (batch.rows, *contract.inputs[name].shape)
            assert again.column(name).dtype == contract.inputs[name].column_dtype


def test_joining_keeps_keys_in_place_and_refuses_other_contracts():
    with_keys, without = decode([GOOD]), decode([GOOD | {"application_id": None}] * MANY)
    joined = Batch.concat([without, with_keys])
    assert joined.keys == [None] * MANY + ["a1"]
    other = Codec(Contract({"x": Number()}, {"y": Number()})).example()
    with pytest.raises(UsageError, match="different contracts"):
        Batch.concat([with_keys, other])
    with pytest.raises(UsageError, match="at least one"):
        Batch.concat([])


def test_tensor_rows_are_stacked_and_ragged_ones_are_refused():
    tensors = Codec(Contract({"x": Tensor((2, 2), "FP32")}, {"y": Number()}))
    for rows in (2, MANY):
        batch = tensors.decode_records(orjson.dumps([{"x": [[1, 2], [3, 4.5]]}] * rows))
        assert batch.column("x").shape == (rows, 2, 2)
        assert batch.column("x").dtype == np.float32
        for bad in ([[1, 2], [3]], [1, 2, 3, 4], [[1, 2], [3, True]], [[1, 2], [3, 1e39]], None):
            with pytest.raises(ContractViolation, match='row 0, field "x"'):
                tensors.decode_records(orjson.dumps([{"x": bad}] * rows))


GIVEN = np.array([0.25, 1.0], dtype=np.float32)


def test_outputs_that_fit_pass_also_as_a_column_matrix_and_with_32_bit_rounding():
    codec.check_outputs({"approve": GIVEN}, 2)
    codec.check_outputs({"approve": GIVEN.reshape(2, 1), "extra": GIVEN}, 2)
    codec.check_outputs({"approve": np.array([1.0000001], dtype=np.float32)}, 1)
    codec.check_outputs({"approve": np.full(100, 1.0000001, dtype=np.float32)}, 100)


@pytest.mark.parametrize("rows", [2, 100])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1.5, -0.1])
def test_outputs_that_are_no_numbers_or_out_of_range_are_refused(rows, bad):
    for dtype in (np.float32, np.float64):
        given = np.full(rows, 0.5, dtype=dtype)
        given[1] = bad
        with pytest.raises(ContractViolation, match='output: row 1, field "approve"'):
            codec.check_outputs({"approve": given}, rows)


def test_outputs_missing_or_of_other_shape_or_type_are_refused():
    with pytest.raises(ContractViolation, match="missing"):
        codec.check_outputs({}, 2)
    with pytest.raises(ContractViolation, match="an array of shape"):
        codec.check_outputs({"approve": GIVEN}, 3)
    with pytest.raises(ContractViolation, match="not a number"):
        codec.check_outputs({"approve": np.array(["a", "b"])}, 2)
    with pytest.raises(ContractViolation, match="not a number"):
        codec.check_outputs({"approve": np.array([True, False])}, 2)


def test_records_are_encoded_one_object_per_row_with_meta():
    answer = Codec(
        Contract(
            {"x": Number()},
            {
                "score": Number(nullable=True),
                "label": Integer(nullable=True),
                "name": Text(),
                "sure": Boolean(),
                "vector": Tensor((2,)),
            },
        )
    )
    outputs = {
        "score": np.array([[0.5], [np.nan]], dtype=np.float32),
        "label": np.array([np.nan, 3.0]),
        "name": np.array(["a", "b"]),
        "sure": np.array([True, False]),
        "vector": np.zeros((2, 2), dtype=np.float32),
    }
    answer.check_outputs(outputs, 2)
    body = orjson.loads(answer.encode_records(outputs, {"version": 3}))
    assert body == {
        "outputs": [
            {"score": 0.5, "label": None, "name": "a", "sure": True, "vector": [0.0, 0.0]},
            {"score": None, "label": 3, "name": "b", "sure": False, "vector": [0.0, 0.0]},
        ],
        "version": 3,
    }


def test_every_refusal_is_an_aios_error_that_pickles():
    error = refusal(GOOD | {"appinc": -4})
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, AiosError)
    assert again.violations == error.violations
