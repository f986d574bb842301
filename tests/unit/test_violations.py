"""Requests that break the contract: told to the caller, counted for everybody else."""

import asyncio
import struct

import orjson
import pytest
from serving_fakes import World, plan, served
from test_serving_http import call

from aios.contracts import Boolean, Category, Codec, Contract, Integer, Number, Tensor, Text
from aios.contracts.violations import MOST_COUNTED, MOST_UNKNOWN, OTHERS, ViolationCounts
from aios.errors import ContractViolation
from aios.monitoring import Ledger
from aios.records import WindowReport
from aios.runtime.monitor import MonitorStatus

CONTRACT = Contract(
    inputs={
        "income": Number(min=0, max=100),
        "age": Integer(min=18),
        "self": Category(["yes", "no"]),
        "region": Category([1, 2, 3]),
        "member": Boolean(),
        "note": Text(max_length=5, nullable=True),
        "debt": Number(nullable=True),
        "place": Tensor([2], "FP64"),
    },
    outputs={"p": Number(min=0, max=1)},
    key="id",
)
GOOD = {
    "income": 50.0,
    "age": 40,
    "self": "yes",
    "region": 1,
    "member": True,
    "note": "x",
    "debt": 1.0,
    "place": [0.5, 0.5],
}
NAN = float("nan")


def without(name):
    return {field: value for field, value in GOOD.items() if field != name}


@pytest.mark.parametrize(
    ("record", "kinds"),
    [
        (without("income"), {("income", "missing")}),
        (without("age") | {"Age": 40}, {("age", "missing"), ("Age", "unknown")}),
        (GOOD | {"shoe": 44}, {("shoe", "unknown")}),
        (GOOD | {"income": "much"}, {("income", "wrong_type")}),
        (GOOD | {"income": [1.0]}, {("income", "wrong_type")}),
        (GOOD | {"income": True}, {("income", "wrong_type")}),
        (GOOD | {"income": -1}, {("income", "out_of_range")}),
        (GOOD | {"income": 101}, {("income", "out_of_range")}),
        (GOOD | {"income": float("inf")}, {("income", "out_of_range")}),
        (GOOD | {"income": NAN}, {("income", "null")}),
        (GOOD | {"income": None}, {("income", "null")}),
        (GOOD | {"age": 17}, {("age", "out_of_range")}),
        (GOOD | {"age": 18.5}, {("age", "wrong_type")}),
        (GOOD | {"age": NAN}, {("age", "null")}),
        (GOOD | {"self": "maybe"}, {("self", "unknown_category")}),
        (GOOD | {"self": 1}, {("self", "wrong_type")}),
        (GOOD | {"region": 9}, {("region", "unknown_category")}),
        (GOOD | {"region": None}, {("region", "null")}),
        (GOOD | {"member": "true"}, {("member", "wrong_type")}),
        (GOOD | {"note": "too long"}, {("note", "out_of_range")}),
        (GOOD | {"place": [0.5]}, {("place", "wrong_type")}),
        (GOOD | {"place": [0.5, NAN]}, {("place", "null")}),
        (GOOD | {"id": [1]}, {("id", "wrong_type")}),
        ("no object", {("", "wrong_type")}),
        (
            GOOD | {"income": 900, "self": None, "age": "x"},
            {("income", "out_of_range"), ("self", "null"), ("age", "wrong_type")},
        ),
    ],
    ids=range(25),
)
@pytest.mark.parametrize("copies", [1, 100], ids=["one row", "many rows"])
def test_every_fault_has_its_kind_on_both_paths(record, kinds, copies):
    with pytest.raises(ContractViolation) as raised:
        Codec(CONTRACT).validate_records([record] * copies)
    assert raised.value.kinds == kinds
    assert {(v["field"] or "", v["kind"]) for v in raised.value.violations} <= kinds


def test_nulls_and_constants_where_they_are_allowed_are_no_fault():
    record = GOOD | {"debt": None, "note": None}
    assert Codec(CONTRACT).validate_records([record] * 200).rows == 200
    assert Codec(CONTRACT).validate_records([without("debt")]).row(0)["debt"] is None


def test_all_fields_are_counted_also_when_they_are_too_many_to_tell():
    wide = Contract(inputs={f"f{i}": Number() for i in range(30)}, outputs={"p": Number()})
    with pytest.raises(ContractViolation) as raised:
        Codec(wide).validate_records([{}])
    assert len(raised.value.violations) == 10
    assert raised.value.kinds == {(f"f{i}", "missing") for i in range(30)}


def test_counts_stay_small_whatever_names_strangers_send():
    counts = ViolationCounts()
    for number in range(10_000):
        counts.add(f"made up {number}", "unknown")
    for number in range(200):
        counts.add(f"field {number}", "missing")
    found = counts.by_field()
    assert sum(len(kinds) for kinds in found.values()) == MOST_COUNTED + 1
    assert found[OTHERS]["unknown"] == 10_000 - MOST_UNKNOWN
    assert found[OTHERS]["missing"] == 200 - (MOST_COUNTED - MOST_UNKNOWN - 1)
    counts.add("field 0", "missing")
    assert counts.by_field()["field 0"] == {"missing": 2}


def test_a_name_cannot_write_on_somebodys_terminal():
    counts = ViolationCounts()
    counts.add("\x1b[2J\nall is well", "unknown")
    assert list(counts.by_field()) == ["�[2J�all is well"]


def loan_plan():
    given = plan()
    return given.model_copy(update={"stable": served(1, CONTRACT)})


def answered(*bodies, path="/predict"):
    """The replies to some bodies, one after the other, and the report that follows."""

    async def scenario():
        world = World()
        await world.endpoint.reconfigure(loan_plan())
        found = [await call(world.app, path=path, chunks=[body]) for body in bodies]
        return found, world.endpoint.report()

    return asyncio.run(scenario())


def test_a_vanished_feature_is_named_to_the_caller_and_counted_and_the_rest_goes_on():
    bad, good = orjson.dumps(without("income")), orjson.dumps(GOOD)
    replies, report = answered(bad, good, bad, good)
    assert [reply.status for reply in replies] == [422, 200, 422, 200]
    assert 'field "income": is missing' in replies[0].json["detail"]
    (violation,) = replies[0].json["violations"]
    assert (violation["field"], violation["kind"]) == ("income", "missing")
    assert report.violations == {"income": {"missing": 2}}
    assert (report.requests, report.failed) == (4, 0)


@pytest.mark.parametrize(
    ("body", "status", "counted"),
    [
        (orjson.dumps(GOOD | {"shoe": 44}), 422, {"shoe": {"unknown": 1}}),
        (orjson.dumps(GOOD | {"age": "old"}), 422, {"age": {"wrong_type": 1}}),
        (orjson.dumps([GOOD | {"income": 500}] * 7), 422, {"income": {"out_of_range": 1}}),
        (b'{"income": NaN}', 400, {"": {"malformed": 1}}),
        (b"{", 400, {"": {"malformed": 1}}),
        (b"[]", 422, {"": {"malformed": 1}}),
        (orjson.dumps([GOOD | {"debt": None, "note": None}] * 7), 200, {}),
    ],
)
def test_a_request_counts_once_for_each_field_and_kind(body, status, counted):
    (reply,), report = answered(body)
    assert reply.status == status
    assert report.violations == counted


def tensor(name, datatype, data, shape=(1,)):
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


PROTOCOL = [
    tensor("income", "FP64", [50.0]),
    tensor("age", "INT64", [40]),
    tensor("self", "BYTES", ["yes"]),
    tensor("region", "INT64", [1]),
    tensor("member", "BOOL", [True]),
    tensor("place", "FP64", [0.5, 0.5], (1, 2)),
]


@pytest.mark.parametrize(
    ("inputs", "counted"),
    [
        (PROTOCOL[1:], {"income": {"missing": 1}}),
        ([*PROTOCOL, tensor("shoe", "INT64", [1])], {"shoe": {"unknown": 1}}),
        ([tensor("income", "BYTES", ["x"]), *PROTOCOL[1:]], {"income": {"wrong_type": 1}}),
        ([tensor("income", "FP64", [-5.0]), *PROTOCOL[1:]], {"income": {"out_of_range": 1}}),
        ([tensor("income", "FP64", [None]), *PROTOCOL[1:]], {"income": {"wrong_type": 1}}),
        (PROTOCOL, {}),
    ],
)
def test_the_protocols_requests_are_counted_alike(inputs, counted):
    (reply,), report = answered(orjson.dumps({"inputs": inputs}), path="/infer")
    assert reply.status == (422 if counted else 200)
    assert report.violations == counted


def test_nan_in_a_binary_tensor_is_a_null_that_is_not_allowed():
    raw = struct.pack("<d", NAN)
    income = {"name": "income", "datatype": "FP64", "shape": [1]}
    income["parameters"] = {"binary_data_size": len(raw)}
    header = orjson.dumps({"inputs": [income, *PROTOCOL[1:]]})
    with pytest.raises(ContractViolation) as raised:
        Codec(CONTRACT).decode_v2(header + raw, len(header))
    assert raised.value.kinds == {("income", "null")}


def test_asking_for_a_version_that_is_not_served_is_no_broken_contract():
    (reply,), report = answered(orjson.dumps({"inputs": PROTOCOL}), path="/versions/9/infer")
    assert reply.status == 404
    assert report.violations == {}


def report(sequence, violations, **more):
    fields = {"endpoint": "loan", "replica": "a", "era": "e", "revision": 1, "node": "n", "pid": 1}
    fields |= {"sequence": sequence, "at_s": float(sequence), "violations": violations, **more}
    return WindowReport.model_validate(fields)


def test_counts_of_replicas_add_up_and_survive_their_restart():
    ledger = Ledger()
    ledger.add(report(1, {"income": {"missing": 5}}))
    ledger.add(report(2, {"income": {"missing": 7}, "age": {"null": 1}}))
    ledger.add(report(2, {"income": {"missing": 99}}))  # told twice
    ledger.add(report(1, {"income": {"missing": 3}}, replica="b", pid=2))
    ledger.add(report(1, {"income": {"missing": 2}}, pid=3))  # a, in a new process
    totals = ledger.totals("loan", 3.0)
    assert totals.violations == {"income": {"missing": 12}, "age": {"null": 1}}


def test_a_monitor_tells_what_was_refused_most_frequent_first():
    found = {
        "endpoint": "loan",
        "version": "loan:1",
        "normal": None,
        "fields": {},
        "windows": [],
        "quality": [],
        "watches": [],
        "feedback": {"joined": 0},
        "domain_auc": [],
        "groups": {},
        "refused": {"age": {"out_of_range": 3}, "income": {"missing": 1200}, "": {"malformed": 4}},
    }
    told = repr(MonitorStatus(found))
    assert "refused: income missing 1,200, body malformed 4, age out_of_range 3" in told
    found["refused"] = {f"f{i}": {"missing": 1} for i in range(20)}
    assert MonitorStatus(found).refusals.endswith("and 12 more")
    found["refused"] = {}
    assert "refused" not in repr(MonitorStatus(found))
